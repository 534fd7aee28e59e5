// NSP datagrams. The first byte chooses the dialect. Frames from the client are taken one behind the other; each goes
// back into its bytes, is not taken with a byte less, and goes out to the client where its length allows that.
#include "postern/base/bytes.h"
#include "postern/wire/nsp.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bytes(const struct nsp_datagram *g, const uint8_t *data, size_t size) {
  static uint8_t out[2 + NSP_UDP_ADDR_MAX + 2 + 2 + NSP_UDP_IN_MAX];
  struct wr w = wr_init(out, sizeof out);
  wr_u16(&w, (uint16_t)g->addr_len);
  wr_bytes(&w, g->addr, g->addr_len);
  wr_u16(&w, g->port);
  wr_u16(&w, (uint16_t)g->len);
  wr_bytes(&w, g->data, g->len);
  if (w.bad || w.len != size || memcmp(out, data, size) != 0) abort();
}

static void check_encoder(const struct nsp_dialect *d, const struct nsp_datagram *g) {
  static uint8_t out[NSP_UDP_FRAME_MAX];
  size_t len = 0, prefix = d->control_len ? d->control_len : 1;
  int rc = nsp_put_datagram(d, g, out, sizeof out, &len);
  if (rc != (g->len > NSP_UDP_OUT_MAX ? PERR_LIMIT : 0)) abort();
  if (rc) return;
  if (len != prefix + 2 + g->addr_len + 2 + 2 + g->len || out[0] != NSP_CONTROL_UDP) abort();
  if (g->addr_len && memcmp(out + prefix + 2, g->addr, g->addr_len) != 0) abort();
  if (g->len && memcmp(out + len - g->len, g->data, g->len) != 0) abort();
  if (nsp_put_datagram(d, g, out, len - 1, &len) != PERR_FULL) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct nsp_datagram g, cut;
  const char *why = NULL;
  size_t frame = 0, least = 0;
  if (size < 1) return 0;
  const struct nsp_dialect *d = nsp_dialect_at(data[0] % 6);
  int rc;
  data++, size--;
  while ((rc = nsp_get_datagram(d, data, size, &g, &frame, &why)) == 0) {
    if (frame == 0 || frame > size || g.addr_len > NSP_UDP_ADDR_MAX || g.len > NSP_UDP_IN_MAX) abort();
    if (nsp_get_datagram(d, data, frame - 1, &cut, &least, &why) != PERR_AGAIN || least > frame) abort();
    check_bytes(&g, data, frame);
    check_encoder(d, &g);
    data += frame, size -= frame;
  }
  if ((rc == PERR_PROTOCOL) != (why != NULL)) abort();
  if (rc == PERR_AGAIN && frame <= size) abort();
  return 0;
}
