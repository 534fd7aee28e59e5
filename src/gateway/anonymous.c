// anonymous: see anonymous.h.
#include "postern/gateway/anonymous.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/gateway/gateway.h"

#include <stdlib.h>

struct job {
  struct gateway *gateway;
  uint32_t user;
  int64_t now;
};

static void post(struct gateway *g, uint32_t user, writer_job_fn fn) {
  struct job *j = malloc(sizeof *j);
  if (!j) return;
  *j = (struct job){g, user, clock_wall_s()};
  if (writer_post(g->writer, fn, NULL, j, WRITER_LAZY)) free(j);
}

static int touch(struct store_txn *t, const void *arg) {
  const struct job *j = arg;
  int code = anonymous_touch(t, j->user, j->now);
  return code == PERR_NOTFOUND ? 0 : code; // removed meanwhile
}

void anonymous_touch_later(struct gateway *g, uint32_t user) { post(g, user, touch); }

static void note_live(void *ctx, const struct registry_view *v) { *(bool *)ctx = true; }

// Who cannot be asked after counts as live: he is looked at again in a minute.
static bool is_live(void *ctx, uint32_t user) {
  struct gateway *g = ctx;
  bool live = false;
  return registry_each(g->registry, user, note_live, &live) || live;
}

static int prune(struct store_txn *t, const void *arg) {
  const struct job *j = arg;
  return anonymous_prune(t, j->now, is_live, j->gateway);
}

void anonymous_prune_later(struct gateway *g) { post(g, 0, prune); }

static void close_one(void *ctx, const struct registry_view *v) {
  if (v->who.anonymous) gateway_close_session(ctx, v->id, v->worker, "removed", 0);
}

void anonymous_close_all(struct gateway *g) {
  if (registry_each(g->registry, 0, close_one, g))
    log_line(LOG_ERROR, "watch.fail", "out of memory while ending anonymous sessions");
}
