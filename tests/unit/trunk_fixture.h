// trunk_fixture: links over TLS in one loop, ends of streams that count and check, and a peer that says frames as a
// test wants them.
#ifndef TESTS_UNIT_TRUNK_FIXTURE_H
#define TESTS_UNIT_TRUNK_FIXTURE_H

#include "postern/trunk/link_internal.h"
#include "tls_pair.h"

static struct loop *loop;

// ---- the end of a stream ----

struct stream_side {
  struct stream *stream; // NULL: over
  uint32_t id;           // as the link numbered it, where a test has asked
  uint64_t to_send, sent;
  bool end_sends, fin_sent; // a fin behind to_send
  uint64_t got, held;
  unsigned opened, fins, resets;
  bool slow; // keeps what it gets until a test takes it
  enum stream_reason reason;
  struct link *closes; // closed by the next callback, whichever it is
  void (*on_reset)(struct stream_side *self);
};

static inline void side_release(struct stream_side *e) {
  if (!e->stream || !e->fin_sent || !e->fins || e->held) return;
  struct stream *s = e->stream;
  e->stream = NULL;
  s->ops->release(s);
}

// The test takes `n` of the bytes that wait.
static inline void side_take(struct stream_side *e, uint64_t n) {
  assert_true(n <= e->held);
  e->held -= n;
  e->stream->ops->took(e->stream, n);
  side_release(e);
}

static inline bool side_closes(struct stream_side *e) {
  struct link *k = e->closes;
  e->closes = NULL;
  if (k) link_close(k, "closed in a callback", STREAM_INTERNAL, true);
  return k;
}

static inline int side_pull(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  struct stream_side *e = ctx;
  assert_non_null(e->stream);
  assert_false(e->fin_sent);
  assert_true(cap > 0);
  if (side_closes(e)) return PERR_CLOSED;
  if (e->sent == e->to_send) return e->end_sends ? PERR_EOF : PERR_AGAIN;
  *n = e->to_send - e->sent < cap ? e->to_send - e->sent : cap;
  nx_fill(buf, *n, e->sent);
  e->sent += *n;
  return 0;
}

static inline void side_fin_sent(void *ctx) {
  struct stream_side *e = ctx;
  e->fin_sent = true;
  side_release(e);
}

static inline void side_push(void *ctx, const uint8_t *data, size_t n) {
  struct stream_side *e = ctx;
  assert_non_null(e->stream);
  assert_int_equal(e->fins, 0);
  nx_check(data, n, e->got);
  e->got += n;
  if (side_closes(e)) return;
  e->held += n;
  if (!e->slow) side_take(e, n);
}

static inline void side_fin(void *ctx) {
  struct stream_side *e = ctx;
  assert_non_null(e->stream);
  e->fins++;
  if (!side_closes(e)) side_release(e);
}

static inline void side_opened(void *ctx) {
  struct stream_side *e = ctx;
  assert_non_null(e->stream);
  e->opened++;
  side_closes(e);
}

static inline void side_reset(void *ctx, enum stream_reason r) {
  struct stream_side *e = ctx;
  assert_non_null(e->stream);
  e->stream = NULL;
  e->resets++;
  e->reason = r;
  if (e->on_reset) e->on_reset(e);
}

static const struct stream_end stream_side_end = {.pull = side_pull,
                                                  .fin_sent = side_fin_sent,
                                                  .push = side_push,
                                                  .fin = side_fin,
                                                  .opened = side_opened,
                                                  .reset = side_reset};

static inline void side_bind(struct stream_side *e, struct stream *s) {
  e->stream = s;
  s->end = &stream_side_end;
  s->end_ctx = e;
}

static inline void side_abort(struct stream_side *e, enum stream_reason r) {
  struct stream *s = e->stream;
  e->stream = NULL;
  s->ops->reset(s, r);
}

