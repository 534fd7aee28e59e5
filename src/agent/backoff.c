// backoff: the waits between tries, for session (the gateway) and tunnels (a refused tunnel). Owns nothing.
#include "postern/agent/backoff.h"

void backoff_init(struct backoff *b, uint32_t low_ms, uint32_t high_ms) {
  *b = (struct backoff){.low_ms = low_ms, .high_ms = high_ms};
  backoff_reset(b);
}

void backoff_reset(struct backoff *b) {
  b->top_ms = b->high_ms / 2 < b->low_ms ? b->high_ms : b->low_ms * 2;
}

uint32_t backoff_next(struct backoff *b, uint32_t random) {
  uint32_t floor = b->top_ms / 2 < b->low_ms ? b->low_ms : b->top_ms / 2;
  uint32_t wait = floor + random % (b->top_ms - floor + 1);
  b->top_ms = b->top_ms > b->high_ms / 2 ? b->high_ms : b->top_ms * 2;
  return wait;
}

void backoff_lived(struct backoff *b, uint64_t lived_ms) {
  if (lived_ms >= BACKOFF_SETTLED_MS) backoff_reset(b);
}
