// txn: transactions with a sticky error, and the operations on one database that the store's modules are made of.
// Called by the modules of the store; a transaction belongs to the thread that began it.
#include "postern/store/internal.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct store_txn *store_begin(struct store *s, enum store_mode mode) {
  struct store_txn *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->s = s;
  int rc = store_env_begin(s, mode, &t->txn);
  if (rc) {
    t->txn = NULL;
    store_fail_lmdb(t, rc, "begin");
  }
  return t;
}

int store_error(const struct store_txn *t, struct err_text *e) {
  if (t->error && e) *e = t->text;
  return t->error;
}

int store_commit(struct store_txn *t, struct err_text *e) {
  if (!t->error) {
    int rc = mdb_txn_commit(t->txn); // ends the transaction even when it fails
    t->txn = NULL;
    store_env_end(t->s);
    if (rc) store_fail_lmdb(t, rc, "commit");
  }
  int code = store_error(t, e);
  store_abort(t);
  return code;
}

void store_abort(struct store_txn *t) {
  if (!t) return;
  if (t->txn) {
    mdb_txn_abort(t->txn);
    store_env_end(t->s);
  }
  free(t);
}

// ---- errors ----

int store_code(int rc) {
  switch (rc) {
  case 0: return 0;
  case MDB_NOTFOUND: return PERR_NOTFOUND;
  case MDB_MAP_FULL:
  case MDB_TXN_FULL:
  case ENOSPC:
  case EDQUOT:
  case EFBIG: return PERR_FULL;
  case ENOMEM: return PERR_NOMEM;
  case EACCES:
  case EPERM:
  case EROFS: return PERR_DENIED;
  case ENOENT: return PERR_NOTFOUND;
  case EAGAIN: return PERR_IN_USE;
  case MDB_READERS_FULL: return PERR_LIMIT;
  case MDB_CORRUPTED:
  case MDB_PAGE_NOTFOUND:
  case MDB_INVALID: return PERR_CORRUPT;
  case MDB_VERSION_MISMATCH: return PERR_VERSION;
  default: return PERR_IO;
  }
}

int store_fail(struct store_txn *t, int code, const char *format, ...) {
  if (t->error) return t->error;
  va_list args;
  va_start(args, format);
  vsnprintf(t->text.s, sizeof t->text.s, format, args);
  va_end(args);
  return t->error = code;
}

int store_fail_lmdb(struct store_txn *t, int rc, const char *what) {
  if (rc == MDB_MAP_FULL) {
    MDB_envinfo info;
    mdb_env_info(t->s->env, &info);
    return store_fail(t, PERR_FULL, "store: %s: the map of %zu MiB is full", what, info.me_mapsize >> 20);
  }
  return store_fail(t, store_code(rc), "store: %s: %s", what, mdb_strerror(rc));
}

// ---- keys ----

struct store_key store_key_u32(uint32_t v) {
  struct store_key k;
  struct wr w = wr_init(k.b, sizeof k.b);
  wr_u32(&w, v);
  k.len = w.len;
  return k;
}

struct store_key store_key_u64(uint64_t v) {
  struct store_key k;
  struct wr w = wr_init(k.b, sizeof k.b);
  wr_u64(&w, v);
  k.len = w.len;
  return k;
}

struct store_key store_key_text(const char *text) {
  struct store_key k = {.len = 0};
  store_key_append(&k, text, strnlen(text, sizeof k.b));
  return k;
}

void store_key_append(struct store_key *k, const void *data, size_t len) {
  if (len > sizeof k->b - k->len) len = sizeof k->b - k->len;
  memcpy(k->b + k->len, data, len);
  k->len += len;
}

// ---- one database ----

// LMDB does not write through the keys and values that it is given, but its type is not const.
static MDB_val val_of(const void *data, size_t len) {
  return (MDB_val){.mv_size = len, .mv_data = (void *)(uintptr_t)data};
}

int store_db_get(struct store_txn *t, enum store_db db, const struct store_key *k, MDB_val *out) {
  if (t->error) return t->error;
  MDB_val key = val_of(k->b, k->len);
  int rc = mdb_get(t->txn, t->s->db[db], &key, out);
  if (rc == MDB_NOTFOUND) return PERR_NOTFOUND;
  return rc ? store_fail_lmdb(t, rc, "read") : 0;
}

