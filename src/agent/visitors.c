// visitors: one small object per stream, from the gateway's OPEN to the end of both directions. Called by agent. A
// visitor owns a reference to its tunnel, its conn while it dials, and its pump. Loop thread.
//
// A literal target is dialled by the pump itself. A name is looked up first and its addresses are tried in turn, and
// meanwhile the visitor holds what the stream brings:
//
//     RESOLVING ──► DIALLING ──► PUMPING ──► OVER          (any state ──► OVER)
//         literal target ───────────┘
#include "postern/agent/visitors.h"
#include "postern/base/bucket.h"
#include "postern/base/log.h"
#include "postern/pipe/pump.h"
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { DIAL_PRESET_S = 10, WARN_PER_S = 1, WARN_BURST = 20 };

enum visitor_state { VISITOR_RESOLVING, VISITOR_DIALLING, VISITOR_PUMPING, VISITOR_OVER };

struct visitor {
  struct pump pump;
  struct visitors *owner;
  struct tunnel *tunnel;
  struct stream *stream; // until the pump has it
  struct conn *conn;     // while DIALLING
  struct addr_set *set;  // of a name, until one has answered; `start` + `tried` is under way
  struct target_wait wait;
  struct chain held; // came while there was no pump
  struct addr peer;
  uint64_t born_ms, dial_by_ms;
  TAILQ_ENTRY(visitor) dialling;
  unsigned start, tried;
  uint8_t state;
  bool held_fin;
  bool in_dialling;
};
TAILQ_HEAD(visitor_list, visitor);

struct visitors {
  struct loop *loop;
  struct tunnels *tunnels;
  struct loop_timer *timer;     // for the first of `dialling`
  struct visitor_list dialling; // in the order of their time limits
  uint64_t dial_ms;
  struct bucket warnings;
  unsigned count;
};

static void visitor_set_state(struct visitor *v, enum visitor_state to) {
  assert(v->state != VISITOR_OVER && to > v->state);
  v->state = (uint8_t)to;
}

// ---- the end of a visitor ----

static void log_close(const struct visitor *v, enum stream_reason reason) {
  char peer[ADDR_TEXT];
  log_event(LOG_DEBUG, "visitor.close", v->tunnel->spec.name, LF_STR("user", tunnels_user(v->owner->tunnels)),
            LF_STR("tunnel", v->tunnel->spec.name), LF_STR("peer", addr_format(&v->peer, peer)),
            LF_INT("port", v->tunnel->port), LF_STR("reason", reason ? stream_reason_str(reason) : "done"),
            LF_INT("bytes_in", v->pump.pushed), LF_INT("bytes_out", v->pump.pulled),
            LF_DBL("seconds", (double)(loop_now_ms(v->owner->loop) - v->born_ms) / 1000));
}

static void dialling_done(struct visitor *v) {
  if (v->in_dialling) TAILQ_REMOVE(&v->owner->dialling, v, dialling);
  v->in_dialling = false;
}

static void drop_dial(struct visitor *v) {
  conn_close(v->conn, CONN_ABORT);
  v->conn = NULL;
  addr_set_unref(v->set);
  v->set = NULL;
}

static void visitor_free(void *obj) {
  free(obj);
}

static void visitor_over(struct visitor *v, enum stream_reason reason) {
  visitor_set_state(v, VISITOR_OVER);
  log_close(v, reason);
  dialling_done(v);
  target_forget(&v->wait);
  drop_dial(v);
  chain_clear(&v->held);
  v->stream = NULL;
  v->owner->count--;
  tunnel_unref(v->tunnel);
  loop_reap(v->owner->loop, v, visitor_free);
}

// Before there is a pump: gives the stream up.
static void visitor_fail(struct visitor *v, enum stream_reason reason) {
  v->stream->ops->reset(v->stream, reason);
  visitor_over(v, reason);
}

static struct visitor *visitor_of(struct pump *p) {
  return (struct visitor *)((char *)p - offsetof(struct visitor, pump));
}

static void on_pump_end(struct pump *p, enum stream_reason reason, bool local) {
  visitor_over(visitor_of(p), reason);
}

