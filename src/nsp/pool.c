// pool: an app's idle reverse connections and the visitors that wait for one, and how the two are brought together.
// Both sides are served in the order in which they came. See client_internal.h.
#include "postern/base/crypto.h"
#include "postern/nsp/client_internal.h"

#include <stdlib.h>

static const struct conn_ops idle_ops;

// ---- idle connections ----

// Out of the pool; the conn is the caller's, and still counts as a link.
static struct conn *idle_take(struct nsp_idle *i) {
  struct nsp_pool *p = i->pool;
  struct conn *conn = i->conn;
  i->conn = NULL;
  TAILQ_REMOVE(&p->idle, i, idle);
  p->client->nidle--;
  loop_reap(p->client->loop, i, free);
  return conn;
}

static void idle_close(struct nsp_idle *i, enum conn_end how) {
  struct nsp_pool *p = i->pool;
  conn_close(idle_take(i), how);
  nsp_pool_unlink(p);
}

// A client says nothing here, so whatever comes is dropped. False: it has ended, and is out of the pool.
static bool idle_drain(struct nsp_idle *i) {
  uint8_t *buf = loop_scratch(i->pool->client->loop);
  size_t total = 0, n = 0;
  while (total < NSP_BATCH_CAP) {
    int code = conn_read(i->conn, buf, LOOP_SCRATCH, &n);
    if (code == PERR_AGAIN) return true;
    if (code) {
      idle_close(i, CONN_CLOSE);
      return false;
    }
    total += n;
  }
  conn_resume(i->conn);
  return true;
}

// A control message goes out as a whole or not at all; a connection that does not take a few bytes is of no use, and
// is closed. False: so it was.
static bool idle_tell(struct nsp_idle *i, const uint8_t *message, size_t len) {
  size_t n = 0;
  if (conn_write(i->conn, message, len, &n) == 0 && n == len) return true;
  idle_close(i, CONN_ABORT);
  return false;
}

static void on_readable(void *ctx, struct conn *c) {
  struct nsp_idle *i = ctx;
  if (i->conn) (void)idle_drain(i);
}

static void on_abort(void *ctx, struct conn *c) {
  struct nsp_idle *i = ctx;
  if (i->conn) idle_close(i, CONN_CLOSE);
}

static const struct conn_ops idle_ops = {.on_readable = on_readable, .on_abort = on_abort};

void nsp_pool_add(struct nsp_pool *p, struct conn *conn) {
  struct nsp_client *c = p->client;
  struct nsp_idle *i = c->nidle < c->settings.max_idle ? calloc(1, sizeof *i) : NULL;
  if (!i) {
    conn_close(conn, CONN_CLOSE);
    return;
  }
  i->pool = p;
  i->conn = conn;
  TAILQ_INSERT_TAIL(&p->idle, i, idle);
  c->nidle++;
  conn_rebind(conn, &idle_ops, i);
  nsp_pool_want_match(p);
  nsp_pool_link(p);
}

void nsp_pool_tell(struct nsp_pool *p, const uint8_t *message, size_t len) {
  struct nsp_idle *i, *next;
  for (i = TAILQ_FIRST(&p->idle); i; i = next) {
    next = TAILQ_NEXT(i, idle);
    // One that does not read has keepalives enough, and must not fill up.
    if (conn_unsent(i->conn) || nsp_in_kernel(i->conn, SIOCOUTQ) > NSP_UNREAD_MAX) continue;
    if (!idle_tell(i, message, len)) continue;
    int code = conn_flush(i->conn);
    if (code && code != PERR_AGAIN) idle_close(i, CONN_CLOSE);
  }
}

// ---- matching ----

static struct nsp_pool *pool_of_match(struct loop_task *task) {
  return (struct nsp_pool *)((char *)task - offsetof(struct nsp_pool, match));
}

static void fresh_id(struct nsp_client *c, uint8_t id[NSP_TRANSFER_ID]) {
  struct nsp_transfer *other = NULL;
  do {
    crypto_random(id, NSP_TRANSFER_ID);
    HASH_FIND(hh, c->by_id, id, NSP_TRANSFER_ID, other);
  } while (other);
}

// Hands an idle connection to a visitor. False: the connection turned out to have ended.
static bool hand_over(struct nsp_idle *i, struct nsp_transfer *t) {
  struct nsp_client *c = i->pool->client;
  uint8_t message[NSP_CONTROL_MAX];
  if (!idle_drain(i)) return false;
  fresh_id(c, t->id);
  size_t len = nsp_put_transfer(c->settings.dialect, t->id, message);
  if (!idle_tell(i, message, len)) return false;
  nsp_transfer_start(t, idle_take(i));
  return true;
}

// The visitor is asked first: one who has left must not cost the client a connection. Asking him, and telling him that
// he was reached, may end anything.
static void on_match(struct loop_task *task) {
  struct nsp_pool *p = pool_of_match(task);
  while (!p->client->closed) {
    struct nsp_transfer *t = TAILQ_FIRST(&p->waiting);
    if (!t || TAILQ_EMPTY(&p->idle)) return;
    if (nsp_transfer_pull_first(t) && !TAILQ_EMPTY(&p->idle)) hand_over(TAILQ_FIRST(&p->idle), t);
  }
}

void nsp_pool_want_match(struct nsp_pool *p) {
  if (!TAILQ_EMPTY(&p->idle) && !TAILQ_EMPTY(&p->waiting)) loop_defer(p->client->loop, &p->match);
}

// ---- life ----

struct nsp_pool *nsp_pool_new(struct nsp_client *c, uint8_t app) {
  struct nsp_pool *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->client = c;
  p->app = app;
  p->match.fn = on_match;
  TAILQ_INIT(&p->idle);
  TAILQ_INIT(&p->waiting);
  return p;
}

void nsp_pool_close(struct nsp_pool *p, const uint8_t *last, size_t len) {
  struct nsp_client *c = p->client;
  struct nsp_idle *i;
  while ((i = TAILQ_FIRST(&p->idle))) {
    if (len) conn_write_last(i->conn, last, len);
    idle_close(i, len ? CONN_LINGER : CONN_CLOSE);
  }
  TAILQ_REMOVE(&c->pools, p, pools);
  loop_defer_cancel(c->loop, &p->match);
  loop_reap(c->loop, p, free);
}
