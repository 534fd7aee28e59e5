// flow: the interface between a session protocol, which carries datagrams, and an end, which has the visitor's or the
// target's UDP socket. Datagrams are whole, kept in order, and may be lost; nothing ever waits for one.
//
// Life: the protocol makes a flow and binds an end to it. It is over when one side ends it, with STREAM_OK when it was
// silent too long. After `end` or `ended`
// neither side touches it again.
#ifndef POSTERN_PIPE_FLOW_H
#define POSTERN_PIPE_FLOW_H

#include "postern/pipe/stream.h"

struct flow;

// What the end asks of the protocol.
struct flow_ops {
  // Copies the datagram; what a congested link cannot take is dropped and counted by the protocol.
  void (*send)(struct flow *f, const uint8_t *data, size_t n);
  void (*end)(struct flow *f, enum stream_reason r);
};

// What the protocol asks of the end. `datagram` may end the flow before it returns.
struct flow_end {
  void (*datagram)(void *ctx, const uint8_t *data, size_t n); // borrowed; n may be 0
  void (*ended)(void *ctx, enum stream_reason r);             // by the far side, or with the link
};

struct flow {
  const struct flow_ops *ops; // the protocol's
  const struct flow_end *end; // NULL until bound
  void *end_ctx;
};

#endif
