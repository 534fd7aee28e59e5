// client: life of an NSP client, its apps, its heartbeats, and when it is lost. Time is one timer's walk over the
// client's lists. Called by the gateway's sessions. See client.h and client_internal.h.
#include "postern/nsp/client_internal.h"

#include <stdlib.h>

int nsp_in_kernel(const struct conn *c, unsigned long which) {
  int n = 0;
  return ioctl(conn_fd(c), which, &n) ? 0 : n;
}

// ---- links ----

void nsp_pool_link(struct nsp_pool *p) {
  struct nsp_client *c = p->client;
  p->links++;
  c->had_link = true;
  c->gone = false;
  if (c->links++ == 0) c->ops->on_linked(c->ctx, true);
}

static void pool_bare(struct nsp_pool *p) {
  p->bare_ms = loop_now_ms(p->client->loop);
  p->beats = 0;
}

void nsp_pool_unlink(struct nsp_pool *p) {
  struct nsp_client *c = p->client;
  if (--p->links == 0) pool_bare(p);
  if (--c->links || c->closed) return;
  c->gone = true;
  c->gone_ms = loop_now_ms(c->loop);
  c->ops->on_linked(c->ctx, false);
}

// ---- when it is lost ----

static bool starved(const struct nsp_client *c, uint64_t now) {
  const struct nsp_pool *p;
  TAILQ_FOREACH(p, &c->pools, pools) {
    if (p->links == 0 && p->beats >= NSP_STARVED_BEATS && now - p->bare_ms >= NSP_STARVED_MS) return true;
  }
  return false;
}

// Somebody else's CloseClient must not hurt a client that lives, that has yet to connect, or that has just lost its last
// connection and brings the next.
static bool closed_itself(struct nsp_client *c, uint64_t now) {
  if (!c->checking || now - c->check_ms < NSP_CHECK_MS) return false;
  bool bare = c->had_link && c->links == 0;
  if (bare && now - c->gone_ms < NSP_CHECK_MS) return false; // looked at again
  c->checking = false;
  return bare || TAILQ_EMPTY(&c->pools);
}

static bool is_lost(struct nsp_client *c, uint64_t now, enum nsp_loss *why) {
  if (now - c->heard_ms >= (uint64_t)c->settings.dead_s * 1000)
    *why = NSP_LOST_SILENT;
  else if (closed_itself(c, now))
    *why = NSP_LOST_CLOSED;
  else if (c->gone && now - c->gone_ms >= NSP_GONE_MS)
    *why = NSP_LOST_GONE;
  else if (starved(c, now))
    *why = NSP_LOST_STARVED;
  else
    return false;
  return true;
}

// ---- time ----

void nsp_client_busy(struct nsp_client *c) {
  if (c->busy || c->closed) return;
  c->busy = true;
  loop_timer_set(c->timer, NSP_TICK_BUSY_MS);
}

// Ends of streams are called, which may end other streams and the client: those keep their place in memory, and their
// way to the next, until all of this has returned.
static void check_transfers(struct nsp_client *c) {
  struct nsp_transfer *t, *next;
  for (t = TAILQ_FIRST(&c->all); t && !c->closed; t = next) {
    next = TAILQ_NEXT(t, all);
    nsp_transfer_check(t);
  }
}

static void on_timer(void *ctx) {
  struct nsp_client *c = ctx;
  enum nsp_loss why = NSP_LOST_SILENT;
  c->busy = false;
  loop_timer_set(c->timer, NSP_TICK_IDLE_MS);
  check_transfers(c);
  if (c->closed) return;
  if (!c->lost && is_lost(c, loop_now_ms(c->loop), &why)) {
    c->lost = true;
    c->ops->on_lost(c->ctx, why);
  }
  if (c->checking && !c->lost) nsp_client_busy(c);
}

// ---- life ----

struct nsp_client *nsp_client_new(struct loop *l, const struct nsp_client_settings *s, struct budget *b,
                                  const struct nsp_client_ops *ops, void *ctx) {
  struct nsp_client *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->timer = loop_timer_new(l, on_timer, c);
  if (!c->timer) {
    free(c);
    return NULL;
  }
  c->loop = l;
  c->settings = *s;
  if (c->settings.max_idle > NSP_IDLE_MAX) c->settings.max_idle = NSP_IDLE_MAX;
  c->budget = b;
  c->ops = ops;
  c->ctx = ctx;
  c->heard_ms = loop_now_ms(l);
  TAILQ_INIT(&c->pools);
  TAILQ_INIT(&c->all);
  loop_timer_set(c->timer, NSP_TICK_IDLE_MS);
  return c;
}

void nsp_client_close(struct nsp_client *c, enum stream_reason reason, bool for_good) {
  if (c->closed) return;
  c->closed = true;
  loop_timer_free(c->timer);
  struct nsp_transfer *t;
  while ((t = TAILQ_FIRST(&c->all))) nsp_transfer_reset(t, reason);
  uint8_t last[NSP_CONTROL_MAX];
  size_t len = for_good ? nsp_put_force_close(c->settings.dialect, last) : 0;
  struct nsp_pool *p;
  while ((p = TAILQ_FIRST(&c->pools))) nsp_pool_close(p, last, len);
  loop_reap(c->loop, c, free);
}

// ---- apps ----

static struct nsp_pool *find_pool(struct nsp_client *c, uint8_t app) {
  struct nsp_pool *p;
  TAILQ_FOREACH(p, &c->pools, pools) {
    if (p->app == app) return c->closed ? NULL : p; // the closing calls ends, and those may ask for more
  }
  return NULL;
}

int nsp_client_add_app(struct nsp_client *c, uint8_t app) {
  if (find_pool(c, app)) return PERR_EXISTS;
  struct nsp_pool *p = nsp_pool_new(c, app);
  if (!p) return PERR_NOMEM;
  pool_bare(p);
  TAILQ_INSERT_TAIL(&c->pools, p, pools);
  return 0;
}

void nsp_client_add_conn(struct nsp_client *c, uint8_t app, struct conn *conn) {
  struct nsp_pool *p = find_pool(c, app);
  if (p)
    nsp_pool_add(p, conn);
  else
    conn_close(conn, CONN_CLOSE);
}

struct stream *nsp_client_open_stream(struct nsp_client *c, uint8_t app) {
  struct nsp_pool *p = find_pool(c, app);
  struct nsp_transfer *t = p ? nsp_transfer_new(p) : NULL;
  if (!t) return NULL;
  nsp_pool_want_match(p);
  return &t->base;
}

// ---- what the client says ----

void nsp_client_heartbeat(struct nsp_client *c) {
  if (c->closed) return;
  c->heard_ms = loop_now_ms(c->loop);
  c->gone = false;
  uint8_t message[NSP_CONTROL_MAX];
  size_t len = nsp_put_keepalive(c->settings.dialect, message);
  struct nsp_pool *p;
  TAILQ_FOREACH(p, &c->pools, pools) {
    if (len) nsp_pool_tell(p, message, len);
    p->beats++;
  }
}

void nsp_client_check(struct nsp_client *c) {
  if (c->closed || c->checking) return;
  c->checking = true;
  c->check_ms = loop_now_ms(c->loop);
  nsp_client_busy(c);
}

void nsp_client_disconnect(struct nsp_client *c, const uint8_t transfer[NSP_TRANSFER_ID]) {
  struct nsp_transfer *t = NULL;
  if (c->closed) return;
  HASH_FIND(hh, c->by_id, transfer, NSP_TRANSFER_ID, t);
  if (t) nsp_transfer_disconnect(t);
}
