// claims: the memory of the port allocator. Called by ports.c alone, under its lock. Owns the claims; a copy of what
// changes goes to the store thread, which writes it.
#include "postern/core/claims.h"
#include "postern/base/log.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_JOB = 256 };

// ---- writing ----

struct row {
  struct claim_key key;
  uint16_t port;
  int64_t last_used;
};

// One job of the store thread.
struct rows {
  writer_done_fn done;
  void *arg;
  size_t n;
  struct row row[];
};

// A user that was removed meanwhile keeps no claim: the store has no user to note it for.
static int write_rows(struct store_txn *t, const void *arg) {
  const struct rows *rows = arg;
  int rc = 0;
  for (size_t i = 0; i < rows->n && rc == 0; i++) {
    const struct row *row = &rows->row[i];
    struct store_claim claim = {.what = {.kind = (enum store_kind)row->key.kind, .port = row->port},
                                .user = row->key.user,
                                .last_used = row->last_used};
    memcpy(claim.instance, row->key.instance, sizeof claim.instance);
    memcpy(claim.tunnel, row->key.tunnel, sizeof claim.tunnel);
    rc = store_claim_put(t, &claim);
    if (rc == PERR_NOTFOUND) rc = 0;
  }
  return rc;
}

static void on_rows_written(void *arg, int result) {
  struct rows *rows = arg;
  if (result < 0) log_line(LOG_ERROR, "store.error", "cannot write a port's claim: %s", perr_str(result));
  if (rows->done != NULL) rows->done(rows->arg, result);
  free(rows);
}

static struct rows *rows_new(size_t capacity) {
  return calloc(1, sizeof(struct rows) + capacity * sizeof(struct row));
}

static void rows_add(struct rows *rows, const struct claim *claim) {
  rows->row[rows->n++] = (struct row){.key = claim->key, .port = claim->port, .last_used = claim->last_used};
}

// For what nobody waits for: a refused or failed write costs no more than an older date in the store.
static void post_lazily(struct claims *c, struct rows *rows) {
  if (writer_post(c->writer, write_rows, on_rows_written, rows, WRITER_LAZY) < 0) free(rows);
}

// ---- the table ----

struct claim_key claim_key(enum store_kind kind, uint32_t user, const char *instance, const char *tunnel) {
  struct claim_key key;
  memset(&key, 0, sizeof key);
  key.kind = kind;
  key.user = user;
  memcpy(key.instance, instance, strnlen(instance, NAME_MAX_LEN));
  memcpy(key.tunnel, tunnel, strnlen(tunnel, NAME_MAX_LEN));
  return key;
}

bool claim_key_equal(const struct claim_key *a, const struct claim_key *b) {
  return memcmp(a, b, sizeof *a) == 0;
}

static struct claim **slot(struct claims *c, uint32_t kind, uint16_t port) {
  assert(kind == STORE_TCP || kind == STORE_UDP);
  return &c->by_port[kind == STORE_UDP][port];
}

struct claim *claims_at(const struct claims *c, enum store_kind kind, uint16_t port) {
  assert(kind == STORE_TCP || kind == STORE_UDP);
  return c->by_port[kind == STORE_UDP][port];
}

struct claim *claims_latest(const struct claims *c, const struct claim_key *key) {
  struct claim *found;
  HASH_FIND(hh, c->latest, key, sizeof *key, found);
  return found;
}

static void clear_latest(struct claims *c, struct claim *claim) {
  if (claim == NULL || !claim->latest) return;
  HASH_DEL(c->latest, claim);
  claim->latest = false;
}

static void set_latest(struct claims *c, struct claim *claim) {
  clear_latest(c, claims_latest(c, &claim->key));
  HASH_ADD(hh, c->latest, key, sizeof claim->key, claim);
  claim->latest = true;
}

static void drop(struct claims *c, struct claim *claim) {
  clear_latest(c, claim);
  *slot(c, claim->key.kind, claim->port) = NULL;
  free(claim);
}

// Keeps the order of a tunnel's claims: a port that it left for another is not noted as used after that one.
static void stamp(struct claims *c, struct claim *claim, int64_t now) {
  const struct claim *latest = claims_latest(c, &claim->key);
  if (latest != NULL && latest != claim && latest->last_used <= now) now = latest->last_used - 1;
  if (now > claim->last_used) claim->last_used = now;
}

// ---- loading ----

struct loading {
  struct claims *c;
  int rc;
};

static bool on_stored_claim(void *ctx, const struct store_claim *stored) {
  struct loading *loading = ctx;
  if (stored->what.kind != STORE_TCP && stored->what.kind != STORE_UDP) return true;
  struct claim *claim = calloc(1, sizeof *claim);
  if (claim == NULL) {
    loading->rc = PERR_NOMEM;
    return false;
  }
  claim->key = claim_key(stored->what.kind, stored->user, stored->instance, stored->tunnel);
  claim->port = stored->what.port;
  claim->last_used = stored->last_used;
  *slot(loading->c, claim->key.kind, claim->port) = claim;
  const struct claim *latest = claims_latest(loading->c, &claim->key);
  if (latest == NULL || latest->last_used < claim->last_used) set_latest(loading->c, claim);
  return true;
}

