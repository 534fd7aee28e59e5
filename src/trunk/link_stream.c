// link_stream: the streams of a link: their ids, credit and windows, what their ends ask of them. See link_internal.h.
#include "postern/base/clock.h"
#include "postern/trunk/link_internal.h"

#include <stdlib.h>

enum {
  // Credit goes back in quarters of a window: in halves, what the last piece left over would idle for a round trip.
  GRANT_PART = 4,
};

static const struct stream_ops trunk_stream_ops;

// ---- ids ----

void link_streams_init(struct link *k) {
  TAILQ_INIT(&k->all);
  TAILQ_INIT(&k->ready);
  TAILQ_INIT(&k->stalled);
  TAILQ_INIT(&k->crediting);
  TAILQ_INIT(&k->unannounced);
  slots_init(&k->slots, k->role == LINK_GATEWAY);
}

int tstream_take_slot(struct tstream *s) { return slots_take(&s->link->slots, s, &s->id); }

void tstream_wire_over(struct tstream *s) {
  if (s->wire_over) return;
  struct link *k = s->link;
  s->wire_over = true;
  if (s->id) slots_free(&k->slots, s->id);
  k->live--;
}

// ---- life ----

struct tstream *tstream_new(struct link *k) {
  struct tstream *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->base.ops = &trunk_stream_ops;
  s->link = k;
  s->credit = WINDOW_FIRST;
  s->window = s->granted = WINDOW_FIRST;
  s->born_ms = s->credited_ms = loop_now_ms(k->loop);
  k->live++;
  TAILQ_INSERT_TAIL(&k->all, s, all);
  return s;
}

struct stream *link_open_stream(struct link *k, const struct frame_open *open) {
  if (k->closed || k->draining || k->live >= LINK_MAX_STREAMS) return NULL;
  struct tstream *s = tstream_new(k);
  if (!s) return NULL;
  s->open = *open;
  tstream_want_send(s);
  return &s->base;
}

#define LIST_DROP(k, s, list, flag)                                                                                    \
  do {                                                                                                                 \
    if ((s)->flag) TAILQ_REMOVE(&(k)->list, s, list);                                                                  \
    (s)->flag = false;                                                                                                 \
  } while (0)

void tstream_finish(struct tstream *s) {
  if (s->over) return;
  struct link *k = s->link;
  s->over = true;
  tstream_wire_over(s);
  LIST_DROP(k, s, ready, in_ready);
  LIST_DROP(k, s, stalled, in_stalled);
  LIST_DROP(k, s, crediting, in_credit);
  LIST_DROP(k, s, unannounced, in_unannounced);
  TAILQ_REMOVE(&k->all, s, all);
  link_check_drained(k);
  budget_sub(k->budget, s->buffered);
  s->buffered = 0;
  loop_reap(k->loop, s, free);
}

static void send_reset(struct tstream *s, enum stream_reason reason) {
  struct link *k = s->link;
  if (s->wire_over || k->closed || s->id == 0) return; // without an id its OPEN never went out
  uint8_t payload = (uint8_t)reason;
  link_queue_frame(k, &(struct frame){.type = FRAME_RESET, .len = 1, .stream = s->id}, &payload);
  k->stale_bytes += s->granted;
  k->stale_fins += !s->fin_seen;
}

void tstream_reset_end(struct tstream *s, enum stream_reason reason, bool tell_peer) {
  if (s->over) return;
  if (tell_peer) send_reset(s, reason);
  const struct stream_end *end = s->base.end;
  void *ctx = s->base.end_ctx;
  tstream_finish(s);
  if (end) end->reset(ctx, reason);
}

void link_streams_fini(struct link *k, enum stream_reason reason) {
  struct tstream *s;
  while ((s = TAILQ_FIRST(&k->all))) tstream_reset_end(s, reason, false);
}

// ---- sending ----

void tstream_want_send(struct tstream *s) {
  struct link *k = s->link;
  s->wants_send = true;
  if (s->in_ready || s->wire_over || s->fin_sent) return;
  if (s->credit == 0) {
    if (!s->blocked_ms) s->blocked_ms = loop_now_ms(k->loop);
    return;
  }
  s->blocked_ms = 0;
  TAILQ_INSERT_TAIL(&k->ready, s, ready);
  s->in_ready = true;
  link_want_flush(k);
}

void tstream_announce(struct tstream *s) {
  struct link *k = s->link;
  LIST_DROP(k, s, unannounced, in_unannounced);
  s->opened = true;
}

// ---- receiving ----

static void stalled_touch(struct tstream *s) {
  struct link *k = s->link;
  LIST_DROP(k, s, stalled, in_stalled);
  if (s->buffered == 0) return;
  s->progress_ms = loop_now_ms(k->loop);
  TAILQ_INSERT_TAIL(&k->stalled, s, stalled);
  s->in_stalled = true;
}

