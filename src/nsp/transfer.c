// transfer: a visitor's stream over a reverse connection that carries it alone: pulled from its end and written, read
// and pushed to it. Owned by the client, driven by the conn's events, the end's calls and the client's timer. Any call
// of the end may end the transfer and the client: behind it `state` is looked at before anything else.
//
// The client takes the first FIN for the end of both ways. So the visitor's is passed on only when the client has
// nothing more to say; the client's is passed on behind everything that it has sent.
#include "postern/nsp/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static const struct stream_ops transfer_stream_ops;
static const struct conn_ops transfer_conn_ops;

static struct nsp_transfer *transfer_of(struct stream *s) {
  return (struct nsp_transfer *)s;
}

static struct nsp_transfer *transfer_of_task(struct loop_task *task) {
  return (struct nsp_transfer *)((char *)task - offsetof(struct nsp_transfer, task));
}

static struct loop *loop_of(const struct nsp_transfer *t) {
  return t->pool->client->loop;
}

static uint64_t now_of(const struct nsp_transfer *t) {
  return loop_now_ms(loop_of(t));
}

// ---- states ----

static void set_state(struct nsp_transfer *t, enum transfer_state to) {
  struct nsp_client *c = t->pool->client;
  assert(to > t->state);
  assert(to != TRANSFER_DISCARDING || t->state == TRANSFER_CARRYING);
  if (t->state == TRANSFER_WAITING) TAILQ_REMOVE(&t->pool->waiting, t, waiting);
  t->state = to;
  if (to == TRANSFER_CARRYING) {
    HASH_ADD(hh, c->by_id, id, NSP_TRANSFER_ID, t);
  } else if (to == TRANSFER_OVER) {
    if (t->hh.tbl) HASH_DEL(c->by_id, t);
    TAILQ_REMOVE(&c->all, t, all);
  }
}

static void unlink_conn(struct nsp_transfer *t) {
  if (!t->linked) return;
  t->linked = false;
  nsp_pool_unlink(t->pool);
}

static void set_held(struct nsp_transfer *t, size_t held) {
  struct budget *b = t->pool->client->budget;
  budget_sub(b, t->held);
  budget_add(b, held);
  t->held = held;
}

static void drop_conn(struct nsp_transfer *t, enum conn_end how) {
  set_held(t, 0);
  conn_close(t->conn, how);
  t->conn = NULL;
  t->paused = t->blocked = t->unflushed = false;
  chain_clear(&t->rest);
  unlink_conn(t);
}

// The other side is not told.
static void finish(struct nsp_transfer *t, enum conn_end how) {
  struct nsp_client *c = t->pool->client;
  if (t->state == TRANSFER_OVER) return;
  set_state(t, TRANSFER_OVER);
  loop_defer_cancel(c->loop, &t->task);
  budget_sub(c->budget, t->outstanding);
  t->outstanding = 0;
  loop_reap(c->loop, t, free);
  drop_conn(t, how);
}

void nsp_transfer_reset(struct nsp_transfer *t, enum stream_reason reason) {
  const struct stream_end *end = t->base.end;
  void *ctx = t->base.end_ctx;
  if (t->state == TRANSFER_OVER) return;
  finish(t, CONN_ABORT);
  if (end) end->reset(ctx, reason);
}

// A TLS conn may hold bytes that the kernel has not got.
static enum conn_end orderly(struct conn *c) {
  return c && conn_ssl(c) ? CONN_LINGER : CONN_CLOSE;
}

// The client is done and nothing can reach it: the conn goes, and the end is left alone with what it was given.
static void discard(struct nsp_transfer *t) {
  set_state(t, TRANSFER_DISCARDING);
  drop_conn(t, orderly(t->conn));
  loop_defer(loop_of(t), &t->task);
  nsp_client_busy(t->pool->client);
}

// Nothing can be written to the client any more; what it has sent is read first, and `verdict` is how that ends.
static void client_broke(struct nsp_transfer *t, int verdict) {
  if (t->broken) return;
  t->broken = verdict;
  t->blocked = t->unflushed = false;
  chain_clear(&t->rest);
  unlink_conn(t);
  if (t->client_fin)
    discard(t);
  else if (!t->paused)
    conn_resume(t->conn);
}

// … as a write or a flush that failed just now has told. EPIPE: the client's FIN had come before its abort.
static void write_failed(struct nsp_transfer *t, int code) {
  t->dropped_ms = now_of(t);
  client_broke(t, code == PERR_RESET && errno == EPIPE ? PERR_EOF : PERR_RESET);
}

