// The environment: creating, refusing, versions, a full map, a read-only store, backup.
#include "postern/store/internal.h"
#include "store_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static void refuse(const char *path, int flags, int code, const char *text) {
  struct store *s;
  struct err_text e = {""};
  assert_int_equal(store_open(&s, path, flags, &e), code);
  assert_null(s);
  if (!strstr(e.s, path) || !strstr(e.s, text)) fail_msg("no '%s' and folder in: %s", text, e.s);
}

static unsigned mode_of(const struct fixture *f, const char *file) {
  char path[160];
  struct stat st;
  snprintf(path, sizeof path, "%s/%s", f->path, file);
  assert_int_equal(stat(path, &st), 0);
  return st.st_mode & 07777;
}

static void made_for_its_owner_alone(void **state) {
  struct fixture *f = *state;
  mode_t mask = umask(0);
  open_store(f);
  umask(mask);
  assert_int_equal(mode_of(f, "."), 0700);
  assert_int_equal(mode_of(f, "data.mdb"), 0600);
  assert_int_equal(mode_of(f, "lock.mdb"), 0600);
}

static void missing_store_is_said(void **state) {
  struct fixture *f = *state;
  char deep[160];
  snprintf(deep, sizeof deep, "%s/no/store", f->dir);
  refuse(f->path, 0, PERR_NOTFOUND, "No such file");
  refuse(deep, STORE_CREATE, PERR_NOTFOUND, "cannot be created");
  assert_int_equal(mkdir(f->path, 0700), 0);
  refuse(f->path, 0, PERR_NOTFOUND, "no store yet");
  refuse(f->path, STORE_READ_ONLY, PERR_NOTFOUND, "no store yet");
  refuse(f->path, STORE_CREATE | STORE_READ_ONLY, PERR_INVALID, "read-only");
  refuse("/dev/null", STORE_CREATE, PERR_INVALID, "not a folder");
}

static void write_file(const struct fixture *f, const char *name, const void *data, size_t len) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", f->path, name);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, data, len), len);
  close(fd);
}

static void junk_is_corrupt(void **state) {
  struct fixture *f = *state;
  char junk[20000];
  memset(junk, 'x', sizeof junk);
  assert_int_equal(mkdir(f->path, 0700), 0);
  write_file(f, "data.mdb", junk, sizeof junk);
  refuse(f->path, STORE_CREATE, PERR_CORRUPT, "MDB_INVALID");
}

// What a process leaves that is killed between making the file and making the databases.
static void unfinished_creation_is_finished(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdir(f->path, 0700), 0);
  write_file(f, "data.mdb", "", 0);
  refuse(f->path, 0, PERR_NOTFOUND, "no store yet");
  open_store(f);
}

static void put_in_root(const char *path, const char *key, const char *value) {
  MDB_env *env;
  MDB_txn *txn;
  MDB_dbi db;
  char k[32], v[32];
  MDB_val key_val = {.mv_size = strlen(key), .mv_data = strcpy(k, key)};
  MDB_val value_val = {.mv_size = strlen(value), .mv_data = strcpy(v, value)};
  assert_int_equal(mdb_env_create(&env), 0);
  assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
  assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
  assert_int_equal(mdb_dbi_open(txn, NULL, 0, &db), 0);
  assert_int_equal(mdb_put(txn, db, &key_val, &value_val, 0), 0);
  assert_int_equal(mdb_txn_commit(txn), 0);
  mdb_env_close(env);
}

static void foreign_database_is_left_alone(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdir(f->path, 0700), 0);
  put_in_root(f->path, "theirs", "1");
  refuse(f->path, STORE_CREATE, PERR_INVALID, "another program");
  refuse(f->path, STORE_CREATE, PERR_INVALID, "another program");
}

static void set_schema(struct fixture *f, const void *value, size_t len) {
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  struct store_key k = store_key_text(STORE_META_SCHEMA);
  assert_int_equal(store_db_put(t, DB_META, &k, value, len), 0);
  commit(t);
  close_store(f);
}

static void newer_schema_is_refused(void **state) {
  struct fixture *f = *state;
  struct store_key newer = store_key_u64(STORE_SCHEMA + 1);
  set_schema(f, newer.b, newer.len);
  refuse(f->path, 0, PERR_VERSION, "newer version (schema 3");
  refuse(f->path, STORE_CREATE, PERR_VERSION, "newer version (schema 3");
  refuse(f->path, STORE_READ_ONLY, PERR_VERSION, "newer version (schema 3");
}

