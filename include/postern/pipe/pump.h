// pump: moves bytes between a stream and a conn, both ways, with half-close kept: the visitor's or the target's side
// of every stream, in the gateway and in the agent. Embedded in its owner; on the stream's loop.
#ifndef POSTERN_PIPE_PUMP_H
#define POSTERN_PIPE_PUMP_H

#include "postern/net/conn.h"
#include "postern/pipe/chain.h"
#include "postern/pipe/stream.h"
#include <stdatomic.h>

struct pump;

struct pump_ops {
  // Told once, when both sides are over: `reason` is STREAM_OK after two fins. `local` tells that this side's conn
  // caused a reset. The conn is closed already; the owner may free the pump's memory by loop_reap only.
  void (*on_end)(struct pump *p, enum stream_reason reason, bool local);
  // Gateway: the agent has reached its target. Agent: the target was reached. May be NULL. Must not end the pump.
  void (*on_opened)(struct pump *p);
};

// Sums over many pumps of one loop, read by other threads. One writer, so a plain load and store do.
struct pump_totals {
  _Atomic uint64_t *pulled, *pushed;
};

struct pump {
  struct loop *loop;
  struct stream *stream; // NULL once over
  struct conn *conn;     // NULL once closed
  const struct pump_ops *ops;
  const struct pump_totals *totals; // borrowed; NULL: none kept
  struct chain pending; // pushed, not yet with the kernel
  uint64_t pulled, pushed; // bytes conn → stream, stream → conn
  bool connected;
  bool fin_pulled; // the conn's end was handed to the stream
  bool fin_pushed; // the stream's end arrived
  bool fin_sent;   // … and was passed on to the conn
};

// For a visitor: the conn is there. Binds itself as the stream's end and as the conn's owner (takes both).
void pump_start(struct pump *p, struct loop *l, struct stream *s, struct conn *c,
                const struct pump_ops *ops, const struct pump_totals *totals);
// For a target: starts to dial; on_end tells a failure with its reason.
void pump_dial(struct pump *p, struct loop *l, struct stream *s, const struct addr *target,
               const struct pump_ops *ops);
// Resets both sides; calls on_end. Nothing when it is over.
void pump_abort(struct pump *p, enum stream_reason reason);

// The conn callbacks of a pump, for conn_new and conn_attach: ctx is the pump.
extern const struct conn_ops pump_conn_ops;

#endif
