// link_flow: the flows of a link and their datagrams: a bounded queue on the way out, of which the oldest are dropped
// when the link is congested, and one datagram at a time in reassembly on the way in. See link_internal.h.
#include "postern/trunk/link_internal.h"

#include <stdlib.h>
#include <string.h>

enum { CUT_MIN = 512 }; // a piece is no shorter, but for the last one

static const struct flow_ops trunk_flow_ops;

static struct tflow *tflow_of(struct flow *f) { return (struct tflow *)f; }

void link_flows_init(struct link *k) {
  TAILQ_INIT(&k->flows);
  STAILQ_INIT(&k->datagrams);
  slots_init(&k->flow_slots, k->role == LINK_GATEWAY);
}

// ---- the queue ----

static size_t cost(const struct datagram *d) { return sizeof *d + d->len; }

static void count_dropped(struct link *k) {
  _Atomic uint64_t *sum = k->settings.dropped;
  if (sum) atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + 1, memory_order_relaxed);
}

// Out of the queue and of memory.
static void forget(struct link *k, struct datagram *d) {
  struct tflow *f = d->flow;
  k->datagram_bytes -= cost(d);
  budget_sub(k->budget, cost(d));
  if (--f->waiting == 0 && f->over) loop_reap(k->loop, f, free);
  free(d);
}

static void remove_first(struct link *k) {
  struct datagram *d = STAILQ_FIRST(&k->datagrams);
  STAILQ_REMOVE_HEAD(&k->datagrams, next);
  k->datagram_sent = 0;
  forget(k, d);
}

// The oldest of which nothing is out yet.
static bool drop_oldest(struct link *k) {
  struct datagram *first = STAILQ_FIRST(&k->datagrams), *second = first ? STAILQ_NEXT(first, next) : NULL;
  if (!first || (k->datagram_sent && !second)) return false;
  count_dropped(k);
  if (!k->datagram_sent) {
    remove_first(k);
  } else {
    STAILQ_REMOVE(&k->datagrams, second, datagram, next);
    forget(k, second);
  }
  return true;
}

void link_drop_datagrams(struct link *k) {
  while (drop_oldest(k)) {}
}

// Where memory is short, streams have it: their bytes are promised.
static void op_send(struct flow *base, const uint8_t *data, size_t n) {
  struct tflow *f = tflow_of(base);
  struct link *k = f->link;
  struct datagram *d = n > FRAME_DATAGRAM_MAX || budget_tight(k->budget) ? NULL : malloc(sizeof *d + n);
  if (!d) {
    count_dropped(k);
    return;
  }
  *d = (struct datagram){.flow = f, .since_ms = loop_now_ms(k->loop), .len = n};
  if (n) memcpy(d->data, data, n);
  f->waiting++;
  k->datagram_bytes += cost(d);
  budget_add(k->budget, cost(d));
  STAILQ_INSERT_TAIL(&k->datagrams, d, next);
  while (k->datagram_bytes > LINK_DATAGRAMS_MAX && drop_oldest(k)) {}
  link_want_flush(k);
}

// ---- life ----

static struct tflow *tflow_new(struct link *k) {
  struct tflow *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->base.ops = &trunk_flow_ops;
  f->link = k;
  TAILQ_INSERT_TAIL(&k->flows, f, all);
  k->nflows++;
  return f;
}

struct flow *link_open_flow(struct link *k, const struct frame_open *open) {
  if (k->closed || k->draining || !k->settings.udp || k->nflows >= LINK_MAX_FLOWS) return NULL;
  struct tflow *f = tflow_new(k);
  if (!f) return NULL;
  f->open = *open;
  return &f->base;
}

static void tflow_finish(struct tflow *f) {
  struct link *k = f->link;
  f->over = true;
  TAILQ_REMOVE(&k->flows, f, all);
  k->nflows--;
  if (f->id) slots_free(&k->flow_slots, f->id);
  if (k->joining.flow == f) k->joining.flow = NULL;
  link_check_drained(k);
  if (f->waiting == 0) loop_reap(k->loop, f, free);
}