// There is something to send now.
static inline void side_send(struct stream_side *e, uint64_t more, bool end) {
  e->to_send += more;
  e->end_sends |= end;
  e->stream->ops->ready(e->stream);
}

// ---- the end of a flow ----

struct flow_side {
  struct flow *flow; // NULL: over
  unsigned got;
  size_t len; // of the latest
  uint8_t data[FRAME_DATAGRAM_MAX];
  unsigned ended;
  enum stream_reason reason;
  struct link *closes; // closed by the next datagram
  bool ends;           // … or that ends the flow
};

static inline void flow_side_datagram(void *ctx, const uint8_t *data, size_t n) {
  struct flow_side *e = ctx;
  assert_non_null(e->flow);
  assert_true(n <= sizeof e->data);
  e->got++;
  e->len = n;
  if (n) memcpy(e->data, data, n);
  struct flow *f = e->flow;
  if (e->ends) {
    e->flow = NULL;
    f->ops->end(f, STREAM_LIMIT);
  }
  if (e->closes) link_close(e->closes, "closed in a callback", STREAM_INTERNAL, true);
}

static inline void flow_side_ended(void *ctx, enum stream_reason r) {
  struct flow_side *e = ctx;
  assert_non_null(e->flow);
  e->flow = NULL;
  e->ended++;
  e->reason = r;
}

static const struct flow_end flow_side_end = {.datagram = flow_side_datagram, .ended = flow_side_ended};

// ---- the owner of a link ----

enum { SIDES = 70 };

static struct link_side {
  struct link *link; // NULL once closed
  struct budget budget;
  unsigned controls, opens, closes, drained;
  struct control control; // the latest
  char why[256];
  bool protocol_error;
  // its streams, in the order of their opening
  struct stream_side *sides[SIDES];
  unsigned nsides;
  struct flow_side *flows[SIDES];
  unsigned nflows;
  _Atomic uint64_t dropped;
  struct frame_open open; // the latest
  enum stream_reason refuses;
  bool sides_slow, sides_opened, closes_on_open, closes_on_control;
} gateway, agent;

static inline void on_link_control(void *ctx, struct link *k, const struct control *c) {
  struct link_side *l = ctx;
  l->controls++;
  l->control = *c;
  if (l->closes_on_control) link_close(k, "closed in a callback", STREAM_INTERNAL, false);
}

// Makes room: one that is over.
static inline void drop_past_side(struct link_side *l) {
  for (unsigned i = 0; i < SIDES; i++) {
    if (l->sides[i]->stream) continue;
    free(l->sides[i]);
    l->sides[i] = l->sides[--l->nsides];
    return;
  }
  fail_msg("too many streams");
}

static inline struct stream_side *link_side_bind(struct link_side *l, struct stream *s) {
  struct stream_side *e = calloc(1, sizeof *e);
  if (l->nsides == SIDES) drop_past_side(l);
  l->sides[l->nsides++] = e;
  side_bind(e, s);
  return e;
}

static inline enum stream_reason on_link_open(void *ctx, struct link *k, struct stream *s,
                                              const struct frame_open *open) {
  struct link_side *l = ctx;
  l->opens++;
  l->open = *open;
  if (l->refuses) return l->refuses;
  struct stream_side *e = link_side_bind(l, s);
  e->slow = l->sides_slow;
  if (l->closes_on_open)
    link_close(k, "closed in a callback", STREAM_INTERNAL, true);
  else if (l->sides_opened)
    s->ops->opened(s);
  return STREAM_OK;
}

static inline struct flow_side *flow_side_bind(struct link_side *l, struct flow *f) {
  struct flow_side *e = calloc(1, sizeof *e);
  assert_true(l->nflows < SIDES);
  l->flows[l->nflows++] = e;
  e->flow = f;
  f->end = &flow_side_end;
  f->end_ctx = e;
  return e;
}

static inline enum stream_reason on_link_flow(void *ctx, struct link *k, struct flow *f,
                                              const struct frame_open *open) {
  struct link_side *l = ctx;
  l->open = *open;
  if (l->refuses) return l->refuses;
  flow_side_bind(l, f);
  return STREAM_OK;
}

