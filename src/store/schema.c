// schema: the databases of a store and the version of their layout (db/README.md describes it). Called by store_open.
#include "postern/store/internal.h"
#include <inttypes.h>

static const char *const db_names[DB_COUNT] = {
    [DB_META] = "meta",     [DB_USERS] = "users",   [DB_NAMES] = "names",
    [DB_TOKENS] = "tokens", [DB_BANS] = "bans",     [DB_USER_TOKENS] = "user_tokens",
    [DB_LIMITS] = "limits", [DB_BOUNDS] = "bounds", [DB_USER_BOUNDS] = "user_bounds",
    [DB_CLAIMS] = "claims", [DB_AUDIT] = "audit",   [DB_CHANGES] = "changes",
};

static int put_meta(struct store_txn *t, const char *name, uint64_t value) {
  struct store_key k = store_key_text(name), v = store_key_u64(value);
  return store_db_put(t, DB_META, &k, v.b, v.len);
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
    struct store_key k = store_key_text(STORE_META_SCHEMA);
    MDB_val v;
    if (store_db_get(t, DB_META, &k, &v) == PERR_NOTFOUND) store_fail(t, PERR_CORRUPT, "the schema version is missing");
    if (t->error) return 0;
    struct rd r = rd_init(v.mv_data, v.mv_size);
    uint64_t version = rd_u64(&r);
    if (!rd_done(&r) || version == 0) store_fail(t, PERR_CORRUPT, "the schema version does not parse");
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
  return put_meta(t, STORE_META_NEXT_USER, 1);
}

// steps[v] brings a store from version v to v + 1; an empty environment is version 0.
static int (*const steps[STORE_SCHEMA])(struct store_txn *t) = {make_first};

static int upgrade(struct store *s, struct err_text *e) {
  struct store_txn *t = store_begin(s, STORE_WRITE);
  if (!t) return err_set(e, PERR_NOMEM, "out of memory");
  uint64_t found = read_version(t), version = found; // anew: another process may have been faster
  open_all(t, MDB_CREATE);
  for (; version < STORE_SCHEMA && !t->error; version++) steps[version](t);
  if (version != found) put_meta(t, STORE_META_SCHEMA, version); // else nothing is written, and no transaction shows
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
