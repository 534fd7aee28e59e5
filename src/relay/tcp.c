// tcp: visitors of TCP tunnels. See tcp.h.
#include "postern/relay/tcp.h"
#include "postern/base/log.h"
#include "postern/core/registry.h"
#include "postern/net/listener.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct visitor {
  struct pump pump;
  struct tcp_tunnel *tunnel;
  struct addr peer;
  uint64_t since_ms;
  bool dialling;
  LIST_ENTRY(visitor) of_tunnel;
};

struct tcp_tunnel {
  struct relay_tunnel base; // first
  uint32_t number;
  char name[NAME_TEXT];
  uint16_t port;
  struct listener *listeners[RELAY_MAX_LISTEN];
  unsigned nlisteners;
  uint32_t dials;
  bool paused;
  LIST_HEAD(, visitor) visitors;
};

static struct tcp_tunnel *tcp_of(struct relay_tunnel *t) { return (struct tcp_tunnel *)t; }

#define SET(x, v) atomic_store_explicit(&(x), (v), memory_order_relaxed)

// ---- pausing ----

static bool should_pause(const struct tcp_tunnel *t) {
  const struct relay *r = t->base.relay;
  return r->away || r->dials >= r->max_dials || t->dials >= RELAY_TUNNEL_DIALS;
}

static void update_pause(struct tcp_tunnel *t) {
  bool pause = should_pause(t);
  if (pause == t->paused) return;
  t->paused = pause;
  for (unsigned i = 0; i < t->nlisteners; i++)
    if (pause) listener_pause(t->listeners[i]);
    else listener_resume(t->listeners[i]);
}

static void tcp_update(struct relay_tunnel *t) { update_pause(tcp_of(t)); }

static void count_dial(struct visitor *v, bool begins) {
  struct tcp_tunnel *t = v->tunnel;
  struct relay *r = t->base.relay;
  if (v->dialling == begins) return;
  v->dialling = begins;
  bool was_full = r->dials >= r->max_dials;
  t->dials += begins ? 1 : -1u;
  r->dials += begins ? 1 : -1u;
  if (was_full != (r->dials >= r->max_dials)) relay_update(r);
  else update_pause(t);
}

// ---- visitors ----

static void log_open(const struct visitor *v) {
  const struct tcp_tunnel *t = v->tunnel;
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "visitor.open", "visitor came", LF_STR("user", t->base.relay->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_STR("peer", addr_format(&v->peer, peer)), LF_INT("port", t->port));
}

static void log_close(const struct visitor *v, const char *reason) {
  const struct tcp_tunnel *t = v->tunnel;
  char peer[ADDR_TEXT];
  double seconds = (double)(loop_now_ms(t->base.relay->loop) - v->since_ms) / 1000;
  log_event(LOG_INFO, "visitor.close", "visitor left", LF_STR("user", t->base.relay->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_STR("peer", addr_format(&v->peer, peer)), LF_INT("port", t->port),
            LF_STR("reason", reason), LF_INT("bytes_in", v->pump.pulled), LF_INT("bytes_out", v->pump.pushed),
            LF_DBL("seconds", seconds));
}

static void on_opened(struct pump *p) {
  struct visitor *v = (struct visitor *)p;
  count_dial(v, false);
}

static void on_end(struct pump *p, enum stream_reason reason, bool local) {
  struct visitor *v = (struct visitor *)p;
  struct relay *r = v->tunnel->base.relay;
  // "aborted" alone would not say by whom.
  const char *word = reason == STREAM_ABORTED ? (local ? "visitor_aborted" : "target_aborted") : stream_reason_str(reason);
  log_close(v, word);
  count_dial(v, false);
  LIST_REMOVE(v, of_tunnel);
  SET(r->entry->visitors, --r->visitors);
  loop_reap(r->loop, v, free);
}

static const struct pump_ops visitor_pump_ops = {.on_end = on_end, .on_opened = on_opened};

// Closed with RST, so that nobody takes it for an empty answer.
static void refuse(struct tcp_tunnel *t, int fd, const char *why) {
  struct relay *r = t->base.relay;
  struct linger l = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
  close(fd);
  r->refused++;
  uint64_t now = loop_now_ms(r->loop);
  if (now - r->refused_logged_ms < 1000) return; // a flood of visitors is no flood of lines
  log_event(LOG_WARN, "visitor.refuse", "visitors refused", LF_STR("user", r->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_INT("port", t->port), LF_STR("reason", why), LF_INT("count", r->refused));
  r->refused = 0;
  r->refused_logged_ms = now;
}

static void on_accept(void *ctx, struct listener *ln, int fd, const struct addr *peer) {
  struct tcp_tunnel *t = ctx;
  struct relay *r = t->base.relay;
  if (r->visitors >= r->max_visitors) {
    refuse(t, fd, "limit");
    return;
  }
  struct visitor *v = calloc(1, sizeof *v);
  struct conn *c = v ? conn_new(r->loop, fd, &pump_conn_ops, &v->pump) : NULL;
  if (!c) {
    if (!v) close(fd);
    free(v);
    return;
  }
  struct stream *s = r->source->open_stream(r->ctx, t->number, peer);
  if (!s) {
    conn_close(c, CONN_ABORT);
    free(v);
    return;
  }
  v->tunnel = t;
  v->peer = *peer;
  v->since_ms = loop_now_ms(r->loop);
  LIST_INSERT_HEAD(&t->visitors, v, of_tunnel);
  SET(r->entry->visitors, ++r->visitors);
  pump_start(&v->pump, r->loop, s, c, &visitor_pump_ops, &r->totals);
  count_dial(v, true);
  log_open(v);
}

// ---- tunnels ----

static unsigned tcp_release(struct relay_tunnel *base, int *fds) {
  struct tcp_tunnel *t = tcp_of(base);
  unsigned n = t->nlisteners;
  for (unsigned i = 0; i < n; i++) fds[i] = listener_release(t->listeners[i]);
  t->nlisteners = 0;
  return n;
}

static void tcp_close(struct relay_tunnel *base, enum stream_reason reason) {
  struct tcp_tunnel *t = tcp_of(base);
  for (unsigned i = 0; i < t->nlisteners; i++) listener_close(t->listeners[i]);
  t->nlisteners = 0;
  struct visitor *v;
  while ((v = LIST_FIRST(&t->visitors))) pump_abort(&v->pump, reason);
  LIST_REMOVE(base, of_relay);
  loop_reap(base->relay->loop, t, free);
}

static const struct relay_ops tcp_ops = {.update = tcp_update, .release = tcp_release, .close = tcp_close};

struct relay_tunnel *tcp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                    unsigned n) {
  struct tcp_tunnel *t = calloc(1, sizeof *t);
  if (!t) {
    for (unsigned i = 0; i < n; i++) close(fds[i]);
    return NULL;
  }
  t->base.ops = &tcp_ops;
  t->number = number;
  t->port = port;
  snprintf(t->name, sizeof t->name, "%s", name);
  LIST_INIT(&t->visitors);
  relay_add(r, &t->base);
  t->paused = should_pause(t);
  bool failed = false;
  for (unsigned i = 0; i < n; i++) {
    struct listener *ln = listener_new(r->loop, fds[i], t->paused, on_accept, t);
    if (ln) t->listeners[t->nlisteners++] = ln;
    else failed = true;
  }
  if (!failed) return &t->base;
  tcp_close(&t->base, STREAM_INTERNAL);
  return NULL;
}
