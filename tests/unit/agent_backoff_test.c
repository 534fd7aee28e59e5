// backoff: the waits stay within their bounds, double, and begin anew after something held.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/agent/backoff.h"

enum { LOW = 500, HIGH = 30000 };

static void doubles_up_to_the_high_bound(void **state) {
  static const uint32_t least[] = {500, 1000, 2000, 4000, 8000, 15000, 15000, 15000};
  struct backoff b;
  backoff_init(&b, LOW, HIGH);
  for (size_t i = 0; i < sizeof least / sizeof least[0]; i++) assert_int_equal(backoff_next(&b, 0), least[i]);
}

static void jitter_fills_the_range_and_never_leaves_it(void **state) {
  for (uint32_t random = 0; random < 100000; random += 7) {
    struct backoff b;
    backoff_init(&b, LOW, HIGH);
    for (unsigned i = 0; i < 12; i++) {
      uint32_t wait = backoff_next(&b, random * 2654435761u);
      assert_in_range(wait, LOW, HIGH);
      if (i == 0) assert_in_range(wait, 500, 1000);
      if (i > 6) assert_in_range(wait, 15000, 30000);
    }
  }
  struct backoff b;
  backoff_init(&b, LOW, HIGH);
  assert_int_equal(backoff_next(&b, 500), 1000); // the top of the first range can be drawn
}

static void begins_anew_after_something_held(void **state) {
  struct backoff b;
  backoff_init(&b, LOW, HIGH);
  for (unsigned i = 0; i < 10; i++) backoff_next(&b, 0);
  backoff_lived(&b, BACKOFF_SETTLED_MS - 1);
  assert_int_equal(backoff_next(&b, 0), 15000);
  backoff_lived(&b, BACKOFF_SETTLED_MS);
  assert_int_equal(backoff_next(&b, 0), 500);
  backoff_next(&b, 0);
  backoff_reset(&b);
  assert_int_equal(backoff_next(&b, 0), 500);
}

static void bounds_that_lie_close_together(void **state) {
  struct backoff b;
  backoff_init(&b, 1000, 1500);
  for (uint32_t i = 0; i < 1000; i++) assert_in_range(backoff_next(&b, i), 1000, 1500);
  backoff_init(&b, 1000, 1000);
  assert_int_equal(backoff_next(&b, 12345), 1000);
  assert_int_equal(backoff_next(&b, 54321), 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(doubles_up_to_the_high_bound),
      cmocka_unit_test(jitter_fills_the_range_and_never_leaves_it),
      cmocka_unit_test(begins_anew_after_something_held),
      cmocka_unit_test(bounds_that_lie_close_together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
