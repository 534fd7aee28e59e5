// chain: see chain.h. Blocks fit what they hold, at least BLOCK_MIN bytes, so that many small pieces share one.
#include "postern/pipe/chain.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_MIN = 4096 - 64 };

struct chain_block {
  struct chain_block *next;
  size_t off, len, cap; // bytes off..len wait
  uint8_t data[];
};

int chain_append(struct chain *c, const void *data, size_t n) {
  struct chain_block *b = c->tail;
  size_t room = b ? b->cap - b->len : 0;
  size_t first = n < room ? n : room;
  size_t rest = n - first;
  struct chain_block *more = NULL;
  if (rest) {
    size_t cap = rest > BLOCK_MIN ? rest : BLOCK_MIN;
    more = malloc(sizeof *more + cap);
    if (!more) return PERR_NOMEM;
    *more = (struct chain_block){.cap = cap, .len = rest};
    memcpy(more->data, (const uint8_t *)data + first, rest);
  }
  if (first) {
    memcpy(b->data + b->len, data, first);
    b->len += first;
  }
  if (more) {
    if (b) b->next = more;
    else c->head = more;
    c->tail = more;
  }
  c->len += n;
  return 0;
}

const uint8_t *chain_peek(const struct chain *c, size_t *n) {
  if (!c->head) return NULL;
  *n = c->head->len - c->head->off;
  return c->head->data + c->head->off;
}

void chain_drop(struct chain *c, size_t n) {
  c->len -= n;
  while (n) {
    struct chain_block *b = c->head;
    size_t have = b->len - b->off;
    if (n < have) {
      b->off += n;
      return;
    }
    n -= have;
    c->head = b->next;
    if (!c->head) c->tail = NULL;
    free(b);
  }
}

void chain_clear(struct chain *c) { chain_drop(c, c->len); }
