// chain: bytes that wait for a slow writer, as a list of blocks that are freed as they drain. Empty costs nothing.
#ifndef POSTERN_PIPE_CHAIN_H
#define POSTERN_PIPE_CHAIN_H

#include "postern/base/err.h"
#include <stddef.h>
#include <stdint.h>

struct chain_block;

struct chain {
  struct chain_block *head, *tail;
  size_t len;
};

PERR_MUST_CHECK int chain_append(struct chain *c, const void *data, size_t n); // copies; PERR_NOMEM
// The first contiguous bytes, *n of them; NULL when empty.
const uint8_t *chain_peek(const struct chain *c, size_t *n);
void chain_drop(struct chain *c, size_t n); // n <= len
void chain_clear(struct chain *c);

#endif
