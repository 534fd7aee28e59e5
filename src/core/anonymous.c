// anonymous: users that nobody added by hand. Called by the gateway's jobs on the store thread, inside their
// transactions. Owns nothing.
#include "postern/core/anonymous.h"

int anonymous_add(struct store_txn *t, int64_t now, struct store_user *out) {
  static const struct store_limits small = {
      .tunnels = ANONYMOUS_TUNNELS, .connections = ANONYMOUS_VISITORS, .instances = ANONYMOUS_INSTANCES};
  if (store_anonymous_count(t) >= ANONYMOUS_USERS) return PERR_LIMIT;
  int rc = store_anonymous_add(t, now, out);
  return rc < 0 ? rc : store_limits_put(t, out->id, &small);
}

int anonymous_touch(struct store_txn *t, uint32_t user, int64_t now) {
  return store_anonymous_touch(t, user, now);
}

struct prune {
  struct store_txn *t;
  int64_t now;
  anonymous_live_fn live;
  void *ctx;
  unsigned removed;
  bool used; // a token of the user that is looked at, within a day
};

static bool is_recent(const struct prune *p, int64_t at) {
  return p->now - at < ANONYMOUS_IDLE_S;
}

static bool look_at_token(void *ctx, const struct store_token *k) {
  struct prune *p = ctx;
  p->used = is_recent(p, k->created) || is_recent(p, k->last_used);
  return !p->used;
}

static bool is_idle(struct prune *p, uint32_t user, int64_t last_active) {
  if (is_recent(p, last_active)) return false;
  p->used = false;
  if (store_token_each(p->t, user, look_at_token, p) < 0) return false;
  return !p->used && !p->live(p->ctx, user);
}

static bool look_at_user(void *ctx, uint32_t user, int64_t last_active) {
  struct prune *p = ctx;
  if (!is_idle(p, user, last_active)) return true;
  return store_user_remove(p->t, user) == 0 && ++p->removed < ANONYMOUS_PRUNE_MOST;
}

int anonymous_prune(struct store_txn *t, int64_t now, anonymous_live_fn live, void *ctx) {
  struct prune p = {.t = t, .now = now, .live = live, .ctx = ctx};
  return store_anonymous_each(t, look_at_user, &p);
}
