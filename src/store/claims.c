// claims: which tunnel had a port or a host last, packed, for the gateway writes one whenever a tunnel opens or closes.
#include "postern/store/internal.h"
#include <string.h>

// user, last_used, then instance and tunnel, each behind a byte with its length.
enum { CLAIM_MAX = 4 + 8 + 2 * NAME_TEXT };

static void put_name(struct wr *w, const char *name) {
  size_t len = strnlen(name, NAME_MAX_LEN);
  wr_u8(w, (uint8_t)len);
  wr_bytes(w, name, len);
}

static void read_name(struct rd *r, char out[NAME_TEXT]) {
  size_t len = rd_u8(r);
  const uint8_t *text = len < NAME_TEXT ? rd_bytes(r, len) : NULL;
  if (!text)
    r->bad = true;
  else
    memcpy(out, text, len);
  out[text ? len : 0] = '\0';
}

static int claim_parse(struct store_txn *t, const struct store_key *key, const MDB_val *v, struct store_claim *out) {
  struct rd k = rd_init(key->b, key->len), r = rd_init(v->mv_data, v->mv_size);
  int rc = store_resource_read(&k, &out->what);
  out->user = rd_u32(&r);
  out->last_used = (int64_t)rd_u64(&r);
  read_name(&r, out->instance);
  read_name(&r, out->tunnel);
  return rc || !rd_done(&r) ? store_fail(t, PERR_CORRUPT, "store: a record (claim) does not parse") : 0;
}

// A user may have been removed since its tunnel opened.
int store_claim_put(struct store_txn *t, const struct store_claim *c) {
  struct store_key key = {.len = 0};
  if (store_resource_key(&c->what, &key)) return store_fail(t, PERR_INVALID, "not a port or a host to claim");
  int rc = store_user_check(t, c->user);
  if (rc) return rc;
  uint8_t packed[CLAIM_MAX];
  struct wr w = wr_init(packed, sizeof packed);
  wr_u32(&w, c->user);
  wr_u64(&w, (uint64_t)c->last_used);
  put_name(&w, c->instance);
  put_name(&w, c->tunnel);
  return store_db_put(t, DB_CLAIMS, &key, packed, w.len);
}

int store_claim_each(struct store_txn *t, store_claim_fn fn, void *ctx) {
  struct store_walk w = store_walk_prefix(t, DB_CLAIMS, NULL);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct store_claim c;
    if (claim_parse(t, &w.at, &v, &c) || !fn(ctx, &c)) break;
  }
  return t->error;
}

int store_claims_drop(struct store_txn *t, uint32_t user) {
  struct store_walk w = store_walk_prefix(t, DB_CLAIMS, NULL);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct rd r = rd_init(v.mv_data, v.mv_size);
    if (rd_u32(&r) == user) store_db_del(t, DB_CLAIMS, &w.at);
  }
  return t->error;
}
