// schema: the databases of a store and the version of their layout (db/README.md describes it). Called by store_open.
#include "postern/store/internal.h"
#include <inttypes.h>

static const char *const db_names[DB_COUNT] = {
    [DB_META] = "meta",           [DB_USERS] = "users",         [DB_NAMES] = "names",
    [DB_TOKENS] = "tokens",       [DB_BANS] = "bans",           [DB_USER_TOKENS] = "user_tokens",
    [DB_LIMITS] = "limits",       [DB_BOUNDS] = "bounds",       [DB_USER_BOUNDS] = "user_bounds",
    [DB_CLAIMS] = "claims",       [DB_AUDIT] = "audit",         [DB_CHANGES] = "changes",
    [DB_PASSWORDS] = "passwords", [DB_ANONYMOUS] = "anonymous",
};

int store_meta_put(struct store_txn *t, const char *key, uint64_t value) {
  struct store_key k = store_key_text(key), v = store_key_u64(value);
  return store_db_put(t, DB_META, &k, v.b, v.len);
}

int store_meta_get(struct store_txn *t, const char *key, const char *what, uint64_t *value) {
  struct store_key k = store_key_text(key);
  MDB_val v;
  int rc = store_db_get(t, DB_META, &k, &v);
  if (rc == PERR_NOTFOUND) return store_fail(t, PERR_CORRUPT, "%s is missing", what);
  if (rc) return rc;
  struct rd r = rd_init(v.mv_data, v.mv_size);
  *value = rd_u64(&r);
  return rd_done(&r) && *value ? 0 : store_fail(t, PERR_CORRUPT, "%s does not parse", what);
}

static int open_db(struct store_txn *t, enum store_db db, unsigned flags) {
  if (t->error) return t->error;
  int rc = mdb_dbi_open(t->txn, db_names[db], flags, &t->s->db[db]);
  if (rc == MDB_NOTFOUND) return PERR_NOTFOUND;
  return rc ? store_fail_lmdb(t, rc, db_names[db]) : 0;
}

static void open_all(struct store_txn *t, unsigned flags) {
  for (enum store_db db = 0; db < DB_COUNT; db++)
    if (open_db(t, db, flags) == PERR_NOTFOUND) store_fail(t, PERR_CORRUPT, "database %s is missing", db_names[db]);
}

// 0 when the environment is empty.
static uint64_t read_version(struct store_txn *t) {
  if (open_db(t, DB_META, 0) == 0) {
    uint64_t version = 0;
    if (store_meta_get(t, STORE_META_SCHEMA, "the schema version", &version)) return 0;
    if (version > STORE_SCHEMA)
      store_fail(t, PERR_VERSION, "made by a newer version (schema %" PRIu64 ", this program knows %d)", version,
                 STORE_SCHEMA);
    return version;
  }
  MDB_dbi root;
  MDB_stat stat;
  if (t->error) return 0;
  int rc = mdb_dbi_open(t->txn, NULL, 0, &root);
  if (!rc) rc = mdb_stat(t->txn, root, &stat);
  if (rc)
    store_fail_lmdb(t, rc, "read");
  else if (stat.ms_entries > 0)
    store_fail(t, PERR_INVALID, "this is another program's database");
  return 0;
}

static int make_first(struct store_txn *t) {
  return store_meta_put(t, STORE_META_NEXT_USER, 1);
}

// The databases that are new are made when they are opened; records of before lack what came with this version.
static int make_second(struct store_txn *t) {
  return store_meta_put(t, STORE_META_NEXT_ANONYMOUS, STORE_USER_ID_MAX + 1);
}

// steps[v] brings a store from version v to v + 1; an empty environment is version 0.
static int (*const steps[STORE_SCHEMA])(struct store_txn *t) = {make_first, make_second};

static int upgrade(struct store *s, struct err_text *e) {
  struct store_txn *t = store_begin(s, STORE_WRITE);
  if (!t) return err_set(e, PERR_NOMEM, "out of memory");
  uint64_t found = read_version(t), version = found; // anew: another process may have been faster
  open_all(t, MDB_CREATE);
  for (; version < STORE_SCHEMA && !t->error; version++) steps[version](t);
  if (version != found)
    store_meta_put(t, STORE_META_SCHEMA, version); // else nothing is written, and no transaction shows
  return store_commit(t, e);
}

int store_schema_open(struct store *s, bool create, struct err_text *e) {
  struct store_txn *t = store_begin(s, STORE_READ);
  if (!t) return err_set(e, PERR_NOMEM, "out of memory");
  uint64_t version = read_version(t);
  if (version == STORE_SCHEMA || t->error) {
    open_all(t, 0);
    return store_commit(t, e);
  }
  store_abort(t);
  if (version == 0 && !create) return err_set(e, PERR_NOTFOUND, "there is no store yet");
  if (s->read_only)
    return err_set(e, PERR_VERSION, "made by an older version (schema %" PRIu64 "); open it for writing once", version);
  return upgrade(s, e);
}
