// bucket: a token bucket in thousandths of a token, so that slow rates lose nothing to rounding. Its owner's thread
// alone calls it and brings the time. No input overflows it.
#include "postern/base/bucket.h"

static uint64_t full(const struct bucket *b) {
  return b->burst > UINT64_MAX / 1000 ? UINT64_MAX : b->burst * 1000;
}

void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ms) {
  *b = (struct bucket){.rate = rate, .burst = burst, .at_ms = now_ms};
  b->milli = full(b);
}

static void refill(struct bucket *b, uint64_t now_ms) {
  if (now_ms <= b->at_ms) return;
  uint64_t elapsed_ms = now_ms - b->at_ms;
  uint64_t room = full(b) - b->milli;
  b->at_ms = now_ms;
  // A token per second is a thousandth per millisecond.
  if (b->rate && elapsed_ms > room / b->rate)
    b->milli += room;
  else
    b->milli += elapsed_ms * b->rate;
}

bool bucket_take(struct bucket *b, uint64_t n, uint64_t now_ms) {
  refill(b, now_ms);
  if (n > b->milli / 1000) return false;
  b->milli -= n * 1000;
  return true;
}