// ---- visitor → client ----

// False: the kernel has not got everything yet, or the conn broke.
static bool flush(struct nsp_transfer *t) {
  int code = conn_flush(t->conn);
  t->unflushed = code == PERR_AGAIN;
  if (code && code != PERR_AGAIN) write_failed(t, code);
  return code == 0;
}

// *n of `len` were taken. False: the conn broke.
static bool write_some(struct nsp_transfer *t, const uint8_t *data, size_t len, size_t *n) {
  *n = 0;
  while (*n < len) {
    size_t once = 0;
    int code = conn_write(t->conn, data + *n, len - *n, &once);
    if (code == PERR_AGAIN) break;
    if (code) {
      write_failed(t, code);
      return false;
    }
    *n += once;
  }
  if (*n) t->sent_ms = now_of(t);
  return true;
}

// False: some of the rest is left, or the conn broke.
static bool write_rest(struct nsp_transfer *t) {
  const uint8_t *data;
  size_t have = 0, n = 0;
  while ((data = chain_peek(&t->rest, &have))) {
    if (!write_some(t, data, have, &n)) return false;
    chain_drop(&t->rest, n);
    if (n < have) return false;
  }
  return true;
}

// Whether what is pulled now finds a place.
static bool has_room(struct nsp_transfer *t) {
  if (t->state == TRANSFER_DISCARDING) return true;
  if (t->state != TRANSFER_CARRYING || t->broken || !write_rest(t)) return false;
  return conn_may_write(t->conn) || (flush(t) && conn_may_write(t->conn));
}

static void visitor_ended(struct nsp_transfer *t) {
  t->visitor_fin = true;
  t->wants = false;
  t->quiet_ms = t->sent_ms = now_of(t);
  nsp_client_busy(t->pool->client);
  t->base.end->fin_sent(t->base.end_ctx);
}

static void pass_on(struct nsp_transfer *t, const uint8_t *data, size_t len) {
  size_t n = 0;
  if (t->state == TRANSFER_DISCARDING) {
    if (!t->dropped_ms) t->dropped_ms = now_of(t);
    nsp_client_busy(t->pool->client);
  } else if (write_some(t, data, len, &n) && n < len && chain_append(&t->rest, data + n, len - n)) {
    nsp_transfer_reset(t, STREAM_INTERNAL);
  }
}

// One piece, *moved counts it. False: there is no more now.
static bool pull_piece(struct nsp_transfer *t, size_t *moved) {
  uint8_t *buf = loop_scratch(loop_of(t));
  size_t n = 0;
  int code = t->base.end->pull(t->base.end_ctx, buf, NSP_PIECE, &n);
  if (t->state == TRANSFER_OVER) return false;
  if (code == PERR_EOF) {
    visitor_ended(t);
  } else if (code) {
    t->wants = false;
  } else {
    *moved += n;
    pass_on(t, buf, n);
  }
  return code == 0;
}

// What holds up the way to the client is watched from when it does.
static void update_blocked(struct nsp_transfer *t) {
  bool blocked = t->rest.len || t->unflushed;
  if (blocked && !t->blocked) {
    t->sent_ms = now_of(t);
    nsp_client_busy(t->pool->client);
  }
  if (!blocked) set_held(t, 0);
  t->blocked = blocked;
}

static void on_task(struct loop_task *task) {
  struct nsp_transfer *t = transfer_of_task(task);
  size_t moved = 0;
  bool more = true;
  while (more && moved < NSP_BATCH_CAP) more = has_room(t) && t->wants && pull_piece(t, &moved);
  if (t->state == TRANSFER_CARRYING && !t->broken) (void)flush(t);
  if (t->state == TRANSFER_CARRYING) update_blocked(t);
  if (t->state != TRANSFER_OVER && more) loop_defer(loop_of(t), task);
}

// ---- client → visitor ----

// Everything that came was read and pushed.
static void client_ended(struct nsp_transfer *t, int code) {
  if (t->broken) code = t->broken;
  if (code != PERR_EOF && code != PERR_TRUNCATED) {
    nsp_transfer_reset(t, STREAM_ABORTED);
    return;
  }
  t->client_fin = true;
  unlink_conn(t);
  t->base.end->fin(t->base.end_ctx);
  if (t->state == TRANSFER_CARRYING && (t->broken || t->disconnecting)) discard(t);
}

