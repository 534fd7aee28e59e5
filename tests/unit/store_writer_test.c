// The store thread: jobs that come together share a commit, a failing one fails alone, nothing queued is lost.
#include "postern/base/clock.h"
#include "postern/store/internal.h"
#include "postern/store/writer.h"
#include "store_fixture.h"
#include <pthread.h>
#include <stdatomic.h>

enum { QUEUE = 65536, SHARED = 256 };

struct desk {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int done; // finished jobs
  int failed;
};

struct order {
  struct desk *desk;
  char name[NAME_TEXT];
  atomic_int *runs;
  int *result;
};

static void desk_init(struct desk *d) {
  *d = (struct desk){.done = 0};
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->changed, NULL);
}

static void desk_wait(struct desk *d, int done) {
  pthread_mutex_lock(&d->lock);
  while (d->done < done) pthread_cond_wait(&d->changed, &d->lock);
  pthread_mutex_unlock(&d->lock);
}

static int desk_failed(struct desk *d) {
  pthread_mutex_lock(&d->lock);
  int failed = d->failed;
  pthread_mutex_unlock(&d->lock);
  return failed;
}

static int job_add(struct store_txn *t, const void *arg) {
  const struct order *o = arg;
  struct store_user u;
  if (o->runs) atomic_fetch_add(o->runs, 1);
  return store_user_add(t, o->name, 1, &u);
}

// Writes, and only then finds that it has to fail.
static int job_add_and_regret(struct store_txn *t, const void *arg) {
  int rc = job_add(t, arg);
  return rc ? rc : PERR_NOTFOUND;
}

static int job_nothing(struct store_txn *t, const void *arg) {
  return 0;
}

static void on_done(void *arg, int result) {
  struct order *o = arg;
  struct desk *d = o->desk;
  pthread_mutex_lock(&d->lock);
  if (o->result) *o->result = result;
  d->done++;
  if (result) d->failed++;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  free(o);
}

static struct order *order_new(struct desk *d, const char *name) {
  struct order *o = calloc(1, sizeof *o);
  assert_non_null(o);
  o->desk = d;
  snprintf(o->name, sizeof o->name, "%s", name);
  return o;
}

static struct writer *writer_new(struct fixture *f) {
  struct writer *w = NULL;
  assert_int_equal(writer_start(&w, f->s), 0);
  return w;
}

static uint64_t user_count(struct fixture *f) {
  struct store_txn *t = begin(f, STORE_READ);
  uint64_t n = store_db_rows(t, DB_USERS);
  commit(t);
  return n;
}

static void result_is_on_disk_when_told(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  for (int i = 0; i < 20; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "user-%d", i);
    assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, name), i % 2 ? WRITER_SOON : WRITER_LAZY), 0);
    desk_wait(&d, i + 1); // a lazy one comes by itself
    assert_int_equal(user_count(f), i + 1);
  }
  assert_int_equal(desk_failed(&d), 0);
  writer_stop(w);
  writer_stop(NULL);
}

static void soon_takes_the_lazy_along(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  uint64_t before = store_last_txn(f->s);
  struct store_txn *t = begin(f, STORE_WRITE); // the store thread has to wait meanwhile
  for (int i = 0; i < 100; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "user-%d", i);
    assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, name), i == 99 ? WRITER_SOON : WRITER_LAZY), 0);
  }
  store_abort(t);
  desk_wait(&d, 100);
  assert_int_equal(user_count(f), 100);
  assert_in_range(store_last_txn(f->s) - before, 1, 3); // what was taken before the last post, and the rest
  writer_stop(w);
}

static void lazy_jobs_share_a_commit(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  uint64_t before = store_last_txn(f->s), start = clock_mono_ms();
  for (int i = 0; i < 200; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "user-%d", i);
    assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, name), WRITER_LAZY), 0);
  }
  uint64_t posted = clock_mono_ms() - start;
  desk_wait(&d, 200);
  // One commit for each 40 ms that the posting took, and one.
  assert_in_range(store_last_txn(f->s) - before, 1, 2 + posted / 40);
  writer_stop(w);
}

static void lazy_job_waits_for_company(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  uint64_t start = clock_mono_ms();
  assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, "alice"), WRITER_LAZY), 0);
  desk_wait(&d, 1);
  assert_true(clock_mono_ms() - start >= 30);
  writer_stop(w);
}

static void post_trio(struct writer *w, struct desk *d, writer_job_fn bad, const char *bad_name, int results[3],
                      atomic_int *runs) {
  const char *names[3] = {"first", bad_name, "third"};
  for (int i = 0; i < 3; i++) {
    struct order *o = order_new(d, names[i]);
    o->result = &results[i];
    o->runs = runs;
    assert_int_equal(writer_post(w, i == 1 ? bad : job_add, on_done, o, WRITER_SOON), 0);
  }
}

// Blocks the store thread at its begin, so that what is posted afterwards is one batch.
static struct store_txn *occupy(struct fixture *f, struct writer *w, struct desk *d) {
  struct store_txn *t = begin(f, STORE_WRITE);
  assert_int_equal(writer_post(w, job_nothing, on_done, order_new(d, ""), WRITER_SOON), 0);
  return t;
}

