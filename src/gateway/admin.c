// admin: the Unix socket through which posternctl speaks to the running gateway (docs/admin.md). Opened and closed by
// the gateway's main; owns the listening socket, a lock on its folder, and its clients. Main thread only.
//
// A client is one bufferevent and one deadline. It sends one line, the handler's answer is queued at once, and the
// client is closed when the answer has left, when it misbehaves or at its deadline, whatever comes first.
#include "postern/gateway/admin.h"
#include "postern/base/log.h"
#include "postern/base/unix_addr.h"
#include "postern/net/loop.h"
#include "postern/wire/admin_line.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  ADMIN_CLIENTS = 32,      // at once; others wait in the kernel's queue
  ADMIN_CLIENT_MS = 10000, // from accept until the answer has left
  ADMIN_REST_MS = 1000,    // pause of accepting when descriptors run out
};

struct client {
  struct admin *admin;
  struct bufferevent *bev; // NULL: closed
  struct loop_timer *deadline;
  bool answered;
  uid_t uid;
  struct client *next, **prev;
};

struct admin {
  struct loop *loop;
  const struct admin_command *table;
  size_t ncommands;
  void *ctx;
  int dir; // the folder, locked for as long as this gateway answers there
  uid_t owner;
  char *name; // of the socket in the folder
  int fd;
  struct event *accept;
  struct loop_timer *rest;
  struct client *clients;
  unsigned nclients;
};

// ---- a client ----

static void client_free(void *obj) {
  free(obj);
}

static void accept_resume(void *ctx) {
  struct admin *a = ctx;
  if (a->nclients < ADMIN_CLIENTS && event_add(a->accept, NULL) < 0) loop_timer_set(a->rest, ADMIN_REST_MS);
}

static void client_close(struct client *c) {
  if (!c->bev) return;
  struct admin *a = c->admin;
  bufferevent_free(c->bev);
  c->bev = NULL;
  loop_timer_free(c->deadline);
  *c->prev = c->next;
  if (c->next) c->next->prev = c->prev;
  a->nclients--;
  loop_reap(a->loop, c, client_free);
  accept_resume(a);
}

// Queues the last line that the client gets; what else it sends is not read.
static void client_answer(struct client *c, char *line) {
  c->answered = true;
  bufferevent_disable(c->bev, EV_READ);
  if (!line || bufferevent_write(c->bev, line, strlen(line)) < 0) client_close(c);
  free(line);
}

static void client_refuse(struct client *c, const char *why) {
  log_event(LOG_WARN, "admin.refuse", "an admin request was refused", LF_INT("uid", c->uid), LF_STR("reason", why));
  client_answer(c, admin_reply_error(why));
}

static const struct admin_command *find_command(const struct admin *a, const char *name) {
  for (size_t i = 0; i < a->ncommands; i++)
    if (strcmp(a->table[i].name, name) == 0) return &a->table[i];
  return NULL;
}

static void run_command(struct client *c, const json_t *request) {
  const char *name = admin_request_command(request);
  const struct admin_command *command = find_command(c->admin, name);
  if (!command) {
    client_refuse(c, "unknown command");
    return;
  }
  log_event(LOG_DEBUG, "admin.command", "an admin command", LF_STR("command", command->name), LF_INT("uid", c->uid));
  struct err_text e = {""};
  json_t *data = NULL;
  int rc = command->handler(c->admin->ctx, request, &data, &e);
  if (rc < 0)
    client_answer(c, admin_reply_error(e.s[0] ? e.s : perr_str(rc)));
  else
    client_answer(c, admin_reply_ok(data));
  json_decref(data);
}

static void on_read(struct bufferevent *bev, void *ctx) {
  struct client *c = ctx;
  if (c->answered) return;
  struct evbuffer *in = bufferevent_get_input(bev);
  size_t len;
  char *line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
  if ((line ? len + 1 : evbuffer_get_length(in)) > ADMIN_REQUEST_MAX) {
    client_refuse(c, "the request is too long");
  } else if (line) {
    struct err_text e = {""};
    json_t *request = NULL;
    if (admin_request_parse(line, len, &request, &e) < 0)
      client_refuse(c, e.s);
    else
      run_command(c, request);
    json_decref(request);
  }
  free(line);
}

// The output has run empty.
static void on_written(struct bufferevent *bev, void *ctx) {
  struct client *c = ctx;
  if (c->answered) client_close(c);
}

// End or failure of the socket. A client may shut its sending side down after the request and still read.
static void on_event(struct bufferevent *bev, short what, void *ctx) {
  struct client *c = ctx;
  if (!c->answered || (what & BEV_EVENT_ERROR)) client_close(c);
}

static void on_deadline(void *ctx) {
  struct client *c = ctx;
  log_event(LOG_WARN, "admin.timeout", "an admin client took too long", LF_INT("uid", c->uid));
  client_close(c);
}

