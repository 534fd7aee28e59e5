// link_internal: the inside of a link, shared by trunk's files: link.c (life, timers), link_recv.c (frames in),
// link_send.c (frames out), link_stream.c (streams, credit), link_flow.c (flows, datagrams). Not for other layers.
#ifndef POSTERN_TRUNK_LINK_INTERNAL_H
#define POSTERN_TRUNK_LINK_INTERNAL_H

#include "postern/base/bucket.h"
#include "postern/trunk/link.h"
#include "postern/trunk/slots.h"
#include <sys/queue.h>

enum {
  WINDOW_FIRST = 256 * 1024,
  WINDOW_MAX = 16 * 1024 * 1024,
  LINK_QUEUE_MAX = 1024 * 1024, // control frames waiting on a congested link
  LINK_LAZY_MS = 10,            // how long an OPENED waits for a DATA frame that says the same
  LINK_TICK_MS = 250,
  LINK_CHECK_MS = 1000, // how often the streams are looked at
  LINK_DIAL_GRACE_MS = 5000,
  LINK_DATAGRAMS_MAX = 1024 * 1024, // bytes of datagrams that wait on a congested link, bookkeeping included
  LINK_DATAGRAMS_TURN = 128, // … that are handed on per batch of events while streams move
  LINK_MOVING_MS = 1000,     // for so long after a stream's last bytes
  LINK_DATAGRAM_WAIT_MS = 1000,     // nobody has use for one that has waited longer
};

// One stream on the wire. In the slot table from its OPEN until it is over on the wire, in `all` until its end lets go.
//
//   window == granted + buffered + owed      (what the peer may have outstanding, in three places)
struct tstream {
  struct stream base;
  struct link *link;
  uint32_t id;     // 0: gateway, OPEN is not out yet
  bool opened;     // gateway: the agent has reached the target; agent: so it has told
  bool fin_sent, fin_seen;
  bool wire_over;  // both fins or a reset have passed
  bool over;       // ended: nobody may touch it, memory goes with the reaper
  bool wants_send; // its end has something to pull
  bool in_ready, in_stalled, in_credit, in_unannounced;

  uint32_t credit;                             // bytes we may send
  uint32_t window, granted, buffered, owed;    // of the receiving direction
  uint32_t epoch_taken;                        // taken since epoch_us
  uint64_t epoch_us;
  uint64_t born_ms, progress_ms; // of the reader, while something is buffered
  uint64_t credited_ms;          // when credit last went back
  uint64_t blocked_ms;           // since when it wants to send without credit; 0: it does not
  struct frame_open open;        // until OPEN is out

  TAILQ_ENTRY(tstream) all, ready, stalled, crediting, unannounced;
};
TAILQ_HEAD(tstream_list, tstream);

// One flow on the wire. In `flows` until it is over, in memory until its last datagram has left the queue.
struct tflow {
  struct flow base;
  struct link *link;
  uint32_t id; // 0: gateway, FLOW is not out yet
  uint32_t waiting; // its datagrams in the queue
  bool over;
  struct frame_open open; // until FLOW is out
  TAILQ_ENTRY(tflow) all;
};

struct datagram {
  STAILQ_ENTRY(datagram) next;
  struct tflow *flow;
  uint64_t since_ms;
  size_t len;
  uint8_t data[];
};

struct outq { // control frames that wait, whole
  uint8_t *buf;
  size_t off, len, cap;
};

struct link {
  struct loop *loop;
  struct conn *conn;
  enum link_role role;
  struct link_settings settings;
  struct budget *budget;
  const struct link_ops *ops;
  void *ctx;
  struct addr peer;
  bool closed, draining;
  bool choked; // the queue of control frames overflowed

  struct slots slots;
  unsigned live; // streams that are not over on the wire

  struct tstream_list all;         // every stream that is not over
  struct tstream_list ready;       // something to send and credit for it
  struct tstream_list stalled;     // something buffered; the longest without progress first
  struct tstream_list crediting;   // credit to give back
  struct tstream_list unannounced; // agent: reached its target, not told yet