// ---- the stream's end while there is no pump ----

static int hold_pull(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  return PERR_AGAIN;
}
static void hold_fin_sent(void *ctx) {}
static void hold_opened(void *ctx) {}

static void hold_push(void *ctx, const uint8_t *data, size_t n) {
  struct visitor *v = ctx;
  if (chain_append(&v->held, data, n) < 0) visitor_fail(v, STREAM_INTERNAL);
}

static void hold_fin(void *ctx) {
  struct visitor *v = ctx;
  v->held_fin = true;
}

static void hold_reset(void *ctx, enum stream_reason reason) {
  visitor_over(ctx, reason);
}

static const struct stream_end hold_end = {.pull = hold_pull,
                                           .fin_sent = hold_fin_sent,
                                           .push = hold_push,
                                           .fin = hold_fin,
                                           .opened = hold_opened,
                                           .reset = hold_reset};

// ---- the addresses of a name ----

// What came before there was a pump. The pump may end at each step.
static void replay(struct visitor *v) {
  struct stream *s = v->stream;
  const uint8_t *data;
  size_t n;
  while (v->pump.stream && (data = chain_peek(&v->held, &n))) {
    s->end->push(s->end_ctx, data, n);
    if (v->pump.stream) chain_drop(&v->held, n);
  }
  if (v->pump.stream && v->held_fin) s->end->fin(s->end_ctx);
}

static void on_reached(struct pump *p) {
  struct visitor *v = visitor_of(p);
  dialling_done(v);
  if (v->set) addr_set_prefer(v->set, v->start + v->tried);
  addr_set_unref(v->set);
  v->set = NULL;
}

static const struct pump_ops pump_ops = {.on_end = on_pump_end, .on_opened = on_reached};
static const struct conn_ops dial_ops;

// The last address is the pump's, which knows how a failure is told.
static void dial_on(struct visitor *v) {
  struct loop *l = v->owner->loop;
  int error;
  for (; v->tried + 1u < v->set->n; v->tried++) {
    v->conn = conn_dial(l, addr_set_at(v->set, v->start + v->tried), &dial_ops, v, &error);
    if (v->conn) return;
  }
  visitor_set_state(v, VISITOR_PUMPING);
  pump_dial(&v->pump, l, v->stream, addr_set_at(v->set, v->start + v->tried), &pump_ops);
  replay(v);
}

static void on_connect(void *ctx, struct conn *c, int result) {
  struct visitor *v = ctx;
  v->conn = NULL;
  if (result < 0) {
    conn_close(c, CONN_ABORT);
    v->tried++;
    dial_on(v);
    return;
  }
  visitor_set_state(v, VISITOR_PUMPING);
  v->stream->ops->opened(v->stream);
  pump_start(&v->pump, v->owner->loop, v->stream, c, &pump_ops, NULL);
  conn_rebind(c, &pump_conn_ops, &v->pump);
  on_reached(&v->pump);
  replay(v);
}

// Not before on_connect, after which the conn is the pump's.
static void on_readable(void *ctx, struct conn *c) {}

static const struct conn_ops dial_ops = {.on_connect = on_connect, .on_readable = on_readable};

static void on_looked_up(struct target_wait *w, struct addr_set *set) {
  struct visitor *v = (struct visitor *)((char *)w - offsetof(struct visitor, wait));
  if (!set) {
    visitor_fail(v, STREAM_UNREACHABLE);
    return;
  }
  visitor_set_state(v, VISITOR_DIALLING);
  v->set = set;
  v->start = set->first;
  dial_on(v);
}

static void dial_name(struct visitor *v) {
  v->wait.fn = on_looked_up;
  v->stream->end = &hold_end;
  v->stream->end_ctx = v;
  struct addr_set *set = target_look_up(&v->tunnel->target, &v->wait);
  if (set) on_looked_up(&v->wait, set);
}

// ---- the time limit of dialling ----

static void give_up(struct visitor *v) {
  dialling_done(v);
  if (v->state != VISITOR_PUMPING)
    visitor_fail(v, STREAM_DIAL_TIMEOUT);
  else if (!v->pump.connected)
    pump_abort(&v->pump, STREAM_DIAL_TIMEOUT);
}

