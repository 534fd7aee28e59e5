// session_nsp: the sessions of NSP clients. See session.h; docs/nsp.md.
//
// The control connection that asked for apps waits here for its answer, which is one write once every port is settled;
// the reverse connections are nsp/client.h's.
#ifndef POSTERN_GATEWAY_SESSION_NSP_H
#define POSTERN_GATEWAY_SESSION_NSP_H

#include "postern/core/lineages.h"
#include "postern/gateway/worker.h"
#include "postern/wire/nsp.h"

#define NSP_INSTANCE "nsp" // an NSP client is this instance of its user

// The TLS lineage of a connection, which becomes one of the session's.
struct nsp_proof {
  bool there; // false: no TLS
  uint8_t lineage[LINEAGE_LEN];
};

// What is kept of an app that is asked for.
struct nsp_wanted {
  uint16_t port;
  char description[NSP_DESCRIPTION_LEN + 1];
};

struct nsp_arrival {
  struct arrival base; // base.conn waits for the answer
  bool adds;           // to the live session base.session; else a new one, by base.verdict
  struct nsp_proof proof;
  unsigned count;
  struct nsp_wanted apps[];
};
// arrival.adopt
void nsp_session_adopt(struct worker *w, struct arrival *a);

// A reverse connection that was let in, for base.session.
struct nsp_reverse_arrival {
  struct arrival base;
  struct nsp_proof proof;
  uint8_t app;
};
// arrival.adopt
void nsp_session_adopt_reverse(struct worker *w, struct arrival *a);

// From other threads, for a session on this worker; nothing happens when it is gone. See nsp/client.h.
void nsp_session_post_heartbeat(struct worker *w, uint64_t session);
void nsp_session_post_check(struct worker *w, uint64_t session);
void nsp_session_post_disconnect(struct worker *w, uint64_t session, const uint8_t transfer[NSP_TRANSFER_ID]);

#endif
