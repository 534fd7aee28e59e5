// flows: the agent's end of each flow: a socket of its own towards the tunnel's target, so that the target sees every
// visitor apart.
#ifndef POSTERN_AGENT_FLOWS_H
#define POSTERN_AGENT_FLOWS_H

#include "postern/agent/tunnels.h"
#include "postern/net/loop.h"
#include "postern/pipe/flow.h"
#include "postern/wire/frame.h"
#include <stdatomic.h>
#include <stdint.h>

struct flows;

// `tunnels` is borrowed, and `link_drops`, the datagrams that links did not take, which are logged here with those that
// sockets did not take. NULL for want of memory.
struct flows *flows_new(struct loop *l, struct tunnels *tunnels, const _Atomic uint64_t *link_drops);
// Every flow must be over. NULL is fine.
void flows_free(struct flows *fs);
// A visitor of a UDP tunnel came. Binds an end to `f` and returns STREAM_OK, or why not: as with streams, nobody but
// the tunnel's own target is ever sent to.
enum stream_reason flows_open(struct flows *fs, struct flow *f, const struct frame_open *open);

#endif