static inline void on_link_close(void *ctx, struct link *k, const char *reason, bool protocol_error) {
  struct link_side *l = ctx;
  assert_ptr_equal(k, l->link);
  assert_true(TAILQ_EMPTY(&k->all)); // told behind the streams
  l->closes++;
  l->link = NULL;
  snprintf(l->why, sizeof l->why, "%s", reason);
  l->protocol_error = protocol_error;
}

static inline void on_link_drained(void *ctx, struct link *k) {
  struct link_side *l = ctx;
  l->drained++;
}

static const struct link_ops trunk_ops = {.on_control = on_link_control,
                                          .on_open = on_link_open,
                                          .on_flow = on_link_flow,
                                          .on_close = on_link_close,
                                          .on_drained = on_link_drained};

static struct link_settings trunk_settings;

static inline void link_side_start(struct link_side *l, enum link_role role, struct conn *c) {
  struct link_settings settings = trunk_settings;
  settings.dropped = &l->dropped;
  l->link = link_new(loop, c, role, &settings, &l->budget, &trunk_ops, l);
  assert_non_null(l->link);
}

// ---- conns that have shaken hands ----

static inline void on_shaken(void *ctx, struct conn *c, int result) {
  assert_int_equal(result, 0);
  ++*(unsigned *)ctx;
}

static inline void on_unread(void *ctx, struct conn *c) {}

static const struct conn_ops shaking_ops = {.on_handshake = on_shaken, .on_readable = on_unread};

// conns[0] is the server's. They are quiet, and nothing waits in them.
static inline void trunk_conns(struct conn *conns[2], int buffer) {
  unsigned shaken = 0;
  int fds[2];
  nx_pair(fds);
  for (int i = 0; i < 2; i++) {
    if (buffer) nx_small(fds[i], SO_SNDBUF);
    conns[i] = conn_new(loop, fds[i], &shaking_ops, &shaken);
    assert_non_null(conns[i]);
    assert_int_equal(conn_start_tls(conns[i], i ? pair_client : pair_server), 0);
  }
  NX_UNTIL(loop, shaken == 2);
  nx_settle(loop);
}

// ---- a peer that says what it is told ----

static struct raw {
  struct conn *conn;
  uint8_t in[2 * 1024 * 1024];
  size_t len, off;
  int end; // PERR_EOF, …
  bool deaf;
} raw;

static inline void on_raw_readable(void *ctx, struct conn *c) {
  size_t n;
  if (raw.deaf) return;
  for (;;) {
    assert_true(raw.len < sizeof raw.in);
    int code = conn_read(c, raw.in + raw.len, sizeof raw.in - raw.len, &n);
    if (code == PERR_AGAIN) return;
    if (code) {
      raw.end = code;
      return;
    }
    raw.len += n;
  }
}

static inline void on_raw_abort(void *ctx, struct conn *c) {
  raw.end = PERR_RESET;
}

static inline void on_raw_writable(void *ctx, struct conn *c) {}

static const struct conn_ops raw_ops = {
    .on_readable = on_raw_readable, .on_writable = on_raw_writable, .on_abort = on_raw_abort};

static inline void raw_write(const void *data, size_t n) {
  const uint8_t *at = data;
  nx_await("the link to read");
  while (n && raw.conn) {
    size_t taken, piece = n < 16384 ? n : 16384;
    int code = conn_write(raw.conn, at, piece, &taken);
    if (code == PERR_AGAIN || (code == 0 && conn_flush(raw.conn) == PERR_AGAIN))
      nx_peek(loop);
    if (code && code != PERR_AGAIN) break; // the link has gone: what was to be seen has been said
    if (code) continue;
    at += piece;
    n -= piece;
  }
  alarm(0);
}

