// pump: see pump.h. What the conn has is pulled when the protocol has room for it; what the protocol pushes is written
// at once, and only what the kernel does not take is kept (and counted by the protocol until `took`).
#include "postern/pipe/pump.h"

#include <errno.h>

static const struct stream_end pump_end;

// ---- the end ----

// `to_conn` says how the conn is closed; the stream has been told, or has told us.
static void pump_over(struct pump *p, enum stream_reason reason, bool local, enum conn_end to_conn) {
  struct conn *c = p->conn;
  p->conn = NULL;
  p->stream = NULL;
  chain_clear(&p->pending);
  conn_close(c, to_conn);
  p->ops->on_end(p, reason, local);
}

// This side gives up: the stream is reset, the conn aborted.
static void pump_fail(struct pump *p, enum stream_reason reason) {
  struct stream *s = p->stream;
  s->ops->reset(s, reason);
  pump_over(p, reason, true, CONN_ABORT);
}

// Both directions are through?
static void pump_settle(struct pump *p) {
  if (!p->stream || !p->fin_pulled || !p->fin_sent) return;
  struct stream *s = p->stream;
  s->ops->release(s);
  pump_over(p, STREAM_OK, false, CONN_CLOSE);
}

void pump_abort(struct pump *p, enum stream_reason reason) {
  if (p->stream) pump_fail(p, reason);
}

// ---- stream → conn ----

static void pass_fin(struct pump *p) {
  if (!p->fin_pushed || p->fin_sent || p->pending.len || !p->connected) return;
  // Where the other direction is over too, the close that follows says FIN as well.
  bool closes = p->fin_pulled && !conn_ssl(p->conn);
  if (!closes && conn_shutdown(p->conn)) {
    pump_fail(p, STREAM_ABORTED);
    return;
  }
  p->fin_sent = true;
  pump_settle(p);
}

static void add(_Atomic uint64_t *sum, size_t n) {
  atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + n, memory_order_relaxed);
}

static void took(struct pump *p, size_t n) {
  p->pushed += n;
  if (p->totals) add(p->totals->pushed, n);
  p->stream->ops->took(p->stream, n);
}

// Writes until the conn takes no more; *n of len. False: it failed and the pump is over.
static bool write_some(struct pump *p, const uint8_t *data, size_t len, size_t *n) {
  *n = 0;
  while (*n < len) {
    size_t once = 0;
    int code = conn_write(p->conn, data + *n, len - *n, &once);
    if (code == PERR_AGAIN) return true;
    if (code) {
      if (p->stream) pump_fail(p, STREAM_ABORTED); // a failed dial has ended it already, with its own reason
      return false;
    }
    *n += once;
  }
  return true;
}

static void end_push(void *ctx, const uint8_t *data, size_t len) {
  struct pump *p = ctx;
  size_t n = 0;
  if (p->pending.len == 0 && !write_some(p, data, len, &n)) return;
  if (n < len && chain_append(&p->pending, data + n, len - n)) {
    pump_fail(p, STREAM_INTERNAL);
    return;
  }
  if (n) took(p, n);
}

static void write_pending(struct pump *p) {
  size_t have, n;
  const uint8_t *data;
  while (p->stream && (data = chain_peek(&p->pending, &have))) {
    if (!write_some(p, data, have, &n) || n == 0) return;
    chain_drop(&p->pending, n);
    took(p, n);
    if (n < have) return;
  }
  if (p->stream) pass_fin(p);
}

static void end_fin(void *ctx) {
  struct pump *p = ctx;
  p->fin_pushed = true;
  pass_fin(p);
}

// ---- conn → stream ----

static int end_pull(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  struct pump *p = ctx;
  if (!p->connected) return PERR_AGAIN;
  if (p->fin_pulled) return PERR_AGAIN;
  int code = conn_read(p->conn, buf, cap, n);
  if (code == 0) {
    p->pulled += *n;
    if (p->totals) add(p->totals->pulled, *n);
    return 0;
  }
  if (code == PERR_AGAIN) return code;
  if (code == PERR_EOF || code == PERR_TRUNCATED) {
    p->fin_pulled = true;
    return PERR_EOF;
  }
  pump_fail(p, STREAM_ABORTED);
  return PERR_CLOSED;
}

// The protocol calls this once the fin that pull announced is on its way.
static void end_fin_sent(void *ctx) { pump_settle(ctx); }

static void end_opened(void *ctx) {
  struct pump *p = ctx;
  if (p->ops->on_opened) p->ops->on_opened(p);
}

static void end_reset(void *ctx, enum stream_reason reason) {
  struct pump *p = ctx;
  pump_over(p, reason, false, CONN_ABORT);
}

static const struct stream_end pump_end = {
    .pull = end_pull, .fin_sent = end_fin_sent, .push = end_push, .fin = end_fin, .opened = end_opened, .reset = end_reset};

// ---- the conn's events ----

static void ask_to_pull(struct pump *p) {
  // Whoever does not read must ask whether the peer has aborted.
  if (p->fin_pulled || !p->stream->ops->ready(p->stream)) conn_probe(p->conn);
}

static enum stream_reason dial_reason(int result) {
  switch (result) {
  case PERR_RESET: return STREAM_REFUSED;
  case PERR_TIMEOUT: return STREAM_DIAL_TIMEOUT;
  case PERR_LIMIT:
  case PERR_NOMEM: return STREAM_INTERNAL;
  default: return STREAM_UNREACHABLE;
  }
}

static void on_connect(void *ctx, struct conn *c, int result) {
  struct pump *p = ctx;
  if (!p->stream) return;
  if (result) {
    pump_fail(p, dial_reason(result));
    return;
  }
  p->connected = true;
  p->stream->ops->opened(p->stream);
  if (p->ops->on_opened) p->ops->on_opened(p);
  write_pending(p);
}

static void on_readable(void *ctx, struct conn *c) {
  struct pump *p = ctx;
  if (p->stream) ask_to_pull(p);
}

static void on_writable(void *ctx, struct conn *c) {
  struct pump *p = ctx;
  if (p->stream) write_pending(p);
}

static void on_abort(void *ctx, struct conn *c) {
  struct pump *p = ctx;
  if (p->stream) pump_fail(p, STREAM_ABORTED);
}

const struct conn_ops pump_conn_ops = {
    .on_connect = on_connect, .on_readable = on_readable, .on_writable = on_writable, .on_abort = on_abort};

// ---- start ----

static void bind_ends(struct pump *p, struct loop *l, struct stream *s, const struct pump_ops *ops) {
  *p = (struct pump){.loop = l, .stream = s, .ops = ops};
  s->end = &pump_end;
  s->end_ctx = p;
}

void pump_start(struct pump *p, struct loop *l, struct stream *s, struct conn *c,
                const struct pump_ops *ops, const struct pump_totals *totals) {
  bind_ends(p, l, s, ops);
  p->totals = totals;
  p->conn = c;
  p->connected = true;
}

void pump_dial(struct pump *p, struct loop *l, struct stream *s, const struct addr *target,
               const struct pump_ops *ops) {
  bind_ends(p, l, s, ops);
  int error = 0;
  p->conn = conn_dial(l, target, &pump_conn_ops, p, &error);
  if (!p->conn) pump_fail(p, dial_reason(error));
}