int store_db_put(struct store_txn *t, enum store_db db, const struct store_key *k, const void *data, size_t len) {
  if (t->error) return t->error;
  MDB_val key = val_of(k->b, k->len), value = val_of(data, len);
  int rc = mdb_put(t->txn, t->s->db[db], &key, &value, 0);
  return rc ? store_fail_lmdb(t, rc, "write") : 0;
}

int store_db_del(struct store_txn *t, enum store_db db, const struct store_key *k) {
  if (t->error) return t->error;
  MDB_val key = val_of(k->b, k->len);
  int rc = mdb_del(t->txn, t->s->db[db], &key, NULL);
  if (rc == MDB_NOTFOUND) return PERR_NOTFOUND;
  return rc ? store_fail_lmdb(t, rc, "remove") : 0;
}

uint64_t store_db_rows(struct store_txn *t, enum store_db db) {
  if (t->error) return 0;
  MDB_stat stat;
  int rc = mdb_stat(t->txn, t->s->db[db], &stat);
  if (rc) store_fail_lmdb(t, rc, "read");
  return rc ? 0 : stat.ms_entries;
}

// What a seek found: copies the key, for the caller may write before it uses it.
static int take_key(struct store_txn *t, int rc, const MDB_val *key, struct store_key *out) {
  if (rc == MDB_NOTFOUND) return PERR_NOTFOUND;
  if (rc) return store_fail_lmdb(t, rc, "read");
  if (key->mv_size > sizeof out->b) return store_fail(t, PERR_CORRUPT, "store: a key of %zu bytes", key->mv_size);
  out->len = 0;
  store_key_append(out, key->mv_data, key->mv_size);
  return 0;
}

int store_db_below(struct store_txn *t, enum store_db db, const struct store_key *bound, struct store_key *out) {
  if (t->error) return t->error;
  MDB_cursor *c;
  int rc = mdb_cursor_open(t->txn, t->s->db[db], &c);
  if (rc) return store_fail_lmdb(t, rc, "read");
  MDB_val key = val_of(bound->b, bound->len), value;
  rc = mdb_cursor_get(c, &key, &value, MDB_SET_RANGE);
  if (rc == 0)
    rc = mdb_cursor_get(c, &key, &value, MDB_PREV);
  else if (rc == MDB_NOTFOUND)
    rc = mdb_cursor_get(c, &key, &value, MDB_LAST);
  rc = take_key(t, rc, &key, out);
  mdb_cursor_close(c);
  return rc;
}

// ---- walks ----

struct store_walk store_walk_from(struct store_txn *t, enum store_db db, const struct store_key *from) {
  return (struct store_walk){.t = t, .db = db, .at = *from};
}

struct store_walk store_walk_prefix(struct store_txn *t, enum store_db db, const struct store_key *prefix) {
  struct store_walk w = {.t = t, .db = db};
  if (prefix) {
    w.at = *prefix;
    w.prefix = prefix->len;
  }
  return w;
}

static bool is_at(const struct store_walk *w, const MDB_val *key) {
  return key->mv_size == w->at.len && memcmp(key->mv_data, w->at.b, w->at.len) == 0;
}

static int seek(const struct store_walk *w, MDB_cursor *c, MDB_val *key, MDB_val *value) {
  if (w->at.len == 0) return mdb_cursor_get(c, key, value, MDB_FIRST);
  *key = val_of(w->at.b, w->at.len);
  int rc = mdb_cursor_get(c, key, value, MDB_SET_RANGE);
  if (rc == 0 && w->started && is_at(w, key)) rc = mdb_cursor_get(c, key, value, MDB_NEXT);
  return rc;
}

bool store_walk_next(struct store_walk *w, MDB_val *out) {
  if (w->t->error) return false;
  MDB_cursor *c;
  int rc = mdb_cursor_open(w->t->txn, w->t->s->db[w->db], &c);
  if (rc) {
    store_fail_lmdb(w->t, rc, "read");
    return false;
  }
  MDB_val key;
  rc = seek(w, c, &key, out);
  bool more = rc != 0 || (key.mv_size >= w->prefix && memcmp(key.mv_data, w->at.b, w->prefix) == 0);
  if (more) more = take_key(w->t, rc, &key, &w->at) == 0;
  w->started = true;
  mdb_cursor_close(c);
  return more;
}
