// conn: socket, edges, states, close and hand-over. See conn.h; TLS is in conn_tls.c.
//
// Edge-triggered events are registered once per conn and loop; whether bytes or room may be there is remembered. A
// short read of a stream socket means that it is empty, so the usual extra recv is saved; a FIN that came with the
// bytes shows as EPOLLRDHUP, but an abort that came with them looks like any other event. Such conns are
// "suspects", and their error is asked for once a second.
#include "postern/net/conn.h"
#include "postern/net/conn_internal.h"
#include "postern/net/loop_internal.h"
#include "postern/net/tls_internal.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINGER_MS = 2000, LINGER_READ_CAP = 16 };

static void conn_set_state(struct conn *c, enum conn_state to) {
  assert(c->state != CONN_CLOSED);
  assert(to != CONN_HANDSHAKE || c->state == CONN_OPEN);
  assert(to != CONN_OPEN || c->state == CONN_CONNECTING || c->state == CONN_HANDSHAKE);
  c->state = (uint8_t)to;
}

// ---- suspects ----

static void suspect_drop(struct conn *c) {
  if (!c->suspect) return;
  *c->suspect_prev = c->suspect_next;
  if (c->suspect_next) c->suspect_next->suspect_prev = c->suspect_prev;
  c->suspect = false;
}

static int socket_error(struct conn *c) {
  int error = 0;
  socklen_t len = sizeof error;
  return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) ? errno : error;
}

static void tell_abort(struct conn *c) {
  if (c->state == CONN_LINGERING) conn_close(c, CONN_CLOSE); // whoever owned it may be gone
  else if (c->ops->on_abort) c->ops->on_abort(c->ctx, c);
}

static void suspect_add(struct conn *c);

static void look_at_suspects(struct loop *l) {
  struct conn *list = *loop_suspects(l);
  *loop_suspects(l) = NULL;
  if (list) list->suspect_prev = &list;
  while (list) {
    struct conn *c = list;
    bool reading = c->may_recv && c->reads; // on the way to what came before the abort, and will find it himself
    suspect_drop(c);
    c->reads = false;
    if (reading) suspect_add(c);
    else if (socket_error(c)) tell_abort(c);
  }
}

static void suspect_add(struct conn *c) {
  if (c->suspect) return;
  struct conn **head = loop_suspects(c->loop);
  c->suspect_next = *head;
  c->suspect_prev = head;
  if (*head) (*head)->suspect_prev = &c->suspect_next;
  *head = c;
  c->suspect = true;
  loop_watch_suspects(c->loop, look_at_suspects);
}

void conn_probe(struct conn *c) {
  if (c->state != CONN_CLOSED && c->both_edges && socket_error(c)) tell_abort(c);
}

// ---- raw socket ----

ssize_t conn_raw_recv(struct conn *c, void *buf, size_t cap) {
  if (!c->may_recv) return PERR_AGAIN;
  ssize_t r = recv(c->fd, buf, cap, 0);
  if (r > 0) {
    c->reads = true;
    if (c->both_edges) suspect_add(c);
    if ((size_t)r < cap && !c->peer_fin) c->may_recv = false;
    return r;
  }
  if (r == 0) return PERR_EOF;
  if (errno == EINTR) return conn_raw_recv(c, buf, cap);
  if (errno != EAGAIN) return PERR_RESET;
  c->may_recv = false;
  return PERR_AGAIN;
}

ssize_t conn_raw_send(struct conn *c, const void *buf, size_t len) {
  if (!c->may_send) {
    c->want_write = true;
    return PERR_AGAIN;
  }
  ssize_t r = send(c->fd, buf, len, MSG_NOSIGNAL);
  if (r >= 0) {
    if ((size_t)r < len) {
      c->may_send = false;
      c->want_write = true;
    }
    return r;
  }
  if (errno == EINTR) return conn_raw_send(c, buf, len);
  if (errno != EAGAIN && errno != ENOBUFS) return PERR_RESET;
  c->may_send = false;
  c->want_write = true;
  return PERR_AGAIN;
}

