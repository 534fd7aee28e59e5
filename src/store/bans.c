// bans: users that are shut out.
#include "postern/store/internal.h"

int store_ban_put(struct store_txn *t, uint32_t user, const struct store_ban *b) {
  int rc = store_user_check(t, user);
  if (rc) return rc;
  struct store_key k = store_key_u32(user);
  store_json_put(t, DB_BANS, &k,
                 json_pack("{s:I, s:I, s:o}", "since", (json_int_t)b->since, "until", (json_int_t)b->until, "reason",
                           store_json_text(b->reason)));
  return store_change_note(t, STORE_CHANGED_BAN, user);
}

int store_ban_get(struct store_txn *t, uint32_t user, struct store_ban *out) {
  struct store_key k = store_key_u32(user);
  MDB_val v;
  int rc = store_db_get(t, DB_BANS, &k, &v);
  if (rc) return rc;
  struct store_row r = store_row_open(&v);
  out->since = store_row_int(&r, "since");
  out->until = store_row_int(&r, "until");
  store_row_text(&r, "reason", out->reason, sizeof out->reason);
  return store_row_close(&r, t, DB_BANS);
}

int store_ban_remove(struct store_txn *t, uint32_t user) {
  struct store_key k = store_key_u32(user);
  int rc = store_db_del(t, DB_BANS, &k);
  return rc ? rc : store_change_note(t, STORE_CHANGED_BAN, user);
}