static void failing_job_fails_alone(void **state) {
  static const struct {
    writer_job_fn bad;
    const char *name;
    int result;
  } cases[] = {
      {job_add, "first", PERR_EXISTS},               // sticks to the transaction
      {job_add, "Not A Name", PERR_INVALID},         // likewise
      {job_add_and_regret, "second", PERR_NOTFOUND}, // does not stick, but what it wrote must go
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct fixture *f = *state;
    struct desk d;
    desk_init(&d);
    struct writer *w = writer_new(f);
    int results[3] = {1, 1, 1};
    atomic_int runs = 0;
    struct store_txn *t = occupy(f, w, &d);
    post_trio(w, &d, cases[i].bad, cases[i].name, results, &runs);
    store_abort(t);
    desk_wait(&d, 4);
    writer_stop(w);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], cases[i].result);
    assert_int_equal(results[2], 0);
    assert_in_range(atomic_load(&runs), 3, 6); // twice each at most
    assert_int_equal(user_count(f), 2);
    close_store(f);
    snprintf(f->path, sizeof f->path, "%s/store-%zu", f->dir, i);
    open_store(f);
  }
}

static void failing_job_without_done_is_freed(void **state) {
  struct fixture *f = *state;
  struct writer *w = writer_new(f);
  assert_int_equal(writer_post(w, job_add, NULL, order_new(NULL, "Not A Name"), WRITER_LAZY), 0);
  assert_int_equal(writer_post(w, job_add, NULL, order_new(NULL, "alice"), WRITER_LAZY), 0);
  writer_stop(w);
  assert_int_equal(user_count(f), 1);
}

static void stop_commits_what_is_queued(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  for (int i = 0; i < 1000; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "user-%d", i);
    assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, name), WRITER_LAZY), 0);
  }
  writer_stop(w);
  assert_int_equal(d.done, 1000);
  assert_int_equal(d.failed, 0);
  assert_int_equal(user_count(f), 1000);
}

static void full_queue_refuses(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  struct store_txn *t = occupy(f, w, &d);
  int accepted = 1, rc;
  for (;;) {
    struct order *o = order_new(&d, "");
    rc = writer_post(w, job_nothing, on_done, o, WRITER_LAZY);
    if (rc) {
      free(o); // the caller's again
      break;
    }
    accepted++;
  }
  assert_int_equal(rc, PERR_LIMIT);
  assert_in_range(accepted, QUEUE, QUEUE + SHARED); // some may have been taken
  store_abort(t);
  writer_stop(w);
  assert_int_equal(d.done, accepted);
  assert_int_equal(d.failed, 0);
}

static void full_map_is_told_to_each_job(void **state) {
  struct fixture *f = *state;
  struct err_text e = {""};
  struct desk d;
  desk_init(&d);
  if (store_open_sized(&f->s, f->path, STORE_CREATE, 1 << 18, &e)) fail_msg("%s", e.s);
  struct writer *w = writer_new(f);
  for (int i = 0; i < 3000; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "a-name-of-a-good-length-to-fill-the-map-%d", i);
    assert_int_equal(writer_post(w, job_add, on_done, order_new(&d, name), WRITER_SOON), 0);
  }
  writer_stop(w);
  assert_int_equal(d.done, 3000);
  assert_in_range(d.failed, 1, 2999);
  assert_int_equal(user_count(f), 3000 - d.failed); // who heard of success is there, and nobody else
}

struct poster {
  struct writer *w;
  struct desk *d;
  int number;
};

static void *post_many(void *arg) {
  struct poster *p = arg;
  for (int i = 0; i < 300; i++) {
    char name[NAME_TEXT];
    snprintf(name, sizeof name, "user-%d-%d", p->number, i);
    if (writer_post(p->w, job_add, on_done, order_new(p->d, name), i % 3 ? WRITER_LAZY : WRITER_SOON)) abort();
  }
  return NULL;
}

static void many_threads_post_read_and_copy(void **state) {
  struct fixture *f = *state;
  struct desk d;
  desk_init(&d);
  struct writer *w = writer_new(f);
  struct poster posters[4];
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    posters[i] = (struct poster){.w = w, .d = &d, .number = i};
    assert_int_equal(pthread_create(&threads[i], NULL, post_many, &posters[i]), 0);
  }
  char file[128];
  struct err_text e = {""};
  uint64_t last = 0;
  for (int i = 0; i < 5; i++) {
    snprintf(file, sizeof file, "%s/backup-%d.mdb", f->dir, i);
    if (store_backup(f->s, file, &e)) fail_msg("%s", e.s);
    uint64_t now = store_last_txn(f->s), users = user_count(f);
    assert_true(now >= last);
    assert_true(users <= 1200);
    last = now;
  }
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  writer_stop(w);
  assert_int_equal(d.done, 1200);
  assert_int_equal(d.failed, 0);
  assert_int_equal(user_count(f), 1200);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(result_is_on_disk_when_told, setup_store, teardown),
      cmocka_unit_test_setup_teardown(soon_takes_the_lazy_along, setup_store, teardown),
      cmocka_unit_test_setup_teardown(lazy_jobs_share_a_commit, setup_store, teardown),
      cmocka_unit_test_setup_teardown(lazy_job_waits_for_company, setup_store, teardown),
      cmocka_unit_test_setup_teardown(failing_job_fails_alone, setup_store, teardown),
      cmocka_unit_test_setup_teardown(failing_job_without_done_is_freed, setup_store, teardown),
      cmocka_unit_test_setup_teardown(stop_commits_what_is_queued, setup_store, teardown),
      cmocka_unit_test_setup_teardown(full_queue_refuses, setup_store, teardown),
      cmocka_unit_test_setup_teardown(full_map_is_told_to_each_job, setup_folder, teardown),
      cmocka_unit_test_setup_teardown(many_threads_post_read_and_copy, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
