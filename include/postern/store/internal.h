// internal: what the files of the store layer share: the environment, transactions over LMDB, keys and records.
// Nobody outside src/store and its tests includes this.
#ifndef POSTERN_STORE_INTERNAL_H
#define POSTERN_STORE_INTERNAL_H

#include "postern/base/bytes.h"
#include "postern/store/store.h"
#include <jansson.h>
#include <lmdb.h>
#include <pthread.h>

enum store_db {
  DB_META,
  DB_USERS,
  DB_NAMES,
  DB_TOKENS,
  DB_USER_TOKENS,
  DB_BANS,
  DB_LIMITS,
  DB_BOUNDS,
  DB_USER_BOUNDS,
  DB_CLAIMS,
  DB_AUDIT,
  DB_CHANGES,
  DB_PASSWORDS,
  DB_ANONYMOUS,
  DB_COUNT
};

struct store {
  MDB_env *env;
  MDB_dbi db[DB_COUNT];
  bool read_only;
  pthread_mutex_t lock;   // guards what follows
  pthread_cond_t changed; // `active` fell to zero, or a resize ended
  MDB_txn *probe;         // a reader at rest, woken to learn the newest transaction's id
  unsigned active;        // transactions open in this process
  bool resizing;          // one thread waits for `active` to become zero and maps the file anew
  bool lost;              // mapping anew failed: there is no map any more
  uint64_t checked_ms;    // when stale readers were last looked for
};

struct store_txn {
  struct store *s;
  MDB_txn *txn; // NULL when it could not begin
  int error;    // sticky
  struct err_text text;
};

// ---- env.c: the LMDB environment; these return LMDB's codes ----

#define STORE_MAP_BYTES ((size_t)64 << 30)

// Opens with a map of `map` bytes, halved until the system grants it.
int store_env_open(struct store *s, const char *path, unsigned flags, size_t map);
void store_env_close(struct store *s);
// Begins a transaction; follows when another process made the map outgrow this one's.
int store_env_begin(struct store *s, enum store_mode mode, MDB_txn **out);
// After the end of each transaction that store_env_begin began.
void store_env_end(struct store *s);

// ---- store.c ----

// store_open with a map of another size, for tests.
PERR_MUST_CHECK int store_open_sized(struct store **out, const char *path, int flags, size_t map, struct err_text *e);

// ---- schema.c ----

// Opens the databases; creates them when the environment is empty and `create` is set; migrates an older schema.
PERR_MUST_CHECK int store_schema_open(struct store *s, bool create, struct err_text *e);

enum { STORE_SCHEMA = 2 };

#define STORE_META_SCHEMA         "schema"
#define STORE_META_NEXT_USER      "next_user"
#define STORE_META_NEXT_ANONYMOUS "next_anonymous"

#define STORE_ANONYMOUS_PREFIX "anonymous-"

// ---- txn.c: keys, and what can be done to one database inside a transaction ----

enum { STORE_KEY_MAX = 4 + 1 + HOST_TEXT };

struct store_key {
  uint8_t b[STORE_KEY_MAX];
  size_t len;
};

struct store_key store_key_u32(uint32_t v);
struct store_key store_key_u64(uint64_t v);
// `text` is cut at STORE_KEY_MAX; callers pass checked names.
struct store_key store_key_text(const char *text);
void store_key_append(struct store_key *k, const void *data, size_t len);

// The PERR_* code of one of LMDB's.
int store_code(int rc);
// Makes the error stick, unless one does already; returns the sticky one.
int store_fail(struct store_txn *t, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int store_fail_lmdb(struct store_txn *t, int rc, const char *what);

// 0, PERR_NOTFOUND (does not stick) or the sticky error. `out` lives until the next write.
int store_db_get(struct store_txn *t, enum store_db db, const struct store_key *k, MDB_val *out);
int store_db_put(struct store_txn *t, enum store_db db, const struct store_key *k, const void *data, size_t len);
int store_db_del(struct store_txn *t, enum store_db db, const struct store_key *k);
// The greatest key below `bound`, or PERR_NOTFOUND.
int store_db_below(struct store_txn *t, enum store_db db, const struct store_key *bound, struct store_key *out);
// Rows in a database; 0 when an error sticks.
uint64_t store_db_rows(struct store_txn *t, enum store_db db);

// A walk over keys in order. Each step seeks anew from the last key, so the body may write, and even remove the row
// that it stands on.
struct store_walk {
  struct store_txn *t;
  enum store_db db;
  size_t prefix; // this many leading bytes of the key stay as they are
  struct store_key at;
  bool started;
};

// Every row whose key begins with `prefix`; NULL: every row.
struct store_walk store_walk_prefix(struct store_txn *t, enum store_db db, const struct store_key *prefix);
// Every row from the key `from` on.
struct store_walk store_walk_from(struct store_txn *t, enum store_db db, const struct store_key *from);
// False at the end or on an error, which sticks. The row's key is w->at.
bool store_walk_next(struct store_walk *w, MDB_val *out);

// ---- record.c: JSON values ----

// Takes `value`; NULL is taken for want of memory.
int store_json_put(struct store_txn *t, enum store_db db, const struct store_key *k, json_t *value);
// A JSON string; bytes that are no UTF-8 text become '?'.
json_t *store_json_text(const char *s);

// Reads one JSON object; after the first field that is missing or of a wrong type or size `bad` is set.
struct store_row {
  json_t *o;
  bool bad;
};

struct store_row store_row_open(const MDB_val *v);
int64_t store_row_int(struct store_row *r, const char *key);
bool store_row_bool(struct store_row *r, const char *key);
// The same of fields that older records lack: 0 and false then.
int64_t store_row_int_if(struct store_row *r, const char *key);
bool store_row_bool_if(struct store_row *r, const char *key);
void store_row_text(struct store_row *r, const char *key, char *out, size_t cap);
// Frees; makes PERR_CORRUPT stick when the row was bad.
int store_row_close(struct store_row *r, struct store_txn *t, enum store_db db);

// ---- across the modules ----

// 0 when there is such a user, PERR_NOTFOUND, or the sticky error.
int store_user_check(struct store_txn *t, uint32_t id);
// The same of a name.
int store_name_check(struct store_txn *t, const char *name);
// Adds the records of a user whose id and name are free.
int store_user_put(struct store_txn *t, const struct store_user *u);
// A u64 of the database `meta`: 0 with its value, or the sticky error; `what` names it there.
int store_meta_get(struct store_txn *t, const char *key, const char *what, uint64_t *value);
int store_meta_put(struct store_txn *t, const char *key, uint64_t value);
// Appends to the change sequence.
int store_change_note(struct store_txn *t, enum store_change_kind kind, uint32_t user);
// What a removed user leaves behind.
int store_tokens_drop(struct store_txn *t, uint32_t user);
int store_bounds_drop(struct store_txn *t, uint32_t user);
int store_claims_drop(struct store_txn *t, uint32_t user);

// Appends the key of a resource: its kind, then the port or the host. PERR_INVALID.
PERR_MUST_CHECK int store_resource_key(const struct store_resource *r, struct store_key *k);
// Reads such a key to its end. PERR_CORRUPT.
PERR_MUST_CHECK int store_resource_read(struct rd *key, struct store_resource *out);

#endif