  struct slots flow_slots;
  TAILQ_HEAD(, tflow) flows;
  unsigned nflows;
  STAILQ_HEAD(, datagram) datagrams; // that wait, the oldest first
  size_t datagram_bytes;
  size_t datagram_sent; // of the first one: pieces of it are out, so it cannot be dropped
  struct {              // a datagram that comes in pieces
    struct tflow *flow; // NULL: none
    uint8_t *data;      // room for the longest
    size_t len;
  } joining;
  unsigned datagrams_in; // in this batch of events
  uint64_t moved_ms;     // when a stream's bytes last passed

  struct outq queue;
  bool ping_due, pong_due;
  uint8_t ping[8], pong[8];

  uint8_t *partial; // the beginning of a frame, NULL: none
  size_t partial_len;

  struct bucket pings, credits, controls;
  uint64_t stale_bytes, stale_fins; // what may still be on its way for streams that we reset

  uint64_t heard_ms, checked_ms, pinged_ms, pinged_us;
  bool ping_open;   // a ping is out and not answered
  uint64_t rtt_us;  // the least seen; 0: unknown

  struct loop_task flush_task, drain_task;
  struct loop_timer *tick, *lazy, *deadline;
};

// ---- link.c ----

// The peer broke the protocol: END is sent, the link closed.
void link_violation(struct link *k, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A link that drains may have nothing left now.
void link_check_drained(struct link *k);

// ---- link_send.c ----

// Queues a control frame. When a megabyte waits the link is hopelessly congested: it closes at the end of the batch.
void link_queue_frame(struct link *k, const struct frame *f, const void *payload);
void link_want_flush(struct link *k);
void link_flush(struct link *k);
// Hands the last queued frames to the conn, also on a congested link: for a link_close that comes at once.
void link_flush_last(struct link *k);
void link_send_ping(struct link *k);

// ---- link_recv.c ----

void link_on_readable(void *ctx, struct conn *c);
// Of a flow or stream that is over: dropped, at a bounded rate.
void link_drop_late(struct link *k);
const char *link_peer_side(const struct link *k); // "agent", "gateway": who sends here
// A refusal of `reason` in a RESET or FLOW_END; unknown numbers count as aborted.
enum stream_reason link_reason(uint8_t number);

// ---- link_stream.c ----

void link_streams_init(struct link *k);
void link_streams_fini(struct link *k, enum stream_reason reason);
struct tstream *tstream_new(struct link *k);
// Gateway: gives it a slot and with it its id.
PERR_MUST_CHECK int tstream_take_slot(struct tstream *s);
// The wire is done with it; its slot is free.
void tstream_wire_over(struct tstream *s);
// Ends it: out of every list, its buffered bytes given back; freed by the reaper.
void tstream_finish(struct tstream *s);
// Tells the end, then finishes; sends RESET when `tell_peer` and the wire still knows the stream.
void tstream_reset_end(struct tstream *s, enum stream_reason reason, bool tell_peer);
void tstream_want_send(struct tstream *s);
void tstream_announce(struct tstream *s);
// Bytes came and are in the end's hands.
void tstream_received(struct tstream *s, uint32_t n);
uint32_t tstream_grant(struct tstream *s);
// Resets the longest stalled while a bound is passed.
void link_relieve(struct link *k);
void link_check_streams(struct link *k, uint64_t now_ms);

// ---- link_flow.c ----

void link_flows_init(struct link *k);
void link_flows_fini(struct link *k, enum stream_reason reason);
// Drops what waits and is not half sent.
void link_drop_datagrams(struct link *k);
// What is left without callbacks; with the link's memory.
void link_flows_free(struct link *k);
// Once a second: lets go of memory that nobody needs now.
void link_check_flows(struct link *k);
// Fills up to `room` bytes of a record with frames of waiting datagrams; returns how many. A datagram is cut only where
// it is too long for `whole` bytes, the room of an empty record.
size_t link_put_datagrams(struct link *k, uint8_t *out, size_t room, size_t whole);
void link_on_flow(struct link *k, const struct frame *f, const uint8_t *payload);
void link_on_flow_end(struct link *k, const struct frame *f, const uint8_t *payload);
void link_on_datagram(struct link *k, const struct frame *f, const uint8_t *payload);

static inline struct tstream *tstream_of(struct stream *s) { return (struct tstream *)s; }

#endif
