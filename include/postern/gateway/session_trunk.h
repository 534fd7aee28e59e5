// session_trunk: the sessions of agents that speak the trunk protocol: their links. See session.h; docs/protocol.md.
#ifndef POSTERN_GATEWAY_SESSION_TRUNK_H
#define POSTERN_GATEWAY_SESSION_TRUNK_H

#include "postern/gateway/worker.h"
#include "postern/wire/control.h"

enum { TRUNK_LINGER_MS = 5000 }; // how long a session without a link waits for its run to come back

struct trunk_arrival {
  struct arrival base;
  enum control_previous previous;
  uint32_t features; // of the hello
};

// arrival.adopt: a new session, or another link of the same run.
void trunk_session_adopt(struct worker *w, struct arrival *a);

#endif
