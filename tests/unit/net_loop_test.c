// The loop: posts from other threads, tasks at the end of a batch, the reaper, timers, and what loop_free still runs.
#include "net_fixture.h"
#include <pthread.h>

static struct loop *loop;

static int set_up(void **state) {
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static int tear_down(void **state) {
  loop_free(loop);
  return 0;
}

// What happened, in order, a letter each.
static char trace[64];

static void note(char letter) {
  size_t n = strlen(trace);
  assert_true(n + 1 < sizeof trace);
  trace[n] = letter;
  trace[n + 1] = '\0';
}

static int clear_trace(void **state) {
  trace[0] = '\0';
  return set_up(state);
}

static void post_letter(void *arg) {
  note((char)(uintptr_t)arg);
}

static void *letter(char c) {
  return (void *)(uintptr_t)c;
}

// ---- posts ----

enum { POSTERS = 4, POSTS = 3000 };

struct poster {
  unsigned index, next; // `next` belongs to the loop's thread
};

struct numbered {
  struct poster *from;
  unsigned number;
};

static struct poster posters[POSTERS];
static struct numbered numbered[POSTERS][POSTS];
static unsigned arrived;

static void on_numbered(void *arg) {
  struct numbered *n = arg;
  assert_int_equal(n->number, n->from->next);
  n->from->next++;
  if (++arrived == POSTERS * POSTS) loop_stop(loop);
}

static void *post_all(void *arg) {
  struct poster *p = arg;
  for (unsigned i = 0; i < POSTS; i++) {
    numbered[p->index][i] = (struct numbered){p, i};
    assert_int_equal(loop_post(loop, on_numbered, &numbered[p->index][i]), 0);
  }
  return NULL;
}

static void test_posts_keep_their_order(void **state) {
  pthread_t threads[POSTERS];
  arrived = 0;
  nx_await("all posts");
  for (unsigned i = 0; i < POSTERS; i++) {
    posters[i] = (struct poster){.index = i};
    assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
  }
  loop_run(loop);
  for (unsigned i = 0; i < POSTERS; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < POSTERS; i++) assert_int_equal(posters[i].next, POSTS);
  alarm(0);
}

static void post_again(void *arg) {
  note('a');
  loop_post(loop, post_letter, letter('b'));
}

static void on_stop(void *arg) {
  loop_stop(loop);
}

static void test_posts_of_posts(void **state) {
  loop_post(loop, post_again, NULL);
  loop_post(loop, post_letter, letter('c'));
  NX_UNTIL(loop, strlen(trace) == 3);
  assert_string_equal(trace, "acb");
}

// A thread that sleeps in its loop is woken by a post and by a stop, and the loop can run again.
static void test_thread(void **state) {
  nx_await("the loop's thread to end");
  for (int i = 0; i < 3; i++) {
    trace[0] = '\0';
    assert_int_equal(loop_start_thread(loop), 0);
    loop_post(loop, post_letter, letter('x'));
    loop_post(loop, on_stop, NULL);
    loop_join(loop);
    assert_string_equal(trace, "x");
    assert_int_equal(loop_start_thread(loop), 0);
    loop_stop(loop);
    loop_join(loop);
  }
  alarm(0);
}

static void test_stop_before_run(void **state) {
  nx_await("the loop to stop");
  loop_stop(loop);
  loop_stop(loop);
  loop_run(loop);
  alarm(0);
}

// ---- tasks ----

struct lettered {
  struct loop_task task;
  char letter;
  unsigned runs;
  void (*more)(struct lettered *self);
};

static void on_task(struct loop_task *t) {
  struct lettered *l = (struct lettered *)t;
  l->runs++;
  note(l->letter);
  if (l->more) l->more(l);
}

#define TASK(c)                                                                                                        \
  { .task.fn = on_task, .letter = (c) }

static struct lettered *shared;

static void on_pipe(evutil_socket_t fd, short what, void *arg) {
  char c;
  assert_int_equal(read(fd, &c, 1), 1);
  note('e');
  loop_defer(loop, &shared->task);
  loop_defer(loop, &shared->task);
}

// Two events of one batch defer the same task: it runs once, behind both.
static void test_task_runs_once_behind_the_batch(void **state) {
  struct lettered t = TASK('t');
  int fds[2][2];
  struct event *events[2];
  shared = &t;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(pipe(fds[i]), 0);
    events[i] = event_new(loop_base(loop), fds[i][0], EV_READ | EV_PERSIST, on_pipe, NULL);
    event_add(events[i], NULL);
    assert_int_equal(write(fds[i][1], "x", 1), 1);
  }
  nx_settle(loop);
  assert_string_equal(trace, "eet");
  for (int i = 0; i < 2; i++) {
    event_free(events[i]);
    close(fds[i][0]);
    close(fds[i][1]);
  }
}

