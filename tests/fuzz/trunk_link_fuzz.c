// A link over a socket pair: the input plays the peer, the ends of streams and flows, and the owner. What must hold
// after every step is checked: the windows, the queue of datagrams and the budget add up, the slots agree with the
// streams and flows, and nothing touches an end that is gone (it is freed at once, for the address sanitizer to see).
//
// The first byte chooses the role and whether there are flows; then each step is a byte and what it takes from the
// input:
//   0 n  n raw bytes from the peer       1 kind stream len  a frame from the peer
//   2 n  n visitors (gateway only)       3 i n  end i: n bytes to pull, end of input, took, reset …
//   4    the peer reads what came        5 mood  how ends and owner react from now on
//   6    the owner drains or closes      7    the loop runs
//   8 n  the check of every second, 10 n seconds from now
//   9 n  n flows (gateway only)          10 i n  flow i: sends datagrams, or ends
#include "postern/base/log.h"
#include "postern/trunk/link_internal.h"
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ENDS = 64, MAX_STEPS = 2000 };

// How ends and owner react, bit by bit.
enum mood {
  TAKES_AT_ONCE = 1,
  RESETS_IN_PULL = 2,
  RESETS_IN_PUSH = 4,
  RESETS_IN_FIN = 8,
  REFUSES_OPEN = 16,
  CLOSES_IN_CONTROL = 32,
  ANSWERS_CONTROL = 64,
  ENDS_IN_DATAGRAM = 128,
};

struct input {
  const uint8_t *at;
  size_t left;
};

struct world {
  struct loop *loop;
  struct link *link; // NULL: closed
  enum link_role role;
  struct budget budget;
  int peer;
  unsigned mood;
  struct end *ends[MAX_ENDS];
  struct flow_side *flows[MAX_ENDS];
};

struct end {
  struct world *w;
  struct stream *stream;
  size_t to_pull, held; // bytes for the link; bytes from it that were not taken yet
  bool input_over, fin_sent, fin_came;
};

struct flow_side {
  struct world *w;
  struct flow *flow;
};

static uint8_t next(struct input *in) {
  if (in->left == 0) return 0;
  in->left--;
  return *in->at++;
}

// ---- ends ----

static void end_gone(struct end *e) {
  for (unsigned i = 0; i < MAX_ENDS; i++)
    if (e->w->ends[i] == e) e->w->ends[i] = NULL;
  free(e);
}

static void end_give_up(struct end *e) {
  e->stream->ops->reset(e->stream, STREAM_ABORTED);
  end_gone(e);
}

static void settle(struct end *e) {
  if (!e->fin_sent || !e->fin_came || e->held) return;
  e->stream->ops->release(e->stream);
  end_gone(e);
}

static int on_pull(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  struct end *e = ctx;
  if (cap == 0) abort();
  if (e->w->mood & RESETS_IN_PULL) {
    end_give_up(e);
    return PERR_CLOSED;
  }
  if (e->to_pull == 0) return e->input_over && !e->fin_sent ? PERR_EOF : PERR_AGAIN;
  *n = e->to_pull < cap ? e->to_pull : cap;
  memset(buf, 'x', *n);
  e->to_pull -= *n;
  return 0;
}

static void on_fin_sent(void *ctx) {
  struct end *e = ctx;
  if (e->fin_sent) abort();
  e->fin_sent = true;
  settle(e);
}

static void on_push(void *ctx, const uint8_t *data, size_t n) {
  struct end *e = ctx;
  if (n == 0 || e->fin_came) abort();
  if (e->w->mood & RESETS_IN_PUSH) {
    end_give_up(e);
    return;
  }
  e->held += n;
  if (!(e->w->mood & TAKES_AT_ONCE)) return;
  e->stream->ops->took(e->stream, e->held);
  e->held = 0;
}

static void on_fin(void *ctx) {
  struct end *e = ctx;
  if (e->fin_came) abort();
  e->fin_came = true;
  if (e->w->mood & RESETS_IN_FIN) end_give_up(e);
  else settle(e);
}

