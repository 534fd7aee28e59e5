// anonymous: the gateway's dealings with users made for clients without a credential (core/anonymous.h): when they are
// noted as active, pruned, and shut out.
#ifndef POSTERN_GATEWAY_ANONYMOUS_H
#define POSTERN_GATEWAY_ANONYMOUS_H

#include "postern/core/anonymous.h"

struct gateway;

enum {
  ANONYMOUS_PER_MINUTE = 10,  // made for one address
  ANONYMOUS_ADDRESSES = 4096, // that are remembered for it
  ANONYMOUS_PRUNE_S = 60,
};

// A session of the user has ended: the idle day begins now. Any thread.
void anonymous_touch_later(struct gateway *g, uint32_t user);
// Removes, on the store thread, those that were idle for a day. Any thread.
void anonymous_prune_later(struct gateway *g);
// `anonymous` was switched off: ends their sessions. Any thread.
void anonymous_close_all(struct gateway *g);

#endif
