// anonymous: users made for clients that show no credential: few, small, and gone after a day without use. Each inside
// a write transaction, on the store thread.
#ifndef POSTERN_CORE_ANONYMOUS_H
#define POSTERN_CORE_ANONYMOUS_H

#include "postern/store/store.h"

enum {
  ANONYMOUS_USERS = 1000,
  ANONYMOUS_TUNNELS = 4,
  ANONYMOUS_VISITORS = 64,
  ANONYMOUS_INSTANCES = 1,
  ANONYMOUS_IDLE_S = 24 * 3600,
  ANONYMOUS_PRUNE_MOST = 50,
};

// Whether a live session is the user's.
typedef bool (*anonymous_live_fn)(void *ctx, uint32_t user);

// A new one, with the limits above. PERR_LIMIT: there are ANONYMOUS_USERS already.
PERR_MUST_CHECK int anonymous_add(struct store_txn *t, int64_t now, struct store_user *out);
// Notes that the user was active without a token. PERR_NOTFOUND: there is no such anonymous user (any more).
PERR_MUST_CHECK int anonymous_touch(struct store_txn *t, uint32_t user, int64_t now);
// Removes those that are idle: not made, touched, nor any token of theirs made or used within a day, and not `live`.
// At most ANONYMOUS_PRUNE_MOST in one call, for each costs a walk over all claims: call it every minute.
PERR_MUST_CHECK int anonymous_prune(struct store_txn *t, int64_t now, anonymous_live_fn live, void *ctx);

#endif
