// client: asks the running gateway. Called by cmd_gateway; owns the connection while it asks. Blocks.
#include "postern/ctl/client.h"
#include "postern/base/unix_addr.h"
#include "postern/wire/admin_line.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWER_S = 15, FIRST_BUFFER = 4096 };

static int open_socket(const char *dir, int *fd, struct err_text *e) {
  struct sockaddr_un un;
  int folder = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), rc = 0;
  if (folder < 0) return err_set(e, PERR_NOTFOUND, "no gateway is running on %s (%s)", dir, strerror(errno));
  *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const struct timeval patience = {.tv_sec = ANSWER_S};
  if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
      setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
    rc = err_set(e, PERR_IO, "cannot make a socket: %s", strerror(errno));
  else if ((rc = unix_addr_in(&un, folder, ADMIN_SOCKET)) < 0)
    err_set(e, rc, "%s", perr_str(rc));
  else if (connect(*fd, (struct sockaddr *)&un, sizeof un) < 0)
    rc = errno == ENOENT || errno == ECONNREFUSED
             ? err_set(e, PERR_NOTFOUND, "no gateway is running on %s (%s: %s)", dir, ADMIN_SOCKET, strerror(errno))
             : err_set(e, PERR_IO, "cannot speak to the gateway on %s: %s", dir, strerror(errno));
  close(folder);
  return rc;
}

static int send_all(int fd, const char *line, size_t len) {
  while (len) {
    ssize_t n = send(fd, line, len, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return PERR_IO;
    line += n;
    len -= (size_t)n;
  }
  return 0;
}

// Reads up to the newline. *line is heap and set in any case; `len` is without the newline.
static int receive_line(int fd, char **line, size_t *len) {
  size_t cap = 0, n = 0;
  for (;;) {
    if (n == cap) {
      cap = cap ? cap * 2 : FIRST_BUFFER;
      char *grown = cap > ADMIN_REPLY_MAX ? NULL : realloc(*line, cap);
      if (!grown) return PERR_LIMIT;
      *line = grown;
    }
    ssize_t got = recv(fd, *line + n, cap - n, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? PERR_TIMEOUT : PERR_IO;
    if (got == 0) return PERR_EOF;
    const char *end = memchr(*line + n, '\n', (size_t)got);
    n += (size_t)got;
    if (end) {
      *len = (size_t)(end - *line);
      return 0;
    }
  }
}

int client_ask(const char *dir, json_t *request, json_t **data, struct err_text *e) {
  int fd = -1;
  char *reply = NULL, *line = admin_request_format(request);
  size_t len = 0;
  int rc = line ? open_socket(dir, &fd, e) : err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  if (rc < 0) goto out;
  rc = send_all(fd, line, strlen(line));
  if (rc == 0) rc = receive_line(fd, &reply, &len);
  if (rc == 0)
    rc = admin_reply_parse(reply, len, data, e);
  else
    err_set(e, rc, "the gateway on %s gave no answer: %s", dir, perr_str(rc));
  if (rc == PERR_PROTOCOL) err_prefix(e, "the answer of the gateway on %s makes no sense", dir);
out:
  if (fd >= 0) close(fd);
  free(line);
  free(reply);
  return rc;
}
