// registry: the table of live sessions. Called by the handshake thread (enter), by workers (leave, set_*) and by the
// main thread (each, count). Owns the entries; everything here happens under its one lock, and never blocks.
//
//   by_id ── every session, also one that was taken over and is still closing
//   tenants ── user ── places ── instance ── the session that is current there, and the fights for the place
//
// A place exists exactly as long as it has a current session, so the places of a tenant are its instances.
#include "postern/core/registry.h"
#include "postern/base/hash.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY_S = 60, RETRY_S = 1 };

struct node {
  struct registry_entry e; // first: an entry's address is its node's
  bool current;
  bool arrived; // at its worker
  bool beat;    // a heartbeat is on its way to its worker
  char doom[NAME_TEXT]; // why it is to be closed on arrival; "": it is not
  int64_t doom_until;
  UT_hash_handle hh;
};

struct place {
  char instance[NAME_TEXT];
  struct node *current;
  int64_t taken[REGISTRY_TAKEOVERS]; // wall seconds of the latest takeovers from a linked session
  unsigned ntaken;
  int64_t busy_until; // 0: nobody is refused
  unsigned arriving;  // sessions that have not arrived
  UT_hash_handle hh;
};

struct tenant {
  uint32_t user;
  struct place *places;
  uint32_t ranked; // while views are copied
  UT_hash_handle hh;
};

struct registry {
  pthread_mutex_t lock;
  struct node *by_id;
  struct tenant *tenants;
  uint64_t last_id;
  unsigned workers;
  unsigned *load; // sessions per worker
};

struct registry *registry_new(unsigned workers) {
  assert(workers > 0);
  struct registry *r = calloc(1, sizeof *r);
  unsigned *load = calloc(workers, sizeof *load);
  if (r == NULL || load == NULL || pthread_mutex_init(&r->lock, NULL) != 0) {
    free(r);
    free(load);
    return NULL;
  }
  r->workers = workers;
  r->load = load;
  return r;
}

void registry_free(struct registry *r) {
  if (r == NULL) return;
  assert(r->by_id == NULL && r->tenants == NULL);
  pthread_mutex_destroy(&r->lock);
  free(r->load);
  free(r);
}

static struct tenant *find_tenant(struct registry *r, uint32_t user) {
  struct tenant *t;
  HASH_FIND(hh, r->tenants, &user, sizeof user, t);
  return t;
}

static struct place *find_place(struct tenant *t, const char *instance) {
  struct place *p = NULL;
  if (t != NULL) HASH_FIND_STR(t->places, instance, p);
  return p;
}

// NULL without memory; nothing has changed then.
static struct place *add_place(struct registry *r, struct tenant *t, uint32_t user, const char *instance) {
  struct place *p = calloc(1, sizeof *p);
  struct tenant *made = t == NULL ? calloc(1, sizeof *made) : NULL;
  if (p == NULL || (t == NULL && made == NULL)) {
    free(p);
    free(made);
    return NULL;
  }
  if (t == NULL) {
    t = made;
    t->user = user;
    HASH_ADD(hh, r->tenants, user, sizeof t->user, t);
  }
  strncpy(p->instance, instance, NAME_MAX_LEN);
  HASH_ADD_STR(t->places, instance, p);
  return p;
}

static void remove_place(struct registry *r, uint32_t user, const char *instance) {
  struct tenant *t = find_tenant(r, user);
  struct place *p = find_place(t, instance);
  assert(p != NULL);
  HASH_DEL(t->places, p);
  free(p);
  if (t->places != NULL) return;
  HASH_DEL(r->tenants, t);
  free(t);
}

static unsigned least_loaded(const struct registry *r) {
  unsigned best = 0;
  for (unsigned i = 1; i < r->workers; i++) {
    if (r->load[i] < r->load[best]) best = i;
  }
  return best;
}

static struct node *add_node(struct registry *r, const struct registry_login *login, unsigned worker) {
  struct node *n = calloc(1, sizeof *n);
  if (n == NULL) return NULL;
  n->e.id = ++r->last_id;
  n->e.who = *login->who;
  strncpy(n->e.instance, login->instance, NAME_MAX_LEN);
  memcpy(n->e.run, login->run, RUN_ID_LEN);
  n->e.protocol = login->protocol;
  n->e.worker = worker;
  n->e.peer = login->peer;
  n->e.plaintext = login->plaintext;
  n->e.since = login->now;
  n->current = true;
  HASH_ADD(hh, r->by_id, e.id, sizeof n->e.id, n);
  r->load[worker]++;
  return n;
}

static void remove_node(struct registry *r, struct node *n) {
  HASH_DEL(r->by_id, n);
  r->load[n->e.worker]--;
  free(n);
}