static inline void raw_say(uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t len) {
  uint8_t buf[FRAME_MAX + 8];
  frame_put_header(buf, &(struct frame){.type = type, .flags = flags, .stream = stream, .len = (uint16_t)len});
  if (len) memcpy(buf + FRAME_HEADER, payload, len);
  raw_write(buf, FRAME_HEADER + len);
}

static inline void raw_u32(uint8_t type, uint32_t stream, uint32_t n) {
  raw_say(type, 0, stream, (uint8_t[]){(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}, 4);
}

// `n` bytes of the pattern from `at` on, in frames of at most `most`.
static inline void raw_data(uint32_t stream, uint64_t at, uint64_t n, size_t most) {
  uint8_t buf[FRAME_PAYLOAD_MAX];
  while (n) {
    size_t piece = n < most ? n : most;
    nx_fill(buf, piece, at);
    raw_say(FRAME_DATA, 0, stream, buf, piece);
    at += piece;
    n -= piece;
  }
}

static inline void raw_open(uint32_t stream) {
  raw_say(FRAME_OPEN, 0, stream, (uint8_t[]){0, 0, 0, 1, 0, 0, 0}, 7);
}

static inline void raw_reset(uint32_t stream, uint8_t reason) {
  raw_say(FRAME_RESET, 0, stream, &reason, 1);
}

static inline void raw_control(const char *json) {
  raw_say(FRAME_CONTROL, 0, 0, json, strlen(json));
}

// The next frame that came, if there is one whole. *payload stays there until the peer reads on.
static inline bool raw_next(struct frame *f, const uint8_t **payload) {
  const char *why;
  if (raw.len - raw.off < FRAME_HEADER) return false;
  assert_int_equal(frame_get_header(raw.in + raw.off, f, &why), 0);
  if (raw.len - raw.off - FRAME_HEADER < f->len) return false;
  *payload = raw.in + raw.off + FRAME_HEADER;
  raw.off += FRAME_HEADER + (size_t)f->len;
  if (raw.off == raw.len) raw.off = raw.len = 0;
  return true;
}

// The next frame of a type; those before it are passed over. False when there is none.
static inline bool raw_find(uint8_t type, struct frame *f, const uint8_t **payload) {
  while (raw_next(f, payload))
    if (f->type == type) return true;
  return false;
}

static inline uint32_t raw_number(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// Sums over everything that came: bytes of DATA, of CREDIT, and how many frames of a type.
struct raw_sum {
  uint64_t data, credit;
  unsigned frames[FRAME_TYPES];
  uint8_t reset_reason;
  uint32_t last_open, last_flow;
};

static inline struct raw_sum raw_sum(void) {
  struct raw_sum sum = {0};
  struct frame f = {0};
  const uint8_t *p = NULL;
  nx_settle(loop);
  while (raw_next(&f, &p)) {
    sum.frames[f.type]++;
    if (f.type == FRAME_DATA) sum.data += f.len;
    if (f.type == FRAME_CREDIT) sum.credit += raw_number(p);
    if (f.type == FRAME_RESET) sum.reset_reason = p[0];
    if (f.type == FRAME_OPEN) sum.last_open = f.stream;
    if (f.type == FRAME_FLOW) sum.last_flow = f.stream;
  }
  return sum;
}

static inline void raw_close(enum conn_end how) {
  if (raw.conn) conn_close(raw.conn, how);
  raw.conn = NULL;
}

// ---- start and end of a test ----

static inline int trunk_set_up(void **state) {
  memset(&gateway, 0, sizeof gateway);
  memset(&agent, 0, sizeof agent);
  memset(&raw, 0, sizeof raw);
  trunk_settings = (struct link_settings){.heartbeat_s = 15, .dead_s = 45, .stall_s = 600};
  budget_init(&gateway.budget, BUDGET_SESSION, NULL);
  budget_init(&agent.budget, BUDGET_SESSION, NULL);
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static inline void link_side_end(struct link_side *l) {
  if (l->link) link_close(l->link, "the test is over", STREAM_SESSION_ENDED, false);
  for (unsigned i = 0; i < l->nsides; i++) free(l->sides[i]);
  for (unsigned i = 0; i < l->nflows; i++) free(l->flows[i]);
  // Whatever happened, nothing is counted that is not there.
  assert_int_equal(atomic_load(&l->budget.used), 0);
}

static inline int trunk_tear_down(void **state) {
  link_side_end(&gateway);
  link_side_end(&agent);
  raw_close(CONN_CLOSE);
  nx_settle(loop);
  loop_free(loop);
  return 0;
}

static inline void trunk_start(void) {
  struct conn *conns[2];
  trunk_conns(conns, 0);
  link_side_start(&gateway, LINK_GATEWAY, conns[0]);
  link_side_start(&agent, LINK_AGENT, conns[1]);
  nx_settle(loop);
}

// A link of `role` with a peer of raw frames. The first ping is answered after `rtt_us`.
static inline void trunk_start_raw(enum link_role role, uint64_t rtt_us, int buffer) {
  struct conn *conns[2];
  struct frame f = {0};
  const uint8_t *p = NULL;
  trunk_conns(conns, buffer);
  raw.conn = conns[1];
  conn_rebind(raw.conn, &raw_ops, &raw);
  link_side_start(role == LINK_GATEWAY ? &gateway : &agent, role, conns[0]);
  nx_settle(loop);
  assert_true(raw_find(FRAME_PING, &f, &p));
  nx_advance_us(rtt_us);
  raw_say(FRAME_PONG, 0, 0, p, 8);
  nx_settle(loop);
}

static inline struct stream_side *gateway_open(void) {
  struct frame_open open = {.tunnel = 7, .visitor = nx_addr("192.0.2.9", 4711)};
  struct stream *s = link_open_stream(gateway.link, &open);
  assert_non_null(s);
  return link_side_bind(&gateway, s);
}

// Both ends of a new stream.
static inline struct stream_side *open_stream(struct stream_side **far) {
  struct stream_side *near = gateway_open();
  nx_settle(loop);
  *far = agent.sides[agent.nsides - 1];
  return near;
}

static inline struct flow_side *gateway_flow(void) {
  struct frame_open open = {.tunnel = 7, .visitor = nx_addr("192.0.2.9", 4711)};
  struct flow *f = link_open_flow(gateway.link, &open);
  assert_non_null(f);
  return flow_side_bind(&gateway, f);
}

// A control message of 1.4 KB: eleven fill a record but for some 900 bytes, in which other frames fit.
static inline void send_bulky(struct link *k) {
  struct control c = {.type = CONTROL_TUNNEL_OPEN, .tunnel_open = {.tunnel = 1, .name = "x"}};
  memset(c.tunnel_open.description, 1, 215); // six bytes each in JSON
  assert_int_equal(link_send(k, &c), 0);
}

// A violation ends the link, and the peer is told what it was.
static inline void assert_violation(struct link_side *l, const char *what) {
  struct frame f = {0};
  const uint8_t *p = NULL;
  struct control c;
  struct err_text e;
  char why[512];
  nx_settle(loop);
  if (!l->link)
    assert_int_equal(l->closes, 1);
  else
    fail_msg("no violation; expected \"%s\"", what);
  snprintf(why, sizeof why, "protocol: %s", what);
  assert_string_equal(l->why, why);
  assert_true(l->protocol_error);
  if (!raw_find(FRAME_CONTROL, &f, &p)) fail_msg("no end came for \"%s\"", what);
  assert_int_equal(control_decode(p, f.len, &c, &e), 0);
  assert_int_equal(c.type, CONTROL_END);
  assert_string_equal(c.end.reason, "protocol");
  assert_string_equal(c.end.message, what);
}

static inline void assert_fine(const struct link_side *l) {
  nx_settle(loop);
  if (!l->link) fail_msg("closed: %s", l->why);
}

#endif