void tstream_received(struct tstream *s, uint32_t n) {
  if (!s->epoch_us) s->epoch_us = clock_mono_us();
  s->granted -= n;
  s->buffered += n;
  budget_add(s->link->budget, n);
  if (!s->in_stalled) stalled_touch(s);
}

void link_relieve(struct link *k) {
  while (!k->closed && budget_over(k->budget)) {
    struct tstream *s = TAILQ_FIRST(&k->stalled);
    if (!s) return; // the session's other link holds them
    tstream_reset_end(s, STREAM_MEMORY, true);
  }
}

// The reader drained a whole window within two round trips: the window, not the reader, sets the pace.
static void grow_window(struct tstream *s, bool tight) {
  struct link *k = s->link;
  if (s->epoch_taken < s->window) return;
  uint64_t now = clock_mono_us();
  bool fast = k->rtt_us && now - s->epoch_us <= 2 * k->rtt_us;
  if (fast && !tight && s->window < WINDOW_MAX) {
    s->owed += s->window;
    s->window *= 2;
  }
  s->epoch_taken = 0;
  s->epoch_us = now;
}

// Near a bound only a stream whose reader has taken everything gets credit back, so that those who read go on being
// served and those who do not are not fed.
static bool may_credit(const struct tstream *s, bool tight) {
  return s->owed >= s->window / GRANT_PART && (!tight || s->buffered == 0);
}

static void want_credit(struct tstream *s) {
  struct link *k = s->link;
  TAILQ_INSERT_TAIL(&k->crediting, s, crediting);
  s->in_credit = true;
  link_want_flush(k);
}

uint32_t tstream_grant(struct tstream *s) {
  uint32_t n = s->owed;
  LIST_DROP(s->link, s, crediting, in_credit);
  s->granted += n;
  s->owed = 0;
  s->credited_ms = loop_now_ms(s->link->loop);
  return n;
}

static void op_took(struct stream *base, size_t n) {
  struct tstream *s = tstream_of(base);
  struct link *k = s->link;
  s->buffered -= (uint32_t)n;
  s->owed += (uint32_t)n;
  s->epoch_taken += (uint32_t)n;
  budget_sub(k->budget, n);
  stalled_touch(s);
  if (s->owed < s->window / GRANT_PART || s->in_credit || s->fin_seen || s->wire_over) return;
  bool tight = budget_tight(k->budget);
  grow_window(s, tight);
  if (may_credit(s, tight)) want_credit(s);
}

// ---- what the end asks ----

static bool op_ready(struct stream *base) {
  struct tstream *s = tstream_of(base);
  tstream_want_send(s);
  return s->in_ready;
}

static void op_opened(struct stream *base) {
  struct tstream *s = tstream_of(base);
  struct link *k = s->link;
  if (s->opened || s->in_unannounced) return;
  if (TAILQ_EMPTY(&k->unannounced)) loop_timer_set(k->lazy, LINK_LAZY_MS);
  TAILQ_INSERT_TAIL(&k->unannounced, s, unannounced);
  s->in_unannounced = true;
}

static void op_reset(struct stream *base, enum stream_reason reason) {
  struct tstream *s = tstream_of(base);
  if (s->over) return;
  send_reset(s, reason);
  tstream_finish(s);
}

static void op_release(struct stream *base) { tstream_finish(tstream_of(base)); }

static const struct stream_ops trunk_stream_ops = {
    .ready = op_ready, .took = op_took, .opened = op_opened, .reset = op_reset, .release = op_release};

// ---- once a second ----

// Of a slow reader's progress the sender has to hear before it takes the stream for stalled.
static bool overdue(const struct tstream *s, uint64_t now_ms, uint64_t stall_ms) {
  return s->owed && now_ms - s->credited_ms >= stall_ms / 2;
}

void link_check_streams(struct link *k, uint64_t now_ms) {
  uint64_t stall = (uint64_t)k->settings.stall_s * 1000;
  uint64_t dial = k->settings.dial_s ? (uint64_t)k->settings.dial_s * 1000 + LINK_DIAL_GRACE_MS : UINT64_MAX;
  bool tight = budget_tight(k->budget);
  struct tstream *s, *next;
  link_relieve(k); // others may have used up what was free
  for (s = TAILQ_FIRST(&k->all); s && !k->closed; s = next) {
    next = TAILQ_NEXT(s, all);
    if (s->in_stalled && now_ms - s->progress_ms >= stall) tstream_reset_end(s, STREAM_STALLED, true);
    else if (s->blocked_ms && now_ms - s->blocked_ms >= stall) tstream_reset_end(s, STREAM_STALLED, true);
    else if (!s->opened && now_ms - s->born_ms >= dial) tstream_reset_end(s, STREAM_DIAL_TIMEOUT, true);
    else if (!s->in_credit && !s->fin_seen && !s->wire_over && (may_credit(s, tight) || overdue(s, now_ms, stall)))
      want_credit(s);
  }
}
