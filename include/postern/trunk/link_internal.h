// link_internal: the inside of a link, shared by trunk's files: link.c (life, timers), link_recv.c (frames in),
// link_send.c (frames out), link_stream.c (streams, credit). Not for other layers.
#ifndef POSTERN_TRUNK_LINK_INTERNAL_H
#define POSTERN_TRUNK_LINK_INTERNAL_H

#include "postern/base/bucket.h"
#include "postern/trunk/link.h"
#include <sys/queue.h>

enum {
  WINDOW_FIRST = 256 * 1024,
  WINDOW_MAX = 16 * 1024 * 1024,
  LINK_QUEUE_MAX = 1024 * 1024, // control frames waiting on a congested link
  LINK_LAZY_MS = 10,            // how long an OPENED waits for a DATA frame that says the same
  LINK_TICK_MS = 250,
  LINK_CHECK_MS = 1000, // how often the streams are looked at
  LINK_DIAL_GRACE_MS = 5000,
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

struct slot {
  struct tstream *stream; // NULL: over
  uint16_t generation;    // of the latest stream; 0: never used
  int32_t next_free;      // gateway: queue of free slots
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

  struct slot *slots;
  uint32_t nslots;
  int32_t free_head, free_tail; // -1: none
  unsigned live;                // streams that are not over on the wire

  struct tstream_list all;         // every stream that is not over
  struct tstream_list ready;       // something to send and credit for it
  struct tstream_list stalled;     // something buffered; the longest without progress first
  struct tstream_list crediting;   // credit to give back
  struct tstream_list unannounced; // agent: reached its target, not told yet

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

// ---- link_stream.c ----

int link_streams_init(struct link *k);
void link_streams_fini(struct link *k, enum stream_reason reason);
struct tstream *tstream_new(struct link *k);
// Gateway: gives it a slot and with it its id.
PERR_MUST_CHECK int tstream_take_slot(struct tstream *s);
// The slot of a stream id, NULL when it was never used.
struct slot *link_slot(struct link *k, uint32_t id);
PERR_MUST_CHECK int link_slots_reserve(struct link *k, uint32_t n);
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

// 1 … 65,535 and round again; 0 says "never used".
static inline uint16_t link_next_generation(uint16_t g) { return g == UINT16_MAX ? 1 : (uint16_t)(g + 1); }

static inline struct tstream *tstream_of(struct stream *s) { return (struct tstream *)s; }

#endif