// Records and databases as version 1 had them.
static void make_version_1(struct fixture *f) {
  static const char user[] = "{\"name\":\"alice\",\"created\":7}";
  static const char token[] =
      "{\"user\":1,\"hash\":\"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\","
      "\"label\":\"old\",\"created\":7,\"expires\":0,\"last_used\":8,\"revoked\":0,"
      "\"last_peer\":\"192.0.2.1:5\",\"enrol\":false}";
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  struct store_key one = store_key_u32(1), id = store_key_text("0123456789ab"), index = one;
  struct store_key schema = store_key_text(STORE_META_SCHEMA), version = store_key_u64(1);
  struct store_key next = store_key_text(STORE_META_NEXT_ANONYMOUS);
  add_user(t, "alice");
  store_key_append(&index, id.b, id.len);
  store_db_put(t, DB_USERS, &one, user, strlen(user));
  store_db_put(t, DB_TOKENS, &id, token, strlen(token));
  store_db_put(t, DB_USER_TOKENS, &index, "", 0);
  store_db_put(t, DB_META, &schema, version.b, version.len);
  store_db_del(t, DB_META, &next);
  assert_int_equal(mdb_drop(t->txn, f->s->db[DB_PASSWORDS], 1), 0);
  assert_int_equal(mdb_drop(t->txn, f->s->db[DB_ANONYMOUS], 1), 0);
  commit(t);
  close_store(f);
}

static void version_1_is_brought_up_to_date(void **state) {
  struct fixture *f = *state;
  struct err_text e = {""};
  struct store_user u;
  struct store_token k;
  struct store_password p = {.n = 1, .r = 1, .p = 1};
  make_version_1(f);
  refuse(f->path, STORE_READ_ONLY, PERR_VERSION, "older version (schema 1)");
  if (store_open(&f->s, f->path, 0, &e)) fail_msg("%s", e.s);
  struct store_txn *t = begin(f, STORE_WRITE);
  assert_int_equal(store_user_find(t, "alice", &u), 0);
  assert_int_equal(u.created, 7);
  assert_false(u.anonymous);
  assert_int_equal(store_token_get(t, "0123456789ab", &k), 0);
  assert_int_equal(k.hash[31], 0x1f);
  assert_int_equal(k.seq, 0);
  assert_int_equal(store_password_get(t, 1, &p), PERR_NOTFOUND);
  assert_int_equal(store_password_set(t, 1, &p), 0);
  assert_int_equal(store_anonymous_add(t, 9, &u), 0);
  assert_int_equal(u.id, STORE_USER_ID_MAX + 1);
  assert_int_equal(add_user(t, "bob"), 2);
  commit(t);
  close_store(f);
  if (store_open(&f->s, f->path, STORE_READ_ONLY, &e)) fail_msg("%s", e.s);
}

static void broken_schema_is_corrupt(void **state) {
  set_schema(*state, "1", 1);
  refuse(((struct fixture *)*state)->path, 0, PERR_CORRUPT, "schema");
}

static void reopened_keeps_everything(void **state) {
  struct fixture *f = *state;
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  uint64_t last = store_last_txn(f->s);
  close_store(f);
  struct err_text e = {""};
  if (store_open(&f->s, f->path, 0, &e)) fail_msg("%s", e.s);
  assert_int_equal(store_last_txn(f->s), last); // opening writes nothing
  struct store_user u;
  t = begin(f, STORE_READ);
  assert_int_equal(store_user_find(t, "alice", &u), 0);
  commit(t);
}

static void read_only_store_reads(void **state) {
  struct fixture *f = *state;
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  close_store(f);
  struct err_text e = {""};
  struct store_user u;
  if (store_open(&f->s, f->path, STORE_READ_ONLY, &e)) fail_msg("%s", e.s);
  t = begin(f, STORE_READ);
  assert_int_equal(store_user_find(t, "alice", &u), 0);
  commit(t);
  assert_true(store_last_txn(f->s) > 0);
  t = begin(f, STORE_WRITE);
  assert_int_equal(store_user_add(t, "bob", 1, &u), PERR_DENIED);
  assert_int_equal(store_commit(t, &e), PERR_DENIED);
}

