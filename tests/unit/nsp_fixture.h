// nsp_fixture: an NSP client on real sockets with its owner, the far sides of its reverse connections in the test's
// hands, and visitors that count and check.
#ifndef TESTS_UNIT_NSP_FIXTURE_H
#define TESTS_UNIT_NSP_FIXTURE_H

#include "net_fixture.h"
#include "postern/nsp/client_internal.h"

enum { APP = 7, DEAD_S = NSP_DEAD_MIN_S, STALL_S = 20 };

static struct loop *loop;
static struct budget budget;

// The owner's side.
static struct {
  struct nsp_client *client; // NULL once closed
  unsigned losses, links;    // how often he was told
  enum nsp_loss why;
  bool linked;
  bool closes; // the client, when it is lost
} owner;

static inline void client_close(enum stream_reason reason, bool for_good) {
  struct nsp_client *c = owner.client;
  owner.client = NULL;
  if (c) nsp_client_close(c, reason, for_good);
}

static inline void on_lost(void *ctx, enum nsp_loss why) {
  assert_non_null(owner.client);
  owner.losses++;
  owner.why = why;
  if (owner.closes) client_close(STREAM_SESSION_ENDED, false);
}

static inline void on_linked(void *ctx, bool linked) {
  assert_non_null(owner.client);
  assert_true(linked != owner.linked);
  owner.links++;
  owner.linked = linked;
}

static const struct nsp_client_ops owner_ops = {.on_lost = on_lost, .on_linked = on_linked};

static inline void client_start(const char *dialect) {
  struct nsp_client_settings s = {.dialect = nsp_dialect_find(dialect), .dead_s = DEAD_S, .stall_s = STALL_S, .max_idle = NSP_IDLE_MAX};
  assert_non_null(s.dialect);
  memset(&owner, 0, sizeof owner);
  owner.client = nsp_client_new(loop, &s, &budget, &owner_ops, &owner);
  assert_non_null(owner.client);
  assert_int_equal(nsp_client_add_app(owner.client, APP), 0);
}

// ---- visitors: ends of streams; static in tests that leave them to the teardown ----

enum visitor_call { CALL_NONE, CALL_PULL, CALL_PUSH, CALL_FIN, CALL_FIN_SENT, CALL_OPENED, CALL_RESET };

struct visitor {
  struct stream *stream; // NULL: over
  uint64_t to_send, sent;
  bool end_sends, fin_sent; // a fin behind to_send
  uint64_t got, held;
  bool slow;                // keeps what he gets until a test takes it
  bool leaves;              // with the next pull
  enum visitor_call closes; // the client is closed in this callback
  struct nsp_client *asks;  // for another stream, when his is reset: in vain
  unsigned pulls, opened, fins, resets, releases;
  enum stream_reason reason;
};

static inline void visitor_release(struct visitor *v) {
  if (!v->stream || !v->fin_sent || !v->fins || v->held) return;
  struct stream *s = v->stream;
  v->stream = NULL;
  v->releases++;
  s->ops->release(s);
}

static inline void visitor_take(struct visitor *v, uint64_t n) {
  assert_true(n <= v->held);
  v->held -= n;
  v->stream->ops->took(v->stream, n);
  visitor_release(v);
}

static inline bool visitor_closes(struct visitor *v, enum visitor_call in) {
  if (v->closes != in) return false;
  client_close(STREAM_SESSION_ENDED, false);
  assert_null(v->stream);
  return true;
}

static inline void visitor_abort(struct visitor *v) {
  struct stream *s = v->stream;
  v->stream = NULL;
  s->ops->reset(s, STREAM_ABORTED);
}

static inline int visitor_pull(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  assert_false(v->fin_sent);
  v->pulls++;
  if (visitor_closes(v, CALL_PULL)) return PERR_CLOSED;
  if (v->leaves) {
    visitor_abort(v);
    return PERR_CLOSED;
  }
  if (v->sent == v->to_send) return v->end_sends ? PERR_EOF : PERR_AGAIN;
  *n = v->to_send - v->sent < cap ? v->to_send - v->sent : cap;
  nx_fill(buf, *n, v->sent);
  v->sent += *n;
  return 0;
}

static inline void visitor_fin_sent(void *ctx) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  v->fin_sent = true;
  if (!visitor_closes(v, CALL_FIN_SENT)) visitor_release(v);
}

static inline void visitor_push(void *ctx, const uint8_t *data, size_t n) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  assert_int_equal(v->fins, 0);
  assert_true(n > 0 && v->held == 0);
  nx_check(data, n, v->got);
  v->got += n;
  if (visitor_closes(v, CALL_PUSH)) return;
  v->held += n;
  if (!v->slow) visitor_take(v, n);
}

static inline void visitor_fin(void *ctx) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  v->fins++;
  if (!visitor_closes(v, CALL_FIN)) visitor_release(v);
}

static inline void visitor_opened(void *ctx) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  v->opened++;
  visitor_closes(v, CALL_OPENED);
}

static inline void visitor_reset(void *ctx, enum stream_reason r) {
  struct visitor *v = ctx;
  assert_non_null(v->stream);
  v->stream = NULL;
  v->resets++;
  v->reason = r;
  if (v->asks) assert_null(nsp_client_open_stream(v->asks, APP));
  visitor_closes(v, CALL_RESET);
}

static const struct stream_end visitor_end = {.pull = visitor_pull,
                                              .fin_sent = visitor_fin_sent,
                                              .push = visitor_push,
                                              .fin = visitor_fin,
                                              .opened = visitor_opened,
                                              .reset = visitor_reset};

