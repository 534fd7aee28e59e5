// nsp_udp: the datagrams on the reverse connection of a UDP app. Called by the NSP protocol's layer; owns nothing. Any
// thread.
#include "postern/base/bytes.h"
#include "postern/wire/nsp.h"

static void put_length(struct wr *w, enum nsp_order order, size_t len) {
  uint16_t v = (uint16_t)len;
  wr_u16(w, order == NSP_ORDER_LE ? (uint16_t)(v << 8 | v >> 8) : v);
}

static size_t get_length(struct rd *r, enum nsp_order order) {
  uint16_t v = rd_u16(r);
  return order == NSP_ORDER_LE ? (uint16_t)(v << 8 | v >> 8) : v;
}

int nsp_put_datagram(const struct nsp_dialect *d, const struct nsp_datagram *g, uint8_t *out, size_t cap, size_t *len) {
  if (d->udp_to_client == NSP_ORDER_NONE) return PERR_INVALID;
  if (g->addr_len > NSP_UDP_ADDR_MAX || g->len > NSP_UDP_OUT_MAX) return PERR_LIMIT;
  struct wr w = wr_init(out, cap);
  wr_u8(&w, NSP_CONTROL_UDP);
  while (!w.bad && w.len < d->control_len) wr_u8(&w, 0);
  put_length(&w, d->udp_to_client, g->addr_len);
  wr_bytes(&w, g->addr, g->addr_len);
  wr_u16(&w, g->port);
  put_length(&w, d->udp_to_client, g->len);
  wr_bytes(&w, g->data, g->len);
  if (w.bad) return PERR_FULL;
  *len = w.len;
  return 0;
}

static int malformed(const char **why, const char *text) {
  *why = text;
  return PERR_PROTOCOL;
}

// The two lengths are judged as soon as they are there: nobody waits for what will not be taken.
int nsp_get_datagram(const struct nsp_dialect *d, const uint8_t *data, size_t len, struct nsp_datagram *g, size_t *size,
                     const char **why) {
  if (d->udp_from_client == NSP_ORDER_NONE) return malformed(why, "a datagram of a client without UDP");
  struct rd r = rd_init(data, len);
  *size = 2;
  g->addr_len = get_length(&r, d->udp_from_client);
  if (r.bad) return PERR_AGAIN;
  if (g->addr_len > NSP_UDP_ADDR_MAX) return malformed(why, "a datagram with too long an address");
  *size += g->addr_len + 2 + 2;
  g->addr = rd_bytes(&r, g->addr_len);
  g->port = rd_u16(&r);
  g->len = get_length(&r, d->udp_from_client);
  if (r.bad) return PERR_AGAIN;
  if (g->len > NSP_UDP_IN_MAX) return malformed(why, "a datagram that is too long");
  *size += g->len;
  g->data = rd_bytes(&r, g->len);
  return r.bad ? PERR_AGAIN : 0;
}