static void read_transaction_refuses_writes(void **state) {
  struct fixture *f = *state;
  open_store(f);
  struct store_txn *t = begin(f, STORE_READ);
  struct store_user u;
  assert_int_equal(store_user_add(t, "bob", 1, &u), PERR_DENIED);
  assert_int_equal(store_commit(t, NULL), PERR_DENIED);
}

static void aborted_leaves_nothing(void **state) {
  struct fixture *f = *state;
  open_store(f);
  uint64_t last = store_last_txn(f->s);
  struct store_txn *t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  store_abort(t);
  store_abort(NULL);
  assert_int_equal(store_last_txn(f->s), last);
  t = begin(f, STORE_WRITE);
  commit(t); // an empty one leaves no trace
  assert_int_equal(store_last_txn(f->s), last);
  t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  assert_int_equal(store_last_txn(f->s), last + 1);
}

static void snapshot_does_not_move(void **state) {
  struct fixture *f = *state;
  struct store_user u;
  open_store(f);
  struct store_txn *old = begin(f, STORE_READ), *t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  assert_int_equal(store_user_find(old, "alice", &u), PERR_NOTFOUND);
  commit(old);
}

// As another user, for the administrator may write anywhere. In a child, which exits with 0 when all is well.
static int open_without_rights(const char *path, int flags) {
  struct store *s;
  struct err_text e = {""};
  if (getuid() == 0 && (setgid(65534) || setuid(65534))) return 2;
  int rc = store_open(&s, path, flags, &e);
  if (rc == PERR_DENIED && strstr(e.s, path) && strstr(e.s, "denied")) return 0;
  fprintf(stderr, "%d: %s\n", rc, e.s);
  return 1;
}

