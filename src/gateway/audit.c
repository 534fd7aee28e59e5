// audit: see audit.h.
#include "postern/gateway/audit.h"
#include "postern/base/clock.h"
#include "postern/base/hash.h"
#include "postern/base/log.h"

#include <pthread.h>
#include <stdio.h>

enum {
  MINUTE_MS = 60 * 1000,
  MAX_FAILURES = 10000, // addresses and reasons summed up at once; what is beyond is counted in one row
  PRUNE_EVERY_S = 600,
  PRUNE_ROWS = 1000 * 1000,
  PRUNE_MOST = 20000, // rows in one transaction
};
static const int64_t KEEP_MS = 90LL * 24 * 3600 * 1000;

struct failure {
  char key[96]; // address, reason
  char ip[ADDR_TEXT], reason[48], user[NAME_TEXT];
  int64_t since_ms;
  uint32_t more; // after the first
  UT_hash_handle hh;
};

struct audit {
  struct writer *writer;
  pthread_mutex_t lock; // guards failures and overflow
  struct failure *failures;
  uint32_t overflow;
  int64_t pruned_s;
};

static int write_row(struct store_txn *t, const void *arg) { return store_audit_add(t, arg); }

static void post(struct audit *a, const struct store_audit *row) {
  struct store_audit *copy = malloc(sizeof *copy);
  if (!copy) return;
  *copy = *row;
  if (writer_post(a->writer, write_row, NULL, copy, WRITER_LAZY)) free(copy); // the writer counts and logs
}

static void post_row(struct audit *a, const char *actor, const char *action, const char *user, const char *detail,
                     uint32_t count) {
  struct store_audit row = {.at_ms = clock_wall_ms(), .count = count};
  snprintf(row.actor, sizeof row.actor, "%s", actor);
  snprintf(row.action, sizeof row.action, "%s", action);
  snprintf(row.user, sizeof row.user, "%s", user ? user : "");
  snprintf(row.detail, sizeof row.detail, "%s", detail ? detail : "");
  post(a, &row);
}

void audit_note(struct audit *a, const char *actor, const char *action, const char *user, const char *detail) {
  post_row(a, actor, action, user, detail, 1);
}

// Under the lock. NULL: too many, or no memory.
static struct failure *failure_new(struct audit *a, const char *key, const char *ip, const char *reason, const char *user) {
  if (HASH_COUNT(a->failures) >= MAX_FAILURES) return NULL;
  struct failure *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  snprintf(f->key, sizeof f->key, "%s", key);
  snprintf(f->ip, sizeof f->ip, "%s", ip);
  snprintf(f->reason, sizeof f->reason, "%s", reason);
  snprintf(f->user, sizeof f->user, "%s", user ? user : "");
  f->since_ms = clock_wall_ms();
  HASH_ADD_STR(a->failures, key, f);
  return f;
}

void audit_failure(struct audit *a, const struct addr *peer, const char *reason, const char *user) {
  char ip[ADDR_TEXT], key[sizeof((struct failure *)0)->key];
  addr_format_ip(peer, ip);
  snprintf(key, sizeof key, "%s %s", ip, reason);
  struct failure *f;
  bool first = false;
  pthread_mutex_lock(&a->lock);
  HASH_FIND_STR(a->failures, key, f);
  if (f) f->more++;
  else if (failure_new(a, key, ip, reason, user)) first = true;
  else a->overflow++;
  pthread_mutex_unlock(&a->lock);
  if (first) post_row(a, ip, "auth.fail", user, reason, 1);
}

static void flush(struct audit *a, int64_t before_ms) {
  struct failure *f, *next;
  pthread_mutex_lock(&a->lock);
  HASH_ITER(hh, a->failures, f, next) {
    if (f->since_ms > before_ms) continue;
    if (f->more) post_row(a, f->ip, "auth.fail", f->user, f->reason, f->more);
    HASH_DEL(a->failures, f);
    free(f);
  }
  if (a->overflow) post_row(a, "many", "auth.fail", NULL, "from more addresses than are told apart", a->overflow);
  a->overflow = 0;
  pthread_mutex_unlock(&a->lock);
}

struct prune {
  int64_t before_ms;
};

static int prune(struct store_txn *t, const void *arg) {
  const struct prune *p = arg;
  return store_audit_prune(t, p->before_ms, PRUNE_ROWS, PRUNE_MOST);
}

void audit_tick(struct audit *a) {
  int64_t now_ms = clock_wall_ms();
  flush(a, now_ms - MINUTE_MS);
  if (now_ms / 1000 - a->pruned_s < PRUNE_EVERY_S) return;
  a->pruned_s = now_ms / 1000;
  struct prune *p = malloc(sizeof *p);
  if (!p) return;
  *p = (struct prune){now_ms - KEEP_MS};
  if (writer_post(a->writer, prune, NULL, p, WRITER_LAZY)) free(p);
}

struct audit *audit_new(struct writer *w) {
  struct audit *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  a->writer = w;
  pthread_mutex_init(&a->lock, NULL);
  return a;
}

void audit_free(struct audit *a) {
  if (!a) return;
  flush(a, INT64_MAX);
  pthread_mutex_destroy(&a->lock);
  free(a);
}
