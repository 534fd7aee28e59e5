// link: one TLS connection of the trunk protocol with its streams and flows: frames, credit, scheduling, pings. Gateway
// and agent use the same code; the role says who opens them. On one loop. docs/protocol.md has the bytes.
#ifndef POSTERN_TRUNK_LINK_H
#define POSTERN_TRUNK_LINK_H

#include "postern/net/conn.h"
#include "postern/pipe/budget.h"
#include "postern/pipe/flow.h"
#include "postern/pipe/stream.h"
#include "postern/wire/control.h"
#include "postern/wire/frame.h"

struct link;

enum link_role { LINK_GATEWAY, LINK_AGENT };

enum {
  LINK_MAX_STREAMS = 65536,
  LINK_MAX_FLOWS = 65536,
};

struct link_settings {
  int64_t heartbeat_s, dead_s, stall_s;
  int64_t dial_s; // gateway: a stream that the agent has not opened after this and five seconds is reset; 0: no check
  bool udp;                     // both sides have announced the feature
  _Atomic uint64_t *dropped;    // counts datagrams that a congested link did not take; borrowed, written on this loop
};

// May close the link, but for on_close, which tells that it is closed.
struct link_ops {
  // A control message other than hello. Borrowed.
  void (*on_control)(void *ctx, struct link *k, const struct control *c);
  // Agent only: a visitor came. The owner binds an end to `s` (s->end, s->end_ctx), or returns why not, and then the
  // stream is reset with that reason. `open` is borrowed.
  enum stream_reason (*on_open)(void *ctx, struct link *k, struct stream *s, const struct frame_open *open);
  // Agent only, likewise: a visitor of a UDP tunnel came. NULL: every flow is refused.
  enum stream_reason (*on_flow)(void *ctx, struct link *k, struct flow *f, const struct frame_open *open);
  // The link is gone: all its streams have been reset, its flows ended. `reason` is one line ("lost: connection reset",
  // "dead: nothing heard for 45 s", "protocol: …", or what link_close was given). `protocol_error`: the peer broke the protocol.
  void (*on_close)(void *ctx, struct link *k, const char *reason, bool protocol_error);
  // No stream and no flow is left on a link that drains (link_drain, or a goaway from the peer).
  void (*on_drained)(void *ctx, struct link *k);
};

// Takes `c`, an attached conn whose hello has passed; owns it from here. `budget` is the session's (borrowed).
struct link *link_new(struct loop *l, struct conn *c, enum link_role role, const struct link_settings *settings,
                      struct budget *budget, const struct link_ops *ops, void *ctx);
// Sends a control message; PERR_LIMIT when too much waits on a congested link (the caller closes it then).
int link_send(struct link *k, const struct control *c);
// Gateway only: a new stream to a tunnel. NULL: no stream slot or memory left. The caller binds an end; the open frame
// goes out at the end of this batch with the bytes that the end then has.
struct stream *link_open_stream(struct link *k, const struct frame_open *open);
// Gateway only: a new flow to a UDP tunnel. NULL: the link carries none, or has no room for it. The caller binds an
// end; the agent hears of the flow with its first datagram.
struct flow *link_open_flow(struct link *k, const struct frame_open *open);
// No new streams and flows; on_drained once none is left. Sends nothing by itself.
void link_drain(struct link *k);
// A goaway's deadline, from now: then the link is closed with what is left on it.
void link_set_deadline(struct link *k, uint64_t ms);
bool link_draining(const struct link *k);
// Closes; `flush` sends what was queued first (control messages such as END). Streams are reset with `stream_reason`
// towards their ends. Calls on_close before it returns. Idempotent; the memory goes with the reaper.
void link_close(struct link *k, const char *reason, enum stream_reason stream_reason, bool flush);
unsigned link_streams(const struct link *k);
const struct addr *link_peer(const struct link *k);
// Monotonic milliseconds when the last byte came.
uint64_t link_last_heard(const struct link *k);

// One frame before the link is there: hello and its answer. Reads exactly the first frame's bytes from `c`.
struct link_greeting {
  uint8_t buf[FRAME_MAX];
  size_t have;
};
// 0 when the first control message is complete; PERR_AGAIN; PERR_PROTOCOL with `e`; or what conn_read said.
PERR_MUST_CHECK int link_greeting_read(struct link_greeting *g, struct conn *c, struct control *out, struct err_text *e);
// Writes and flushes one control message on a conn that has no link yet.
int link_greeting_write(struct conn *c, const struct control *m);

#endif
