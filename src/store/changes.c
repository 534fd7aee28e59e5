// changes: the numbered sequence of what live sessions must hear of, written beside each such change.
#include "postern/store/internal.h"

enum { CHANGES_KEPT = 10000 };

uint64_t store_change_last(struct store_txn *t) {
  struct store_key end = store_key_u64(UINT64_MAX), last;
  if (store_db_below(t, DB_CHANGES, &end, &last)) return 0;
  struct rd r = rd_init(last.b, last.len);
  return rd_u64(&r);
}

int store_change_note(struct store_txn *t, enum store_change_kind kind, uint32_t user) {
  uint64_t seq = store_change_last(t) + 1;
  struct store_key k = store_key_u64(seq);
  uint8_t packed[1 + 4];
  struct wr w = wr_init(packed, sizeof packed);
  wr_u8(&w, (uint8_t)kind);
  wr_u32(&w, user);
  int rc = store_db_put(t, DB_CHANGES, &k, packed, w.len);
  if (rc || seq <= CHANGES_KEPT) return rc;
  struct store_key old = store_key_u64(seq - CHANGES_KEPT);
  store_db_del(t, DB_CHANGES, &old);
  return t->error;
}

// The row after `seq` must be there, or nothing may have come after it. A store put back from a backup, whose numbers
// end before `seq`, is NOTFOUND too.
static int check_kept(struct store_txn *t, uint64_t seq, const struct store_key *next) {
  MDB_val v;
  uint64_t last = store_change_last(t);
  if (t->error) return t->error;
  return seq == last ? 0 : store_db_get(t, DB_CHANGES, next, &v);
}

int store_change_each(struct store_txn *t, uint64_t seq, store_change_fn fn, void *ctx) {
  struct store_key next = store_key_u64(seq + 1);
  int rc = check_kept(t, seq, &next);
  if (rc) return rc;
  struct store_walk w = store_walk_from(t, DB_CHANGES, &next);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct rd key = rd_init(w.at.b, w.at.len), r = rd_init(v.mv_data, v.mv_size);
    struct store_change c = {.seq = rd_u64(&key)};
    c.kind = (enum store_change_kind)rd_u8(&r);
    c.user = rd_u32(&r);
    if (!rd_done(&key) || !rd_done(&r)) return store_fail(t, PERR_CORRUPT, "store: a record (change) does not parse");
    if (!fn(ctx, &c)) break;
  }
  return t->error;
}