// ---- reading and writing ----

int conn_read(struct conn *c, void *buf, size_t cap, size_t *n) {
  if (c->state != CONN_OPEN) return c->state == CONN_CONNECTING ? PERR_AGAIN : PERR_CLOSED;
  if (c->tls) return conn_tls_read(c, buf, cap, n);
  ssize_t r = conn_raw_recv(c, buf, cap);
  if (r < 0) return (int)r;
  *n = (size_t)r;
  return 0;
}

bool conn_may_read(const struct conn *c) {
  if (c->state != CONN_OPEN) return false;
  return c->tls ? conn_tls_may_read(c) : c->may_recv;
}

static void tell_connected(struct conn *c, int error) {
  if (error == 0) conn_set_state(c, CONN_OPEN);
  errno = error;
  c->ops->on_connect(c->ctx, c, error == 0              ? 0
                                : error == ECONNREFUSED ? PERR_RESET
                                : error == ETIMEDOUT    ? PERR_TIMEOUT
                                                        : PERR_IO);
}

// A connection that nobody wants is refused: a reset aborts one that was there already.
static void connect_over(struct conn *c, int error) {
  bool aborted = error == ECONNRESET;
  tell_connected(c, aborted ? 0 : error);
  if (aborted && c->state != CONN_CLOSED) tell_abort(c);
}

// A connection to a near host is often there before the event says so: then the first bytes go out at once.
static int write_connecting(struct conn *c, const void *buf, size_t len, size_t *n) {
  ssize_t r = send(c->fd, buf, len, MSG_NOSIGNAL);
  if (r < 0 && (errno == EAGAIN || errno == EINTR)) {
    c->want_write = true;
    return PERR_AGAIN;
  }
  if (r < 0) {
    connect_over(c, errno); // the error is told once: the event would not find it any more
    return PERR_CLOSED;
  }
  *n = (size_t)r;
  c->may_send = (size_t)r == len;
  c->want_write = !c->may_send;
  tell_connected(c, 0);
  return 0;
}

int conn_write(struct conn *c, const void *buf, size_t len, size_t *n) {
  if (c->state == CONN_CONNECTING) return write_connecting(c, buf, len, n);
  if (c->state != CONN_OPEN || c->shut) return PERR_CLOSED;
  if (c->tls) {
    int code = conn_tls_write(c, buf, len);
    *n = code == 0 ? len : 0;
    return code;
  }
  ssize_t r = conn_raw_send(c, buf, len);
  if (r < 0) return (int)r;
  *n = (size_t)r;
  return 0;
}

int conn_write_last(struct conn *c, const void *buf, size_t len) {
  size_t n;
  if (c->state != CONN_OPEN || c->shut) return PERR_CLOSED;
  return c->tls ? conn_tls_write_last(c, buf, len) : conn_write(c, buf, len, &n);
}

int conn_flush(struct conn *c) {
  if (c->state == CONN_CLOSED) return PERR_CLOSED;
  return c->tls ? conn_tls_flush(c) : 0;
}

bool conn_may_write(const struct conn *c) {
  if (c->state != CONN_OPEN) return false;
  return c->tls ? conn_tls_may_write(c) : c->may_send;
}

// Sends the FIN once everything before it is with the kernel.
static int send_fin(struct conn *c) {
  int code = c->tls ? conn_tls_flush(c) : 0;
  if (code) return code;
  c->shut_sent = true;
  return shutdown(c->fd, SHUT_WR) == 0 ? 0 : PERR_RESET;
}

int conn_shutdown(struct conn *c) {
  if (c->shut || c->state == CONN_CLOSED) return 0;
  c->shut = true;
  if (c->tls) conn_tls_shutdown(c);
  int code = send_fin(c);
  return code == PERR_AGAIN ? 0 : code;
}

void conn_resume(struct conn *c) { loop_defer(c->loop, &c->resume); }

// ---- events ----

