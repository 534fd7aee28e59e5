// bucket: a token bucket, for rates that are capped. One owner, no lock.
#ifndef POSTERN_BASE_BUCKET_H
#define POSTERN_BASE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket {
  uint64_t rate;  // tokens per second
  uint64_t burst; // most that can be saved up
  uint64_t milli; // tokens there now, in thousandths
  uint64_t at_ms; // when that was computed
};

// Starts full.
void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ms);
// Takes n tokens, or takes none and returns false.
bool bucket_take(struct bucket *b, uint64_t n, uint64_t now_ms);

#endif