// A wall clock that was set back must not refuse anybody for longer than the rule says.
static bool place_busy(const struct place *p, int64_t now) {
  return now < p->busy_until && p->busy_until - now <= BUSY_S;
}

static void note_takeover(struct place *p, int64_t now) {
  unsigned kept = 0;
  for (unsigned i = 0; i < p->ntaken; i++) {
    int64_t age = now - p->taken[i];
    if (age >= 0 && age < REGISTRY_TAKEOVER_WINDOW_S) p->taken[kept++] = p->taken[i];
  }
  p->taken[kept++] = now;
  p->ntaken = kept;
  if (kept < REGISTRY_TAKEOVERS) return;
  p->busy_until = now + BUSY_S;
  p->ntaken = 0;
}

static enum registry_verdict busy(struct registry_place *out, int64_t until) {
  out->until = until;
  return REGISTRY_BUSY;
}

static void place_found(struct registry_place *out, struct node *n) {
  out->entry = &n->e;
  out->id = n->e.id;
  out->worker = n->e.worker;
}

static enum registry_verdict enter_new(struct registry *r, struct tenant *t, const struct registry_login *login,
                                       struct registry_place *out) {
  unsigned instances = t == NULL ? 0 : HASH_COUNT(t->places);
  if (instances >= login->who->limits.instances) return REGISTRY_LIMIT;
  struct place *p = add_place(r, t, login->who->user, login->instance);
  if (p == NULL) return busy(out, login->now + RETRY_S);
  p->current = add_node(r, login, least_loaded(r));
  if (p->current == NULL) {
    remove_place(r, login->who->user, login->instance);
    return busy(out, login->now + RETRY_S);
  }
  p->arriving = 1;
  place_found(out, p->current);
  return REGISTRY_NEW;
}

static enum registry_verdict enter_held(struct registry *r, struct place *p, const struct registry_login *login,
                                        struct registry_place *out) {
  struct node *older = p->current;
  if (memcmp(older->e.run, login->run, RUN_ID_LEN) == 0) {
    out->id = older->e.id;
    out->worker = older->e.worker;
    return REGISTRY_RESUME;
  }
  bool linked = atomic_load(&older->e.linked);
  bool fight = linked && !login->yields;
  if (p->arriving >= REGISTRY_ARRIVING) return busy(out, login->now + RETRY_S);
  if (fight && place_busy(p, login->now)) return busy(out, p->busy_until);
  struct node *n = add_node(r, login, older->e.worker);
  if (n == NULL) return busy(out, login->now + RETRY_S);
  if (fight) note_takeover(p, login->now);
  n->e.displaced.id = older->e.id;
  memcpy(n->e.displaced.token_id, older->e.who.token_id, sizeof n->e.displaced.token_id);
  older->current = false;
  p->current = n;
  p->arriving++;
  place_found(out, n);
  out->older = older->e.id;
  out->older_peer = older->e.peer;
  out->older_linked = linked;
  return REGISTRY_TAKEOVER;
}

enum registry_verdict registry_enter(struct registry *r, const struct registry_login *login,
                                     struct registry_place *out) {
  memset(out, 0, sizeof *out);
  pthread_mutex_lock(&r->lock);
  struct tenant *t = find_tenant(r, login->who->user);
  struct place *p = find_place(t, login->instance);
  enum registry_verdict v = p == NULL ? enter_new(r, t, login, out) : enter_held(r, p, login, out);
  pthread_mutex_unlock(&r->lock);
  return v;
}

static struct node *find_node(struct registry *r, uint64_t id) {
  struct node *n;
  HASH_FIND(hh, r->by_id, &id, sizeof id, n);
  return n;
}

// It is no longer on its way to its worker.
static void end_arriving(struct registry *r, struct node *n) {
  if (n->arrived) return;
  n->arrived = true;
  // The place may be another one by now, after the one that this session came to was given up.
  struct place *p = find_place(find_tenant(r, n->e.who.user), n->e.instance);
  if (p != NULL && p->arriving > 0) p->arriving--;
}

bool registry_arrive(struct registry *r, uint64_t id, char reason[NAME_TEXT], int64_t *until) {
  pthread_mutex_lock(&r->lock);
  struct node *n = find_node(r, id);
  bool doomed = n != NULL && n->doom[0] != '\0';
  if (n != NULL) end_arriving(r, n);
  if (doomed) {
    memcpy(reason, n->doom, NAME_TEXT);
    *until = n->doom_until;
  }
  pthread_mutex_unlock(&r->lock);
  return !doomed;
}