int claims_load(struct claims *c, struct store *s, struct err_text *e) {
  struct store_txn *t = store_begin(s, STORE_READ);
  if (t == NULL) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  struct loading loading = {.c = c};
  int rc = store_claim_each(t, on_stored_claim, &loading);
  if (rc < 0) {
    rc = store_error(t, e);
  } else if (loading.rc < 0) {
    rc = err_set(e, loading.rc, "%s", perr_str(loading.rc));
  }
  store_abort(t);
  return rc;
}

void claims_fini(struct claims *c) {
  HASH_CLEAR(hh, c->latest);
  for (unsigned kind = 0; kind < CLAIMS_KINDS; kind++) {
    for (unsigned port = 0; port < CLAIMS_PORTS; port++) free(c->by_port[kind][port]);
  }
}

// ---- changes ----

int claims_take(struct claims *c, const struct claim_key *key, uint16_t port, uint64_t session, int64_t now,
                writer_done_fn done, void *arg) {
  struct claim *claim = *slot(c, key->kind, port);
  struct claim *made = claim == NULL ? calloc(1, sizeof *made) : NULL;
  struct rows *rows = rows_new(1);
  if ((claim == NULL && made == NULL) || rows == NULL) {
    free(made);
    free(rows);
    return PERR_NOMEM;
  }
  const struct claim *before = claims_latest(c, key);
  if (before != NULL && before->port != port && before->last_used >= now) now = before->last_used + 1;
  rows->done = done;
  rows->arg = arg;
  rows->row[rows->n++] = (struct row){.key = *key, .port = port, .last_used = now};
  int rc = writer_post(c->writer, write_rows, on_rows_written, rows, done != NULL ? WRITER_SOON : WRITER_LAZY);
  if (rc < 0) {
    free(made);
    free(rows);
    return rc;
  }
  if (claim == NULL) claim = made;
  clear_latest(c, claim);
  claim->key = *key;
  claim->port = port;
  claim->session = session;
  claim->last_used = now;
  claim->forgotten = false;
  claim->waiting = false;
  *slot(c, key->kind, port) = claim;
  set_latest(c, claim);
  return 0;
}

void claims_release(struct claims *c, struct claim *claim, int64_t now) {
  claim->session = 0;
  claim->waiting = false;
  if (claim->forgotten) {
    drop(c, claim);
    return;
  }
  stamp(c, claim, now);
  struct rows *rows = rows_new(1);
  if (rows == NULL) return;
  rows_add(rows, claim);
  post_lazily(c, rows);
}

// Calls fn for every claim; fn may drop the claim that it is called with.
static void each(struct claims *c, void (*fn)(struct claims *c, struct claim *claim, void *ctx), void *ctx) {
  for (unsigned kind = 0; kind < CLAIMS_KINDS; kind++) {
    for (unsigned port = 0; port < CLAIMS_PORTS; port++) {
      if (c->by_port[kind][port] != NULL) fn(c, c->by_port[kind][port], ctx);
    }
  }
}

struct moving {
  uint64_t from, to;
};

static void move_one(struct claims *c, struct claim *claim, void *ctx) {
  const struct moving *moving = ctx;
  if (claim->session != moving->from) return;
  claim->session = moving->to;
  claim->waiting = true;
}

void claims_move(struct claims *c, uint64_t from, uint64_t to) {
  struct moving moving = {from, to};
  each(c, move_one, &moving);
}

struct refreshing {
  int64_t now;
  struct rows *rows; // being filled
};

static void refresh_one(struct claims *c, struct claim *claim, void *ctx) {
  struct refreshing *refreshing = ctx;
  if (claim->session == 0 || claim->forgotten) return;
  stamp(c, claim, refreshing->now);
  if (refreshing->rows == NULL) refreshing->rows = rows_new(ROWS_PER_JOB);
  if (refreshing->rows == NULL) return;
  rows_add(refreshing->rows, claim);
  if (refreshing->rows->n < ROWS_PER_JOB) return;
  post_lazily(c, refreshing->rows);
  refreshing->rows = NULL;
}

void claims_refresh(struct claims *c, int64_t now) {
  struct refreshing refreshing = {.now = now};
  each(c, refresh_one, &refreshing);
  if (refreshing.rows != NULL) post_lazily(c, refreshing.rows);
}

static void forget_one(struct claims *c, struct claim *claim, void *ctx) {
  const uint32_t *user = ctx;
  if (claim->key.user != *user) return;
  if (claim->session == 0) {
    drop(c, claim);
  } else {
    claim->forgotten = true;
  }
}

void claims_forget_user(struct claims *c, uint32_t user) {
  each(c, forget_one, &user);
}
