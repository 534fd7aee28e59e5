// budget: how many bytes may wait in buffers: received from a link and not yet taken by the reader. A session has one,
// the gateway has one above it that all workers share.
//
// A session's share is its own bound, and at most as much as is still free above. So n sessions that fill what they
// can come to rest at n/(n+1) of the gateway's bound, and whoever comes next finds room for what he needs: those who
// hold the most are above their share first, without anybody having to ask who they are.
#ifndef POSTERN_PIPE_BUDGET_H
#define POSTERN_PIPE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { BUDGET_SESSION = 32 * 1024 * 1024 }; // a session's own bound

struct budget {
  _Atomic size_t used;
  _Atomic size_t bound;
  struct budget *above; // borrowed; NULL at the top
};

void budget_init(struct budget *b, size_t bound, struct budget *above);
void budget_add(struct budget *b, size_t n);
void budget_sub(struct budget *b, size_t n);
// Three quarters of the share are used: windows stop growing and give back no credit.
bool budget_tight(const struct budget *b);
// The share is passed.
bool budget_over(const struct budget *b);

#endif