static void tflow_tell_end(struct tflow *f, enum stream_reason reason) {
  const struct flow_end *end = f->base.end;
  void *ctx = f->base.end_ctx;
  tflow_finish(f);
  if (end) end->ended(ctx, reason);
}

static void say_end(struct tflow *f, enum stream_reason reason) {
  uint8_t payload = (uint8_t)reason;
  if (f->id) // without one, FLOW never went out
    link_queue_frame(f->link, &(struct frame){.type = FRAME_FLOW_END, .len = 1, .stream = f->id}, &payload);
}

static void op_end(struct flow *base, enum stream_reason reason) {
  struct tflow *f = tflow_of(base);
  if (f->over) return;
  say_end(f, reason);
  tflow_finish(f);
}

static const struct flow_ops trunk_flow_ops = {.send = op_send, .end = op_end};

void link_flows_fini(struct link *k, enum stream_reason reason) {
  struct tflow *f;
  while ((f = TAILQ_FIRST(&k->flows))) tflow_tell_end(f, reason);
  k->datagram_sent = 0;
  while (!STAILQ_EMPTY(&k->datagrams)) remove_first(k);
}

void link_flows_free(struct link *k) {
  slots_fini(&k->flow_slots);
  free(k->joining.data);
}

void link_check_flows(struct link *k) {
  if (k->joining.flow) return;
  free(k->joining.data);
  k->joining.data = NULL;
}

// ---- frames out ----

// The first that is worth sending; those before it are dropped.
static struct datagram *next_to_send(struct link *k) {
  uint64_t now = loop_now_ms(k->loop);
  struct datagram *d;
  while ((d = STAILQ_FIRST(&k->datagrams))) {
    bool stale = !k->datagram_sent && now - d->since_ms > LINK_DATAGRAM_WAIT_MS;
    if (!stale && !d->flow->over) return d;
    count_dropped(k);
    remove_first(k);
  }
  return NULL;
}

static size_t put_frame(uint8_t *out, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t len) {
  frame_put_header(out, &(struct frame){.type = type, .flags = flags, .len = (uint16_t)len, .stream = id});
  if (len) memcpy(out + FRAME_HEADER, payload, len);
  return FRAME_HEADER + len;
}

// 0: there is no slot, and the flow has ended.
static size_t put_flow(struct link *k, struct tflow *f, uint8_t *out) {
  uint8_t payload[FRAME_OPEN_MAX];
  if (slots_take(&k->flow_slots, f, &f->id)) {
    f->id = 0;
    tflow_tell_end(f, STREAM_LIMIT);
    return 0;
  }
  return put_frame(out, FRAME_FLOW, 0, f->id, payload, frame_put_open(payload, &f->open));
}

static size_t put_piece(struct link *k, struct datagram *d, uint8_t *out, size_t room) {
  size_t from = k->datagram_sent, n = d->len - from;
  if (n > room - FRAME_HEADER) n = room - FRAME_HEADER;
  bool last = from + n == d->len;
  uint8_t flags = (uint8_t)((from ? 0 : FRAME_FIRST) | (last ? FRAME_LAST : 0));
  size_t used = put_frame(out, FRAME_DATAGRAM, flags, d->flow->id, d->data + from, n);
  k->datagram_sent += n;
  if (last) remove_first(k);
  return used;
}

size_t link_put_datagrams(struct link *k, uint8_t *out, size_t room, size_t whole) {
  size_t used = 0;
  struct datagram *d;
  while ((d = next_to_send(k))) {
    size_t opening = d->flow->id ? 0 : FRAME_HEADER + FRAME_OPEN_MAX;
    size_t need = opening + FRAME_HEADER + (d->len - k->datagram_sent);
    bool fits = need <= room - used, cut = need > whole - CUT_MIN && room - used >= opening + FRAME_HEADER + CUT_MIN;
    if (!fits && !cut) break;
    if (opening) {
      size_t n = put_flow(k, d->flow, out + used);
      if (n == 0) continue; // what waits of it is dropped above
      used += n;
    }
    used += put_piece(k, d, out + used, room - used);
  }
  return used;
}

