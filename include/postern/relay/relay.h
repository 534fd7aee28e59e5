// relay: what the public sides of one session's tunnels share: the session's counts and limits, and how streams and
// flows are had. Embedded in the session, on its worker. Who may come in at all was decided above; here only counts
// are kept.
#ifndef POSTERN_RELAY_RELAY_H
#define POSTERN_RELAY_RELAY_H

#include "postern/base/bucket.h"
#include "postern/core/limits.h"
#include "postern/net/loop.h"
#include "postern/pipe/flow.h"
#include "postern/pipe/pump.h"
#include <sys/queue.h>

enum { RELAY_MAX_LISTEN = 16 }; // sockets of one tunnel

struct registry_entry;
struct relay_tunnel;

// What each kind of public side does.
struct relay_ops {
  // The session has a link again or has none, or its limits have changed.
  void (*update)(struct relay_tunnel *t);
  // Once in a while, after relay_want_tick: true when it wants to be called again.
  bool (*tick)(struct relay_tunnel *t);
  // Gives the descriptors back, still bound, to `fds` (room for RELAY_MAX_LISTEN).
  unsigned (*release)(struct relay_tunnel *t, int *fds);
  // Closes the port, ends its visitors with `reason`, and leaves the memory to the reaper.
  void (*close)(struct relay_tunnel *t, enum stream_reason reason);
};

// Embedded first in the public side of each kind.
struct relay_tunnel {
  const struct relay_ops *ops;
  struct relay *relay;
  LIST_ENTRY(relay_tunnel) of_relay;
};

// What the protocol of the session gives.
struct relay_source {
  // A stream to a tunnel for a visitor; NULL: none can be had now.
  struct stream *(*open_stream)(void *ctx, uint32_t tunnel, const struct addr *visitor);
  // A flow, likewise. NULL: the protocol has none.
  struct flow *(*open_flow)(void *ctx, uint32_t tunnel, const struct addr *visitor);
};

// Why datagrams were dropped.
enum relay_drop {
  RELAY_DROP_LIMIT,  // no flow for this visitor
  RELAY_DROP_SOCKET, // by the kernel, on their way in or out
  RELAY_DROPS
};

struct relay {
  struct loop *loop;
  struct registry_entry *entry; // the session's counters are kept here
  const struct relay_source *source;
  void *ctx;
  uint32_t max_visitors, max_dials;
  uint32_t visitors, dials, flows;
  bool away; // no link: visitors wait in the kernel's queue
  uint64_t refused, refused_logged_ms; // visitors over the limit, since they were last logged
  struct bucket flow_lines;            // of the log; a flood of flows is no flood of lines
  uint64_t flows_unlogged;
  uint64_t drops[RELAY_DROPS], drops_logged[RELAY_DROPS], all_drops_logged, drops_logged_ms;
  struct pump_totals totals;
  struct loop_timer *tick;
  bool ticking;
  LIST_HEAD(, relay_tunnel) tunnels;
};

// `source` is borrowed. PERR_NOMEM: nothing was done.
PERR_MUST_CHECK int relay_init(struct relay *r, struct loop *l, struct registry_entry *entry,
                               const struct limits *limits, const struct relay_source *source, void *ctx);
// After the last tunnel has closed.
void relay_fini(struct relay *r);
// New limits apply to visitors who come from now on.
void relay_set_limits(struct relay *r, const struct limits *limits);
void relay_set_away(struct relay *r, bool away);
void relay_update(struct relay *r);

// ---- for the kinds of tunnels ----

// Enters a new tunnel, whose ops the caller has set.
void relay_add(struct relay *r, struct relay_tunnel *t);
// In a little while each tunnel's tick is called.
void relay_want_tick(struct relay *r);
void relay_count_drops(struct relay *r, enum relay_drop why, uint64_t n);

#endif
