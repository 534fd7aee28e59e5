// watch: see watch.h. The environment's last transaction id is polled, for it costs a read of shared memory; what
// changed is read from the change sequence. What to do follows from the store's state, not from the change: a user's
// sessions are judged anew, so that nothing depends on seeing every change.
#include "postern/gateway/watch.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/core/auth.h"
#include "postern/gateway/anonymous.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/worker.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_USERS = 256, CLAIMS_EVERY_S = 3600, TRIM_BYTES = 16 * 1024 * 1024 };

struct watch {
  struct gateway *gateway;
  struct loop_timer *poll, *second;
  uint64_t txn, seq;
  int64_t claims_s;
  size_t peak; // of the buffered bytes since memory was last given back
};

// ---- judging ----

struct judge {
  struct gateway *gateway;
  int64_t now;
};

static bool same_rights(const struct identity *a, const struct identity *b) {
  return a->expires == b->expires && memcmp(&a->limits, &b->limits, sizeof a->limits) == 0;
}

static void judge_session(void *ctx, const struct registry_view *v) {
  struct judge *j = ctx;
  struct identity who = v->who;
  int64_t until = 0;
  enum auth_result r = auth_recheck(j->gateway->store, &who, j->now, &until);
  if (r == AUTH_STORE) return; // logged below the call; the next change or second looks again
  if (r != AUTH_OK) {
    // A user who is gone has no tokens either.
    const char *reason = r == AUTH_UNKNOWN_TOKEN ? "removed" : auth_reason(r);
    gateway_close_session(j->gateway, v->id, v->worker, reason, until);
  } else if (v->rank > who.limits.instances) {
    gateway_close_session(j->gateway, v->id, v->worker, auth_reason(AUTH_LIMIT), 0);
  } else if (!same_rights(&who, &v->who)) {
    worker_set_limits(j->gateway->workers[v->worker], v->id, &who);
  }
}

static void judge_user(struct gateway *g, uint32_t user) {
  struct judge j = {g, clock_wall_s()};
  if (registry_each(g->registry, user, judge_session, &j))
    log_line(LOG_ERROR, "watch.fail", "out of memory while judging sessions");
}

// ---- changes ----

struct changed {
  uint32_t users[MAX_USERS];
  unsigned n;
  bool all; // too many to list, or the sequence was cut
  bool ports;
  uint64_t last;
};

static bool on_change(void *ctx, const struct store_change *c) {
  struct changed *k = ctx;
  k->last = c->seq;
  k->ports |= c->kind == STORE_CHANGED_BOUND || c->kind == STORE_CHANGED_LIMITS || c->kind == STORE_CHANGED_USER;
  for (unsigned i = 0; i < k->n; i++)
    if (k->users[i] == c->user) return true;
  if (k->n < MAX_USERS) k->users[k->n++] = c->user;
  else k->all = true;
  return true;
}

static int read_changes(struct watch *w, struct changed *k) {
  struct err_text e;
  k->last = w->seq;
  struct store_txn *t = store_begin(w->gateway->store, STORE_READ);
  if (!t) return PERR_NOMEM;
  int code = store_change_each(t, w->seq, on_change, k);
  if (code == PERR_NOTFOUND) {
    k->all = k->ports = true;
    k->last = store_change_last(t);
    code = 0;
  }
  if (code == 0) code = store_error(t, &e);
  else (void)store_error(t, &e);
  store_abort(t);
  if (code) log_event(LOG_ERROR, "watch.fail", "the store's changes cannot be read", LF_STR("error", e.s));
  return code;
}

static void on_lost_port(void *ctx, uint64_t session, enum store_kind kind, uint16_t port) {
  struct gateway *g = ctx;
  // The registry knows the worker; a session that has gone meanwhile has let its port go.
  for (unsigned i = 0; i < g->nworkers; i++) worker_close_port(g->workers[i], session, kind, port);
}

static void forget_removed(struct gateway *g, uint32_t user) {
  struct store_user u;
  struct store_txn *t = store_begin(g->store, STORE_READ);
  if (!t) return;
  if (store_user_get(t, user, &u) == PERR_NOTFOUND) ports_forget_user(g->ports, user);
  store_abort(t);
}

static void apply(struct watch *w, const struct changed *k) {
  struct gateway *g = w->gateway;
  if (k->all) judge_user(g, 0);
  for (unsigned i = 0; i < k->n; i++) {
    forget_removed(g, k->users[i]);
    if (!k->all) judge_user(g, k->users[i]);
  }
  if (k->ports && ports_each_lost(g->ports, on_lost_port, g))
    log_line(LOG_ERROR, "watch.fail", "the bounds cannot be read");
}

void watch_now(struct watch *w) {
  uint64_t txn = store_last_txn(w->gateway->store);
  if (txn == w->txn) return;
  struct changed k = {0};
  if (read_changes(w, &k)) return; // the id stays, so the next look tries again
  w->txn = txn;
  if (k.last == w->seq) return;
  w->seq = k.last;
  apply(w, &k);
}

static void on_poll(void *ctx) {
  struct watch *w = ctx;
  watch_now(w);
  loop_timer_set(w->poll, WATCH_POLL_MS);
}

// ---- every second ----

static void end_expired(void *ctx, const struct registry_view *v) {
  struct judge *j = ctx;
  enum auth_result r = auth_lapsed(&v->who, j->now);
  if (r != AUTH_OK) gateway_close_session(j->gateway, v->id, v->worker, auth_reason(r), 0);
}

// After a peak of buffered bytes the C library keeps the pages; the machine can use them better.
static void give_back_memory(struct watch *w) {
  size_t now = atomic_load(&w->gateway->budget.used);
  if (now > w->peak) w->peak = now;
  if (w->peak - now <= TRIM_BYTES) return;
  malloc_trim(0);
  w->peak = now;
}

// On the second of the wall clock, by which credentials expire: none lives on for the rest of a second of our own.
static void await_second(struct watch *w) {
  loop_timer_set(w->second, (uint64_t)(WATCH_SECOND_MS - clock_wall_ms() % WATCH_SECOND_MS));
}

static void on_second(void *ctx) {
  struct watch *w = ctx;
  struct gateway *g = w->gateway;
  struct judge j = {g, clock_wall_s()};
  (void)registry_each(g->registry, 0, end_expired, &j);
  audit_tick(g->audit);
  if (j.now % ANONYMOUS_PRUNE_S == 0) anonymous_prune_later(g);
  if (j.now - w->claims_s >= CLAIMS_EVERY_S) {
    w->claims_s = j.now;
    ports_refresh_claims(g->ports, j.now);
  }
  give_back_memory(w);
  await_second(w);
}

// ---- life ----

int watch_start(struct watch **out, struct gateway *g) {
  struct watch *w = calloc(1, sizeof *w);
  if (!w) return PERR_NOMEM;
  w->gateway = g;
  w->claims_s = clock_wall_s();
  w->poll = loop_timer_new(g->loop, on_poll, w);
  w->second = loop_timer_new(g->loop, on_second, w);
  struct store_txn *t = store_begin(g->store, STORE_READ);
  if (!w->poll || !w->second || !t) {
    if (t) store_abort(t);
    watch_stop(w);
    return PERR_NOMEM;
  }
  w->seq = store_change_last(t); // no session is there yet: what was before does not matter
  store_abort(t);
  loop_timer_set(w->poll, WATCH_POLL_MS);
  await_second(w);
  *out = w;
  return 0;
}

void watch_stop(struct watch *w) {
  if (!w) return;
  loop_timer_free(w->poll);
  loop_timer_free(w->second);
  free(w);
}