static void run_again(struct lettered *self) {
  loop_defer(loop, &self->task);
}

static unsigned letters(char c) {
  unsigned n = 0;
  for (const char *p = trace; *p; p++) n += *p == c;
  return n;
}

// A task that always wants another turn gets one per batch, and what comes meanwhile is heard.
static void test_a_task_that_defers_itself_starves_nobody(void **state) {
  struct lettered t = TASK('t');
  t.more = run_again;
  struct loop_timer *timer = loop_timer_new(loop, post_letter, letter('m'));
  loop_defer(loop, &t.task);
  nx_step(loop);
  assert_int_equal(t.runs, 1);
  loop_post(loop, post_letter, letter('p'));
  loop_timer_set(timer, 5);
  nx_advance(5);
  for (int i = 0; i < 4; i++) nx_step(loop);
  assert_int_equal(letters('p'), 1);
  assert_int_equal(letters('m'), 1);
  assert_in_range(t.runs, 3, 5);
  loop_defer_cancel(loop, &t.task);
  loop_timer_free(timer);
}

static struct lettered *victims[2];

static void cancel_victims(struct lettered *self) {
  for (int i = 0; i < 2; i++) loop_defer_cancel(loop, &victims[i]->task);
}

// Whichever places the cancelled ones had, the others run once, and the list takes new ones.
static void test_cancel_inside_a_task(void **state) {
  for (int first = 1; first < 4; first++)
    for (int second = 1; second < 4; second++) {
      struct lettered t[4] = {TASK('a'), TASK('b'), TASK('c'), TASK('d')}, late = TASK('z');
      trace[0] = '\0';
      t[0].more = cancel_victims;
      victims[0] = &t[first];
      victims[1] = &t[second];
      for (int i = 0; i < 4; i++) loop_defer(loop, &t[i].task);
      nx_settle(loop);
      for (int i = 1; i < 4; i++) assert_int_equal(t[i].runs, i != first && i != second);
      loop_defer(loop, &t[first].task);
      loop_defer(loop, &late.task);
      nx_settle(loop);
      assert_int_equal(t[first].runs, 1);
      assert_int_equal(late.runs, 1);
    }
}

// Cancelled before the batch ends: the tail of the list has to come back too.
static void test_cancel_outside(void **state) {
  struct lettered t[3] = {TASK('a'), TASK('b'), TASK('c')};
  for (int i = 0; i < 3; i++) loop_defer(loop, &t[i].task);
  loop_defer_cancel(loop, &t[2].task);
  loop_defer_cancel(loop, &t[2].task);
  loop_defer(loop, &t[2].task);
  loop_defer_cancel(loop, &t[0].task);
  nx_settle(loop);
  assert_string_equal(trace, "bc");
}

static struct lettered *moved;

static void move_one(struct lettered *self) {
  self->more = NULL;
  loop_defer_cancel(loop, &moved->task);
  loop_defer(loop, &moved->task);
  loop_defer(loop, &self->task);
}

// Deferred from within a task: the next batch's.
static void test_defer_inside_a_task(void **state) {
  struct lettered a = TASK('a'), b = TASK('b'), c = TASK('c');
  a.more = move_one;
  moved = &b;
  loop_defer(loop, &a.task);
  loop_defer(loop, &b.task);
  loop_defer(loop, &c.task);
  nx_settle(loop);
  assert_string_equal(trace, "acba");
}

// ---- reaper ----

static void free_and_reap(void *obj) {
  note('1');
  loop_reap(loop, letter('2'), post_letter);
}

static void reap_in_task(struct lettered *self) {
  loop_reap(loop, letter('r'), post_letter);
}

