// budget: see budget.h. Relaxed atomics: the numbers bound memory, they order nothing.
#include "postern/pipe/budget.h"

#define GET(x) atomic_load_explicit(&(x), memory_order_relaxed)

void budget_init(struct budget *b, size_t bound, struct budget *above) {
  atomic_init(&b->used, 0);
  atomic_init(&b->bound, bound);
  b->above = above;
}

void budget_add(struct budget *b, size_t n) {
  for (; b; b = b->above) atomic_fetch_add_explicit(&b->used, n, memory_order_relaxed);
}

void budget_sub(struct budget *b, size_t n) {
  for (; b; b = b->above) atomic_fetch_sub_explicit(&b->used, n, memory_order_relaxed);
}

static size_t share(const struct budget *b) {
  size_t most = GET(b->bound);
  for (const struct budget *up = b->above; up; up = up->above) {
    size_t used = GET(up->used), bound = GET(up->bound);
    size_t left = used < bound ? bound - used : 0;
    if (left < most) most = left;
  }
  return most;
}

bool budget_tight(const struct budget *b) { return GET(b->used) > share(b) / 4 * 3; }

bool budget_over(const struct budget *b) { return GET(b->used) > share(b); }