void registry_doom(struct registry *r, uint64_t id, const char *reason, int64_t until) {
  pthread_mutex_lock(&r->lock);
  struct node *n = find_node(r, id);
  if (n != NULL && !n->arrived) {
    strncpy(n->doom, reason, NAME_MAX_LEN);
    n->doom_until = until;
  }
  pthread_mutex_unlock(&r->lock);
}

bool registry_beat(struct registry *r, uint64_t id) {
  pthread_mutex_lock(&r->lock);
  struct node *n = find_node(r, id);
  bool first = n != NULL && !n->beat;
  if (first) n->beat = true;
  pthread_mutex_unlock(&r->lock);
  return first;
}

void registry_beat_taken(struct registry *r, struct registry_entry *e) {
  pthread_mutex_lock(&r->lock);
  ((struct node *)e)->beat = false;
  pthread_mutex_unlock(&r->lock);
}

void registry_leave(struct registry *r, struct registry_entry *e) {
  pthread_mutex_lock(&r->lock);
  struct node *n = (struct node *)e;
  end_arriving(r, n);
  if (n->current) remove_place(r, e->who.user, e->instance);
  remove_node(r, n);
  pthread_mutex_unlock(&r->lock);
}

void registry_set_peer(struct registry *r, struct registry_entry *e, const struct addr *peer) {
  pthread_mutex_lock(&r->lock);
  e->peer = *peer;
  pthread_mutex_unlock(&r->lock);
}

void registry_set_who(struct registry *r, struct registry_entry *e, const struct identity *who) {
  assert(who->user == e->who.user);
  pthread_mutex_lock(&r->lock);
  e->who = *who;
  pthread_mutex_unlock(&r->lock);
}

bool registry_is_current(struct registry *r, const struct registry_entry *e) {
  pthread_mutex_lock(&r->lock);
  bool current = ((const struct node *)e)->current;
  pthread_mutex_unlock(&r->lock);
  return current;
}

static void view_of(const struct registry_entry *e, struct registry_view *v) {
  *v = (struct registry_view){.id = e->id,
                              .who = e->who,
                              .protocol = e->protocol,
                              .worker = e->worker,
                              .peer = e->peer,
                              .plaintext = e->plaintext,
                              .displaced = e->displaced,
                              .since = e->since,
                              .tunnels = atomic_load(&e->tunnels),
                              .visitors = atomic_load(&e->visitors),
                              .bytes_in = atomic_load(&e->bytes_in),
                              .bytes_out = atomic_load(&e->bytes_out),
                              .flows = atomic_load(&e->flows),
                              .dropped = atomic_load(&e->dropped),
                              .linked = atomic_load(&e->linked)};
  memcpy(v->instance, e->instance, sizeof v->instance);
}

bool registry_find(struct registry *r, uint32_t user, const char *instance, struct registry_view *out) {
  pthread_mutex_lock(&r->lock);
  const struct place *p = find_place(find_tenant(r, user), instance);
  if (p != NULL) view_of(&p->current->e, out);
  pthread_mutex_unlock(&r->lock);
  return p != NULL;
}

bool registry_get(struct registry *r, uint64_t id, struct registry_view *out) {
  pthread_mutex_lock(&r->lock);
  const struct node *n = find_node(r, id);
  bool found = n != NULL && n->current;
  if (found) view_of(&n->e, out);
  pthread_mutex_unlock(&r->lock);
  return found;
}

// In the order of by_id, which is that of entering and so of the ids.
static size_t copy_views(struct registry *r, uint32_t user, struct registry_view *views) {
  size_t n = 0;
  struct node *node, *next;
  struct tenant *t, *next_tenant;
  HASH_ITER(hh, r->tenants, t, next_tenant) t->ranked = 0;
  HASH_ITER(hh, r->by_id, node, next) {
    if (user != 0 && node->e.who.user != user) continue;
    if (views != NULL) {
      view_of(&node->e, &views[n]);
      if (node->current) views[n].rank = ++find_tenant(r, node->e.who.user)->ranked;
    }
    n++;
  }
  return n;
}

int registry_each(struct registry *r, uint32_t user, registry_fn fn, void *ctx) {
  struct registry_view *views = NULL;
  pthread_mutex_lock(&r->lock);
  size_t n = copy_views(r, user, NULL);
  if (n > 0) views = malloc(n * sizeof *views);
  if (views != NULL) (void)copy_views(r, user, views);
  pthread_mutex_unlock(&r->lock);
  if (n > 0 && views == NULL) return PERR_NOMEM;
  for (size_t i = 0; i < n; i++) fn(ctx, &views[i]);
  free(views);
  return 0;
}

unsigned registry_count(struct registry *r) {
  pthread_mutex_lock(&r->lock);
  unsigned n = HASH_COUNT(r->by_id);
  pthread_mutex_unlock(&r->lock);
  return n;
}
