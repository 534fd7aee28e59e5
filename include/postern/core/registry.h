// registry: every live session of the gateway, behind one small lock. Any thread. It decides where a login goes: a new
// session, the session that this run has already, or the place of an older run of the same user and instance.
// It knows no socket: a session's live part belongs to its worker, and is found by id.
#ifndef POSTERN_CORE_REGISTRY_H
#define POSTERN_CORE_REGISTRY_H

#include "postern/base/addr.h"
#include "postern/core/auth.h"
#include <stdatomic.h>

enum {
  RUN_ID_LEN = 16,
  REGISTRY_TAKEOVERS = 5,
  REGISTRY_TAKEOVER_WINDOW_S = 60,
  REGISTRY_ARRIVING = 8, // logins of one user and instance on their way to a worker
};

struct registry;

// The session whose place a newer one took.
struct registry_displaced {
  uint64_t id; // 0: there was none
  char token_id[STORE_TOKEN_ID_TEXT];
};

// One session. Written by registry.c under its lock but for the counters, which its worker alone writes. The worker
// may use its entry from registry_enter until registry_leave; others get copies.
struct registry_entry {
  uint64_t id; // never reused while the gateway runs; 1 and up
  struct identity who;
  char instance[NAME_TEXT];
  uint8_t run[RUN_ID_LEN];
  const char *protocol; // "trunk", "nsp"; static text
  unsigned worker;
  struct addr peer;
  bool plaintext; // it logged in without TLS
  struct registry_displaced displaced;
  int64_t since; // wall seconds
  _Atomic uint32_t tunnels, visitors;
  _Atomic uint64_t bytes_in, bytes_out; // in: from visitors to targets; out: from targets to visitors
  _Atomic uint32_t flows;               // UDP visitors
  _Atomic uint64_t dropped;             // datagrams that were not passed on
  _Atomic bool linked;                  // has a live link now
};

// A copy for others to look at.
struct registry_view {
  uint64_t id;
  struct identity who;
  char instance[NAME_TEXT];
  const char *protocol;
  unsigned worker;
  struct addr peer;
  bool plaintext;
  struct registry_displaced displaced;
  int64_t since;
  uint32_t tunnels, visitors;
  uint64_t bytes_in, bytes_out;
  uint32_t flows;
  uint64_t dropped;
  bool linked;
  // The how-manieth instance of its user this is, by age; 0: a newer run has its place, and it is closing, or nobody
  // counted (registry_find, registry_get).
  uint32_t rank;
};

struct registry *registry_new(unsigned workers);
void registry_free(struct registry *r); // all sessions must have left

struct registry_login {
  const struct identity *who;
  const char *instance;
  const uint8_t *run; // RUN_ID_LEN bytes
  const char *protocol;
  struct addr peer;
  bool plaintext;
  int64_t now; // wall seconds
  // Who is taken over by this login is told not to come back, so there is no fight: a takeover by it neither counts
  // towards the five in a minute nor is refused for them.
  bool yields;
};

enum registry_verdict {
  REGISTRY_NEW,      // entry and worker are set
  REGISTRY_RESUME,   // same run: session `id` on `worker` continues; no entry is made
  REGISTRY_TAKEOVER, // entry and worker are set (the worker of the older session); `older` is its id
  REGISTRY_BUSY,     // five takeovers in a minute, or too many logins on their way: refused until `until`
  REGISTRY_LIMIT,    // the user has as many instances as it may
};

struct registry_place {
  struct registry_entry *entry;
  uint64_t id;
  unsigned worker;
  uint64_t older;
  struct addr older_peer;
  bool older_linked; // false: the older session had lost its link, nobody is displaced
  int64_t until;
};

// A takeover makes the new session the one of its user and instance at once; the older one leaves when its worker
// has closed it. A session without a link counts as no fight between two runs.
enum registry_verdict registry_enter(struct registry *r, const struct registry_login *login, struct registry_place *out);
// The worker has made the session. False: it was to be closed meanwhile, for `reason`.
PERR_MUST_CHECK bool registry_arrive(struct registry *r, uint64_t id, char reason[NAME_TEXT], int64_t *until);
// A session that is to be closed and has not arrived at its worker yet: registry_arrive will say so. Else nothing.
void registry_doom(struct registry *r, uint64_t id, const char *reason, int64_t until);
// A heartbeat for the session's worker. False: one is on its way already.
PERR_MUST_CHECK bool registry_beat(struct registry *r, uint64_t id);
void registry_beat_taken(struct registry *r, struct registry_entry *e);
// Removes and frees the entry.
void registry_leave(struct registry *r, struct registry_entry *e);
// After a resume: the peer that the session has now.
void registry_set_peer(struct registry *r, struct registry_entry *e, const struct addr *peer);
// After a resume with another token of the same user, or a recheck: what the session is allowed by now.
void registry_set_who(struct registry *r, struct registry_entry *e, const struct identity *who);
// Whether the session is still the one of its user and instance (no newer run took over).
bool registry_is_current(struct registry *r, const struct registry_entry *e);

// Copies, with rank 0. Both find current sessions alone: one whose place was taken over is gone for them.
bool registry_find(struct registry *r, uint32_t user, const char *instance, struct registry_view *out);
bool registry_get(struct registry *r, uint64_t id, struct registry_view *out);

typedef void (*registry_fn)(void *ctx, const struct registry_view *v);
// Calls fn for a copy of each session, by id, after the lock is released. user 0: every user's.
int registry_each(struct registry *r, uint32_t user, registry_fn fn, void *ctx);
unsigned registry_count(struct registry *r);

#endif
