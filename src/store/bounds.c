// bounds: ports and hosts that are reserved to one user, with an index by user.
#include "postern/store/internal.h"

static int make_keys(struct store_txn *t, uint32_t user, const struct store_resource *r, struct store_key *key,
                     struct store_key *index) {
  *key = (struct store_key){.len = 0};
  *index = store_key_u32(user);
  if (store_resource_key(r, key) || store_resource_key(r, index))
    return store_fail(t, PERR_INVALID, "not a port or a host that can be bound");
  return 0;
}

static int read_holder(struct store_txn *t, const struct store_key *key, uint32_t *user) {
  MDB_val v;
  int rc = store_db_get(t, DB_BOUNDS, key, &v);
  if (rc) return rc;
  struct rd r = rd_init(v.mv_data, v.mv_size);
  *user = rd_u32(&r);
  return rd_done(&r) ? 0 : store_fail(t, PERR_CORRUPT, "store: a record (bound) does not parse");
}

int store_bind(struct store_txn *t, uint32_t user, const struct store_resource *r) {
  struct store_key key, index, id = store_key_u32(user);
  int rc = make_keys(t, user, r, &key, &index);
  if (!rc) rc = store_user_check(t, user);
  if (rc) return rc;
  uint32_t holder;
  rc = read_holder(t, &key, &holder);
  if (rc == 0 && holder != user) {
    char text[HOST_TEXT + 8];
    return store_fail(t, PERR_EXISTS, "%s is bound to another user", store_resource_format(r, text));
  }
  if (rc != PERR_NOTFOUND) return rc;
  store_db_put(t, DB_BOUNDS, &key, id.b, id.len);
  store_db_put(t, DB_USER_BOUNDS, &index, "", 0);
  return store_change_note(t, STORE_CHANGED_BOUND, user);
}

int store_unbind(struct store_txn *t, uint32_t user, const struct store_resource *r) {
  struct store_key key, index;
  int rc = make_keys(t, user, r, &key, &index);
  if (!rc) rc = store_db_del(t, DB_USER_BOUNDS, &index);
  if (rc) return rc;
  store_db_del(t, DB_BOUNDS, &key);
  return store_change_note(t, STORE_CHANGED_BOUND, user);
}

int store_bound_get(struct store_txn *t, const struct store_resource *r, uint32_t *user) {
  struct store_key key = {.len = 0};
  if (store_resource_key(r, &key)) return store_fail(t, PERR_INVALID, "not a port or a host that can be bound");
  return read_holder(t, &key, user);
}

int store_bound_each(struct store_txn *t, uint32_t user, store_bound_fn fn, void *ctx) {
  struct store_key prefix = store_key_u32(user);
  struct store_walk w = store_walk_prefix(t, DB_USER_BOUNDS, user ? &prefix : NULL);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct rd key = rd_init(w.at.b, w.at.len);
    uint32_t holder = rd_u32(&key);
    struct store_resource r;
    if (store_resource_read(&key, &r)) return store_fail(t, PERR_CORRUPT, "store: the index of bounds does not parse");
    if (!fn(ctx, &r, holder)) break;
  }
  return t->error;
}

int store_bounds_drop(struct store_txn *t, uint32_t user) {
  struct store_key prefix = store_key_u32(user);
  struct store_walk w = store_walk_prefix(t, DB_USER_BOUNDS, &prefix);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct store_key key = {.len = 0};
    store_key_append(&key, w.at.b + w.prefix, w.at.len - w.prefix);
    store_db_del(t, DB_BOUNDS, &key);
    store_db_del(t, DB_USER_BOUNDS, &w.at);
  }
  return t->error;
}
