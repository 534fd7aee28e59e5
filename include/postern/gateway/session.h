// session: an authenticated agent on its worker: its links, its tunnels, and what ends it. The worker's thread only.
#ifndef POSTERN_GATEWAY_SESSION_H
#define POSTERN_GATEWAY_SESSION_H

#include "postern/base/hash.h"
#include "postern/gateway/worker.h"
#include "postern/pipe/budget.h"
#include "postern/relay/tcp.h"
#include "postern/trunk/link.h"

enum {
  SESSION_LINKS = 2,
  SESSION_LINGER_MS = 5000, // how long a session without a link waits for its run to come back
  SESSION_PARK_MS = 10000,  // how long ports of a session that was taken over wait to be asked for
};

struct tunnel;
struct parked;

struct session {
  struct worker *worker;
  uint64_t id;
  UT_hash_handle hh; // in worker->sessions
  struct registry_entry *entry;
  struct budget budget;
  struct relay relay;
  struct link *links[SESSION_LINKS]; // the newest first; NULL: none
  LIST_HEAD(, tunnel) tunnels;
  uint32_t ntunnels;
  uint64_t next_attempt; // numbers the tries to open a tunnel, for answers that come late
  LIST_HEAD(, parked) parked;
  struct loop_timer *linger, *park;
  char lost_reason[128]; // of the last link that went
  uint64_t since_ms;
  bool closed;
};

// A new session for a, whose entry it owns until it leaves the registry; takes the conn. NULL: no memory, all is freed.
struct session *session_new(struct worker *w, struct arrival *a);
// Another link of the same run; takes the conn.
void session_resume(struct session *s, struct arrival *a);
// Ends it: tells the agent, closes ports and streams, leaves the registry. `reason` is a word of docs/protocol.md.
// Idempotent; the memory goes with the reaper.
void session_close(struct session *s, const char *reason, const char *message, int64_t until);
void session_set_identity(struct session *s, const struct identity *who);
// Sends on the newest link; closes it when it is hopelessly congested.
void session_send(struct session *s, const struct control *c);

// ---- tunnels.c ----

void tunnels_on_open(struct session *s, const struct control_tunnel_open *o);
void tunnels_on_close(struct session *s, uint32_t number);
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
