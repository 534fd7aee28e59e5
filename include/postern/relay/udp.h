// udp: the public side of UDP tunnels: sockets on a public port, and a flow for every visitor, who is known by his
// address. On the session's worker. Nothing is sent from here that the agent did not send.
#ifndef POSTERN_RELAY_UDP_H
#define POSTERN_RELAY_UDP_H

#include "postern/relay/relay.h"

enum {
  UDP_TUNNEL_FLOWS = 10000, // of one tunnel
  UDP_SOURCE_FLOWS = 2000,  // … from one IPv4 address, or from one IPv6 network of 64 bits
};

// Takes the `n` bound descriptors, also on failure (NULL). `number` is the tunnel's on the wire; a flow ends after
// `idle_s` seconds of silence.
struct relay_tunnel *udp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                    unsigned n, int64_t idle_s);

#endif
