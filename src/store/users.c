// users: the tenants; ids are given once, and removing a user removes all that hangs on it.
#include "postern/store/internal.h"
#include <stdio.h>
#include <string.h>

static int user_parse(struct store_txn *t, uint32_t id, const MDB_val *v, struct store_user *out) {
  struct store_row r = store_row_open(v);
  out->id = id;
  store_row_text(&r, "name", out->name, sizeof out->name);
  out->created = store_row_int(&r, "created");
  out->anonymous = store_row_bool_if(&r, "anonymous");
  return store_row_close(&r, t, DB_USERS);
}

int store_user_check(struct store_txn *t, uint32_t id) {
  struct store_key k = store_key_u32(id);
  MDB_val v;
  return store_db_get(t, DB_USERS, &k, &v);
}

int store_name_check(struct store_txn *t, const char *name) {
  struct store_key k = store_key_text(name);
  MDB_val v;
  return store_db_get(t, DB_NAMES, &k, &v);
}

bool store_name_reserved(const char *name) {
  return strncmp(name, STORE_ANONYMOUS_PREFIX, strlen(STORE_ANONYMOUS_PREFIX)) == 0;
}

static uint32_t take_id(struct store_txn *t) {
  uint64_t id;
  if (store_meta_get(t, STORE_META_NEXT_USER, "store: the next user id", &id)) return 0;
  if (id > STORE_USER_ID_MAX) store_fail(t, PERR_LIMIT, "all %d user ids are used up", STORE_USER_ID_MAX);
  return store_meta_put(t, STORE_META_NEXT_USER, id + 1) ? 0 : (uint32_t)id;
}

int store_user_put(struct store_txn *t, const struct store_user *u) {
  struct store_key by_id = store_key_u32(u->id), by_name = store_key_text(u->name);
  store_json_put(
      t, DB_USERS, &by_id,
      json_pack("{s:s, s:I, s:b}", "name", u->name, "created", (json_int_t)u->created, "anonymous", (int)u->anonymous));
  store_db_put(t, DB_NAMES, &by_name, by_id.b, by_id.len);
  return store_change_note(t, STORE_CHANGED_USER, u->id);
}

int store_user_add(struct store_txn *t, const char *name, int64_t now, struct store_user *out) {
  if (!name_valid(name)) return store_fail(t, PERR_INVALID, "not a name for a user: '%.80s'", name);
  if (store_name_reserved(name))
    return store_fail(t, PERR_INVALID, "names that begin with " STORE_ANONYMOUS_PREFIX " are those of anonymous users");
  int rc = store_name_check(t, name);
  if (rc == 0) return store_fail(t, PERR_EXISTS, "there is a user %s already", name);
  if (rc != PERR_NOTFOUND) return rc;

  struct store_user u = {.id = take_id(t), .created = now};
  snprintf(u.name, sizeof u.name, "%s", name);
  rc = store_user_put(t, &u);
  if (rc == 0) *out = u;
  return rc;
}

int store_user_get(struct store_txn *t, uint32_t id, struct store_user *out) {
  struct store_key k = store_key_u32(id);
  MDB_val v;
  int rc = store_db_get(t, DB_USERS, &k, &v);
  return rc ? rc : user_parse(t, id, &v, out);
}

int store_user_find(struct store_txn *t, const char *name, struct store_user *out) {
  if (t->error) return t->error;
  if (!name_valid(name)) return PERR_NOTFOUND;
  struct store_key k = store_key_text(name);
  MDB_val v;
  int rc = store_db_get(t, DB_NAMES, &k, &v);
  if (rc) return rc;
  struct rd r = rd_init(v.mv_data, v.mv_size);
  uint32_t id = rd_u32(&r);
  rc = rd_done(&r) ? store_user_get(t, id, out) : PERR_NOTFOUND;
  if (rc == PERR_NOTFOUND) return store_fail(t, PERR_CORRUPT, "store: the name %s leads to no user", name);
  return rc;
}

int store_user_remove(struct store_txn *t, uint32_t id) {
  struct store_user u;
  int rc = store_user_get(t, id, &u);
  if (rc) return rc;
  store_tokens_drop(t, id);
  store_bounds_drop(t, id);
  store_claims_drop(t, id);
  struct store_key by_id = store_key_u32(id), by_name = store_key_text(u.name);
  store_db_del(t, DB_BANS, &by_id);
  store_db_del(t, DB_LIMITS, &by_id);
  store_db_del(t, DB_PASSWORDS, &by_id);
  store_db_del(t, DB_ANONYMOUS, &by_id);
  store_db_del(t, DB_NAMES, &by_name);
  store_db_del(t, DB_USERS, &by_id);
  return store_change_note(t, STORE_CHANGED_USER, id);
}

int store_user_each(struct store_txn *t, store_user_fn fn, void *ctx) {
  struct store_walk w = store_walk_prefix(t, DB_USERS, NULL);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct rd key = rd_init(w.at.b, w.at.len);
    struct store_user u;
    if (user_parse(t, rd_u32(&key), &v, &u) || !fn(ctx, &u)) break;
  }
  return t->error;
}
