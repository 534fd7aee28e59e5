// audit: what happened, by time. A key is the time in milliseconds and a number among the rows of that millisecond.
#include "postern/store/internal.h"

static struct store_key row_key(int64_t at_ms, uint32_t n) {
  struct store_key k = store_key_u64(at_ms < 0 ? 0 : (uint64_t)at_ms), number = store_key_u32(n);
  store_key_append(&k, number.b, number.len);
  return k;
}

// Reads w->at or a like key; false when it is none.
static bool key_parse(const struct store_key *k, int64_t *at_ms, uint32_t *n) {
  struct rd r = rd_init(k->b, k->len);
  *at_ms = (int64_t)rd_u64(&r);
  *n = rd_u32(&r);
  return rd_done(&r);
}

// The number after the newest row of that millisecond.
static uint32_t next_number(struct store_txn *t, int64_t at_ms) {
  struct store_key after = row_key(at_ms + 1, 0), last;
  int64_t last_ms;
  uint32_t n;
  if (store_db_below(t, DB_AUDIT, &after, &last)) return 0;
  return key_parse(&last, &last_ms, &n) && last_ms == at_ms ? n + 1 : 0;
}

int store_audit_add(struct store_txn *t, const struct store_audit *a) {
  if (a->at_ms < 0 || a->at_ms == INT64_MAX) return store_fail(t, PERR_INVALID, "an audit row with an impossible time");
  struct store_key k = row_key(a->at_ms, next_number(t, a->at_ms));
  return store_json_put(t, DB_AUDIT, &k,
                        json_pack("{s:o, s:o, s:o, s:o, s:I}", "actor", store_json_text(a->actor), "action",
                                  store_json_text(a->action), "user", store_json_text(a->user), "detail",
                                  store_json_text(a->detail), "count", (json_int_t)a->count));
}

static int audit_parse(struct store_txn *t, const struct store_key *key, const MDB_val *v, struct store_audit *out) {
  struct store_row r = store_row_open(v);
  uint32_t n;
  if (!key_parse(key, &out->at_ms, &n)) r.bad = true;
  store_row_text(&r, "actor", out->actor, sizeof out->actor);
  store_row_text(&r, "action", out->action, sizeof out->action);
  store_row_text(&r, "user", out->user, sizeof out->user);
  store_row_text(&r, "detail", out->detail, sizeof out->detail);
  out->count = (uint32_t)store_row_int(&r, "count");
  return store_row_close(&r, t, DB_AUDIT);
}

int store_audit_each(struct store_txn *t, int64_t since_ms, store_audit_fn fn, void *ctx) {
  struct store_key from = row_key(since_ms, 0);
  struct store_walk w = store_walk_from(t, DB_AUDIT, &from);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct store_audit a;
    if (audit_parse(t, &w.at, &v, &a) || !fn(ctx, &a)) break;
  }
  return t->error;
}

int store_audit_prune(struct store_txn *t, int64_t before_ms, uint64_t rows, unsigned most) {
  uint64_t have = store_db_rows(t, DB_AUDIT);
  struct store_walk w = store_walk_prefix(t, DB_AUDIT, NULL);
  MDB_val v;
  for (; most > 0 && store_walk_next(&w, &v); most--, have--) {
    int64_t at_ms;
    uint32_t n;
    bool readable = key_parse(&w.at, &at_ms, &n);
    if (readable && at_ms >= before_ms && have <= rows) break;
    store_db_del(t, DB_AUDIT, &w.at);
  }
  return t->error;
}
