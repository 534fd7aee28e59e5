// Who goes first when there is no room, and who has been silent too long.
#include "postern/pipe/ages.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { N = 4 };

static struct ages ages;
static struct age all[N];

static int set_up(void **state) {
  ages_init(&ages);
  for (int i = 0; i < N; i++) ages_add(&ages, &all[i], (uint64_t)i);
  return 0;
}

static void test_who_was_never_answered_goes_first(void **state) {
  assert_ptr_equal(ages_first(&ages), &all[0]);
  ages_touch(&ages, &all[0], 10, true);
  assert_ptr_equal(ages_first(&ages), &all[1]);
  ages_touch(&ages, &all[1], 20, false); // heard again, not answered
  assert_ptr_equal(ages_first(&ages), &all[2]);
  ages_remove(&ages, &all[2]);
  ages_remove(&ages, &all[3]);
  assert_ptr_equal(ages_first(&ages), &all[1]); // younger, but without an answer
  ages_remove(&ages, &all[1]);
  assert_ptr_equal(ages_first(&ages), &all[0]);
  ages_remove(&ages, &all[0]);
  assert_null(ages_first(&ages));
  assert_int_equal(ages.count, 0);
}

static void test_then_who_was_silent_longest(void **state) {
  for (int i = N; i--;) ages_touch(&ages, &all[i], 100, true);
  assert_ptr_equal(ages_first(&ages), &all[N - 1]);
  ages_touch(&ages, &all[N - 1], 200, false); // answered once is answered
  assert_ptr_equal(ages_first(&ages), &all[N - 2]);
  assert_true(all[N - 1].answered);
}

static void test_silence(void **state) {
  enum { IDLE = 60000 };
  ages_touch(&ages, &all[0], 5, true);
  assert_null(ages_expired(&ages, AGES_FRESH_MS, IDLE));
  assert_ptr_equal(ages_expired(&ages, AGES_FRESH_MS + 1, IDLE), &all[1]);
  for (int i = 1; i < N; i++) ages_remove(&ages, &all[i]);
  assert_null(ages_expired(&ages, IDLE + 4, IDLE));
  assert_ptr_equal(ages_expired(&ages, IDLE + 5, IDLE), &all[0]);
}

// A tunnel that ends its flows sooner ends those without an answer as soon.
static void test_short_idle_times(void **state) {
  assert_null(ages_expired(&ages, 999, 1000));
  assert_ptr_equal(ages_expired(&ages, 1000, 1000), &all[0]);
}

int main(void) {
#define T(name) cmocka_unit_test_setup(test_##name, set_up)
  const struct CMUnitTest tests[] = {
      T(who_was_never_answered_goes_first),
      T(then_who_was_silent_longest),
      T(silence),
      T(short_idle_times),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