// Freed behind the tasks of the batch, also what a task gave up; what a free function gives up goes at once.
static void test_reaper_comes_last(void **state) {
  struct lettered a = TASK('a'), b = TASK('b');
  a.more = reap_in_task;
  loop_reap(loop, NULL, free_and_reap);
  loop_defer(loop, &a.task);
  loop_defer(loop, &b.task);
  nx_settle(loop);
  assert_int_equal(strlen(trace), 5);
  assert_memory_equal(trace, "ab", 2);
  assert_true(strchr(trace, '1') < strchr(trace, '2'));
  assert_non_null(strchr(trace, 'r'));
}

static void test_reaper_alone(void **state) {
  loop_reap(loop, letter('r'), post_letter);
  assert_string_equal(trace, "");
  nx_settle(loop);
  assert_string_equal(trace, "r");
}

static unsigned freed;

static void count_free(void *obj) {
  freed++;
  free(obj);
}

static void test_reaper_takes_many(void **state) {
  freed = 0;
  for (int i = 0; i < 1000; i++) loop_reap(loop, malloc(16), count_free);
  nx_settle(loop);
  assert_int_equal(freed, 1000);
}

// ---- timers ----

static struct loop_timer *timer;

static void free_itself(void *ctx) {
  note('f');
  loop_timer_free(timer);
}

static void test_timers(void **state) {
  struct loop_timer *a = loop_timer_new(loop, post_letter, letter('a')),
                    *b = loop_timer_new(loop, post_letter, letter('b')),
                    *c = loop_timer_new(loop, post_letter, letter('c'));
  timer = loop_timer_new(loop, free_itself, NULL);
  loop_timer_set(a, 2000);
  loop_timer_set(b, 1000);
  loop_timer_set(c, 1500);
  loop_timer_set(timer, 3000);
  nx_pass(loop, 900);
  assert_string_equal(trace, "");
  nx_pass(loop, 150);
  assert_string_equal(trace, "b");
  loop_timer_set(b, 3000); // from now
  loop_timer_clear(c);
  loop_timer_set(a, 300); // instead of what was left
  nx_pass(loop, 290);
  assert_string_equal(trace, "b");
  nx_pass(loop, 20);
  assert_string_equal(trace, "ba");
  nx_pass(loop, 10000);
  assert_string_equal(trace, "bafb"); // once each
  loop_timer_free(a);
  loop_timer_free(b);
  loop_timer_free(c);
  loop_timer_free(NULL);
}

static void test_time(void **state) {
  uint64_t then = loop_now_ms(loop);
  nx_advance(1234);
  assert_int_equal(loop_now_ms(loop) - then, 1234);
}

// ---- the end ----

static void defer_late(void *arg) {
  note('p');
  loop_defer(loop, arg);
}

static void post_late(struct lettered *self) {
  loop_post(loop, post_letter, letter('q'));
}

static void free_and_post(void *obj) {
  note('r');
  loop_post(loop, post_letter, letter('s'));
}

// Nothing that was promised is lost: posts, the tasks they defer, and what those post and reap in turn.
static void test_free_runs_what_is_left(void **state) {
  struct lettered t = TASK('t');
  trace[0] = '\0';
  loop = loop_new("test");
  t.more = post_late;
  loop_post(loop, defer_late, &t.task);
  loop_reap(loop, NULL, free_and_post);
  loop_stop(loop);
  loop_free(loop);
  assert_int_equal(letters('p'), 1);
  assert_int_equal(letters('t'), 1);
  assert_int_equal(letters('r'), 1);
  assert_int_equal(letters('q'), 1);
  assert_int_equal(letters('s'), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_posts_keep_their_order, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_posts_of_posts, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_thread, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_stop_before_run, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_task_runs_once_behind_the_batch, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_a_task_that_defers_itself_starves_nobody, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_cancel_inside_a_task, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_cancel_outside, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_defer_inside_a_task, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_reaper_comes_last, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_reaper_alone, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_reaper_takes_many, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_timers, clear_trace, tear_down),
      cmocka_unit_test_setup_teardown(test_time, clear_trace, tear_down),
      cmocka_unit_test(test_free_runs_what_is_left),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
