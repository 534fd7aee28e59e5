// log_sink: non-blocking writes to a descriptor that is shared. O_NONBLOCK belongs to the open file description, so
// setting it on stderr would also change it for the shell or supervisor at its other holders; instead a pipe or a
// terminal is opened once more. Called by the log thread, and by log where there is no such thread.
#include "postern/base/log_sink.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct log_sink log_sink_polled(int fd) {
  return (struct log_sink){.fd = fd, .kind = SINK_POLLED};
}

static void reopen(struct log_sink *s) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
  int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return; // another user's terminal, no /proc: polled then
  *s = (struct log_sink){.fd = fd, .owned = true, .kind = SINK_OWN};
}

void log_sink_open(struct log_sink *s, int fd) {
  struct stat st;
  *s = log_sink_polled(fd);
  if (fstat(fd, &st) != 0) return;
  if (S_ISSOCK(st.st_mode))
    s->kind = SINK_SOCKET;
  else if (S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && isatty(fd)))
    reopen(s);
  else
    s->kind = SINK_STORAGE;
}

void log_sink_close(struct log_sink *s) {
  if (s->owned) close(s->fd);
  *s = log_sink_polled(-1);
}

static ssize_t write_polled(const struct log_sink *s, const struct iovec *piece) {
  struct pollfd p = {.fd = s->fd, .events = POLLOUT};
  if (poll(&p, 1, 0) != 1) {
    errno = EAGAIN;
    return -1;
  }
  // With an error instead of room this write says which.
  // A pipe that is ready has room for a page; more could block.
  return write(s->fd, piece->iov_base, piece->iov_len < PIPE_BUF ? piece->iov_len : PIPE_BUF);
}

static ssize_t write_socket(const struct log_sink *s, const struct iovec *pieces, int n) {
  struct iovec copy[2] = {pieces[0], n > 1 ? pieces[1] : (struct iovec){0}};
  struct msghdr m = {.msg_iov = copy, .msg_iovlen = (size_t)n};
  return sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t log_sink_write(const struct log_sink *s, const struct iovec *pieces, int n) {
  ssize_t done;
  switch (s->kind) {
  case SINK_POLLED: done = write_polled(s, pieces); break;
  case SINK_SOCKET: done = write_socket(s, pieces, n); break;
  default: done = writev(s->fd, pieces, n); break;
  }
  if (done > 0) return done;
  return done < 0 && (errno == EAGAIN || errno == EINTR) ? PERR_AGAIN : PERR_IO;
}

void log_sink_wait(const struct log_sink *s, int ms) {
  struct pollfd p = {.fd = s->fd, .events = POLLOUT};
  poll(&p, 1, ms);
}
