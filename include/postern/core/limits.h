// limits: what one user may have at once (contract: "Defaults of the limits").
#ifndef POSTERN_CORE_LIMITS_H
#define POSTERN_CORE_LIMITS_H

#include "postern/store/store.h"

enum {
  LIMIT_TUNNELS = 64,    // per session
  LIMIT_VISITORS = 4096, // per session
  LIMIT_DIALS = 256,     // pending dials per session
  LIMIT_INSTANCES = 16,  // sessions per user
};

struct limits {
  uint32_t tunnels, visitors, dials, instances;
  struct store_range ports[STORE_MAX_RANGES];
  unsigned nports; // 0: any of the gateway's range
};

// The user's own values where set, else the defaults.
void limits_from_store(struct limits *l, const struct store_limits *s);
// Whether the user's own ranges allow the port; true where it has none.
bool limits_port_ok(const struct limits *l, uint16_t port);

#endif
