// bytes: cursors over byte arrays with a sticky error, so that a parser reads everything and tests once.
// Integers are big-endian unless the name says otherwise. Nothing is allocated; the arrays belong to the caller.
#ifndef POSTERN_BASE_BYTES_H
#define POSTERN_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Reading: `left` bytes at `p`. After the first read past the end `bad` is set, and every read gives zero.
struct rd {
  const uint8_t *p;
  size_t left;
  bool bad;
};

struct rd rd_init(const void *data, size_t len);
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
// Borrowed pointer to the next n bytes, or NULL when there are fewer.
const uint8_t *rd_bytes(struct rd *r, size_t n);
// True when nothing went wrong and every byte was read.
bool rd_done(const struct rd *r);

// Writing into `cap` bytes at `p`, `len` of them used. A write that does not fit sets `bad` and writes nothing.
struct wr {
  uint8_t *p;
  size_t len, cap;
  bool bad;
};

struct wr wr_init(void *data, size_t cap);
void wr_u8(struct wr *w, uint8_t v);
void wr_u16(struct wr *w, uint16_t v);
void wr_u32(struct wr *w, uint32_t v);
void wr_u64(struct wr *w, uint64_t v);
void wr_bytes(struct wr *w, const void *data, size_t n);

#endif