static void push(struct nsp_transfer *t, const uint8_t *data, size_t n) {
  struct nsp_client *c = t->pool->client;
  t->quiet_ms = t->taken_ms = now_of(t);
  t->outstanding = n;
  budget_add(c->budget, n);
  t->base.end->push(t->base.end_ctx, data, n);
  if (t->state != TRANSFER_CARRYING || !t->outstanding) return;
  nsp_client_busy(c);
  if (budget_over(c->budget)) nsp_transfer_reset(t, STREAM_MEMORY);
}

// A broken conn tells its end once: then an empty one has ended, unless the kernel has more, of which an event tells.
static bool waits_for_more(const struct nsp_transfer *t, int code) {
  return code == PERR_AGAIN && (!t->broken || nsp_in_kernel(t->conn, FIONREAD) > 0);
}

static void receive(struct nsp_transfer *t) {
  uint8_t *buf = loop_scratch(loop_of(t));
  size_t total = 0, n = 0;
  while (t->state == TRANSFER_CARRYING && !t->outstanding && total < NSP_BATCH_CAP) {
    int code = conn_read(t->conn, buf, NSP_PIECE, &n);
    if (waits_for_more(t, code)) return;
    if (code) {
      client_ended(t, code);
      return;
    }
    total += n;
    push(t, buf, n);
  }
  if (t->state != TRANSFER_CARRYING) return;
  t->paused = t->outstanding > 0;
  if (!t->paused) conn_resume(t->conn);
}

// ---- the conn's events ----

static void on_readable(void *ctx, struct conn *c) {
  struct nsp_transfer *t = ctx;
  if (t->state != TRANSFER_CARRYING) return;
  if (!t->client_fin)
    receive(t);
  else
    conn_probe(c); // nobody reads: ask whether the client has aborted since
}

static void on_writable(void *ctx, struct conn *c) {
  struct nsp_transfer *t = ctx;
  if (t->state == TRANSFER_CARRYING) loop_defer(loop_of(t), &t->task);
}

static void on_abort(void *ctx, struct conn *c) {
  struct nsp_transfer *t = ctx;
  if (t->state == TRANSFER_CARRYING) client_broke(t, PERR_RESET);
}

static const struct conn_ops transfer_conn_ops = {
    .on_readable = on_readable, .on_writable = on_writable, .on_abort = on_abort};

// ---- start ----

struct nsp_transfer *nsp_transfer_new(struct nsp_pool *p) {
  struct nsp_transfer *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  struct nsp_client *c = p->client;
  t->base.ops = &transfer_stream_ops;
  t->pool = p;
  t->wants = true;
  t->task.fn = on_task;
  t->born_ms = loop_now_ms(c->loop);
  TAILQ_INSERT_TAIL(&c->all, t, all);
  TAILQ_INSERT_TAIL(&p->waiting, t, waiting);
  nsp_client_busy(c);
  return t;
}

bool nsp_transfer_pull_first(struct nsp_transfer *t) {
  uint8_t *buf = loop_scratch(loop_of(t));
  size_t n = 0;
  if (t->pulled) return true;
  int code = t->base.end->pull(t->base.end_ctx, buf, NSP_PIECE, &n);
  if (t->state == TRANSFER_OVER) return false;
  t->pulled = true;
  t->wants = code == 0;
  t->visitor_fin = code == PERR_EOF;
  if (code || chain_append(&t->rest, buf, n) == 0) return true;
  nsp_transfer_reset(t, STREAM_INTERNAL);
  return false;
}

void nsp_transfer_start(struct nsp_transfer *t, struct conn *conn) {
  t->conn = conn;
  t->linked = true;
  set_state(t, TRANSFER_CARRYING);
  conn_rebind(conn, &transfer_conn_ops, t);
  if (write_rest(t)) (void)flush(t);
  t->base.end->opened(t->base.end_ctx);
  if (t->state == TRANSFER_CARRYING && t->visitor_fin) visitor_ended(t);
  if (t->state == TRANSFER_CARRYING) loop_defer(loop_of(t), &t->task);
}

// ---- what the end asks ----

static bool op_ready(struct stream *s) {
  struct nsp_transfer *t = transfer_of(s);
  t->wants = true;
  if (t->state == TRANSFER_WAITING) return false;
  if (t->state == TRANSFER_CARRYING && (t->broken || t->rest.len || !conn_may_write(t->conn))) return false;
  loop_defer(loop_of(t), &t->task);
  return true;
}

