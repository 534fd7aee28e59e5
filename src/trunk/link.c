// link: life, liveness and close of a link. See link.h; link_internal.h says which file does what.
#include "postern/trunk/link.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/trunk/link_internal.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  PINGS_PER_S = 10,
  PINGS_BURST = 50,
  CREDITS_PER_S = 20000,
  CREDITS_BURST = 40000,
  CONTROLS_PER_S = 100,
  CONTROLS_BURST = 1000,
};

static void free_timers(struct link *k) {
  loop_timer_free(k->tick);
  loop_timer_free(k->lazy);
  loop_timer_free(k->deadline);
}

static void link_free(void *arg) {
  struct link *k = arg;
  slots_fini(&k->slots);
  link_flows_free(k);
  free(k->queue.buf);
  free(k->partial);
  free(k);
}

void link_close(struct link *k, const char *reason, enum stream_reason stream_reason, bool flush) {
  if (k->closed) return;
  char text[256];
  snprintf(text, sizeof text, "%s", reason); // the caller's may lie in something that goes now
  bool protocol_error = strncmp(text, "protocol: ", 10) == 0;
  if (flush && !k->choked) {
    // Only what is queued: streams and flows have nothing to say any more.
    link_drop_datagrams(k);
    while (!TAILQ_EMPTY(&k->ready)) {
      TAILQ_FIRST(&k->ready)->in_ready = false;
      TAILQ_REMOVE(&k->ready, TAILQ_FIRST(&k->ready), ready);
    }
    link_flush(k);
    if (k->closed) return; // the flush found it lost
    link_flush_last(k);
  }
  k->closed = true;
  loop_defer_cancel(k->loop, &k->flush_task);
  loop_defer_cancel(k->loop, &k->drain_task);
  free_timers(k);
  link_streams_fini(k, stream_reason);
  link_flows_fini(k, stream_reason);
  loop_defer_cancel(k->loop, &k->drain_task);
  conn_close(k->conn, flush ? CONN_LINGER : CONN_CLOSE);
  k->ops->on_close(k->ctx, k, text, protocol_error);
  loop_reap(k->loop, k, link_free);
}

void link_violation(struct link *k, const char *format, ...) {
  if (k->closed) return;
  struct control c = {.type = CONTROL_END, .end = {.reason = "protocol"}};
  va_list ap;
  va_start(ap, format);
  vsnprintf(c.end.message, sizeof c.end.message, format, ap);
  va_end(ap);
  char reason[sizeof c.end.message + 16];
  snprintf(reason, sizeof reason, "protocol: %s", c.end.message);
  (void)link_send(k, &c); // the peer may be past hearing it
  link_close(k, reason, STREAM_LINK_LOST, true);
}

// ---- liveness ----

static void on_tick(void *ctx) {
  struct link *k = ctx;
  uint64_t now = loop_now_ms(k->loop), dead_ms = (uint64_t)k->settings.dead_s * 1000;
  // A peer that sends and never reads is as dead as a silent one. It has to be found within the time, not a tick later.
  bool silent = now - k->heard_ms + LINK_TICK_MS >= dead_ms;
  bool deaf = k->ping_open && now - k->pinged_ms + LINK_TICK_MS >= dead_ms;
  if (silent || deaf) {
    char text[64];
    snprintf(text, sizeof text, "dead: %s for %lld s", silent ? "nothing heard" : "no ping answered",
             (long long)k->settings.dead_s);
    link_close(k, text, STREAM_LINK_LOST, false);
    return;
  }
  if (!k->ping_open && now - k->pinged_ms >= (uint64_t)k->settings.heartbeat_s * 1000) link_send_ping(k);
  if (now - k->checked_ms >= LINK_CHECK_MS) {
    k->checked_ms = now;
    link_check_streams(k, now);
    link_check_flows(k);
  }
  if (!k->closed) loop_timer_set(k->tick, LINK_TICK_MS);
}

// The peer has had its few milliseconds of DATA that would have said it too.
static void on_lazy(void *ctx) {
  struct link *k = ctx;
  struct tstream *s;
  while ((s = TAILQ_FIRST(&k->unannounced))) {
    tstream_announce(s);
    link_queue_frame(k, &(struct frame){.type = FRAME_OPENED, .stream = s->id}, NULL);
  }
}

// ---- draining ----

static bool is_empty(const struct link *k) { return TAILQ_EMPTY(&k->all) && TAILQ_EMPTY(&k->flows); }

void link_check_drained(struct link *k) {
  if (k->draining && is_empty(k)) loop_defer(k->loop, &k->drain_task);
}

static void on_drain_task(struct loop_task *t) {
  struct link *k = (struct link *)((char *)t - offsetof(struct link, drain_task));
  if (is_empty(k) && k->ops->on_drained) k->ops->on_drained(k->ctx, k);
}

void link_drain(struct link *k) {
  if (k->closed || k->draining) return;
  k->draining = true;
  link_check_drained(k);
}

static void on_deadline(void *ctx) {
  link_close(ctx, "the deadline of a goaway has passed", STREAM_LINK_LOST, false);
}

void link_set_deadline(struct link *k, uint64_t ms) {
  if (!k->closed) loop_timer_set(k->deadline, ms);
}

bool link_draining(const struct link *k) { return k->draining; }

// ---- start ----

static void on_flush_task(struct loop_task *t) {
  link_flush((struct link *)((char *)t - offsetof(struct link, flush_task)));
}

static void on_writable(void *ctx, struct conn *c) { link_flush(ctx); }

static void on_abort(void *ctx, struct conn *c) {
  link_close(ctx, "lost: connection reset", STREAM_LINK_LOST, false);
}

static const struct conn_ops link_conn_ops = {
    .on_readable = link_on_readable, .on_writable = on_writable, .on_abort = on_abort};

struct link *link_new(struct loop *l, struct conn *c, enum link_role role, const struct link_settings *settings,
                      struct budget *budget, const struct link_ops *ops, void *ctx) {
  struct link *k = calloc(1, sizeof *k);
  if (!k) {
    conn_close(c, CONN_CLOSE);
    return NULL;
  }
  *k = (struct link){.loop = l, .conn = c, .role = role, .settings = *settings, .budget = budget, .ops = ops, .ctx = ctx};
  k->peer = *conn_peer(c);
  k->flush_task.fn = on_flush_task;
  k->drain_task.fn = on_drain_task;
  k->tick = loop_timer_new(l, on_tick, k);
  k->lazy = loop_timer_new(l, on_lazy, k);
  k->deadline = loop_timer_new(l, on_deadline, k);
  link_streams_init(k);
  link_flows_init(k);
  if (!k->tick || !k->lazy || !k->deadline) {
    free_timers(k);
    conn_close(c, CONN_CLOSE);
    link_free(k);
    return NULL;
  }
  uint64_t now = loop_now_ms(l);
  k->heard_ms = now;
  bucket_init(&k->pings, PINGS_PER_S, PINGS_BURST, now);
  bucket_init(&k->credits, CREDITS_PER_S, CREDITS_BURST, now);
  bucket_init(&k->controls, CONTROLS_PER_S, CONTROLS_BURST, now);
  conn_rebind(c, &link_conn_ops, k);
  loop_timer_set(k->tick, LINK_TICK_MS);
  link_send_ping(k); // the first round trip is measured at once
  return k;
}

unsigned link_streams(const struct link *k) { return k->live; }
const struct addr *link_peer(const struct link *k) { return &k->peer; }
uint64_t link_last_heard(const struct link *k) { return k->heard_ms; }