static void on_opened(void *ctx) {
  struct end *e = ctx;
  if (e->w->role != LINK_GATEWAY) abort();
}

static void on_reset(void *ctx, enum stream_reason reason) {
  if (reason == STREAM_OK) abort();
  end_gone(ctx);
}

static const struct stream_end fuzz_end = {
    .pull = on_pull, .fin_sent = on_fin_sent, .push = on_push, .fin = on_fin, .opened = on_opened, .reset = on_reset};

static bool bind_end(struct world *w, struct stream *s) {
  for (unsigned i = 0; i < MAX_ENDS; i++) {
    if (w->ends[i]) continue;
    struct end *e = calloc(1, sizeof *e);
    if (!e) return false;
    *e = (struct end){.w = w, .stream = s};
    s->end = &fuzz_end;
    s->end_ctx = e;
    w->ends[i] = e;
    return true;
  }
  return false;
}

static void work_end(struct world *w, struct input *in) {
  struct end *e = w->ends[next(in) % MAX_ENDS];
  uint8_t what = next(in);
  if (!e) return;
  switch (what % 6) {
  case 0: e->to_pull += (size_t)what * 1000; break;
  case 1: e->input_over = true; break;
  case 2: e->stream->ops->opened(e->stream); return;
  case 3: end_give_up(e); return;
  default: {
    size_t n = what < 128 ? e->held : e->held / 2;
    if (n) e->stream->ops->took(e->stream, n);
    e->held -= n;
    settle(e);
    return;
  }
  }
  if (!e->fin_sent) e->stream->ops->ready(e->stream);
}

// ---- flows ----

static void flow_gone(struct flow_side *e) {
  for (unsigned i = 0; i < MAX_ENDS; i++)
    if (e->w->flows[i] == e) e->w->flows[i] = NULL;
  free(e);
}

static void flow_give_up(struct flow_side *e) {
  e->flow->ops->end(e->flow, STREAM_LIMIT);
  flow_gone(e);
}

static void on_datagram(void *ctx, const uint8_t *data, size_t n) {
  struct flow_side *e = ctx;
  uint8_t sum = 0;
  if (n > FRAME_DATAGRAM_MAX) abort();
  for (size_t i = 0; i < n; i++) sum ^= data[i]; // all of it is readable
  if (e->w->mood & ENDS_IN_DATAGRAM) flow_give_up(e);
  else if (sum % 2) e->flow->ops->send(e->flow, data, n);
}

static void on_flow_ended(void *ctx, enum stream_reason reason) { flow_gone(ctx); }

static const struct flow_end fuzz_flow_end = {.datagram = on_datagram, .ended = on_flow_ended};

static bool bind_flow(struct world *w, struct flow *f) {
  for (unsigned i = 0; i < MAX_ENDS; i++) {
    if (w->flows[i]) continue;
    struct flow_side *e = calloc(1, sizeof *e);
    if (!e) return false;
    *e = (struct flow_side){.w = w, .flow = f};
    f->end = &fuzz_flow_end;
    f->end_ctx = e;
    w->flows[i] = e;
    return true;
  }
  return false;
}

static void work_flow(struct world *w, struct input *in) {
  static const uint8_t datagram[FRAME_DATAGRAM_MAX + 1];
  static const size_t sizes[] = {0, 1, 200, 1400, 9000, 16376, 40000, FRAME_DATAGRAM_MAX, sizeof datagram};
  struct flow_side *e = w->flows[next(in) % MAX_ENDS];
  uint8_t what = next(in);
  if (e && what >= 240) flow_give_up(e);
  else if (e)
    for (unsigned i = 0; i <= what / 16u; i++) e->flow->ops->send(e->flow, datagram, sizes[what % 9]);
}

// ---- the owner ----

static void on_control(void *ctx, struct link *k, const struct control *c) {
  struct world *w = ctx;
  if (c->type == CONTROL_HELLO || c->type == CONTROL_WELCOME) abort();
  if (w->mood & ANSWERS_CONTROL) {
    struct control answer = {.type = CONTROL_TUNNEL_OPENED, .tunnel_opened = {.tunnel = 1, .port = 1}};
    (void)link_send(k, &answer);
  }
  if (c->type == CONTROL_GOAWAY) link_drain(k);
  if (w->mood & CLOSES_IN_CONTROL) link_close(k, "closed in a callback", STREAM_SESSION_ENDED, true);
}

