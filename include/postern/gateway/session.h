// session: an authenticated agent on its worker: its tunnels, their visitors, and what ends it, whatever protocol the
// agent speaks. The protocol's part lies behind session_ops: session_trunk.h, session_nsp.h. The worker's thread only.
#ifndef POSTERN_GATEWAY_SESSION_H
#define POSTERN_GATEWAY_SESSION_H

#include "postern/base/hash.h"
#include "postern/gateway/worker.h"
#include "postern/pipe/budget.h"
#include "postern/relay/relay.h"
#include "postern/wire/control.h"

enum { SESSION_PARK_MS = 10000 }; // how long ports of a session that was taken over wait to be asked for

struct tunnel;
struct parked;

// What a protocol does for its sessions.
struct session_ops {
  struct relay_source source; // their ctx is the session
  // Answers to the agent. None of them may close the session before it returns. `idle_s`: of UDP tunnels, else 0.
  void (*tunnel_opened)(struct session *s, uint32_t tunnel, uint16_t port, int64_t idle_s);
  void (*tunnel_refused)(struct session *s, uint32_t tunnel, const char *reason, const char *message);
  void (*tunnel_closed)(struct session *s, uint32_t tunnel, const char *reason);
  // The session has closed, once: tells the agent and closes its connections, resetting their streams.
  void (*end)(struct session *s, const char *reason, const char *message, int64_t until);
  void (*free)(void *session); // by the reaper, after `end`
};

// Embedded first in the protocol's own struct.
struct session {
  const struct session_ops *ops;
  struct worker *worker;
  uint64_t id;
  uint64_t displaced; // the session whose place this one took, for what is remembered of it; 0: none
  UT_hash_handle hh;  // in worker->sessions
  struct registry_entry *entry;
  struct budget budget;
  struct relay relay;
  LIST_HEAD(, tunnel) tunnels;
  uint32_t ntunnels;
  uint64_t next_attempt; // numbers the tries to open a tunnel, for answers that come late
  LIST_HEAD(, parked) parked;
  struct loop_timer *park;
  uint64_t since_ms;
  bool udp; // the agent takes flows
  bool closed;
};

// Readies a zeroed session for the arrival, whose entry it owns until it leaves the registry: enters the worker, logs,
// and takes over from an older one. PERR_NOMEM: nothing was done.
PERR_MUST_CHECK int session_init(struct session *s, struct worker *w, const struct arrival *a,
                                 const struct session_ops *ops);
// Ends it: tells the agent, closes ports and streams, leaves the registry. `reason` is a word of docs/protocol.md.
// Idempotent; the memory goes with the reaper.
void session_close(struct session *s, const char *reason, const char *message, int64_t until);
void session_set_identity(struct session *s, const struct identity *who);

// ---- tunnels.c ----

void tunnels_on_open(struct session *s, const struct control_tunnel_open *o);
void tunnels_on_close(struct session *s, uint32_t number);
bool tunnels_has_name(const struct session *s, const char *name);
void tunnels_claimed(struct session *s, uint32_t number, uint64_t attempt, int result);
// A port that the user may no longer have.
void tunnels_lose_port(struct session *s, enum store_kind kind, uint16_t port);
// Ends the newest tunnels above `most`.
void tunnels_trim(struct session *s, uint32_t most);
void tunnels_close_all(struct session *s);
// A takeover: the ports of `from` wait in `to`, still listening, to be asked for by the tunnels of the same name.
void tunnels_park(struct session *from, struct session *to);
void tunnels_unpark_all(struct session *s);

#endif
