// stream: the interface between a session protocol, which carries streams, and an end, which has the bytes (a visitor's
// or a target's connection). Data flows by pull towards the protocol, so that a congested link leaves bytes in the
// sender's socket, and by push towards the end, within credit.
//
// Life: the protocol makes a stream and binds an end to it. It is over when one side resets it, or when both fins have
// passed and the end has released it. After `reset` (either way) or `release` neither side touches it again.
#ifndef POSTERN_PIPE_STREAM_H
#define POSTERN_PIPE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Why a stream was reset. The numbers are the wire's (docs/protocol.md).
enum stream_reason {
  STREAM_OK = 0,            // not reset
  STREAM_ABORTED = 1,       // the other end's connection was aborted
  STREAM_REFUSED = 2,       // the target refused the connection
  STREAM_UNREACHABLE = 3,   // no route, no such name
  STREAM_DIAL_TIMEOUT = 4,  // the target did not answer in time
  STREAM_STALLED = 5,       // data pending and no progress for limits.stall_seconds
  STREAM_MEMORY = 6,        // the session's or the gateway's buffer bound
  STREAM_LIMIT = 7,         // a count limit
  STREAM_NO_TUNNEL = 8,     // the tunnel is not, or no longer, there
  STREAM_LINK_LOST = 9,     // the link broke
  STREAM_SESSION_ENDED = 10, // the session was closed
  STREAM_INTERNAL = 11,     // out of descriptors or memory
  STREAM_REASONS
};

const char *stream_reason_str(enum stream_reason r); // "aborted", "refused", …

struct stream;

// What the end asks of the protocol.
struct stream_ops {
  bool (*ready)(struct stream *s);                         // there is something to pull: bytes, a fin.
                                                           // False: not now, for want of credit
  void (*took)(struct stream *s, size_t n);                // n pushed bytes have left the end's buffer
  void (*opened)(struct stream *s);                        // the target was reached (agent side)
  void (*reset)(struct stream *s, enum stream_reason r);   // give up both ways
  void (*release)(struct stream *s);                       // done: everything pushed was taken, the fin passed on
};

// What the protocol asks of the end. Each may end the stream (reset, release) before it returns.
struct stream_end {
  // Fills up to `cap` bytes: 0 with *n > 0; PERR_AGAIN (it will call ready); PERR_EOF: nothing more, ever: send the
  // fin; PERR_CLOSED: the end has just reset the stream.
  int (*pull)(void *ctx, uint8_t *buf, size_t cap, size_t *n);
  void (*fin_sent)(void *ctx); // the fin that pull announced is on its way
  void (*push)(void *ctx, const uint8_t *data, size_t n); // takes or buffers all of it
  void (*fin)(void *ctx);                                 // nothing more will be pushed
  void (*opened)(void *ctx);                              // the far side reached its target (gateway side)
  void (*reset)(void *ctx, enum stream_reason r);         // the far side, or the link, gave up
};

struct stream {
  const struct stream_ops *ops; // the protocol's
  const struct stream_end *end; // NULL until bound
  void *end_ctx;
};

#endif