static enum stream_reason on_open(void *ctx, struct link *k, struct stream *s, const struct frame_open *open) {
  struct world *w = ctx;
  if (w->role != LINK_AGENT) abort();
  if (w->mood & REFUSES_OPEN) return STREAM_NO_TUNNEL;
  return bind_end(w, s) ? STREAM_OK : STREAM_LIMIT;
}

static enum stream_reason on_flow(void *ctx, struct link *k, struct flow *f, const struct frame_open *open) {
  struct world *w = ctx;
  if (w->role != LINK_AGENT) abort();
  if (w->mood & REFUSES_OPEN) return STREAM_NO_TUNNEL;
  return bind_flow(w, f) ? STREAM_OK : STREAM_LIMIT;
}

static void on_close(void *ctx, struct link *k, const char *reason, bool protocol_error) {
  struct world *w = ctx;
  if (w->link != k) abort();
  w->link = NULL;
  for (unsigned i = 0; i < MAX_ENDS; i++)
    if (w->ends[i] || w->flows[i]) abort(); // every stream was reset before, every flow ended
}

static void on_drained(void *ctx, struct link *k) { link_close(k, "drained", STREAM_LINK_LOST, true); }

static const struct link_ops fuzz_ops = {
    .on_control = on_control, .on_open = on_open, .on_flow = on_flow, .on_close = on_close, .on_drained = on_drained};

static void open_visitors(struct world *w, unsigned n) {
  while (w->link && w->role == LINK_GATEWAY && n--) {
    struct frame_open open = {.tunnel = 1};
    struct stream *s = link_open_stream(w->link, &open);
    if (s && !bind_end(w, s)) s->ops->reset(s, STREAM_LIMIT);
  }
}

static void open_flows(struct world *w, unsigned n) {
  while (w->link && w->role == LINK_GATEWAY && n--) {
    struct frame_open open = {.tunnel = 1};
    struct flow *f = link_open_flow(w->link, &open);
    if (f && !bind_flow(w, f)) f->ops->end(f, STREAM_LIMIT);
  }
}

// ---- the peer ----

static void peer_says(struct world *w, const void *data, size_t n) {
  ssize_t sent = send(w->peer, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)sent; // full, or closed: then the link hears less
}

static void peer_frame(struct world *w, struct input *in) {
  static const char text[] = "{\"type\":\"goaway\",\"reason\":\"x\",\"deadline_seconds\":9}";
  uint8_t buf[FRAME_MAX] = {0}, kind = next(in), slot = next(in), shape = next(in);
  struct frame f = {.type = kind % 14, .stream = (uint32_t)(1 + slot / 16) << 16 | slot % 16};
  uint8_t *payload = buf + FRAME_HEADER;
  switch (f.type) {
  case FRAME_CONTROL:
    f.len = sizeof text - 1;
    f.stream = 0;
    memcpy(payload, text, f.len);
    break;
  case FRAME_OPEN:
  case FRAME_FLOW: f.len = 7; break;
  case FRAME_DATAGRAM:
    f.flags = shape % 4;
    f.len = (uint16_t)(shape < 200 ? shape / 4 : FRAME_PAYLOAD_MAX);
    payload[0] = shape / 4;
    break;
  case FRAME_DATA: f.len = (uint16_t)(shape < 200 ? shape + 1 : FRAME_PAYLOAD_MAX); break;
  case FRAME_RESET:
  case FRAME_FLOW_END: f.len = 1; break;
  case FRAME_CREDIT:
    f.len = 4;
    payload[shape % 4] = shape;
    break;
  case FRAME_PING: f.len = 8, f.stream = 0; break;
  case FRAME_PONG:
    f.len = 8, f.stream = 0;
    if (w->link) memcpy(payload, w->link->ping, 8);
    break;
  default: break;
  }
  if (f.len == 1) payload[0] = shape;
  frame_put_header(buf, &f);
  peer_says(w, buf, FRAME_HEADER + (size_t)f.len);
}