// ---- frames in ----

// NULL: late, or a violation that was dealt with.
static struct tflow *find_flow(struct link *k, const struct frame *f, bool *late) {
  void *item = NULL;
  enum slots_found found = slots_find(&k->flow_slots, f->stream, &item);
  *late = found == SLOTS_LATE;
  if (found == SLOTS_UNKNOWN)
    link_violation(k, "a frame of type %u for flow %08x, which the %s did not get", f->type, f->stream,
                   link_peer_side(k));
  return item;
}

void link_on_flow(struct link *k, const struct frame *f, const uint8_t *payload) {
  struct frame_open open;
  if (frame_get_open(payload, f->len, &open)) {
    link_violation(k, "a malformed opening of flow %08x", f->stream);
    return;
  }
  struct tflow *flow = tflow_new(k);
  int code = flow ? slots_accept(&k->flow_slots, f->stream, flow) : PERR_NOMEM;
  if (code) {
    if (flow) tflow_finish(flow);
    if (code == PERR_PROTOCOL)
      link_violation(k, "an opening of flow %08x, whose slot is at generation %u", f->stream,
                     slots_generation(&k->flow_slots, f->stream));
    else link_close(k, "out of memory", STREAM_INTERNAL, false);
    return;
  }
  flow->id = f->stream;
  enum stream_reason refusal =
      k->ops->on_flow ? k->ops->on_flow(k->ctx, k, &flow->base, &open) : STREAM_NO_TUNNEL;
  if (flow->over || !refusal) return;
  say_end(flow, refusal);
  tflow_tell_end(flow, refusal);
}

void link_on_flow_end(struct link *k, const struct frame *f, const uint8_t *payload) {
  bool late;
  struct tflow *flow = find_flow(k, f, &late);
  if (late) link_drop_late(k);
  if (flow) tflow_tell_end(flow, payload[0] ? link_reason(payload[0]) : STREAM_OK);
}

// To hand a datagram on is more work than to read it. Whoever gets more of them than he can do away with must not leave
// the rest in the kernel's buffer, for streams wait behind them there.
static void deliver(struct tflow *f, const uint8_t *data, size_t n) {
  struct link *k = f->link;
  if (++k->datagrams_in > LINK_DATAGRAMS_TURN && loop_now_ms(k->loop) - k->moved_ms < LINK_MOVING_MS) count_dropped(k);
  else if (f->base.end) f->base.end->datagram(f->base.end_ctx, data, n);
}

// Datagrams do not overtake each other, so there is never more than one in pieces.
static void join(struct link *k, struct tflow *flow, const struct frame *f, const uint8_t *payload) {
  if (!k->joining.data && !(k->joining.data = malloc(FRAME_DATAGRAM_MAX))) {
    link_close(k, "out of memory", STREAM_INTERNAL, false);
    return;
  }
  if (f->flags & FRAME_FIRST) k->joining.len = 0;
  if (f->len > FRAME_DATAGRAM_MAX - k->joining.len) {
    link_violation(k, "a datagram of more than %d bytes for flow %08x", FRAME_DATAGRAM_MAX, f->stream);
    return;
  }
  memcpy(k->joining.data + k->joining.len, payload, f->len);
  k->joining.len += f->len;
  k->joining.flow = f->flags & FRAME_LAST ? NULL : flow;
  if (f->flags & FRAME_LAST) deliver(flow, k->joining.data, k->joining.len);
}

void link_on_datagram(struct link *k, const struct frame *f, const uint8_t *payload) {
  bool late, first = f->flags & FRAME_FIRST, last = f->flags & FRAME_LAST;
  struct tflow *flow = find_flow(k, f, &late);
  if (!flow) return; // a late answer to a visitor whose flow has ended
  if (k->joining.flow != (first ? NULL : flow))
    link_violation(k, "a piece of a datagram of flow %08x out of turn", f->stream);
  else if (first && last) deliver(flow, payload, f->len);
  else join(k, flow, f, payload);
}