static void op_took(struct stream *s, size_t n) {
  struct nsp_transfer *t = transfer_of(s);
  assert(n <= t->outstanding);
  t->outstanding -= n;
  t->taken_ms = now_of(t);
  budget_sub(t->pool->client->budget, n);
  if (t->outstanding || !t->paused) return;
  t->paused = false;
  conn_resume(t->conn);
}

static void op_opened(struct stream *s) {} // the agent's side only

static void op_reset(struct stream *s, enum stream_reason reason) {
  finish(transfer_of(s), CONN_ABORT);
}

static void op_release(struct stream *s) {
  struct nsp_transfer *t = transfer_of(s);
  finish(t, orderly(t->conn));
}

static const struct stream_ops transfer_stream_ops = {
    .ready = op_ready, .took = op_took, .opened = op_opened, .reset = op_reset, .release = op_release};

// ---- the client's word, and time ----

// Where the client's end was read already the connection is of no more use, but what the visitor was given is his.
void nsp_transfer_disconnect(struct nsp_transfer *t) {
  if (t->state != TRANSFER_CARRYING || t->disconnecting) return;
  t->disconnecting = true;
  t->quiet_ms = now_of(t);
  nsp_client_busy(t->pool->client);
  if (t->client_fin) discard(t);
}

// The visitor's fin was pulled, and waits until the client has been quiet.
static bool holds_fin(const struct nsp_transfer *t) {
  return t->state == TRANSFER_CARRYING && t->visitor_fin && !t->fin_passed;
}

static bool stalled(struct nsp_transfer *t, uint64_t now) {
  uint64_t stall = (uint64_t)t->pool->client->settings.stall_s * 1000;
  if (t->outstanding && now - t->taken_ms >= stall) return true;
  if (!t->blocked && !holds_fin(t)) return false;
  int queued = nsp_in_kernel(t->conn, SIOCOUTQ); // a slow client goes on taking what the kernel holds
  if (queued == 0 || queued != t->queued) t->sent_ms = now;
  t->queued = queued;
  return now - t->sent_ms >= stall;
}

// A client that does not read costs what waits for it, and no more of it than the session may hold.
static bool too_much_held(struct nsp_transfer *t) {
  struct budget *b = t->pool->client->budget;
  size_t before = t->held;
  conn_trim(t->conn);
  set_held(t, conn_unsent(t->conn) + t->rest.len);
  return t->held > before && budget_over(b);
}

// A closing transfer whose client has been quiet for long enough.
static void check_quiet(struct nsp_transfer *t, uint64_t now) {
  bool unsent = t->unflushed || nsp_in_kernel(t->conn, SIOCOUTQ) > 0;
  if (t->outstanding || (unsent && !t->disconnecting)) {
    t->quiet_ms = now;
  } else if (t->disconnecting) {
    if (now - t->quiet_ms >= NSP_CHECK_MS) nsp_transfer_reset(t, STREAM_ABORTED);
  } else if (now - t->quiet_ms >= NSP_FIN_MS) {
    t->fin_passed = true;
    if (conn_shutdown(t->conn)) client_broke(t, PERR_RESET);
  }
}

// Something in it depends on the time.
static bool pending(const struct nsp_transfer *t) {
  if (t->state == TRANSFER_WAITING) return true;
  if (t->outstanding || t->blocked) return true;
  if (t->state == TRANSFER_DISCARDING) return t->dropped_ms;
  return holds_fin(t) || (t->state == TRANSFER_CARRYING && t->disconnecting);
}

void nsp_transfer_check(struct nsp_transfer *t) {
  uint64_t now = now_of(t);
  if (!pending(t)) return;
  if (t->state == TRANSFER_WAITING) {
    if (now - t->born_ms >= NSP_WAIT_MS) nsp_transfer_reset(t, STREAM_DIAL_TIMEOUT);
  } else if (stalled(t, now)) {
    nsp_transfer_reset(t, STREAM_STALLED);
  } else if (t->blocked && too_much_held(t)) {
    nsp_transfer_reset(t, STREAM_MEMORY);
  } else if (t->state == TRANSFER_DISCARDING) {
    if (t->dropped_ms && now - t->dropped_ms >= NSP_DISCARD_MS) nsp_transfer_reset(t, STREAM_ABORTED);
  } else if (!t->broken && (t->disconnecting || holds_fin(t))) {
    check_quiet(t, now);
  }
  if (pending(t)) nsp_client_busy(t->pool->client);
}
