// limits: the defaults of a user's limits and the user's own values over them. Pure functions, any thread.
#include "postern/core/limits.h"
#include <string.h>

static uint32_t own_or_default(int64_t own, uint32_t preset) {
  if (own < 0) return preset;
  return own > UINT32_MAX ? UINT32_MAX : (uint32_t)own;
}

void limits_from_store(struct limits *l, const struct store_limits *s) {
  memset(l, 0, sizeof *l);
  l->tunnels = own_or_default(s->tunnels, LIMIT_TUNNELS);
  l->visitors = own_or_default(s->connections, LIMIT_VISITORS);
  l->dials = LIMIT_DIALS;
  l->instances = own_or_default(s->instances, LIMIT_INSTANCES);
  l->nports = s->nports < STORE_MAX_RANGES ? s->nports : STORE_MAX_RANGES;
  memcpy(l->ports, s->ports, l->nports * sizeof l->ports[0]);
}

bool limits_port_ok(const struct limits *l, uint16_t port) {
  if (l->nports == 0) return true;
  for (unsigned i = 0; i < l->nports; i++) {
    if (port >= l->ports[i].low && port <= l->ports[i].high) return true;
  }
  return false;
}
