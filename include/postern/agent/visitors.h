// visitors: the agent's end of each stream: dials the tunnel's target and moves the bytes.
#ifndef POSTERN_AGENT_VISITORS_H
#define POSTERN_AGENT_VISITORS_H

#include "postern/agent/tunnels.h"
#include "postern/net/loop.h"
#include "postern/pipe/stream.h"
#include "postern/wire/frame.h"
#include <stdint.h>

struct visitors;

// `tunnels` is borrowed. NULL for want of memory.
struct visitors *visitors_new(struct loop *l, struct tunnels *tunnels);
// Every stream must be over. NULL is fine.
void visitors_free(struct visitors *vs);
// How long a target has to answer; for those that come from now on.
void visitors_set_dial(struct visitors *vs, int64_t seconds);
// A visitor came to a tunnel. Binds an end to `s` and returns STREAM_OK, or why not: nobody but the tunnel's own target
// is ever dialled, whatever the gateway asks for.
enum stream_reason visitors_open(struct visitors *vs, struct stream *s, const struct frame_open *open);

#endif
