// anonymous: users without a credential. Beside the records that every user has, each has the time when it was last
// active in a database of its own, which also counts them; their ids go round.
#include "postern/store/internal.h"
#include <stdio.h>

enum { FIRST_ID = STORE_USER_ID_MAX + 1, LAST_ID = STORE_ANONYMOUS_ID_MAX };

static int put_active(struct store_txn *t, uint32_t user, int64_t now) {
  struct store_key id = store_key_u32(user), value = store_key_u64((uint64_t)now);
  return store_db_put(t, DB_ANONYMOUS, &id, value.b, value.len);
}

static void make_user(uint32_t id, int64_t now, struct store_user *u) {
  *u = (struct store_user){.id = id, .created = now, .anonymous = true};
  snprintf(u->name, sizeof u->name, STORE_ANONYMOUS_PREFIX "%u", (unsigned)id);
}

// True when neither the id nor the name is in use. Users of before these names were reserved may have one.
static bool is_free(struct store_txn *t, const struct store_user *u) {
  return store_user_check(t, u->id) == PERR_NOTFOUND && store_name_check(t, u->name) == PERR_NOTFOUND;
}

// The first free one from the id after the last that was given; false after a whole round or an error.
static bool find_free(struct store_txn *t, uint64_t next, int64_t now, struct store_user *u) {
  for (uint32_t tried = 0; tried <= LAST_ID - FIRST_ID && !t->error; tried++, next++) {
    if (next > LAST_ID) next = FIRST_ID;
    make_user((uint32_t)next, now, u);
    if (is_free(t, u)) return true;
  }
  return false;
}

int store_anonymous_add(struct store_txn *t, int64_t now, struct store_user *out) {
  struct store_user u;
  uint64_t next;
  int rc = store_meta_get(t, STORE_META_NEXT_ANONYMOUS, "store: the next anonymous id", &next);
  if (rc) return rc;
  if (next < FIRST_ID || next > LAST_ID + 1)
    return store_fail(t, PERR_CORRUPT, "store: the next anonymous id does not parse");
  if (!find_free(t, next, now, &u))
    return store_fail(t, PERR_LIMIT, "all %d ids of anonymous users are in use", LAST_ID - FIRST_ID + 1);
  store_meta_put(t, STORE_META_NEXT_ANONYMOUS, u.id + 1);
  put_active(t, u.id, now);
  rc = store_user_put(t, &u);
  if (rc == 0) *out = u;
  return rc;
}

int store_anonymous_touch(struct store_txn *t, uint32_t user, int64_t now) {
  struct store_key id = store_key_u32(user);
  MDB_val v;
  int rc = store_db_get(t, DB_ANONYMOUS, &id, &v);
  return rc ? rc : put_active(t, user, now);
}

uint64_t store_anonymous_count(struct store_txn *t) {
  return store_db_rows(t, DB_ANONYMOUS);
}

int store_anonymous_each(struct store_txn *t, store_anonymous_fn fn, void *ctx) {
  struct store_walk w = store_walk_prefix(t, DB_ANONYMOUS, NULL);
  MDB_val v;
  while (store_walk_next(&w, &v)) {
    struct rd key = rd_init(w.at.b, w.at.len), r = rd_init(v.mv_data, v.mv_size);
    uint32_t user = rd_u32(&key);
    int64_t active = (int64_t)rd_u64(&r);
    if (!rd_done(&key) || !rd_done(&r))
      return store_fail(t, PERR_CORRUPT, "store: a record (anonymous) does not parse");
    if (!fn(ctx, user, active)) break;
  }
  return t->error;
}
