// The hasher: jobs run beside each other on two threads at most, the queue is bounded, a stop drops what waits.
#include "postern/gateway/hasher.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct world {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool open; // jobs end
  unsigned running, most_running, ran, done, dropped;
};

struct work {
  struct hasher_job job;
  struct world *world;
};

static void run(struct hasher_job *j) {
  struct world *w = ((struct work *)j)->world;
  pthread_mutex_lock(&w->lock);
  if (++w->running > w->most_running) w->most_running = w->running;
  pthread_cond_broadcast(&w->changed);
  while (!w->open) pthread_cond_wait(&w->changed, &w->lock);
  w->running--;
  w->ran++;
  pthread_mutex_unlock(&w->lock);
}

static void end(struct hasher_job *j, bool dropped) {
  struct world *w = ((struct work *)j)->world;
  pthread_mutex_lock(&w->lock);
  *(dropped ? &w->dropped : &w->done) += 1;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
  free(j);
}

static void done(struct hasher_job *j) { end(j, false); }
static void drop(struct hasher_job *j) { end(j, true); }

static void world_init(struct world *w, bool open) {
  *w = (struct world){.open = open};
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
}

static void set_open(struct world *w) {
  pthread_mutex_lock(&w->lock);
  w->open = true;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

static void wait_for(struct world *w, const unsigned *what, unsigned n) {
  pthread_mutex_lock(&w->lock);
  while (*what < n) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
}

static int post(struct hasher *h, struct world *w) {
  struct work *work = malloc(sizeof *work);
  assert_non_null(work);
  *work = (struct work){.job = {.run = run, .done = done, .drop = drop}, .world = w};
  int code = hasher_post(h, &work->job);
  if (code) free(work);
  return code;
}

static void jobs_run_on_two_threads(void **state) {
  struct world w;
  world_init(&w, false);
  struct hasher *h = hasher_new();
  assert_non_null(h);
  for (int i = 0; i < 10; i++) assert_int_equal(post(h, &w), 0);
  wait_for(&w, &w.running, HASHER_THREADS);
  set_open(&w);
  wait_for(&w, &w.done, 10);
  hasher_free(h);
  assert_int_equal(w.most_running, HASHER_THREADS);
  assert_int_equal(w.ran, 10);
  assert_int_equal(w.dropped, 0);
}

static void the_queue_is_bounded(void **state) {
  struct world w;
  world_init(&w, false);
  struct hasher *h = hasher_new();
  assert_non_null(h);
  for (int i = 0; i < HASHER_THREADS; i++) {
    assert_int_equal(post(h, &w), 0);
    wait_for(&w, &w.running, (unsigned)i + 1);
  }
  for (int i = 0; i < HASHER_QUEUE; i++) assert_int_equal(post(h, &w), 0);
  assert_int_equal(post(h, &w), PERR_LIMIT);
  set_open(&w);
  wait_for(&w, &w.done, HASHER_THREADS + HASHER_QUEUE);
  assert_int_equal(post(h, &w), 0);
  hasher_free(h);
  assert_int_equal(w.done + w.dropped, HASHER_THREADS + HASHER_QUEUE + 1);
}

// Lets the running jobs end while the stop is under way, or just before.
static void *open_soon(void *arg) {
  set_open(arg);
  return NULL;
}

static void a_stop_ends_what_runs_and_drops_the_rest(void **state) {
  for (int round = 0; round < 50; round++) {
    struct world w;
    pthread_t opener;
    world_init(&w, false);
    struct hasher *h = hasher_new();
    assert_non_null(h);
    for (int i = 0; i < 20; i++) assert_int_equal(post(h, &w), 0);
    wait_for(&w, &w.running, HASHER_THREADS);
    assert_int_equal(pthread_create(&opener, NULL, open_soon, &w), 0);
    hasher_free(h);
    pthread_join(opener, NULL);
    assert_int_equal(w.ran, w.done);
    assert_int_equal(w.done + w.dropped, 20);
    assert_true(w.done >= HASHER_THREADS);
  }
}

static void a_hasher_without_work_has_no_thread_to_join(void **state) {
  struct hasher *h = hasher_new();
  assert_non_null(h);
  hasher_free(h);
  hasher_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(jobs_run_on_two_threads),
      cmocka_unit_test(the_queue_is_bounded),
      cmocka_unit_test(a_stop_ends_what_runs_and_drops_the_rest),
      cmocka_unit_test(a_hasher_without_work_has_no_thread_to_join),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
