// Budgets: a bound of one's own, a share of what is free above, and sums that hold with many threads.
#include "postern/pipe/budget.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static size_t used(const struct budget *b) {
  return atomic_load(&b->used);
}

static void test_a_bound_alone(void **state) {
  struct budget b;
  budget_init(&b, 1000, NULL);
  assert_false(budget_tight(&b));
  assert_false(budget_over(&b));
  budget_add(&b, 750);
  assert_false(budget_tight(&b));
  budget_add(&b, 1);
  assert_true(budget_tight(&b));
  budget_add(&b, 249);
  assert_false(budget_over(&b));
  budget_add(&b, 1);
  assert_true(budget_over(&b));
  budget_sub(&b, 1);
  assert_false(budget_over(&b));
  budget_sub(&b, 1000);
  assert_int_equal(used(&b), 0);
  assert_false(budget_tight(&b));
}

// The smaller of the own bound and what is free above.
static void test_a_share(void **state) {
  struct budget top, a, b;
  budget_init(&top, 1000, NULL);
  budget_init(&a, 800, &top);
  budget_init(&b, 800, &top);
  budget_add(&a, 500); // half of all: as much as is left
  assert_int_equal(used(&top), 500);
  assert_false(budget_over(&a));
  assert_true(budget_tight(&a));
  budget_add(&a, 1);
  assert_true(budget_over(&a));
  // Whoever holds little finds room for more.
  budget_add(&b, 100);
  assert_false(budget_over(&b));
  assert_false(budget_tight(&b));
  budget_sub(&a, 501);
  assert_int_equal(used(&top), 100);
  budget_add(&b, 350);
  assert_false(budget_over(&b));
  budget_sub(&b, 450);
  assert_int_equal(used(&top), 0);
}

// With plenty above, one's own bound holds.
static void test_a_small_bound(void **state) {
  struct budget top, a;
  budget_init(&top, 1000000, NULL);
  budget_init(&a, 100, &top);
  budget_add(&a, 100);
  assert_true(budget_tight(&a));
  assert_false(budget_over(&a));
  budget_add(&a, 1);
  assert_true(budget_over(&a));
  assert_false(budget_tight(&top));
}

// n sessions that take what they can rest at n/(n+1) of the whole.
static void test_sessions_at_rest(void **state) {
  struct budget top, s[4];
  budget_init(&top, 1000000, NULL);
  for (int i = 0; i < 4; i++) budget_init(&s[i], 1000000, &top);
  for (int round = 0; round < 100000; round++) {
    struct budget *b = &s[round % 4];
    budget_add(b, 100);
    if (budget_over(b)) budget_sub(b, 100);
  }
  for (int i = 0; i < 4; i++) assert_in_range(used(&s[i]), 1000000 / 5 - 200, 1000000 / 5);
  struct budget late;
  budget_init(&late, 1000000, &top);
  budget_add(&late, 90000); // a newcomer
  assert_false(budget_over(&late));
}

// Over the top's bound nobody has a share; nothing wraps.
static void test_overdrawn(void **state) {
  struct budget top, a, b;
  budget_init(&top, 100, NULL);
  budget_init(&a, SIZE_MAX, &top);
  budget_init(&b, SIZE_MAX, &top);
  budget_add(&a, 300);
  assert_true(budget_over(&top));
  assert_true(budget_over(&a));
  assert_false(budget_over(&b)); // he holds nothing
  budget_add(&b, 1);
  assert_true(budget_over(&b));
  atomic_store(&top.bound, 1000); // a reload
  assert_false(budget_over(&a));
  assert_false(budget_over(&b));
}

static struct budget shared;

static void *busy(void *arg) {
  struct budget *own = arg;
  for (int i = 0; i < 20000; i++) {
    budget_add(own, 3);
    (void)budget_over(own);
    budget_sub(own, 2);
  }
  return NULL;
}

static void test_threads(void **state) {
  enum { N = 3 };
  struct budget own[N];
  pthread_t threads[N];
  budget_init(&shared, 1000, NULL);
  for (int i = 0; i < N; i++) {
    budget_init(&own[i], 1000, &shared);
    assert_int_equal(pthread_create(&threads[i], NULL, busy, &own[i]), 0);
  }
  for (int i = 0; i < N; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < N; i++) assert_int_equal(used(&own[i]), 20000);
  assert_int_equal(used(&shared), N * 20000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_bound_alone), cmocka_unit_test(test_a_share),
      cmocka_unit_test(test_a_small_bound), cmocka_unit_test(test_sessions_at_rest),

      cmocka_unit_test(test_overdrawn),     cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
