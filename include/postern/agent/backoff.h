// backoff: how long to wait before the next try: doubling, with jitter, between two bounds.
#ifndef POSTERN_AGENT_BACKOFF_H
#define POSTERN_AGENT_BACKOFF_H

#include <stdint.h>

struct backoff {
  uint32_t low_ms, high_ms; // every wait lies between them
  uint32_t top_ms;          // the next wait lies between half of this and this
};

enum { BACKOFF_SETTLED_MS = 30000 };

void backoff_init(struct backoff *b, uint32_t low_ms, uint32_t high_ms);
// The next wait; `random` chooses within its jitter.
uint32_t backoff_next(struct backoff *b, uint32_t random);
// What was tried held for `lived_ms`: when that was long enough the waits begin at the low bound again.
void backoff_lived(struct backoff *b, uint64_t lived_ms);
void backoff_reset(struct backoff *b);

#endif
