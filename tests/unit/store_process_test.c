// Several processes at one store: what one writes the others see, and what a killed one leaves behind.
// Each test forks before anything is open, for an environment must not be used across a fork.
#include "postern/base/clock.h"
#include "postern/store/internal.h"
#include "store_fixture.h"
#include <signal.h>

struct child {
  pid_t pid;
  int from, to; // pipes
};

// Inside a child: cmocka's assertions would jump into the parent's code.
#define CHECK(x)                                                                                                       \
  do {                                                                                                                 \
    if (!(x)) {                                                                                                        \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                                          \
      _exit(1);                                                                                                        \
    }                                                                                                                  \
  } while (0)

typedef void (*child_fn)(struct fixture *f, int from, int to);

static struct child start(struct fixture *f, child_fn fn) {
  int down[2], up[2];
  assert_int_equal(pipe(down), 0);
  assert_int_equal(pipe(up), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(down[1]);
    close(up[0]);
    fn(f, down[0], up[1]);
    _exit(0);
  }
  close(down[0]);
  close(up[1]);
  return (struct child){.pid = pid, .from = up[0], .to = down[1]};
}

static void tell(int fd) {
  char c = 1;
  CHECK(write(fd, &c, 1) == 1);
}

static void await(int fd) {
  char c;
  CHECK(read(fd, &c, 1) == 1);
}

static void end(struct child *c, int expected) {
  int status;
  close(c->to);
  close(c->from);
  assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
  assert_int_equal(status, expected);
}

static void kill_child(struct child *c) {
  assert_int_equal(kill(c->pid, SIGKILL), 0);
  end(c, SIGKILL);
}

static struct store *child_open(struct fixture *f) {
  struct err_text e = {""};
  struct store *s = NULL;
  if (store_open(&s, f->path, STORE_CREATE, &e)) fprintf(stderr, "%s\n", e.s);
  CHECK(s);
  return s;
}

// ---- one writes, the other sees ----

static void ban_when_told(struct fixture *f, int from, int to) {
  struct store *s = child_open(f);
  for (int i = 0; i < 50; i++) {
    struct store_ban b = {.since = i};
    await(from);
    struct store_txn *t = store_begin(s, STORE_WRITE);
    CHECK(store_ban_put(t, 1, &b) == 0);
    CHECK(store_commit(t, NULL) == 0);
    tell(to);
  }
  store_close(s);
}

static bool keep_change(void *ctx, const struct store_change *c) {
  *(struct store_change *)ctx = *c;
  return true;
}

static void outside_change_is_seen(void **state) {
  struct fixture *f = *state;
  struct child c = start(f, ban_when_told);
  open_store(f);
  struct store_txn *t = begin(f, STORE_WRITE);
  assert_int_equal(add_user(t, "alice"), 1);
  uint64_t seq = store_change_last(t);
  commit(t);
  uint64_t seen = store_last_txn(f->s);
  for (int i = 0; i < 50; i++) {
    assert_int_equal(store_last_txn(f->s), seen);
    tell(c.to);
    while (store_last_txn(f->s) == seen) {
    } // ends as soon as readers see the commit
    seen = store_last_txn(f->s);
    struct store_change change = {.seq = 0};
    struct store_ban b;
    t = begin(f, STORE_READ);
    assert_int_equal(store_change_each(t, seq, keep_change, &change), 0);
    assert_int_equal(store_ban_get(t, 1, &b), 0);
    commit(t);
    assert_int_equal(change.seq, ++seq); // the change is there at the first look
    assert_int_equal(change.kind, STORE_CHANGED_BAN);
    assert_int_equal(change.user, 1);
    assert_int_equal(b.since, i);
    await(c.from);
  }
  end(&c, 0);
}

static void create_together(struct fixture *f, int from, int to) {
  await(from);
  store_close(child_open(f));
}

static void creation_is_no_race(void **state) {
  struct fixture *f = *state;
  struct child c[4];
  for (int i = 0; i < 4; i++) c[i] = start(f, create_together);
  for (int i = 0; i < 4; i++) tell(c[i].to);
  for (int i = 0; i < 4; i++) end(&c[i], 0);
  open_store(f);
}

// ---- a map that another process outgrew ----

static void write_much(struct fixture *f, int from, int to) {
  struct store *s = child_open(f);
  for (;;) {
    await(from);
    struct store_audit a = {.action = "fill"};
    memset(a.detail, 'x', sizeof a.detail - 1);
    struct store_txn *t = store_begin(s, STORE_WRITE);
    for (int i = 0; i < 5000; i++) CHECK(store_audit_add(t, &a) == 0);
    CHECK(store_commit(t, NULL) == 0);
    tell(to);
  }
}