static inline void visitor_come(struct visitor *v) {
  v->stream = nsp_client_open_stream(owner.client, APP);
  assert_non_null(v->stream);
  v->stream->end = &visitor_end;
  v->stream->end_ctx = v;
}

// He has this to say now.
static inline bool visitor_send(struct visitor *v, uint64_t more, bool end) {
  v->to_send += more;
  v->end_sends |= end;
  return v->stream->ops->ready(v->stream);
}

#define assert_reset(v, why)                                                                                           \
  do {                                                                                                                 \
    assert_int_equal((v)->resets, 1);                                                                                  \
    assert_int_equal((v)->reason, why);                                                                                \
    assert_null((v)->stream);                                                                                          \
  } while (0)

// ---- reverse connections, and their far sides ----

struct far {
  int fd;       // does not block; -1: closed
  uint64_t got; // of the visitor's pattern
  uint64_t sent;
  uint8_t id[NSP_TRANSFER_ID]; // of the transfer, once it was told
};

static inline void unowned(void *ctx, struct conn *c) {
  fail_msg("an event of a conn that was given away");
}
static const struct conn_ops unowned_ops = {.on_readable = unowned};

static inline struct conn *plain_conn(int fd) {
  struct conn *c = conn_new(loop, fd, &unowned_ops, NULL);
  assert_non_null(c);
  return c;
}

// Over a pair that passes bytes on within the call. `narrow`: little fits in on the way to the client.
static inline struct far far_pair_of(bool narrow) {
  int fd[2];
  nx_pair(fd);
  if (narrow) nx_small(fd[0], SO_SNDBUF);
  nsp_client_add_conn(owner.client, APP, plain_conn(fd[0]));
  return (struct far){.fd = fd[1]};
}

static inline struct far far_pair(void) {
  return far_pair_of(false);
}

static inline struct far far_tcp(void) {
  int ours, theirs;
  nx_tcp(&ours, &theirs);
  nx_nonblock(theirs);
  nsp_client_add_conn(owner.client, APP, plain_conn(ours));
  return (struct far){.fd = theirs};
}

static inline void far_close(struct far *f) {
  if (f->fd >= 0) close(f->fd);
  f->fd = -1;
}

static inline void far_abort(struct far *f) {
  nx_reset(f->fd);
  f->fd = -1;
}

// What is there, or will be: exactly `len` bytes; the loop goes on meanwhile.
static inline void far_get(struct far *f, uint8_t *buf, size_t len) {
  nx_await("bytes on a reverse connection");
  for (size_t n = 0; n < len;) {
    ssize_t r = recv(f->fd, buf + n, len - n, 0);
    if (r < 0 && errno == EAGAIN) {
      nx_peek(loop);
      continue;
    }
    assert_true(r > 0);
    n += (size_t)r;
  }
  alarm(0);
}

static inline void far_expect(struct far *f, const void *data, size_t len) {
  uint8_t buf[64];
  assert_true(len <= sizeof buf);
  far_get(f, buf, len);
  assert_memory_equal(buf, data, len);
}

// The loop has come to rest: nothing is there, and no end.
static inline void far_quiet(struct far *f) {
  uint8_t byte;
  nx_settle(loop);
  ssize_t r = recv(f->fd, &byte, 1, 0);
  if (r >= 0) fail_msg("%s came", r ? "a byte" : "an end");
  assert_int_equal(errno, EAGAIN);
}

// The transfer's message of "1.4".
static inline void far_transfer(struct far *f) {
  static const uint8_t zeros[5];
  uint8_t m[NSP_CONTROL_MAX];
  far_get(f, m, sizeof m);
  assert_int_equal(m[0], NSP_CONTROL_TRANSFER);
  assert_memory_equal(m + 5, zeros, 5);
  memcpy(f->id, m + 1, NSP_TRANSFER_ID);
}

// `n` more bytes of the visitor's pattern.
static inline void far_read(struct far *f, uint64_t n) {
  static uint8_t buf[64 * 1024];
  while (n) {
    size_t once = n < sizeof buf ? n : sizeof buf;
    far_get(f, buf, once);
    nx_check(buf, once, f->got);
    f->got += once;
    n -= once;
  }
}

// As much of `n` bytes of the client's pattern as the socket takes.
static inline void far_send(struct far *f, uint64_t n) {
  static uint8_t buf[64 * 1024];
  while (n) {
    size_t once = n < sizeof buf ? n : sizeof buf;
    nx_fill(buf, once, f->sent);
    ssize_t r = send(f->fd, buf, once, MSG_NOSIGNAL);
    if (r < 0) assert_int_equal(errno, EAGAIN);
    if (r < 0) return;
    f->sent += (uint64_t)r;
    n -= (uint64_t)r;
  }
}

// The end: 0 for a FIN, or -errno.
static inline int far_end(struct far *f) {
  uint8_t byte;
  ssize_t r;
  nx_await("the end of a reverse connection");
  while ((r = recv(f->fd, &byte, 1, 0)) < 0 && errno == EAGAIN) nx_peek(loop);
  alarm(0);
  assert_true(r <= 0);
  return r ? -errno : 0;
}

// ---- life ----

static inline int set_up(void **state) {
  budget_init(&budget, 1024 * 1024, NULL);
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static inline int tear_down(void **state) {
  client_close(STREAM_SESSION_ENDED, false);
  nx_settle(loop);
  loop_free(loop);
  return atomic_load(&budget.used) ? -1 : 0;
}

#define nsp_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif
