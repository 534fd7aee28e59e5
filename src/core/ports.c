// ports: who gets which public port. Called by whoever opens and closes tunnels, on any thread, and by the main thread
// after a change. Owns the table of claims. What is bound to whom is read from the store under the lock: so a binding
// is either seen by a search, or the search's result is seen by the ports_each_lost that follows the binding.
#include "postern/core/ports.h"
#include "postern/base/hash.h"
#include "postern/core/claims.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ports {
  pthread_mutex_t lock;
  struct store *store;
  struct claims claims;
  uint16_t low, high; // tunnels.ports; 0, 0: nothing is given
  bool reserved[CLAIMS_PORTS];
  uint32_t bound[CLAIMS_KINDS][CLAIMS_PORTS]; // users; as of the transaction that is being worked on
};

int ports_new(struct ports **out, struct store *s, struct writer *w, struct err_text *e) {
  struct ports *p = calloc(1, sizeof *p);
  if (p == NULL || pthread_mutex_init(&p->lock, NULL) != 0) {
    free(p);
    return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  }
  p->store = s;
  p->claims.writer = w;
  int rc = claims_load(&p->claims, s, e);
  if (rc < 0) {
    ports_free(p);
    return rc;
  }
  *out = p;
  return 0;
}

void ports_free(struct ports *p) {
  if (p == NULL) return;
  claims_fini(&p->claims);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

void ports_set_range(struct ports *p, uint16_t low, uint16_t high) {
  assert(low > 0 && low <= high);
  pthread_mutex_lock(&p->lock);
  p->low = low;
  p->high = high;
  pthread_mutex_unlock(&p->lock);
}

void ports_reserve(struct ports *p, uint16_t port) {
  pthread_mutex_lock(&p->lock);
  p->reserved[port] = true;
  pthread_mutex_unlock(&p->lock);
}

// ---- bounds ----

static uint32_t *bound_row(struct ports *p, enum store_kind kind) {
  assert(kind == STORE_TCP || kind == STORE_UDP);
  return p->bound[kind == STORE_UDP];
}

static bool on_bound(void *ctx, const struct store_resource *r, uint32_t user) {
  struct ports *p = ctx;
  if (r->kind != STORE_HOST) bound_row(p, r->kind)[r->port] = user;
  return true;
}

static int read_bounds(struct ports *p, struct store_txn *t) {
  memset(p->bound, 0, sizeof p->bound);
  return store_bound_each(t, 0, on_bound, p);
}

static int load_bounds(struct ports *p, struct err_text *e) {
  struct store_txn *t = store_begin(p->store, STORE_READ);
  if (t == NULL) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  int rc = read_bounds(p, t);
  if (rc < 0) rc = store_error(t, e);
  store_abort(t);
  return rc;
}

// ---- rules ----

// One search for one request.
struct search {
  struct ports *p;
  const struct ports_request *q;
  struct claim_key key;
  const uint32_t *bound; // of the kind asked for
  const char *why;       // why the port that was looked at last is not to be had
};

static int refuse(struct search *s, int code, const char *why) {
  s->why = why;
  return code;
}

// For a port that is not bound to the user itself.
static int check_allowed(struct search *s, uint16_t port) {
  const struct ports *p = s->p;
  if (s->bound[port] != 0) return refuse(s, PERR_DENIED, "is bound to another user");
  if (port < p->low || port > p->high) return refuse(s, PERR_DENIED, "is outside the gateway's port range");
  if (!limits_port_ok(s->q->limits, port)) return refuse(s, PERR_DENIED, "is outside the user's own port ranges");
  return 0;
}

// A tunnel's port in an older session of it is free for the newer one, never the other way round. A port that waits
// since the session took over from another is free for whichever of its tunnels asks for just that one.
static int check_free(struct search *s, uint16_t port) {
  if (s->p->reserved[port]) return refuse(s, PERR_IN_USE, "is a port of the gateway itself");
  const struct claim *c = claims_at(&s->p->claims, s->q->kind, port);
  if (c == NULL || c->session == 0) return 0;
  if (claim_key_equal(&c->key, &s->key) && c->session <= s->q->owner.session) return 0;
  if (c->waiting && c->session == s->q->owner.session && port == s->q->want) return 0;
  return refuse(s, PERR_IN_USE, "is held by another tunnel");
}

static int try_free(struct search *s, uint16_t port) {
  int rc = check_free(s, port);
  if (rc < 0) return rc;
  rc = s->q->try_port(s->q->ctx, port);
  if (rc == PERR_IN_USE) return refuse(s, rc, "is in use by another program");
  if (rc == PERR_DENIED) return refuse(s, rc, "is not permitted to the gateway's process");
  return rc < 0 ? refuse(s, rc, perr_str(rc)) : 0;
}

static int try_allowed(struct search *s, uint16_t port) {
  int rc = check_allowed(s, port);
  return rc < 0 ? rc : try_free(s, port);
}

static bool goes_on(int rc) {
  return rc == PERR_IN_USE || rc == PERR_DENIED;
}

static const char *kind_name(enum store_kind kind) {
  return kind == STORE_UDP ? "udp" : "tcp";
}

static int explain(const struct search *s, uint16_t port, int rc, struct err_text *e) {
  return err_set(e, rc, "%s/%u %s", kind_name(s->q->kind), port, s->why);
}

static int none_left(const struct search *s, struct err_text *e) {
  return err_set(e, PERR_LIMIT, "no %s port is left in %u-%u%s", kind_name(s->q->kind), s->p->low, s->p->high,
                 s->q->limits->nports > 0 ? " and the user's own port ranges" : "");
}

// The end of a search that took or stopped at `port`.
static int found(const struct search *s, uint16_t port, int rc, uint16_t *got, struct err_text *e) {
  if (rc < 0) return explain(s, port, rc, e);
  *got = port;
  return 0;
}

static int find_exact(struct search *s, uint16_t *got, struct err_text *e) {
  uint16_t port = s->q->want;
  bool own = s->bound[port] == s->q->owner.user;
  return found(s, port, own ? try_free(s, port) : try_allowed(s, port), got, e);
}

static int find_from(struct search *s, uint16_t *got, struct err_text *e) {
  const struct ports *p = s->p;
  unsigned count = p->high - p->low + 1u;
  unsigned start = s->q->want >= p->low && s->q->want <= p->high ? s->q->want - p->low : 0;
  for (unsigned i = 0; i < count; i++) {
    uint16_t port = (uint16_t)(p->low + (start + i) % count);
    int rc = try_allowed(s, port);
    if (!goes_on(rc)) return found(s, port, rc, got, e);
  }
  return none_left(s, e);
}

// A port that another tunnel had lately, and when.
struct used {
  int64_t last_used;
  uint16_t port;
};

static int by_age(const void *left, const void *right) {
  const struct used *a = left, *b = right;
  if (a->last_used != b->last_used) return a->last_used < b->last_used ? -1 : 1;
  return a->port < b->port ? -1 : a->port > b->port;
}

static bool recently_anothers(const struct search *s, const struct claim *c) {
  return c != NULL && !claim_key_equal(&c->key, &s->key) && s->q->now - c->last_used < PORTS_CLAIM_S;
}

static int find_longest_unused(struct search *s, uint16_t *got, struct err_text *e) {
  const struct ports *p = s->p;
  struct used *used = malloc((p->high - p->low + 1u) * sizeof *used);
  if (used == NULL) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  size_t n = 0;
  for (unsigned port = p->low; port <= p->high; port++) {
    const struct claim *c = claims_at(&p->claims, s->q->kind, (uint16_t)port);
    if (recently_anothers(s, c) && c->session == 0) used[n++] = (struct used){c->last_used, (uint16_t)port};
  }
  qsort(used, n, sizeof *used, by_age);
  int rc = PERR_IN_USE;
  size_t i = 0;
  while (i < n && goes_on(rc)) rc = try_allowed(s, used[i++].port);
  rc = goes_on(rc) ? none_left(s, e) : found(s, used[i - 1].port, rc, got, e);
  free(used);
  return rc;
}

static int find_any(struct search *s, uint16_t *got, struct err_text *e) {
  const struct ports *p = s->p;
  const struct claim *last = claims_latest(&p->claims, &s->key);
  if (last != NULL) {
    int rc = try_allowed(s, last->port);
    if (!goes_on(rc)) return found(s, last->port, rc, got, e);
  }
  for (unsigned port = p->low; port <= p->high; port++) {
    if (recently_anothers(s, claims_at(&p->claims, s->q->kind, (uint16_t)port))) continue;
    int rc = try_allowed(s, (uint16_t)port);
    if (!goes_on(rc)) return found(s, (uint16_t)port, rc, got, e);
  }
  return find_longest_unused(s, got, e);
}

static int find(struct search *s, uint16_t *got, struct err_text *e) {
  uint16_t want = s->q->want;
  if (want != 0 && (s->q->strict || s->bound[want] == s->q->owner.user)) return find_exact(s, got, e);
  if (s->p->low == 0) return none_left(s, e);
  return want == 0 ? find_any(s, got, e) : find_from(s, got, e);
}

static int acquire(struct ports *p, const struct ports_request *q, uint16_t *got, struct err_text *e) {
  int rc = load_bounds(p, e);
  if (rc < 0) return rc;
  struct search s = {.p = p, .q = q, .bound = bound_row(p, q->kind)};
  s.key = claim_key(q->kind, q->owner.user, q->owner.instance, q->owner.tunnel);
  uint16_t port = 0;
  rc = find(&s, &port, e);
  if (rc < 0) return rc;
  rc = claims_take(&p->claims, &s.key, port, q->owner.session, q->now, q->claimed, q->claimed_arg);
  if (rc < 0) {
    return err_set(e, rc, "cannot note the claim of %s/%u: %s", kind_name(q->kind), port, perr_str(rc));
  }
  *got = port;
  return 0;
}

int ports_acquire(struct ports *p, const struct ports_request *q, uint16_t *got, struct err_text *e) {
  assert(q->owner.user != 0 && q->owner.session != 0);
  pthread_mutex_lock(&p->lock);
  int rc = acquire(p, q, got, e);
  pthread_mutex_unlock(&p->lock);
  return rc;
}

// ---- holding ----

void ports_release(struct ports *p, enum store_kind kind, uint16_t port, uint64_t session, int64_t now) {
  pthread_mutex_lock(&p->lock);
  struct claim *c = claims_at(&p->claims, kind, port);
  if (c != NULL && session != 0 && c->session == session) claims_release(&p->claims, c, now);
  pthread_mutex_unlock(&p->lock);
}

void ports_move(struct ports *p, uint64_t from, uint64_t to) {
  assert(from != 0 && to != 0);
  pthread_mutex_lock(&p->lock);
  claims_move(&p->claims, from, to);
  pthread_mutex_unlock(&p->lock);
}

void ports_refresh_claims(struct ports *p, int64_t now) {
  pthread_mutex_lock(&p->lock);
  claims_refresh(&p->claims, now);
  pthread_mutex_unlock(&p->lock);
}

void ports_forget_user(struct ports *p, uint32_t user) {
  pthread_mutex_lock(&p->lock);
  claims_forget_user(&p->claims, user);
  pthread_mutex_unlock(&p->lock);
}

// ---- what was lost ----

struct lost {
  uint64_t session;
  enum store_kind kind;
  uint16_t port;
};

// The limits of a user that holds a port, read once.
struct user_limits {
  uint32_t user;
  struct limits limits;
  UT_hash_handle hh;
};

struct losing {
  struct ports *p;
  struct store_txn *txn;
  struct user_limits *users;
  struct lost *lost;
  size_t n, capacity;
};

static const struct limits *limits_of(struct losing *l, uint32_t user) {
  struct user_limits *u;
  HASH_FIND(hh, l->users, &user, sizeof user, u);
  if (u != NULL) return &u->limits;
  struct store_limits own;
  if (store_limits_get(l->txn, user, &own) < 0) return NULL;
  u = calloc(1, sizeof *u);
  if (u == NULL) return NULL;
  u->user = user;
  limits_from_store(&u->limits, &own);
  HASH_ADD(hh, l->users, user, sizeof u->user, u);
  return &u->limits;
}

static int note_lost(struct losing *l, const struct claim *c) {
  if (l->n == l->capacity) {
    size_t capacity = l->capacity == 0 ? 64 : l->capacity * 2;
    struct lost *more = realloc(l->lost, capacity * sizeof *more);
    if (more == NULL) return PERR_NOMEM;
    l->lost = more;
    l->capacity = capacity;
  }
  l->lost[l->n++] = (struct lost){c->session, (enum store_kind)c->key.kind, c->port};
  return 0;
}

static int check_held(struct losing *l, const struct claim *c) {
  uint32_t bound = bound_row(l->p, (enum store_kind)c->key.kind)[c->port];
  if (bound == c->key.user) return 0;
  if (bound != 0 || c->port < l->p->low || c->port > l->p->high) return note_lost(l, c);
  const struct limits *limits = limits_of(l, c->key.user);
  if (limits == NULL) {
    int rc = store_error(l->txn, NULL);
    return rc < 0 ? rc : PERR_NOMEM;
  }
  return limits_port_ok(limits, c->port) ? 0 : note_lost(l, c);
}

static int collect_lost(struct losing *l) {
  int rc = read_bounds(l->p, l->txn);
  for (unsigned kind = 0; kind < CLAIMS_KINDS; kind++) {
    for (unsigned port = 0; port < CLAIMS_PORTS && rc == 0; port++) {
      const struct claim *c = l->p->claims.by_port[kind][port];
      if (c != NULL && c->session != 0) rc = check_held(l, c);
    }
  }
  return rc;
}

int ports_each_lost(struct ports *p, ports_lost_fn fn, void *ctx) {
  struct losing l = {.p = p};
  pthread_mutex_lock(&p->lock);
  l.txn = store_begin(p->store, STORE_READ);
  int rc = l.txn == NULL ? PERR_NOMEM : collect_lost(&l);
  if (l.txn != NULL) store_abort(l.txn);
  pthread_mutex_unlock(&p->lock);
  for (size_t i = 0; i < l.n && rc == 0; i++) fn(ctx, l.lost[i].session, l.lost[i].kind, l.lost[i].port);
  struct user_limits *u, *next;
  HASH_ITER(hh, l.users, u, next) {
    HASH_DEL(l.users, u);
    free(u);
  }
  free(l.lost);
  return rc;
}