static void on_handshake_event(struct conn *c) {
  int code = conn_tls_handshake(c);
  if (code == PERR_AGAIN) return;
  if (code == 0) conn_set_state(c, CONN_OPEN);
  c->ops->on_handshake(c->ctx, c, code);
}

// Drops what comes until the peer ends, so that a RST does not overtake what we sent last. A peer that was sending at
// full speed goes on until it has read that.
static void on_linger_event(struct conn *c) {
  if (!c->shut_sent && send_fin(c) == PERR_RESET) {
    conn_close(c, CONN_CLOSE);
    return;
  }
  for (int i = 0; i < LINGER_READ_CAP; i++) {
    ssize_t r = conn_raw_recv(c, loop_scratch(c->loop), LOOP_SCRATCH);
    if (r == PERR_AGAIN) return;
    if (r == PERR_EOF && !c->shut_sent) return; // a peer that has ended may still be reading
    if (r < 0) {
      conn_close(c, CONN_CLOSE);
      return;
    }
  }
  conn_resume(c);
}

static void on_open_event(struct conn *c) {
  if (c->may_send && c->want_write) {
    c->want_write = false;
    int code = c->shut && !c->shut_sent ? send_fin(c) : conn_flush(c);
    if (code == 0 && !c->shut && c->ops->on_writable) c->ops->on_writable(c->ctx, c);
    if (code == PERR_RESET) tell_abort(c);
  }
  // Not only what the edge brought: a handshake may have read application data along with its own.
  if (conn_may_read(c)) c->ops->on_readable(c->ctx, c);
}

static void on_event(evutil_socket_t fd, short what, void *arg) {
  struct conn *c = arg;
  if (what & EV_CLOSED) c->peer_fin = true;
  if (what & (EV_READ | EV_CLOSED)) c->may_recv = true;
  if (what & EV_WRITE) c->may_send = true;
  c->both_edges = (what & EV_READ) && (what & EV_WRITE);
  if (c->state == CONN_CONNECTING && (what & EV_WRITE)) connect_over(c, what & EV_READ ? socket_error(c) : 0);
  if (c->state == CONN_HANDSHAKE) on_handshake_event(c);
  if (c->state == CONN_OPEN) on_open_event(c);
  else if (c->state == CONN_LINGERING) on_linger_event(c);
}

static void on_resume(struct loop_task *t) {
  struct conn *c = (struct conn *)((char *)t - offsetof(struct conn, resume));
  if (c->state == CONN_HANDSHAKE) {
    on_handshake_event(c);
    if (c->state == CONN_OPEN) on_open_event(c);
  } else if (c->state == CONN_OPEN) {
    c->ops->on_readable(c->ctx, c);
  } else if (c->state == CONN_LINGERING) {
    on_linger_event(c);
  }
}

// ---- life ----

static int watch(struct conn *c) {
  if (event_assign(&c->event, loop_base(c->loop), c->fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST, on_event, c))
    return PERR_NOMEM;
  return event_add(&c->event, NULL) ? PERR_LIMIT : 0;
}

static struct conn *conn_make(struct loop *l, int fd, enum conn_state state, const struct conn_ops *ops, void *ctx) {
  struct conn *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->loop = l;
  c->ops = ops;
  c->ctx = ctx;
  c->fd = fd;
  c->state = (uint8_t)state;
  c->resume.fn = on_resume;
  if (watch(c) == 0) return c;
  free(c);
  return NULL;
}

struct conn *conn_new(struct loop *l, int fd, const struct conn_ops *ops, void *ctx) {
  struct conn *c = conn_make(l, fd, CONN_OPEN, ops, ctx);
  if (!c) {
    close(fd);
    return NULL;
  }
  // Fresh sockets have room, and may have bytes: the first read or the first edge will tell.
  c->may_send = c->may_recv = true;
  return c;
}