static void peer_reads(struct world *w) {
  uint8_t buf[64 * 1024];
  while (recv(w->peer, buf, sizeof buf, MSG_DONTWAIT) > 0) {}
}

// ---- what must hold ----

static void check(const struct world *w) {
  const struct link *k = w->link;
  const struct tstream *s;
  const struct tflow *f;
  const struct datagram *d;
  size_t buffered = 0, waiting = 0;
  unsigned live = 0, slots = 0, flows = 0;
  if (!k) return;
  TAILQ_FOREACH(s, &k->all, all) {
    if (s->over || s->window != s->granted + s->buffered + s->owed || s->window > WINDOW_MAX) abort();
    if (s->credit > WINDOW_MAX || (s->in_stalled && !s->buffered)) abort();
    if (s->id && !s->wire_over && k->slots.at[s->id & 0xffff].item != s) abort();
    buffered += s->buffered;
    live += !s->wire_over;
  }
  for (uint32_t i = 0; i < k->slots.n; i++) slots += k->slots.at[i].item != NULL;
  TAILQ_FOREACH(f, &k->flows, all) {
    if (f->over || (f->id && k->flow_slots.at[f->id & 0xffff].item != f)) abort();
    flows++;
  }
  STAILQ_FOREACH(d, &k->datagrams, next) waiting += sizeof *d + d->len;
  if (k->nflows != flows || k->datagram_bytes != waiting || waiting > LINK_DATAGRAMS_MAX) abort();
  if (k->live != live || slots > live || atomic_load(&w->budget.used) != buffered + waiting) abort();
}

static void run_loop(struct world *w) { event_base_loop(loop_base(w->loop), EVLOOP_NONBLOCK); }

static void step(struct world *w, struct input *in) {
  switch (next(in) % 11) {
  case 0: {
    size_t n = next(in);
    if (n > in->left) n = in->left;
    peer_says(w, in->at, n);
    in->at += n;
    in->left -= n;
    break;
  }
  case 1: peer_frame(w, in); break;
  case 2: open_visitors(w, next(in) % 8); break;
  case 3: work_end(w, in); break;
  case 4: peer_reads(w); break;
  case 5: w->mood = next(in); break;
  case 6:
    if (w->link && next(in) % 2) link_drain(w->link);
    else if (w->link) link_close(w->link, "closed by its owner", STREAM_SESSION_ENDED, true);
    break;
  case 7: run_loop(w); break;
  case 9: open_flows(w, next(in) % 8); break;
  case 10: work_flow(w, in); break;
  default: {
    uint64_t later_ms = (uint64_t)next(in) * 10000;
    if (w->link) link_check_streams(w->link, loop_now_ms(w->loop) + later_ms);
  }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  uint8_t kind = next(&in);
  struct world w = {.role = kind % 2 ? LINK_AGENT : LINK_GATEWAY, .loop = loop_new("fuzz")};
  const struct link_settings settings = {
      .heartbeat_s = 15, .dead_s = 45, .stall_s = 600, .dial_s = 10, .udp = kind & 2};
  int pair[2];
  log_set_level(LOG_ERROR);
  if (!w.loop || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) abort();
  budget_init(&w.budget, 1024 * 1024, NULL);
  w.peer = pair[0];
  struct conn *c = conn_new(w.loop, pair[1], &(const struct conn_ops){0}, NULL);
  w.link = c ? link_new(w.loop, c, w.role, &settings, &w.budget, &fuzz_ops, &w) : NULL;
  if (!w.link) abort();
  for (unsigned i = 0; i < MAX_STEPS && in.left; i++) {
    step(&w, &in);
    check(&w);
  }
  run_loop(&w);
  check(&w);
  if (w.link) link_close(w.link, "the end", STREAM_SESSION_ENDED, false);
  if (atomic_load(&w.budget.used) != 0) abort();
  close(w.peer);
  loop_free(w.loop);
  return 0;
}
