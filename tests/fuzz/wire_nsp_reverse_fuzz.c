// NSP reverse openings. The first byte chooses the dialect, the second how large the pieces are: what comes out must
// not depend on them, and it goes back into the bytes that were taken.
#include "postern/base/bytes.h"
#include "postern/wire/nsp.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
  int rc;
  size_t taken;
  struct nsp_reverse_parser parser;
};

static void check(const struct outcome *o, const struct nsp_dialect *d, const uint8_t *data) {
  const struct nsp_reverse_parser *p = &o->parser;
  uint8_t out[NSP_OPENING_MAX + 3];
  struct wr w = wr_init(out, sizeof out);
  if ((o->rc == PERR_PROTOCOL) != (p->why != NULL) || (o->rc == PERR_AGAIN) != (p->need > 0)) abort();
  if ((o->rc == 0) != (p->state == NSP_REVERSE_DONE)) abort();
  if (o->rc) return;
  size_t token_len = strlen(nsp_reverse_token(p));
  if (d->reverse_auth) {
    if (token_len == 0 && (data[1] | data[2])) return; // other bytes than a token has
    wr_u8(&w, 0xf9);
    wr_u16(&w, (uint16_t)token_len);
    wr_bytes(&w, nsp_reverse_token(p), token_len);
  }
  wr_u16(&w, p->client_id);
  wr_u8(&w, p->app_id);
  if (w.bad || w.len != o->taken || memcmp(out, data, w.len) != 0) abort();
}

// Pieces of `piece` bytes, or of what is needed where it is 0.
static void run(struct outcome *o, const struct nsp_dialect *d, const uint8_t *data, size_t size, size_t piece) {
  struct nsp_reverse_parser *p = &o->parser;
  nsp_reverse_init(p, d);
  o->rc = PERR_AGAIN;
  o->taken = 0;
  while (o->taken < size && o->rc == PERR_AGAIN) {
    size_t left = size - o->taken, want = piece ? piece : p->need, n = want < left ? want : left, used = SIZE_MAX;
    o->rc = nsp_reverse_feed(p, data + o->taken, n, &used);
    if (used > n || (o->rc == PERR_AGAIN && used != n)) abort();
    if (!piece && o->rc == 0 && used != n) abort();
    o->taken += used;
    if (o->rc == 0 && p->state == NSP_REVERSE_IDS) o->rc = PERR_AGAIN; // the auth byte would go out
  }
  check(o, d, data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct outcome whole, pieces;
  if (size < 2) return 0;
  const struct nsp_dialect *d = nsp_dialect_at(data[0] % 6);
  run(&whole, d, data + 2, size - 2, size);
  run(&pieces, d, data + 2, size - 2, data[1]);
  if (whole.rc != pieces.rc || whole.taken != pieces.taken || whole.parser.state != pieces.parser.state) abort();
  if (whole.parser.need != pieces.parser.need || whole.parser.why != pieces.parser.why) abort();
  return 0;
}