static void set_socket_options(int fd) {
  int on = 1, idle = CONN_KEEPALIVE_S, interval = CONN_KEEPALIVE_S / 4, unsent = CONN_UNSENT;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

struct conn *conn_dial(struct loop *l, const struct addr *to, const struct conn_ops *ops, void *ctx, int *error) {
  int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    *error = errno == EMFILE || errno == ENFILE ? PERR_LIMIT : PERR_IO;
    return NULL;
  }
  set_socket_options(fd);
  if (connect(fd, &to->sa, to->len) && errno != EINPROGRESS) {
    *error = errno == ECONNREFUSED ? PERR_RESET : PERR_IO;
    int keep = errno;
    close(fd);
    errno = keep;
    return NULL;
  }
  struct conn *c = conn_make(l, fd, CONN_CONNECTING, ops, ctx);
  if (!c) {
    close(fd);
    *error = PERR_NOMEM;
    return NULL;
  }
  c->peer = *to;
  return c;
}

void conn_set_peer(struct conn *c, const struct addr *peer) { c->peer = *peer; }

int conn_start_tls(struct conn *c, struct tls *t) {
  int code = conn_tls_new(c, t);
  if (code) return code;
  conn_set_state(c, CONN_HANDSHAKE);
  // A client speaks first, and no edge may come for it; what comes of it is told by on_handshake alone.
  if (tls_is_client(t)) conn_resume(c);
  return 0;
}

static void conn_free(void *arg) {
  struct conn *c = arg;
  conn_tls_free(c);
  free(c);
}

static void unwatch(struct conn *c) {
  event_del(&c->event);
  loop_defer_cancel(c->loop, &c->resume);
  suspect_drop(c);
}

static void linger_add(struct conn *c) {
  struct conn **head = loop_lingering(c->loop);
  c->linger_next = *head;
  c->linger_prev = head;
  if (*head) (*head)->linger_prev = &c->linger_next;
  *head = c;
}

static void linger_drop(struct conn *c) {
  if (!c->linger_prev) return;
  *c->linger_prev = c->linger_next;
  if (c->linger_next) c->linger_next->linger_prev = c->linger_prev;
  c->linger_prev = NULL;
}

static void close_now(struct conn *c, bool abort_it) {
  unwatch(c);
  linger_drop(c);
  loop_timer_free(c->linger);
  if (abort_it) {
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
  }
  close(c->fd);
  conn_set_state(c, CONN_CLOSED);
  loop_reap(c->loop, c, conn_free);
}

static void on_linger_timeout(void *ctx) { close_now(ctx, false); }

void conn_close(struct conn *c, enum conn_end how) {
  if (!c || c->state == CONN_CLOSED) return;
  bool could_linger = c->state == CONN_OPEN || c->state == CONN_HANDSHAKE;
  if (how != CONN_LINGER || !could_linger) {
    close_now(c, how == CONN_ABORT);
    return;
  }
  c->linger = loop_timer_new(c->loop, on_linger_timeout, c);
  if (!c->linger) {
    close_now(c, false);
    return;
  }
  loop_timer_set(c->linger, LINGER_MS);
  conn_shutdown(c);
  conn_set_state(c, CONN_LINGERING);
  linger_add(c);
  c->may_recv = true;
  conn_resume(c); // the peer's end may have been read already: no edge would tell
}

bool conn_any_lingers(struct loop *l) { return *loop_lingering(l); }

void conn_rebind(struct conn *c, const struct conn_ops *ops, void *ctx) {
  c->ops = ops;
  c->ctx = ctx;
  conn_resume(c);
}

void conn_detach(struct conn *c) {
  unwatch(c);
  c->loop = NULL;
}

int conn_attach(struct conn *c, struct loop *l, const struct conn_ops *ops, void *ctx) {
  c->loop = l;
  c->ops = ops;
  c->ctx = ctx;
  int code = watch(c);
  if (code) return code;
  // Registering tells the present state as a first edge; bytes inside TLS would stay unseen without this.
  c->may_recv = c->may_send = true;
  conn_resume(c);
  return 0;
}

const struct addr *conn_peer(const struct conn *c) { return &c->peer; }
int conn_fd(const struct conn *c) { return c->fd; }
