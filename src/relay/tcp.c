// tcp: visitors of TCP tunnels. See tcp.h.
#include "postern/relay/tcp.h"
#include "postern/base/log.h"
#include "postern/core/registry.h"

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
  struct relay *relay;
  uint32_t number;
  char name[NAME_TEXT];
  uint16_t port;
  struct listener *listeners[RELAY_MAX_LISTEN];
  unsigned nlisteners;
  uint32_t dials;
  bool paused;
  LIST_HEAD(, visitor) visitors;
  LIST_ENTRY(tcp_tunnel) of_relay;
};

#define SET(x, v) atomic_store_explicit(&(x), (v), memory_order_relaxed)

// ---- pausing ----

static bool should_pause(const struct tcp_tunnel *t) {
  const struct relay *r = t->relay;
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

static void update_pauses(struct relay *r) {
  struct tcp_tunnel *t;
  LIST_FOREACH(t, &r->tunnels, of_relay) update_pause(t);
}

static void count_dial(struct visitor *v, bool begins) {
  struct tcp_tunnel *t = v->tunnel;
  struct relay *r = t->relay;
  if (v->dialling == begins) return;
  v->dialling = begins;
  bool was_full = r->dials >= r->max_dials;
  t->dials += begins ? 1 : -1u;
  r->dials += begins ? 1 : -1u;
  if (was_full != (r->dials >= r->max_dials)) update_pauses(r);
  else update_pause(t);
}

// ---- visitors ----

static void log_open(const struct visitor *v) {
  const struct tcp_tunnel *t = v->tunnel;
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "visitor.open", "visitor came", LF_STR("user", t->relay->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_STR("peer", addr_format(&v->peer, peer)), LF_INT("port", t->port));
}

static void log_close(const struct visitor *v, const char *reason) {
  const struct tcp_tunnel *t = v->tunnel;
  char peer[ADDR_TEXT];
  double seconds = (double)(loop_now_ms(t->relay->loop) - v->since_ms) / 1000;
  log_event(LOG_INFO, "visitor.close", "visitor left", LF_STR("user", t->relay->entry->who.user_name),
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
  struct relay *r = v->tunnel->relay;
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
  struct relay *r = t->relay;
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
  struct relay *r = t->relay;
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
  struct stream *s = r->open_stream(r->ctx, t->number, peer);
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

struct tcp_tunnel *tcp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                  unsigned n) {
  struct tcp_tunnel *t = calloc(1, sizeof *t);
  if (!t) {
    for (unsigned i = 0; i < n; i++) close(fds[i]);
    return NULL;
  }
  t->relay = r;
  t->number = number;
  t->port = port;
  snprintf(t->name, sizeof t->name, "%s", name);
  LIST_INIT(&t->visitors);
  LIST_INSERT_HEAD(&r->tunnels, t, of_relay);
  t->paused = should_pause(t);
  bool failed = false;
  for (unsigned i = 0; i < n; i++) {
    struct listener *ln = listener_new(r->loop, fds[i], t->paused, on_accept, t);
    if (ln) t->listeners[t->nlisteners++] = ln;
    else failed = true;
  }
  if (!failed) return t;
  tcp_tunnel_close(t, STREAM_INTERNAL);
  return NULL;
}

unsigned tcp_tunnel_release(struct tcp_tunnel *t, int *fds) {
  unsigned n = t->nlisteners;
  for (unsigned i = 0; i < n; i++) fds[i] = listener_release(t->listeners[i]);
  t->nlisteners = 0;
  return n;
}

void tcp_tunnel_close(struct tcp_tunnel *t, enum stream_reason reason) {
  if (!t) return;
  for (unsigned i = 0; i < t->nlisteners; i++) listener_close(t->listeners[i]);
  t->nlisteners = 0;
  struct visitor *v;
  while ((v = LIST_FIRST(&t->visitors))) pump_abort(&v->pump, reason);
  LIST_REMOVE(t, of_relay);
  loop_reap(t->relay->loop, t, free);
}

// ---- the session's part ----

void relay_init(struct relay *r, struct loop *l, struct registry_entry *entry, const struct limits *limits,
                struct stream *(*open_stream)(void *, uint32_t, const struct addr *), void *ctx) {
  *r = (struct relay){.loop = l, .entry = entry, .open_stream = open_stream, .ctx = ctx};
  r->totals = (struct pump_totals){.pulled = &entry->bytes_in, .pushed = &entry->bytes_out};
  LIST_INIT(&r->tunnels);
  relay_set_limits(r, limits);
}

void relay_set_limits(struct relay *r, const struct limits *limits) {
  r->max_visitors = limits->visitors;
  r->max_dials = limits->dials;
  update_pauses(r);
}

void relay_set_away(struct relay *r, bool away) {
  r->away = away;
  update_pauses(r);
}
