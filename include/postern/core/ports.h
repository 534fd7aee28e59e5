// ports: the allocator of public ports, by the contract's rules ("Ports and hosts"). Any thread; one lock, held while a
// port is tried. Claims are loaded from the store at start, kept in memory, and written through the store thread.
#ifndef POSTERN_CORE_PORTS_H
#define POSTERN_CORE_PORTS_H

#include "postern/core/limits.h"
#include "postern/store/store.h"
#include "postern/store/writer.h"

struct ports;

enum { PORTS_CLAIM_S = 24 * 3600 };

// Who holds a port: a tunnel by user, instance and name, alive in one session.
struct port_owner {
  uint32_t user;
  char instance[NAME_TEXT], tunnel[NAME_TEXT];
  uint64_t session;
};

// Opens the port: 0, PERR_IN_USE, PERR_DENIED (not permitted to this process), or another error, which ends the
// search. Called under the allocator's lock: must not call back into it, must not block. It is called for a port that
// changes hands too: the listener that the older session has open is then what it takes. When ports_acquire fails
// after it answered 0, what it opened is the caller's to close.
typedef int (*port_try_fn)(void *ctx, uint16_t port);

struct ports_request {
  enum store_kind kind; // STORE_TCP or STORE_UDP
  struct port_owner owner;
  const struct limits *limits;
  uint16_t want; // 0: any
  bool strict;
  port_try_fn try_port;
  void *ctx;
  int64_t now; // wall seconds
  // Told on the store thread when the claim is on disk, or could not be written (result < 0).
  writer_done_fn claimed;
  void *claimed_arg;
};

// Loads the claims. Borrows store and writer.
PERR_MUST_CHECK int ports_new(struct ports **out, struct store *s, struct writer *w, struct err_text *e);
void ports_free(struct ports *p);
// The range of `tunnels.ports`; reloadable.
void ports_set_range(struct ports *p, uint16_t low, uint16_t high);
// A port that the gateway itself listens on, never to be given.
void ports_reserve(struct ports *p, uint16_t port);

// Finds and holds a port. A port that the same owner (user, instance, tunnel) holds in an older session counts as free
// and changes hands. On success *got is held, and its claim is queued: `claimed` is called exactly once.
// On failure `claimed` is never called and `e` says why:
// PERR_IN_USE (a bound or strictly wanted port is held), PERR_DENIED (strictly wanted but not allowed: bound to
// another user, outside the ranges, not permitted to the process), PERR_LIMIT (no port left in the range).
PERR_MUST_CHECK int ports_acquire(struct ports *p, const struct ports_request *q, uint16_t *got, struct err_text *e);
// Lets go, when this session still holds it, and notes the time in the claim.
void ports_release(struct ports *p, enum store_kind kind, uint16_t port, uint64_t session, int64_t now);
// A takeover: every port that session `from` holds is held by `to` from now on, for the tunnel that had it, or for
// another one of `to` that asks for just this port.
void ports_move(struct ports *p, uint64_t from, uint64_t to);

typedef void (*ports_lost_fn)(void *ctx, uint64_t session, enum store_kind kind, uint16_t port);
// Calls fn for each held port that its user may no longer have (bound to another user since, or no longer bound to
// this one and outside the ranges), after the lock is released.
int ports_each_lost(struct ports *p, ports_lost_fn fn, void *ctx);
// Once an hour: notes the time in the claims of ports that are held, so that a crash does not make them look old.
void ports_refresh_claims(struct ports *p, int64_t now);
// A removed user's claims are nobody's.
void ports_forget_user(struct ports *p, uint32_t user);

#endif
