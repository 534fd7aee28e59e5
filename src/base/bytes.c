// bytes: cursors over byte arrays with a sticky error. Called by every encoder and decoder, on any thread.
#include "postern/base/bytes.h"
#include <string.h>

struct rd rd_init(const void *data, size_t len) {
  return (struct rd){.p = data, .left = len};
}

const uint8_t *rd_bytes(struct rd *r, size_t n) {
  if (r->bad || n > r->left) {
    r->bad = true;
    r->left = 0; // a loop over what is left ends
    return NULL;
  }
  const uint8_t *p = r->p;
  if (n) r->p += n;
  r->left -= n;
  return p;
}

static uint64_t rd_uint(struct rd *r, size_t n) {
  const uint8_t *p = rd_bytes(r, n);
  uint64_t v = 0;
  if (!p) return 0;
  for (size_t i = 0; i < n; i++) v = v << 8 | p[i];
  return v;
}

uint8_t rd_u8(struct rd *r) {
  return (uint8_t)rd_uint(r, 1);
}
uint16_t rd_u16(struct rd *r) {
  return (uint16_t)rd_uint(r, 2);
}
uint32_t rd_u32(struct rd *r) {
  return (uint32_t)rd_uint(r, 4);
}
uint64_t rd_u64(struct rd *r) {
  return rd_uint(r, 8);
}

bool rd_done(const struct rd *r) {
  return !r->bad && r->left == 0;
}

struct wr wr_init(void *data, size_t cap) {
  return (struct wr){.p = data, .cap = cap};
}

void wr_bytes(struct wr *w, const void *data, size_t n) {
  if (w->bad || n > w->cap - w->len) {
    w->bad = true;
    return;
  }
  if (n) memcpy(w->p + w->len, data, n);
  w->len += n;
}

static void wr_uint(struct wr *w, uint64_t v, size_t n) {
  uint8_t bytes[8];
  for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(v >> 8 * (n - 1 - i));
  wr_bytes(w, bytes, n);
}

void wr_u8(struct wr *w, uint8_t v) {
  wr_uint(w, v, 1);
}
void wr_u16(struct wr *w, uint16_t v) {
  wr_uint(w, v, 2);
}
void wr_u32(struct wr *w, uint32_t v) {
  wr_uint(w, v, 4);
}
void wr_u64(struct wr *w, uint64_t v) {
  wr_uint(w, v, 8);
}
