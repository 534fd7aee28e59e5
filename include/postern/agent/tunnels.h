// tunnels: what the agent offers. Each tunnel has a number on the wire that it keeps across links; it is asked for on
// every new link and, when refused or closed by the gateway, again after a while.
#ifndef POSTERN_AGENT_TUNNELS_H
#define POSTERN_AGENT_TUNNELS_H

#include "postern/agent/backoff.h"
#include "postern/agent/spec.h"
#include "postern/agent/target.h"
#include "postern/net/loop.h"
#include "postern/net/resolver.h"
#include "postern/wire/control.h"
#include <stdbool.h>
#include <stdint.h>

enum tunnel_state {
  TUNNEL_WANTED,  // to be asked for: on the next link, or when its timer says so
  TUNNEL_ASKED,   // the gateway has not answered yet
  TUNNEL_OPEN,    // visitors may come
  TUNNEL_CLOSING, // no longer offered; the gateway has not confirmed yet
};

struct tunnels;

// Counted: by `tunnels` while it is listed, and by each of its visitors.
struct tunnel {
  struct tunnels *owner; // NULL: no longer listed
  unsigned refs;
  uint32_t number;
  enum tunnel_state state;
  struct tunnel_spec spec;
  struct target target;
  uint16_t port; // the public one; 0: not open
  int64_t idle_s; // udp, as the gateway said
  uint64_t opened_ms;
  struct backoff backoff;
  struct loop_timer *retry;
  struct tunnel *next;
};

// Says something to the gateway; PERR_CLOSED while there is no link.
typedef int (*tunnels_send_fn)(void *ctx, const struct control *c);

// `r` and `ctx` are borrowed. NULL for want of memory.
struct tunnels *tunnels_new(struct loop *l, struct resolver *r, tunnels_send_fn send, void *ctx);
void tunnels_free(struct tunnels *ts); // NULL is fine
// Makes the offer be `specs` (copied): closes what is gone or changed, opens what is new, touches nothing else. Returns
// how many were closed and opened; negative for want of memory, and then some may be missing.
int tunnels_apply(struct tunnels *ts, const struct tunnel_spec *specs, size_t n);
// The host that public ports are on, for the log; copied.
void tunnels_set_server(struct tunnels *ts, const char *host);

// A new link is there.
void tunnels_welcome(struct tunnels *ts, const struct control_welcome *w);
// tunnel_opened, tunnel_refused, tunnel_closed.
void tunnels_control(struct tunnels *ts, const struct control *c);
// One of those listed, closing ones too, or NULL. Borrowed.
struct tunnel *tunnels_find(struct tunnels *ts, uint32_t number);
const char *tunnels_user(const struct tunnels *ts);

struct tunnel *tunnel_ref(struct tunnel *t);
void tunnel_unref(struct tunnel *t);

#endif
