// link_send: frames out. Once per batch of events the link fills records: first what waits as control frames, then
// credit, then datagrams, and then one piece of each stream that has something, round and round, read straight from its
// end into the record. Nothing of a stream is buffered here: what the link cannot take stays in the sender's socket.
// Datagrams take half of a record at most where streams have something too.
#include "postern/base/clock.h"
#include "postern/trunk/link_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
  FLUSH_CAP = 512 * 1024, // per batch, so that one link does not hold up the others of its loop
  PIECE_MIN = 512,        // do not cut a stream's bytes into crumbs at a record's end
  RECORD_AT = LOOP_SCRATCH - FRAME_MAX, // where in the scratch the record is built; link_recv.c reads into the front
};

// ---- the queue of control frames ----

static bool outq_reserve(struct outq *q, size_t n) {
  if (q->cap - q->len >= n) return true;
  if (q->off) {
    memmove(q->buf, q->buf + q->off, q->len - q->off);
    q->len -= q->off;
    q->off = 0;
  }
  if (q->cap - q->len >= n) return true;
  size_t cap = q->cap ? q->cap : 256;
  while (cap - q->len < n) cap *= 2;
  if (cap > LINK_QUEUE_MAX) return false;
  uint8_t *grown = realloc(q->buf, cap);
  if (!grown) return false;
  q->buf = grown;
  q->cap = cap;
  return true;
}

void link_queue_frame(struct link *k, const struct frame *f, const void *payload) {
  struct outq *q = &k->queue;
  if (k->closed) return;
  link_want_flush(k);
  if (!outq_reserve(q, FRAME_HEADER + (size_t)f->len)) {
    k->choked = true;
    return;
  }
  frame_put_header(q->buf + q->len, f);
  if (f->len) memcpy(q->buf + q->len + FRAME_HEADER, payload, f->len);
  q->len += FRAME_HEADER + (size_t)f->len;
}

int link_send(struct link *k, const struct control *c) {
  uint8_t payload[FRAME_PAYLOAD_MAX];
  size_t len;
  if (k->closed) return PERR_CLOSED;
  int code = control_encode(c, payload, sizeof payload, &len);
  if (code) return code;
  link_queue_frame(k, &(struct frame){.type = FRAME_CONTROL, .len = (uint16_t)len}, payload);
  return k->choked ? PERR_LIMIT : 0;
}

// ---- filling a record ----

struct record {
  uint8_t *at;
  size_t len;
};

static size_t room(const struct record *r) { return FRAME_MAX - r->len; }

static void put_frame(struct record *r, uint8_t type, uint32_t stream, const void *payload, uint16_t len) {
  frame_put_header(r->at + r->len, &(struct frame){.type = type, .len = len, .stream = stream});
  if (len) memcpy(r->at + r->len + FRAME_HEADER, payload, len);
  r->len += FRAME_HEADER + (size_t)len;
}

// The whole length of the frame at the head of the queue.
static size_t head_len(const struct outq *q) {
  const uint8_t *f = q->buf + q->off;
  return FRAME_HEADER + ((size_t)f[2] << 8 | f[3]);
}

static void put_queued(struct link *k, struct record *r) {
  struct outq *q = &k->queue;
  while (q->off < q->len) {
    size_t len = head_len(q);
    if (len > room(r)) return;
    memcpy(r->at + r->len, q->buf + q->off, len);
    r->len += len;
    q->off += len;
  }
  if (q->cap) {
    free(q->buf); // an idle link holds no buffer
    *q = (struct outq){0};
  }
}

static void put_pings(struct link *k, struct record *r) {
  if (k->ping_due && room(r) >= FRAME_HEADER + 8) {
    put_frame(r, FRAME_PING, 0, k->ping, 8);
    k->ping_due = false;
    k->pinged_us = clock_mono_us();
  }
  if (k->pong_due && room(r) >= FRAME_HEADER + 8) {
    put_frame(r, FRAME_PONG, 0, k->pong, 8);
    k->pong_due = false;
  }
}

