// session: the agent's side of its session at the gateway: brings a link, keeps it, brings the next one when it is lost
// or about to end, and says when trying on is of no use.
#ifndef POSTERN_AGENT_SESSION_H
#define POSTERN_AGENT_SESSION_H

#include "postern/agent/config.h"
#include "postern/net/loop.h"
#include "postern/pipe/flow.h"
#include "postern/wire/control.h"
#include "postern/wire/frame.h"

struct session;

// None may free the session.
struct session_ops {
  // A new link; `w->resumed` tells whether the tunnels of the earlier one are still open. session_send works.
  void (*on_welcome)(void *ctx, const struct control_welcome *w);
  // A message about a tunnel of this session. Borrowed.
  void (*on_tunnel)(void *ctx, const struct control *c);
  // As in link_ops.
  enum stream_reason (*on_open)(void *ctx, struct stream *s, const struct frame_open *open);
  enum stream_reason (*on_flow)(void *ctx, struct flow *f, const struct frame_open *open);
  // Once: nothing will be tried any more. The exit status that the gateway's last word means, or 0 for a stop.
  void (*on_over)(void *ctx, int status);
};

enum { SESSION_REFUSED = 3, SESSION_TAKEN_OVER = 4 }; // exit status

// `cfg` is borrowed until session_configure gives another one, `dropped` for good: it counts datagrams that a congested
// link did not take.
struct session *session_new(struct loop *l, const struct agent_config *cfg, _Atomic uint64_t *dropped,
                            const struct session_ops *ops, void *ctx);
// After session_abandon. NULL is fine.
void session_free(struct session *s);
void session_start(struct session *s);
// Used from the next attempt on; a wait for it is cut short.
void session_configure(struct session *s, const struct agent_config *cfg);
// On the newest link; PERR_CLOSED when there is none (what has to be said is said after on_welcome).
int session_send(struct session *s, const struct control *c);
// Tells the gateway that the agent leaves; on_over comes when it has answered, within a second.
void session_stop(struct session *s);
// Closes whatever is there; on_over has come when it returns.
void session_abandon(struct session *s);

#endif