static void on_timer(void *ctx) {
  struct visitors *vs = ctx;
  struct visitor *v;
  uint64_t now = loop_now_ms(vs->loop);
  while ((v = TAILQ_FIRST(&vs->dialling)) && v->dial_by_ms <= now) give_up(v);
  if (v) loop_timer_set(vs->timer, v->dial_by_ms - now);
}

// A timer runs for the first in the list; it is not touched when that one leaves early.
static void limit_dialling(struct visitor *v) {
  struct visitors *vs = v->owner;
  if (TAILQ_EMPTY(&vs->dialling)) loop_timer_set(vs->timer, vs->dial_ms);
  v->dial_by_ms = loop_now_ms(vs->loop) + vs->dial_ms;
  TAILQ_INSERT_TAIL(&vs->dialling, v, dialling);
  v->in_dialling = true;
}

// ---- start ----

// Where a peer could make the agent log for every frame, the lines are limited.
static enum stream_reason refuse(struct visitors *vs, uint32_t number, const struct tunnel *t) {
  if (t && t->state == TUNNEL_CLOSING) return STREAM_NO_TUNNEL; // the withdrawal crossed the visitor on the way
  if (bucket_take(&vs->warnings, 1, loop_now_ms(vs->loop)))
    log_event(LOG_WARN, "visitor.refuse", "the gateway opened a stream to a tunnel that is not offered",
              LF_INT("number", number), LF_STR("tunnel", t ? t->spec.name : NULL));
  return STREAM_NO_TUNNEL;
}

static struct visitor *visitor_new(struct visitors *vs, struct stream *s, struct tunnel *t, const struct addr *peer) {
  struct visitor *v = calloc(1, sizeof *v);
  if (!v) return NULL;
  v->owner = vs;
  v->tunnel = tunnel_ref(t);
  v->stream = s;
  v->peer = *peer;
  v->born_ms = loop_now_ms(vs->loop);
  vs->count++;
  limit_dialling(v);
  return v;
}

static void log_open(const struct visitor *v) {
  char peer[ADDR_TEXT];
  log_event(LOG_DEBUG, "visitor.open", v->tunnel->spec.name, LF_STR("user", tunnels_user(v->owner->tunnels)),
            LF_STR("tunnel", v->tunnel->spec.name), LF_STR("peer", addr_format(&v->peer, peer)),
            LF_INT("port", v->tunnel->port));
}

enum stream_reason visitors_open(struct visitors *vs, struct stream *s, const struct frame_open *open) {
  struct tunnel *t = tunnels_find(vs->tunnels, open->tunnel);
  if (!t || t->state != TUNNEL_OPEN || t->spec.protocol != CONTROL_TCP) return refuse(vs, open->tunnel, t);
  struct visitor *v = visitor_new(vs, s, t, &open->visitor);
  if (!v) return STREAM_INTERNAL;
  log_open(v);
  const struct addr *literal = target_literal(&t->target);
  if (literal) {
    visitor_set_state(v, VISITOR_PUMPING);
    pump_dial(&v->pump, vs->loop, s, literal, &pump_ops);
  } else {
    dial_name(v);
  }
  return STREAM_OK;
}

struct visitors *visitors_new(struct loop *l, struct tunnels *tunnels) {
  struct visitors *vs = calloc(1, sizeof *vs);
  if (!vs) return NULL;
  vs->loop = l;
  vs->tunnels = tunnels;
  vs->dial_ms = DIAL_PRESET_S * 1000;
  TAILQ_INIT(&vs->dialling);
  bucket_init(&vs->warnings, WARN_PER_S, WARN_BURST, loop_now_ms(l));
  vs->timer = loop_timer_new(l, on_timer, vs);
  if (vs->timer) return vs;
  free(vs);
  return NULL;
}

void visitors_free(struct visitors *vs) {
  if (!vs) return;
  assert(vs->count == 0);
  loop_timer_free(vs->timer);
  free(vs);
}

void visitors_set_dial(struct visitors *vs, int64_t seconds) {
  vs->dial_ms = (uint64_t)seconds * 1000;
}