static bool count_row(void *ctx, const struct store_audit *a) {
  ++*(int *)ctx;
  return true;
}

static void map_follows_another_process(void **state) {
  struct fixture *f = *state;
  struct err_text e = {""};
  struct child c = start(f, write_much);
  if (store_open_sized(&f->s, f->path, STORE_CREATE, 1 << 20, &e)) fail_msg("%s", e.s);
  uint64_t before = store_last_txn(f->s);
  tell(c.to);
  await(c.from);
  assert_true(store_last_txn(f->s) > before);
  int rows = 0;
  struct store_txn *t = begin(f, STORE_READ);
  assert_int_equal(store_audit_each(t, 0, count_row, &rows), 0);
  commit(t);
  assert_int_equal(rows, 5000);
  assert_true(store_last_txn(f->s) > before);
  t = begin(f, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  kill_child(&c);
}

static void map_waits_for_an_open_reader(void **state) {
  struct fixture *f = *state;
  struct err_text e = {""};
  struct child c = start(f, write_much);
  if (store_open_sized(&f->s, f->path, STORE_CREATE, 1 << 20, &e)) fail_msg("%s", e.s);
  struct store_txn *old = begin(f, STORE_READ);
  tell(c.to);
  await(c.from);
  struct store_txn *t = begin(f, STORE_READ);
  assert_int_equal(store_error(t, &e), PERR_IO);
  assert_non_null(strstr(e.s, "MAP_RESIZED"));
  store_abort(t);
  int rows = 0;
  assert_int_equal(store_audit_each(old, 0, count_row, &rows), 0); // its map is still there
  commit(old);
  t = begin(f, STORE_READ);
  assert_int_equal(store_audit_each(t, 0, count_row, &rows), 0);
  commit(t);
  assert_int_equal(rows, 5000);
  kill_child(&c);
}

// ---- killed ----

static void hold_reader(struct fixture *f, int from, int to) {
  struct store_txn *t = store_begin(child_open(f), STORE_READ);
  CHECK(store_error(t, NULL) == 0);
  tell(to);
  await(from);
}

static void hold_writer(struct fixture *f, int from, int to) {
  struct store_txn *t = store_begin(child_open(f), STORE_WRITE);
  struct store_user u;
  CHECK(store_user_add(t, "ghost", 1, &u) == 0);
  tell(to);
  await(from);
}

static int count_reader(const char *line, void *ctx) {
  ++*(int *)ctx;
  return 0;
}

static int readers(struct fixture *f) {
  int lines = -1; // the heading
  assert_true(mdb_reader_list(f->s->env, count_reader, &lines) >= 0);
  return lines;
}

static void add_alice(struct fixture *f) {
  struct store_txn *t = begin(f, STORE_WRITE);
  assert_int_equal(add_user(t, "alice"), 1);
  commit(t);
}

static void killed_reader_is_cleared(void **state) {
  struct fixture *f = *state;
  struct child c = start(f, hold_reader);
  open_store(f);
  await(c.from);
  kill_child(&c);
  assert_int_equal(readers(f), 3); // this one's probe, the other's probe and transaction
  f->s->checked_ms = clock_mono_ms() - 60 * 1000;
  add_alice(f);
  assert_int_equal(readers(f), 1);
}

static void killed_writer_lets_go(void **state) {
  struct fixture *f = *state;
  struct child c = start(f, hold_writer);
  open_store(f);
  await(c.from);
  kill_child(&c);
  add_alice(f); // the lock comes from the dead, and nothing of what it wrote
}

static void write_until_killed(struct fixture *f, int from, int to) {
  struct store *s = child_open(f);
  for (;;) {
    struct store_txn *t = store_begin(s, STORE_WRITE);
    struct store_user u;
    char name[NAME_TEXT];
    uint64_t n = store_db_rows(t, DB_USERS) + 1;
    snprintf(name, sizeof name, "user-%u", (unsigned)n);
    CHECK(store_user_add(t, name, 1, &u) == 0);
    struct store_token k = {.user = u.id};
    snprintf(k.id, sizeof k.id, "%012x", u.id);
    struct store_resource r = {.kind = STORE_TCP, .port = (uint16_t)u.id};
    struct store_claim c = {.what = r, .user = u.id};
    struct store_audit a = {.at_ms = 5, .action = "user.add"};
    CHECK(store_token_add(t, &k) == 0);
    CHECK(store_bind(t, u.id, &r) == 0);
    CHECK(store_claim_put(t, &c) == 0);
    CHECK(store_audit_add(t, &a) == 0);
    CHECK(store_commit(t, NULL) == 0);
    CHECK(write(to, &u.id, sizeof u.id) == sizeof u.id);
  }
}

static bool count_change(void *ctx, const struct store_change *c) {
  ++*(uint64_t *)ctx;
  return true;
}

// Every part of every transaction is there or none of it.
static void assert_whole(struct fixture *f, uint32_t acknowledged) {
  struct store_txn *t = begin(f, STORE_READ);
  uint64_t users = store_db_rows(t, DB_USERS), changes = 0;
  assert_in_range(users, acknowledged, acknowledged + 1);
  const enum store_db each[] = {DB_NAMES, DB_TOKENS, DB_USER_TOKENS, DB_BOUNDS, DB_USER_BOUNDS, DB_CLAIMS, DB_AUDIT};
  for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) assert_int_equal(store_db_rows(t, each[i]), users);
  assert_int_equal(store_change_each(t, 0, count_change, &changes), 0);
  assert_int_equal(changes, 3 * users);
  for (uint32_t id = 1; id <= users; id++) {
    struct store_user u;
    struct store_token k;
    char name[NAME_TEXT], token[STORE_TOKEN_ID_TEXT];
    snprintf(name, sizeof name, "user-%u", id);
    snprintf(token, sizeof token, "%012x", id);
    assert_int_equal(store_user_find(t, name, &u), 0);
    assert_int_equal(u.id, id);
    assert_int_equal(store_token_get(t, token, &k), 0);
    assert_int_equal(k.user, id);
  }
  commit(t);
}