static void put_credits(struct link *k, struct record *r) {
  struct tstream *s;
  while (room(r) >= FRAME_HEADER + 4 && (s = TAILQ_FIRST(&k->crediting))) {
    uint32_t n = tstream_grant(s);
    uint8_t payload[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    if (n) put_frame(r, FRAME_CREDIT, s->id, payload, sizeof payload);
  }
}

static void unready(struct link *k, struct tstream *s) {
  if (s->in_ready) TAILQ_REMOVE(&k->ready, s, ready);
  s->in_ready = false;
}

// The gateway's OPEN goes out with the stream's first turn. False: there is no slot, and the stream was reset.
static bool put_open(struct link *k, struct record *r, struct tstream *s) {
  if (s->id) return true;
  if (tstream_take_slot(s)) {
    tstream_reset_end(s, STREAM_INTERNAL, false);
    return false;
  }
  uint8_t payload[FRAME_OPEN_MAX];
  size_t len = frame_put_open(payload, &s->open);
  put_frame(r, FRAME_OPEN, s->id, payload, (uint16_t)len);
  return true;
}

static void put_fin(struct link *k, struct record *r, struct tstream *s) {
  put_frame(r, FRAME_FIN, s->id, NULL, 0);
  s->fin_sent = true;
  unready(k, s);
  if (s->fin_seen) tstream_wire_over(s);
  s->base.end->fin_sent(s->base.end_ctx);
}

// One stream's turn: pulls a piece behind its header. What pull answers decides whether it stays in the round.
static void put_piece(struct link *k, struct record *r, struct tstream *s) {
  size_t cap = room(r) - FRAME_HEADER, n = 0;
  if (cap > s->credit) cap = s->credit;
  int code = s->base.end->pull(s->base.end_ctx, r->at + r->len + FRAME_HEADER, cap, &n);
  if (s->over) return;
  if (code == PERR_AGAIN) {
    s->wants_send = false;
    unready(k, s);
    return;
  }
  if (!s->opened && k->role == LINK_AGENT) tstream_announce(s); // DATA and FIN say it
  if (code == PERR_EOF) {
    put_fin(k, r, s);
    return;
  }
  frame_put_header(r->at + r->len, &(struct frame){.type = FRAME_DATA, .len = (uint16_t)n, .stream = s->id});
  r->len += FRAME_HEADER + n;
  s->credit -= (uint32_t)n;
  k->moved_ms = loop_now_ms(k->loop);
  unready(k, s);
  tstream_want_send(s); // to the tail of the round, or to wait for credit
}

static void put_streams(struct link *k, struct record *r) {
  struct tstream *s;
  while (!k->closed && (s = TAILQ_FIRST(&k->ready))) {
    // What waits goes first: the RESET of a slot's last stream, which may be of this very record's making, before the
    // slot's next OPEN; an OPENED before the DATA that say the same.
    put_queued(k, r);
    if (k->queue.off < k->queue.len) return;
    size_t need = FRAME_HEADER + 1 + (s->id ? 0 : FRAME_HEADER + FRAME_OPEN_MAX);
    if (room(r) < need || (r->len && room(r) < PIECE_MIN)) return;
    if (put_open(k, r, s)) put_piece(k, r, s);
  }
}

// Into the first `whole` bytes of the record. As with streams, what is queued goes first: the end of a slot's last flow
// before the slot's next one.
static void put_datagrams(struct link *k, struct record *r, size_t whole) {
  if (STAILQ_EMPTY(&k->datagrams)) return;
  put_queued(k, r);
  if (k->queue.off < k->queue.len || r->len >= whole) return;
  r->len += link_put_datagrams(k, r->at + r->len, whole - r->len, whole);
}

static void fill(struct link *k, struct record *r, bool datagrams) {
  r->len = 0;
  put_queued(k, r);
  put_pings(k, r);
  put_credits(k, r);
  if (datagrams) put_datagrams(k, r, TAILQ_EMPTY(&k->ready) ? FRAME_MAX : FRAME_MAX / 2);
  if (room(r) >= PIECE_MIN) put_streams(k, r);
  if (datagrams && !k->closed) put_datagrams(k, r, FRAME_MAX);
}

// ---- flushing ----

void link_want_flush(struct link *k) {
  if (!k->closed) loop_defer(k->loop, &k->flush_task);
}

void link_flush(struct link *k) {
  struct record r = {.at = loop_scratch(k->loop) + RECORD_AT};
  if (k->choked) {
    link_close(k, "congested: too many control frames wait", STREAM_LINK_LOST, false);
    return;
  }
  size_t sent = 0, n;
  int code = 0;
  // While the kernel takes no more, datagrams do not queue up behind its back: there they could not be dropped.
  bool datagrams = !STAILQ_EMPTY(&k->datagrams) && conn_flush(k->conn) == 0;
  while (!k->closed && code == 0 && sent < FLUSH_CAP && (conn_may_write(k->conn) || (code = conn_flush(k->conn)) == 0)) {
    fill(k, &r, datagrams);
    if (r.len == 0 || k->closed) break;
    sent += r.len;
    code = conn_write(k->conn, r.at, r.len, &n);
  }
  if (k->closed) return;
  if (code == 0) code = conn_flush(k->conn);
  if (code == PERR_AGAIN) return; // on_writable goes on
  if (code) {
    link_close(k, "lost: connection reset", STREAM_LINK_LOST, false);
    return;
  }
  if (sent >= FLUSH_CAP) link_want_flush(k);
}

// What was queued before the last words is about streams that end now anyway.
void link_flush_last(struct link *k) {
  struct record r = {.at = loop_scratch(k->loop) + RECORD_AT};
  struct outq *q = &k->queue;
  while (q->len - q->off > FRAME_MAX) q->off += head_len(q);
  put_queued(k, &r);
  if (r.len) conn_write_last(k->conn, r.at, r.len); // a lost link is closed all the same
}

void link_send_ping(struct link *k) {
  uint64_t now = clock_mono_us();
  memcpy(k->ping, &now, sizeof now); // opaque to the peer
  k->ping_due = k->ping_open = true;
  k->pinged_ms = loop_now_ms(k->loop);
  link_want_flush(k);
}