// Takes the descriptor.
static void client_open(struct admin *a, int fd) {
  struct ucred peer = {.uid = (uid_t)-1};
  socklen_t len = sizeof peer;
  struct client *c = calloc(1, sizeof *c);
  if (!c || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) goto fail;
  c->admin = a;
  c->uid = peer.uid;
  c->deadline = loop_timer_new(a->loop, on_deadline, c);
  if (!c->deadline) goto fail;
  c->bev = bufferevent_socket_new(loop_base(a->loop), fd, BEV_OPT_CLOSE_ON_FREE);
  if (!c->bev) goto fail;
  c->next = a->clients;
  c->prev = &a->clients;
  if (c->next) c->next->prev = &c->next;
  a->clients = c;
  a->nclients++;
  loop_timer_set(c->deadline, ADMIN_CLIENT_MS);
  bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
  bufferevent_setwatermark(c->bev, EV_READ, 0, ADMIN_REQUEST_MAX + 1);
  if (peer.uid != 0 && peer.uid != a->owner)
    client_refuse(c, "only the owner of the database folder and root may do this");
  else if (bufferevent_enable(c->bev, EV_READ) < 0)
    client_close(c);
  return;
fail:
  if (c) loop_timer_free(c->deadline);
  free(c);
  close(fd);
}

// ---- the listening socket ----

static void on_accept(evutil_socket_t fd, short what, void *ctx) {
  struct admin *a = ctx;
  int s = accept4((int)fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (s >= 0) {
    client_open(a, s);
    if (a->nclients >= ADMIN_CLIENTS) event_del(a->accept);
  } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
    log_event(LOG_WARN, "admin.accept", "cannot accept an admin client", LF_STR("reason", strerror(errno)));
    event_del(a->accept);
    loop_timer_set(a->rest, ADMIN_REST_MS);
  }
}

// Opens and locks the folder. The lock and not the socket says whether a gateway answers here, for a socket file
// outlives a gateway that was killed.
static int open_folder(struct admin *a, const char *path, struct err_text *e) {
  char *parent = strdup(path), *base = strdup(path);
  int rc = 0;
  struct stat st;
  if (!parent || !base) {
    rc = err_set(e, PERR_NOMEM, "%s: %s", path, perr_str(PERR_NOMEM));
    goto out;
  }
  const char *folder = dirname(parent);
  a->name = strdup(basename(base));
  a->dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!a->name || a->dir < 0 || fstat(a->dir, &st) < 0) {
    rc = err_set(e, PERR_IO, "cannot open %s: %s", folder, strerror(errno));
    goto out;
  }
  a->owner = st.st_uid;
  if (flock(a->dir, LOCK_EX | LOCK_NB) < 0)
    rc = errno == EWOULDBLOCK ? err_set(e, PERR_IN_USE, "another gateway is running on %s", folder)
                              : err_set(e, PERR_IO, "cannot lock %s: %s", folder, strerror(errno));
out:
  free(parent);
  free(base);
  return rc;
}

static int open_socket(struct admin *a, const char *path, struct err_text *e) {
  struct sockaddr_un un;
  int rc = unix_addr_in(&un, a->dir, a->name);
  if (rc < 0) return err_set(e, rc, "%s: the name is too long for a socket", path);
  struct stat st;
  if (fstatat(a->dir, a->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(st.st_mode)) return err_set(e, PERR_EXISTS, "%s is in the way and is not a socket", path);
    unlinkat(a->dir, a->name, 0);
  }
  a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  // The mode that a socket has when it is bound becomes the file's: it is never open to others, not for a moment.
  if (a->fd < 0 || fchmod(a->fd, 0600) < 0 || bind(a->fd, (struct sockaddr *)&un, sizeof un) < 0 ||
      listen(a->fd, SOMAXCONN) < 0)
    return err_set(e, PERR_IO, "cannot open the socket %s: %s", path, strerror(errno));
  return 0;
}

int admin_open(struct admin **out, struct loop *loop, const char *path, const struct admin_command *table, size_t n,
               void *ctx, struct err_text *e) {
  struct admin *a = calloc(1, sizeof *a);
  if (!a) return err_set(e, PERR_NOMEM, "%s: %s", path, perr_str(PERR_NOMEM));
  *a = (struct admin){.loop = loop, .table = table, .ncommands = n, .ctx = ctx, .dir = -1, .fd = -1};
  int rc = open_folder(a, path, e);
  if (rc == 0) rc = open_socket(a, path, e);
  if (rc == 0) {
    a->rest = loop_timer_new(loop, accept_resume, a);
    a->accept = event_new(loop_base(loop), a->fd, EV_READ | EV_PERSIST, on_accept, a);
    if (!a->rest || !a->accept || event_add(a->accept, NULL) < 0)
      rc = err_set(e, PERR_NOMEM, "%s: cannot watch the socket", path);
  }
  if (rc < 0) {
    admin_close(a);
    return rc;
  }
  *out = a;
  return 0;
}

void admin_close(struct admin *a) {
  if (!a) return;
  while (a->clients) client_close(a->clients);
  if (a->accept) event_free(a->accept);
  loop_timer_free(a->rest);
  if (a->fd >= 0) {
    unlinkat(a->dir, a->name, 0);
    close(a->fd);
  }
  if (a->dir >= 0) close(a->dir);
  free(a->name);
  free(a);
}
