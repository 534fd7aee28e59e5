// listener: accepts with a level-triggered event, a bounded number per wake-up. See listener.h.
#include "postern/net/listener.h"
#include "postern/base/log.h"
#include "postern/net/conn.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ACCEPT_CAP = 64, REST_MS = 1000, BACKLOG = 4096 };

struct listener {
  struct loop *loop;
  int fd;
  struct addr addr;
  struct event *event;
  struct loop_timer *rest; // running while the listener rests
  bool paused, resting, closed;
  listener_fn fn;
  void *ctx;
};

int listener_bind_error(int error) {
  switch (error) {
  case EADDRINUSE: return PERR_IN_USE;
  case EACCES:
  case EPERM: return PERR_DENIED;
  case EAFNOSUPPORT:
  case EADDRNOTAVAIL: return PERR_NOTFOUND;
  case EMFILE:
  case ENFILE:
  case ENOBUFS:
  case ENOMEM: return PERR_LIMIT;
  default: return PERR_IO;
  }
}

const char *listener_why(int code) {
  return code == PERR_NOTFOUND ? "this machine has no such address" : perr_str(code);
}

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

int listener_bind(const struct addr *a, int *out) {
  int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return listener_bind_error(errno);
  // Accepted sockets inherit these, which saves the calls for each visitor.
  int bad = set(fd, SOL_SOCKET, SO_REUSEADDR, 1) | set(fd, IPPROTO_TCP, TCP_NODELAY, 1) |
            set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) | set(fd, IPPROTO_TCP, TCP_KEEPIDLE, CONN_KEEPALIVE_S) |
            set(fd, IPPROTO_TCP, TCP_KEEPINTVL, CONN_KEEPALIVE_S / 4) |
            set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, CONN_UNSENT);
  if (a->sa.sa_family == AF_INET6) bad |= set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (bad || bind(fd, &a->sa, a->len) || listen(fd, BACKLOG)) {
    int code = listener_bind_error(errno);
    close(fd);
    return code;
  }
  *out = fd;
  return 0;
}

static void apply(struct listener *ln) {
  if (ln->paused || ln->resting) event_del(ln->event);
  else event_add(ln->event, NULL);
}

static void on_rested(void *ctx) {
  struct listener *ln = ctx;
  ln->resting = false;
  apply(ln);
}

// Out of descriptors: the connection stays in the queue, and trying at once again would only spin.
static void rest(struct listener *ln, int error) {
  char text[ADDR_TEXT];
  log_event(LOG_WARN, "listener.rest", "cannot accept, resting for a second",
            LF_STR("address", addr_format(&ln->addr, text)), LF_STR("error", strerror(error)));
  ln->resting = true;
  apply(ln);
  loop_timer_set(ln->rest, REST_MS);
}

static void on_accept(evutil_socket_t fd, short what, void *arg) {
  struct listener *ln = arg;
  for (int i = 0; i < ACCEPT_CAP && !ln->paused && !ln->closed; i++) {
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int peer = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (peer < 0) {
      if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) rest(ln, errno);
      return;
    }
    struct addr a;
    addr_from_sockaddr(&a, (struct sockaddr *)&ss, len);
    ln->fn(ln->ctx, ln, peer, &a);
  }
}

struct listener *listener_new(struct loop *l, int fd, bool paused, listener_fn fn, void *ctx) {
  struct listener *ln = calloc(1, sizeof *ln);
  if (!ln) {
    close(fd);
    return NULL;
  }
  *ln = (struct listener){.loop = l, .fd = fd, .paused = paused, .fn = fn, .ctx = ctx};
  struct sockaddr_storage ss;
  socklen_t len = sizeof ss;
  if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0) addr_from_sockaddr(&ln->addr, (struct sockaddr *)&ss, len);
  ln->event = event_new(loop_base(l), fd, EV_READ | EV_PERSIST, on_accept, ln);
  ln->rest = loop_timer_new(l, on_rested, ln);
  if (!ln->event || !ln->rest) {
    listener_close(ln);
    return NULL;
  }
  apply(ln);
  return ln;
}

void listener_pause(struct listener *ln) {
  if (ln->paused) return;
  ln->paused = true;
  apply(ln);
}

void listener_resume(struct listener *ln) {
  if (!ln->paused) return;
  ln->paused = false;
  apply(ln);
}

int listener_release(struct listener *ln) {
  int fd = ln->fd;
  ln->fd = -1;
  listener_close(ln);
  return fd;
}

void listener_close(struct listener *ln) {
  if (!ln || ln->closed) return;
  ln->closed = true;
  if (ln->event) event_free(ln->event);
  loop_timer_free(ln->rest);
  if (ln->fd >= 0) close(ln->fd);
  loop_reap(ln->loop, ln, free); // an accept loop may still be on the stack
}

const struct addr *listener_addr(const struct listener *ln) { return &ln->addr; }
