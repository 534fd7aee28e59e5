// tcp: the public side of TCP tunnels: listeners on a public port, and a stream for every visitor. On the session's
// worker. Who may come in at all was decided above; here only counts are kept.
#ifndef POSTERN_RELAY_TCP_H
#define POSTERN_RELAY_TCP_H

#include "postern/core/limits.h"
#include "postern/net/listener.h"
#include "postern/pipe/pump.h"
#include <sys/queue.h>

enum {
  RELAY_MAX_LISTEN = 16,
  // One tunnel's share of the session's pending dials, so that a target that hangs leaves room for the others.
  RELAY_TUNNEL_DIALS = LIMIT_DIALS / 4 * 3,
};

struct tcp_tunnel;
struct registry_entry;

// What the tunnels of one session share; embedded in the session. relay_init fills it.
struct relay {
  struct loop *loop;
  struct registry_entry *entry; // the session's counters are kept here
  // A stream to a tunnel for a visitor; NULL: none can be had now.
  struct stream *(*open_stream)(void *ctx, uint32_t tunnel, const struct addr *visitor);
  void *ctx;
  uint32_t max_visitors, max_dials;
  uint32_t visitors, dials;
  bool away; // no link: visitors wait in the kernel's queue
  uint64_t refused, refused_logged_ms; // visitors over the limit, since they were last logged
  struct pump_totals totals;
  LIST_HEAD(, tcp_tunnel) tunnels;
};

void relay_init(struct relay *r, struct loop *l, struct registry_entry *entry, const struct limits *limits,
                struct stream *(*open_stream)(void *, uint32_t, const struct addr *), void *ctx);
// New limits apply to visitors who come from now on.
void relay_set_limits(struct relay *r, const struct limits *limits);
void relay_set_away(struct relay *r, bool away);

// Takes the `n` listening descriptors, also on failure (NULL). `number` is the tunnel's on the wire.
struct tcp_tunnel *tcp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                  unsigned n);
// Gives the descriptors back, still listening, to `fds` (room for RELAY_MAX_LISTEN); then close it.
unsigned tcp_tunnel_release(struct tcp_tunnel *t, int *fds);
// Closes the port and aborts its visitors with `reason`. NULL is fine.
void tcp_tunnel_close(struct tcp_tunnel *t, enum stream_reason reason);

#endif