static void assert_denied(const char *path, int flags) {
  pid_t child = fork();
  if (child == 0) _exit(open_without_rights(path, flags));
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

static void folder_without_rights_is_said(void **state) {
  struct fixture *f = *state;
  open_store(f);
  close_store(f);
  assert_int_equal(chmod(f->dir, 0555), 0);
  assert_int_equal(chmod(f->path, 0555), 0);
  char data[160], lock[160], other[160];
  snprintf(data, sizeof data, "%s/data.mdb", f->path);
  snprintf(lock, sizeof lock, "%s/lock.mdb", f->path);
  snprintf(other, sizeof other, "%s/other", f->dir);
  assert_denied(other, STORE_CREATE);
  assert_int_equal(chmod(data, 0444), 0);
  assert_int_equal(chmod(lock, 0444), 0);
  assert_denied(f->path, 0);
  assert_denied(f->path, STORE_READ_ONLY); // readers write the lock file
  assert_int_equal(chmod(f->path, 0700), 0);
  assert_int_equal(chmod(f->dir, 0700), 0);
}

static int fill(struct fixture *f, struct err_text *e, int *rows) {
  struct store_audit a = {.at_ms = 1, .action = "fill"};
  memset(a.detail, 'x', sizeof a.detail - 1);
  for (*rows = 0;; ++*rows) {
    struct store_txn *t = begin(f, STORE_WRITE);
    int rc = store_audit_add(t, &a);
    if (rc) assert_int_equal(store_audit_add(t, &a), rc);
    int committed = store_commit(t, e);
    if (rc) assert_int_equal(committed, rc);
    if (committed) return committed;
  }
}

static bool count_row(void *ctx, const struct store_audit *a) {
  ++*(int *)ctx;
  return true;
}

static void full_map_is_said_and_harms_nothing(void **state) {
  struct fixture *f = *state;
  struct err_text e = {""};
  if (store_open_sized(&f->s, f->path, STORE_CREATE, 1 << 20, &e)) fail_msg("%s", e.s);
  int rows, found = 0;
  assert_int_equal(fill(f, &e, &rows), PERR_FULL);
  assert_non_null(strstr(e.s, "map of 1 MiB is full"));
  assert_true(rows > 100);
  struct store_txn *t = begin(f, STORE_READ);
  assert_int_equal(store_audit_each(t, 0, count_row, &found), 0);
  commit(t);
  assert_int_equal(found, rows);
  close_store(f);
  open_store(f); // with the map that it has in life
  t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
}

static int fill_disk(struct fixture *f) {
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit = {1 << 20, 1 << 20};
  struct err_text e = {""};
  int rows;
  if (setrlimit(RLIMIT_FSIZE, &limit)) return 2;
  open_store(f);
  int rc = fill(f, &e, &rows);
  close_store(f);
  if (rc == PERR_FULL && rows > 100) return 0;
  fprintf(stderr, "%d after %d rows: %s\n", rc, rows, e.s);
  return 1;
}

static void full_disk_is_full(void **state) {
  pid_t child = fork();
  if (child == 0) _exit(fill_disk(*state));
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  open_store(*state);
}

#ifndef POSTERN_SANITIZED // sanitizers need address space themselves
static void narrow_address_space_gets_a_smaller_map(void **state) {
  struct fixture *f = *state;
  pid_t child = fork();
  if (child == 0) {
    struct rlimit limit = {1 << 30, 1 << 30};
    struct err_text e = {""};
    if (setrlimit(RLIMIT_AS, &limit)) _exit(2);
    int rc = store_open(&f->s, f->path, STORE_CREATE, &e);
    if (rc) fprintf(stderr, "%s\n", e.s);
    _exit(rc ? 1 : 0);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}
#endif

static void backup_opens_again(void **state) {
  struct fixture *f = *state;
  char file[128], folder[128], data[160];
  struct err_text e = {""};
  struct store *copy;
  struct store_user u;
  struct stat st;
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  snprintf(file, sizeof file, "%s/backup.mdb", f->dir);
  if (store_backup(f->s, file, &e)) fail_msg("%s", e.s);
  assert_int_equal(stat(file, &st), 0);
  assert_int_equal(st.st_mode & 07777, 0600);
  assert_int_equal(store_backup(f->s, file, &e), PERR_EXISTS);
  assert_non_null(strstr(e.s, file));

  snprintf(folder, sizeof folder, "%s/copy", f->dir);
  snprintf(data, sizeof data, "%s/data.mdb", folder);
  assert_int_equal(mkdir(folder, 0700), 0);
  assert_int_equal(rename(file, data), 0);
  if (store_open(&copy, folder, 0, &e)) fail_msg("%s", e.s);
  t = store_begin(copy, STORE_WRITE);
  assert_int_equal(store_user_find(t, "alice", &u), 0);
  assert_int_equal(add_user(t, "bob"), 2);
  commit(t);
  store_close(copy);
}

static int back_up_onto_a_full_disk(struct fixture *f, const char *file) {
  struct rlimit limit = {4096, 4096};
  struct err_text e = {""};
  signal(SIGXFSZ, SIG_IGN);
  open_store(f);
  if (setrlimit(RLIMIT_FSIZE, &limit)) return 2;
  int rc = store_backup(f->s, file, &e);
  if (rc == PERR_FULL && access(file, F_OK) < 0) return 0;
  fprintf(stderr, "%d: %s\n", rc, e.s);
  return 1;
}

static void failed_backup_leaves_no_file(void **state) {
  struct fixture *f = *state;
  char file[128];
  struct err_text e = {""};
  snprintf(file, sizeof file, "%s/short.mdb", f->dir);
  pid_t child = fork();
  if (child == 0) _exit(back_up_onto_a_full_disk(f, file));
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  open_store(f);
  snprintf(file, sizeof file, "%s/no/backup.mdb", f->dir);
  assert_int_equal(store_backup(f->s, file, &e), PERR_NOTFOUND);
  assert_non_null(strstr(e.s, file));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(made_for_its_owner_alone, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(missing_store_is_said, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(junk_is_corrupt, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(unfinished_creation_is_finished, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(foreign_database_is_left_alone, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(newer_schema_is_refused, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(version_1_is_brought_up_to_date, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(broken_schema_is_corrupt, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(reopened_keeps_everything, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(read_only_store_reads, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(read_transaction_refuses_writes, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(aborted_leaves_nothing, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(snapshot_does_not_move, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(folder_without_rights_is_said, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(full_map_is_said_and_harms_nothing, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(full_disk_is_full, setup_folder, teardown),
#ifndef POSTERN_SANITIZED
      cmocka_unit_test_setup_teardown(narrow_address_space_gets_a_smaller_map, setup_folder, teardown),
#endif
      cmocka_unit_test_setup_teardown(backup_opens_again, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(failed_backup_leaves_no_file, setup_folder, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
