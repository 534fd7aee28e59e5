// link_recv: frames in. Each is checked against the protocol's rules (docs/protocol.md) and handed on; the first
// breach ends the link with a line that says what it was.
#include "postern/base/bytes.h"
#include "postern/base/clock.h"
#include "postern/trunk/link_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
  RECV_CAP = 512 * 1024, // per batch
  READ_ONCE = FRAME_MAX,
};

const char *link_peer_side(const struct link *k) { return k->role == LINK_GATEWAY ? "agent" : "gateway"; }

// ---- which stream ----

// NULL: the frame is for no live stream; then it is either late (*late) or a violation that was dealt with.
static struct tstream *find_stream(struct link *k, const struct frame *f, bool *late) {
  *late = false;
  void *item = NULL;
  switch (slots_find(&k->slots, f->stream, &item)) {
  case SLOTS_LIVE: return item;
  case SLOTS_LATE: *late = true; return NULL;
  case SLOTS_UNKNOWN: break;
  }
  link_violation(k, "a frame of type %u for stream %08x, which the %s did not get", f->type, f->stream,
                 link_peer_side(k));
  return NULL;
}

// Frames other than DATA and FIN for a stream that is over are dropped, at a bounded rate.
void link_drop_late(struct link *k) {
  if (!bucket_take(&k->credits, 1, loop_now_ms(k->loop))) link_violation(k, "a flood of frames for closed streams");
}

// ---- frames of streams ----

static void implied_open(struct link *k, struct tstream *s) {
  if (s->opened || k->role != LINK_GATEWAY) return;
  s->opened = true;
  if (s->base.end) s->base.end->opened(s->base.end_ctx);
}

static void on_data(struct link *k, const struct frame *f, const uint8_t *payload) {
  bool late;
  struct tstream *s = find_stream(k, f, &late);
  if (late) {
    if (f->len > k->stale_bytes) link_violation(k, "data for stream %08x, which is closed", f->stream);
    else k->stale_bytes -= f->len;
  }
  if (!s) return;
  if (s->fin_seen) {
    link_violation(k, "data after the end of stream %08x", f->stream);
    return;
  }
  if (f->len > s->granted) {
    link_violation(k, "%u bytes for stream %08x, which had credit for %u", f->len, f->stream, s->granted);
    return;
  }
  implied_open(k, s);
  if (s->over) return;
  k->moved_ms = loop_now_ms(k->loop);
  tstream_received(s, f->len);
  s->base.end->push(s->base.end_ctx, payload, f->len);
  if (!s->over && s->buffered) link_relieve(k);
}

static void on_fin(struct link *k, const struct frame *f) {
  bool late;
  struct tstream *s = find_stream(k, f, &late);
  if (late) {
    if (k->stale_fins == 0) link_violation(k, "the end of stream %08x, which is closed", f->stream);
    else k->stale_fins--;
  }
  if (!s) return;
  if (s->fin_seen) {
    link_violation(k, "a second end of stream %08x", f->stream);
    return;
  }
  implied_open(k, s);
  if (s->over) return;
  s->fin_seen = true;
  if (s->fin_sent) tstream_wire_over(s);
  s->base.end->fin(s->base.end_ctx);
}

enum stream_reason link_reason(uint8_t number) {
  return number > STREAM_OK && number < STREAM_REASONS ? (enum stream_reason)number : STREAM_ABORTED;
}

static void on_reset(struct link *k, const struct frame *f, const uint8_t *payload) {
  bool late;
  struct tstream *s = find_stream(k, f, &late);
  if (late) link_drop_late(k);
  if (!s) return;
  tstream_wire_over(s);
  tstream_reset_end(s, link_reason(payload[0]), false);
}

static void on_credit(struct link *k, const struct frame *f, const uint8_t *payload) {
  struct rd r = rd_init(payload, f->len);
  uint32_t n = rd_u32(&r);
  bool late;
  struct tstream *s = find_stream(k, f, &late);
  if (!bucket_take(&k->credits, 1, loop_now_ms(k->loop))) {
    link_violation(k, "a flood of credit");
    return;
  }
  if (!s) return;
  if (n == 0 || n > WINDOW_MAX - s->credit) {
    link_violation(k, "a credit of %u for stream %08x, which has %u", n, f->stream, s->credit);
    return;
  }
  s->credit += n;
  if (s->wants_send) tstream_want_send(s);
}

static void on_opened(struct link *k, const struct frame *f) {
  bool late;
  struct tstream *s = find_stream(k, f, &late);
  if (late) link_drop_late(k);
  if (!s) return;
  if (s->opened) link_violation(k, "a second opening of stream %08x", f->stream);
  else implied_open(k, s);
}

// The opener's generation follows the last one of the slot, and the slot is free.
static void on_open(struct link *k, const struct frame *f, const uint8_t *payload) {
  struct frame_open open;
  if (frame_get_open(payload, f->len, &open)) {
    link_violation(k, "a malformed opening of stream %08x", f->stream);
    return;
  }
  struct tstream *s = tstream_new(k);
  int code = s ? slots_accept(&k->slots, f->stream, s) : PERR_NOMEM;
  if (code) {
    if (s) tstream_finish(s);
    if (code == PERR_PROTOCOL)
      link_violation(k, "an opening of stream %08x, whose slot is at generation %u", f->stream,
                     slots_generation(&k->slots, f->stream));
    else link_close(k, "out of memory", STREAM_INTERNAL, false);
    return;
  }
  s->id = f->stream;
  enum stream_reason refusal = k->ops->on_open(k->ctx, k, &s->base, &open);
  if (!s->over && refusal) tstream_reset_end(s, refusal, true);
}

