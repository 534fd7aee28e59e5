// wire_nsp_bytes: byte strings for the tests of NSP's messages, written as in the protocol's transcripts.
#ifndef POSTERN_TESTS_WIRE_NSP_BYTES_H
#define POSTERN_TESTS_WIRE_NSP_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN "zVw1HCO6e8eT2nIvk/z54D0KGsUuZ+EscZiLwVMLFY8="
#define TOKEN_HEX                                                                                                      \
  "7a 56 77 31 48 43 4f 36 65 38 65 54 32 6e 49 76 6b 2f 7a 35 34 44 30 4b"                                            \
  "47 73 55 75 5a 2b 45 73 63 5a 69 4c 77 56 4d 4c 46 59 38 3d"

enum { BYTES_CAP = 400 * 1024 };

struct bytes {
  size_t len;
  uint8_t p[BYTES_CAP];
};

static inline void add(struct bytes *b, const void *data, size_t len) {
  if (len > BYTES_CAP - b->len) abort();
  memcpy(b->p + b->len, data, len);
  b->len += len;
}

static inline void add_byte(struct bytes *b, unsigned v) {
  uint8_t byte = (uint8_t)v;
  add(b, &byte, 1);
}

static inline void add_u16(struct bytes *b, unsigned v) {
  add_byte(b, v >> 8);
  add_byte(b, v & 0xff);
}

static inline void add_fill(struct bytes *b, unsigned v, size_t n) {
  while (n--) add_byte(b, v);
}

// Pairs of hex digits; blanks, bars and slashes between them only please the eye.
static inline void add_hex(struct bytes *b, const char *hex) {
  for (; *hex; hex++) {
    if (strchr(" |/", *hex)) continue;
    const char pair[] = {hex[0], hex[1], '\0'};
    char *end;
    add_byte(b, (unsigned)strtoul(pair, &end, 16));
    if (*end) abort();
    hex++;
  }
}

// A copy of exactly `len` bytes, so that the address sanitizer sees a read past its end.
static inline uint8_t *exact_copy(const uint8_t *data, size_t len) {
  uint8_t *copy = malloc(len ? len : 1);
  if (!copy) abort();
  memcpy(copy, data, len);
  return copy;
}

#endif
