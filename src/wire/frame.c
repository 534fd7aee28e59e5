// frame: encodes and decodes frame headers and OPEN. Called by trunk; owns nothing. Any thread.
#include "postern/wire/frame.h"
#include "postern/base/bytes.h"
#include <stdbool.h>
#include <string.h>

// What a type asks of its header.
struct rule {
  uint16_t min, max; // of the payload
  bool on_stream;    // a stream id, or 0
};

static const struct rule rules[] = {
    [FRAME_CONTROL] = {2, FRAME_PAYLOAD_MAX, false},
    [FRAME_OPEN] = {7, FRAME_OPEN_MAX, true},
    [FRAME_OPENED] = {0, 0, true},
    [FRAME_DATA] = {1, FRAME_PAYLOAD_MAX, true},
    [FRAME_FIN] = {0, 0, true},
    [FRAME_RESET] = {1, 1, true},
    [FRAME_CREDIT] = {4, 4, true},
    [FRAME_PING] = {8, 8, false},
    [FRAME_PONG] = {8, 8, false},
    [FRAME_DATAGRAM] = {0, FRAME_PAYLOAD_MAX, true},
    [FRAME_FLOW] = {7, FRAME_OPEN_MAX, true},
    [FRAME_FLOW_END] = {1, 1, true},
};

void frame_put_header(uint8_t out[FRAME_HEADER], const struct frame *f) {
  struct wr w = wr_init(out, FRAME_HEADER);
  wr_u8(&w, f->type);
  wr_u8(&w, f->flags);
  wr_u16(&w, f->len);
  wr_u32(&w, f->stream);
}

static const char *broken_rule(const struct frame *f) {
  if (f->type == 0 || f->type >= FRAME_TYPES) return "a frame of unknown type";
  const struct rule *rule = &rules[f->type];
  bool datagram = f->type == FRAME_DATAGRAM;
  if (f->flags & ~(datagram ? FRAME_FIRST | FRAME_LAST : 0)) return "a frame with unknown flags";
  if (f->len < rule->min || f->len > rule->max) return "a frame whose length does not fit its type";
  if (datagram && f->len == 0 && f->flags != (FRAME_FIRST | FRAME_LAST)) return "an empty piece of a datagram";
  if (!rule->on_stream && f->stream != 0) return "a frame of the link with a stream id";
  if (rule->on_stream && f->stream == 0) return "a frame of a stream without a stream id";
  return NULL;
}

int frame_get_header(const uint8_t in[FRAME_HEADER], struct frame *f, const char **why) {
  struct rd r = rd_init(in, FRAME_HEADER);
  f->type = rd_u8(&r);
  f->flags = rd_u8(&r);
  f->len = rd_u16(&r);
  f->stream = rd_u32(&r);
  *why = broken_rule(f);
  return *why ? PERR_PROTOCOL : 0;
}

// ---- OPEN ----

enum { FAMILY_NONE = 0, FAMILY_IP4 = 4, FAMILY_IP6 = 6 };

size_t frame_put_open(uint8_t out[FRAME_OPEN_MAX], const struct frame_open *o) {
  struct wr w = wr_init(out, FRAME_OPEN_MAX);
  const struct addr *a = &o->visitor;
  bool ip4 = a->len && a->sa.sa_family == AF_INET, ip6 = a->len && a->sa.sa_family == AF_INET6;
  wr_u32(&w, o->tunnel);
  wr_u8(&w, ip4 ? FAMILY_IP4 : ip6 ? FAMILY_IP6 : FAMILY_NONE);
  wr_u16(&w, addr_port(a));
  if (ip4) wr_bytes(&w, &a->in.sin_addr, sizeof a->in.sin_addr);
  if (ip6) wr_bytes(&w, &a->in6.sin6_addr, sizeof a->in6.sin6_addr);
  return w.len;
}

static int get_ip(struct rd *r, uint8_t family, struct addr *out) {
  struct sockaddr_in in = {.sin_family = AF_INET};
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
  size_t len = family == FAMILY_IP4 ? sizeof in.sin_addr : sizeof in6.sin6_addr;
  const uint8_t *bytes = rd_bytes(r, len);
  if (!bytes) return PERR_PROTOCOL;
  if (family == FAMILY_IP4) {
    memcpy(&in.sin_addr, bytes, len);
    addr_from_sockaddr(out, (const struct sockaddr *)&in, sizeof in);
  } else {
    memcpy(&in6.sin6_addr, bytes, len);
    addr_from_sockaddr(out, (const struct sockaddr *)&in6, sizeof in6);
  }
  return 0;
}

int frame_get_open(const uint8_t *in, size_t len, struct frame_open *o) {
  struct rd r = rd_init(in, len);
  memset(o, 0, sizeof *o);
  o->tunnel = rd_u32(&r);
  uint8_t family = rd_u8(&r);
  uint16_t port = rd_u16(&r);
  if (family != FAMILY_NONE && family != FAMILY_IP4 && family != FAMILY_IP6) return PERR_PROTOCOL;
  if (family != FAMILY_NONE && get_ip(&r, family, &o->visitor)) return PERR_PROTOCOL;
  addr_set_port(&o->visitor, port);
  return rd_done(&r) ? 0 : PERR_PROTOCOL;
}
