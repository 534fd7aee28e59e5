// worker: one thread with its sessions. Other threads reach them by posting with an id; an id that is gone is ignored.
#ifndef POSTERN_GATEWAY_WORKER_H
#define POSTERN_GATEWAY_WORKER_H

#include "postern/core/config.h"
#include "postern/core/registry.h"
#include "postern/net/conn.h"

struct gateway;
struct session;

struct worker {
  struct gateway *gateway;
  unsigned index;
  char name[16];
  struct loop *loop;
  struct config *config;    // a reference of its own, exchanged by post
  struct session *sessions; // uthash by id
  struct loop_timer *stop_timer;
  uint64_t stop_by_ms; // once it is told to stop
  bool running; // the thread; main thread only
};

struct worker *worker_new(struct gateway *g, unsigned index); // NULL: no memory or descriptors
PERR_MUST_CHECK int worker_start(struct worker *w);
// Ends its sessions with reason "shutdown" and then its thread, for which worker_join waits. Posts may still come until
// worker_free.
void worker_stop(struct worker *w);
void worker_join(struct worker *w);
void worker_free(struct worker *w); // NULL is fine

// An authenticated agent's connection, on its way from the handshake thread. The worker owns it from worker_adopt on,
// and frees it as one block: a protocol that has more to tell embeds it first in a struct of its own.
struct arrival {
  struct worker *worker;
  // On the worker, with the conn attached: takes conn and entry, not the arrival itself.
  void (*adopt)(struct worker *w, struct arrival *a);
  struct conn *conn; // detached
  enum registry_verdict verdict; // NEW, RESUME or TAKEOVER
  struct registry_entry *entry;  // NEW, TAKEOVER
  struct identity who;
  uint64_t session; // the one to resume, or the one that is made
  uint64_t older;   // TAKEOVER
  struct addr peer, older_peer;
  bool older_linked;
};

// Any thread; takes `a`.
void worker_adopt(struct worker *w, struct arrival *a);
void worker_close_session(struct worker *w, uint64_t session, const char *reason, int64_t until);
void worker_set_limits(struct worker *w, uint64_t session, const struct identity *who);
void worker_close_port(struct worker *w, uint64_t session, enum store_kind kind, uint16_t port);
void worker_set_config(struct worker *w, struct config *c); // takes a reference of its own
// A claim of the session's tunnel is on disk, or failed.
void worker_claimed(struct worker *w, uint64_t session, uint32_t tunnel, uint64_t attempt, int result);

// The worker's own thread only.
struct session *worker_find(struct worker *w, uint64_t session);

#endif
