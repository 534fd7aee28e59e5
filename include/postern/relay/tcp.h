// tcp: the public side of TCP tunnels: listeners on a public port, and a stream for every visitor. On the session's
// worker.
#ifndef POSTERN_RELAY_TCP_H
#define POSTERN_RELAY_TCP_H

#include "postern/relay/relay.h"

enum {
  // One tunnel's share of the session's pending dials, so that a target that hangs leaves room for the others.
  RELAY_TUNNEL_DIALS = LIMIT_DIALS / 4 * 3,
};

// Takes the `n` listening descriptors, also on failure (NULL). `number` is the tunnel's on the wire.
struct relay_tunnel *tcp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                    unsigned n);

#endif