// ---- frames of the link ----

static void on_control(struct link *k, const struct frame *f, const uint8_t *payload) {
  struct control c;
  struct err_text e;
  if (!bucket_take(&k->controls, 1, loop_now_ms(k->loop))) {
    link_violation(k, "a flood of control messages");
    return;
  }
  if (control_decode(payload, f->len, &c, &e)) {
    link_violation(k, "%s", e.s);
    return;
  }
  if (c.type == CONTROL_HELLO || c.type == CONTROL_WELCOME) {
    link_violation(k, "a second greeting");
    return;
  }
  k->ops->on_control(k->ctx, k, &c);
}

static void on_ping(struct link *k, const uint8_t *payload) {
  if (!bucket_take(&k->pings, 1, loop_now_ms(k->loop))) {
    link_violation(k, "a flood of pings");
    return;
  }
  memcpy(k->pong, payload, sizeof k->pong);
  k->pong_due = true;
  link_want_flush(k);
}

static void on_pong(struct link *k, const uint8_t *payload) {
  if (!k->ping_open || memcmp(payload, k->ping, sizeof k->ping) != 0) {
    link_violation(k, "a pong without a ping");
    return;
  }
  k->ping_open = false;
  uint64_t rtt = clock_mono_us() - k->pinged_us;
  if (!k->rtt_us || rtt < k->rtt_us) k->rtt_us = rtt ? rtt : 1;
}

static void dispatch(struct link *k, const struct frame *f, const uint8_t *payload) {
  bool agent = k->role == LINK_AGENT;
  switch (f->type) {
  case FRAME_DATA: on_data(k, f, payload); return;
  case FRAME_FIN: on_fin(k, f); return;
  case FRAME_RESET: on_reset(k, f, payload); return;
  case FRAME_CREDIT: on_credit(k, f, payload); return;
  case FRAME_CONTROL: on_control(k, f, payload); return;
  case FRAME_PING: on_ping(k, payload); return;
  case FRAME_PONG: on_pong(k, payload); return;
  case FRAME_DATAGRAM:
  case FRAME_FLOW_END:
    if (k->settings.udp) {
      if (f->type == FRAME_DATAGRAM) link_on_datagram(k, f, payload);
      else link_on_flow_end(k, f, payload);
      return;
    }
    break;
  case FRAME_FLOW:
    if (agent && k->settings.udp) {
      link_on_flow(k, f, payload);
      return;
    }
    break;
  case FRAME_OPEN:
    if (agent) {
      on_open(k, f, payload);
      return;
    }
    break;
  case FRAME_OPENED:
    if (!agent) {
      on_opened(k, f);
      return;
    }
    break;
  default: break;
  }
  link_violation(k, "a frame of type %u, which the %s may not send", f->type, link_peer_side(k));
}

// ---- bytes to frames ----

// Handles the whole frames of `data`; returns how many bytes they were. Stops when the link is closed.
static size_t take_frames(struct link *k, const uint8_t *data, size_t len) {
  size_t done = 0;
  while (!k->closed && len - done >= FRAME_HEADER) {
    struct frame f;
    const char *why;
    if (frame_get_header(data + done, &f, &why)) {
      link_violation(k, "%s", why);
      break;
    }
    if (len - done - FRAME_HEADER < f.len) break;
    dispatch(k, &f, data + done + FRAME_HEADER);
    done += FRAME_HEADER + (size_t)f.len;
  }
  return done;
}

static void keep_partial(struct link *k, const uint8_t *data, size_t len) {
  if (len == 0) {
    free(k->partial);
    k->partial = NULL;
  } else if (!k->partial && !(k->partial = malloc(FRAME_MAX))) {
    link_close(k, "out of memory", STREAM_INTERNAL, false);
    return;
  } else {
    memcpy(k->partial, data, len); // less than a frame
  }
  k->partial_len = len;
}

static const char *end_text(int code) {
  switch (code) {
  case PERR_EOF: return "lost: closed by the peer";
  case PERR_TRUNCATED: return "lost: connection ended";
  case PERR_RESET: return "lost: connection reset";
  default: return "lost: TLS error";
  }
}

void link_on_readable(void *ctx, struct conn *c) {
  struct link *k = ctx;
  uint8_t *buf = loop_scratch(k->loop);
  size_t total = 0;
  k->datagrams_in = 0;
  while (!k->closed && total < RECV_CAP) {
    size_t n, have = k->partial_len;
    if (have) memcpy(buf, k->partial, have);
    int code = conn_read(c, buf + have, READ_ONCE, &n);
    if (code == PERR_AGAIN) return;
    if (code) {
      link_close(k, end_text(code), STREAM_LINK_LOST, false);
      return;
    }
    k->heard_ms = loop_now_ms(k->loop);
    total += n;
    size_t done = take_frames(k, buf, have + n);
    if (!k->closed && (have || done < have + n)) keep_partial(k, buf + done, have + n - done);
  }
  if (!k->closed) conn_resume(c);
}
