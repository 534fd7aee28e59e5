// client_internal: the inside of an NSP client, shared by nsp's files: client.c (life, time, when it is lost), pool.c
// (an app's idle connections and the visitors that wait for one), transfer.c (a visitor's stream over a connection).
// Not for other layers.
#ifndef POSTERN_NSP_CLIENT_INTERNAL_H
#define POSTERN_NSP_CLIENT_INTERNAL_H

#include "postern/base/hash.h"
#include "postern/nsp/client.h"
#include "postern/pipe/chain.h"
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/queue.h>

enum {
  NSP_UNREAD_MAX = 2048,       // bytes of keepalives on their way to an idle connection
  NSP_PIECE = 16 * 1024,       // what is moved at once: a TLS record; so much waits for a slow visitor at most
  NSP_BATCH_CAP = 256 * 1024,  // per wake-up, so that one connection does not hold up the others of its loop
  NSP_TICK_BUSY_MS = 500,      // how often the time is looked at while something waits for it
  NSP_TICK_IDLE_MS = 2 * 1000, // … and otherwise
  NSP_STARVED_BEATS = 2,       // heartbeats that have to come while an app is without connection
};

// WAITING → CARRYING → DISCARDING → OVER; any → OVER.
enum transfer_state {
  TRANSFER_WAITING,    // no connection yet
  TRANSFER_CARRYING,   // it has one, alone
  TRANSFER_DISCARDING, // the client is done and its connection gone: what the visitor still sends is dropped
  TRANSFER_OVER,       // nobody may touch it, memory goes with the reaper
};

// A visitor's stream. In `all` until it is OVER, in its pool's `waiting` while WAITING, in `by_id` from CARRYING on.
//
//   conn        exactly while CARRYING
//   outstanding bytes that were pushed and not taken, at most NSP_PIECE; nothing is read while there are some
//   rest        pulled and not taken by the conn, at most NSP_PIECE; nothing is pulled while there is some
struct nsp_transfer {
  struct stream base;
  struct nsp_pool *pool;
  enum transfer_state state;
  uint8_t id[NSP_TRANSFER_ID];
  struct conn *conn;
  bool linked;        // counts as a reverse connection: the client has not ended it
  bool pulled;        // WAITING: the visitor's first bytes, or his fin, were pulled for a conn that broke
  bool wants;         // the end has something to pull
  bool visitor_fin;   // pulled
  bool fin_passed;    // … and the client was told
  bool client_fin;    // read, and passed on
  bool disconnecting; // the client said that it is over
  bool paused;        // not reading, for want of `took`
  bool unflushed;     // the conn holds bytes that the kernel did not take
  bool blocked;       // bytes for the client cannot go on
  int broken;         // 0, or what the reading ends with, for nothing can be written: PERR_EOF, PERR_RESET
  size_t outstanding;
  struct chain rest;
  size_t held;         // of what waits for a slow client: counted in the budget
  int queued;          // bytes for the client in the kernel when it was last looked at
  uint64_t born_ms;    // since when it waits
  uint64_t quiet_ms;   // a closing one: since when the client has sent nothing and nothing waits
  uint64_t taken_ms;   // progress of what is outstanding
  uint64_t sent_ms;    // progress of what is blocked
  uint64_t dropped_ms; // since when the visitor's bytes are dropped; 0: none were
  struct loop_task task;
  UT_hash_handle hh;
  TAILQ_ENTRY(nsp_transfer) all, waiting;
};
TAILQ_HEAD(nsp_transfer_list, nsp_transfer);

// An idle reverse connection. In its pool's `idle` until it is given to a visitor or ends.
struct nsp_idle {
  struct nsp_pool *pool;
  struct conn *conn; // NULL: given away or closed
  TAILQ_ENTRY(nsp_idle) idle;
};

// What an app has. Behind every matching one of the two lists is empty.
struct nsp_pool {
  struct nsp_client *client;
  uint8_t app;
  TAILQ_HEAD(, nsp_idle) idle;      // the oldest first
  struct nsp_transfer_list waiting; // the oldest first
  unsigned links;   // connections that the client has not ended, idle or carrying
  uint64_t bare_ms; // without any: since when
  unsigned beats;   // … and the heartbeats since
  struct loop_task match;
  TAILQ_ENTRY(nsp_pool) pools;
};

// links == the sum of its pools'.
struct nsp_client {
  struct loop *loop;
  struct nsp_client_settings settings;
  struct budget *budget;
  const struct nsp_client_ops *ops;
  void *ctx;
  bool closed, lost;
  bool busy;     // the timer runs fast
  bool had_link; // at some time
  bool gone;     // the last link ended at gone_ms, and nothing was heard since
  bool checking; // a CloseClient came at check_ms
  unsigned links, nidle; // nidle: of all pools
  uint64_t heard_ms, gone_ms, check_ms;
  struct loop_timer *timer;
  TAILQ_HEAD(, nsp_pool) pools;
  struct nsp_transfer_list all;
  struct nsp_transfer *by_id;
};

// ---- client.c ----

// What the kernel holds of a socket: FIONREAD what was not read, SIOCOUTQ what the peer has not acknowledged.
int nsp_in_kernel(const struct conn *c, unsigned long which);

// The time has to be looked at soon.
void nsp_client_busy(struct nsp_client *c);
// A reverse connection came; the client has ended one, or it was closed.
void nsp_pool_link(struct nsp_pool *p);
void nsp_pool_unlink(struct nsp_pool *p);

// ---- pool.c ----

struct nsp_pool *nsp_pool_new(struct nsp_client *c, uint8_t app);
// Takes the conn.
void nsp_pool_add(struct nsp_pool *p, struct conn *conn);
// Matches at the end of this batch.
void nsp_pool_want_match(struct nsp_pool *p);
// Sends the message to every idle connection; those that do not take it are closed.
void nsp_pool_tell(struct nsp_pool *p, const uint8_t *message, size_t len);
// Closes the idle connections, with a last message where `len` is not 0; freed by the reaper.
void nsp_pool_close(struct nsp_pool *p, const uint8_t *last, size_t len);

// ---- transfer.c ----

struct nsp_transfer *nsp_transfer_new(struct nsp_pool *p);
// WAITING: asks the visitor for his first bytes. False: he has left, and the transfer is over.
bool nsp_transfer_pull_first(struct nsp_transfer *t);
// WAITING → CARRYING: takes the conn, a counted link, behind the transfer message, which named `id`.
void nsp_transfer_start(struct nsp_transfer *t, struct conn *conn);
// Ends both sides; the end is told.
void nsp_transfer_reset(struct nsp_transfer *t, enum stream_reason reason);
// The client sent Disconnect.
void nsp_transfer_disconnect(struct nsp_transfer *t);
// Time has passed: may end it. Calls nsp_client_busy when it has to be looked at again soon.
void nsp_transfer_check(struct nsp_transfer *t);

#endif