// The newest id that the child told of, after it told of `count` at least and was killed.
static uint32_t kill_after(struct child *c, int count, uint64_t delay_us) {
  uint32_t id = 0, last = 0;
  while (count-- > 0 && read(c->from, &id, sizeof id) == sizeof id) last = id;
  uint64_t until = clock_mono_us() + delay_us;
  while (clock_mono_us() < until) {
  }
  assert_int_equal(kill(c->pid, SIGKILL), 0);
  while (read(c->from, &id, sizeof id) == sizeof id) last = id;
  end(c, SIGKILL);
  return last;
}

static void killed_at_any_moment(void **state) {
  struct fixture *f = *state;
  uint32_t acknowledged = 0;
  unsigned seed = 7;
  for (int round = 0; round < 40; round++) {
    struct child c = start(f, write_until_killed);
    int count = 1 + rand_r(&seed) % 8;
    uint32_t last = kill_after(&c, count, (uint64_t)rand_r(&seed) % 3000);
    assert_true(last > acknowledged);
    acknowledged = last;
    open_store(f);
    assert_whole(f, acknowledged);
    close_store(f);
  }
}

static void killed_while_another_has_it_open(void **state) {
  struct fixture *f = *state;
  struct child c[3];
  uint32_t acknowledged = 0;
  for (int i = 0; i < 3; i++) c[i] = start(f, write_until_killed);
  open_store(f);
  for (int i = 0; i < 3; i++) {
    uint32_t last = kill_after(&c[i], 10, (uint64_t)i * 1000);
    if (last > acknowledged) acknowledged = last;
  }
  struct store_txn *t = begin(f, STORE_WRITE);
  assert_true(store_db_rows(t, DB_USERS) >= acknowledged);
  assert_int_equal(store_db_rows(t, DB_USERS), store_db_rows(t, DB_NAMES));
  add_user(t, "alice");
  commit(t);
}

static void create_and_be_killed(struct fixture *f, int from, int to) {
  tell(to);
  for (;;) {
    struct store *s = child_open(f);
    store_close(s);
  }
}

static void killed_while_creating(void **state) {
  struct fixture *f = *state;
  char file[128];
  for (int round = 0; round < 30; round++) {
    struct child c = start(f, create_and_be_killed);
    await(c.from);
    uint64_t until = clock_mono_us() + (uint64_t)round * 200;
    while (clock_mono_us() < until) {
    }
    kill_child(&c);
    open_store(f);
    struct store_txn *t = begin(f, STORE_WRITE);
    assert_int_equal(add_user(t, "alice"), 1);
    commit(t);
    close_store(f);
    snprintf(file, sizeof file, "%s/data.mdb", f->path);
    assert_int_equal(unlink(file), 0);
    snprintf(file, sizeof file, "%s/lock.mdb", f->path);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(f->path), 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(outside_change_is_seen, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(creation_is_no_race, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(map_follows_another_process, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(map_waits_for_an_open_reader, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(killed_reader_is_cleared, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(killed_writer_lets_go, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(killed_at_any_moment, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(killed_while_another_has_it_open, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(killed_while_creating, setup_folder, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
