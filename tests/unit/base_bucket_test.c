// bucket: rates, bursts, and inputs that would overflow.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/bucket.h"

static void starts_full_and_refills_at_its_rate(void **state) {
  struct bucket b;
  bucket_init(&b, 10, 3, 1000);
  for (int i = 0; i < 3; i++) assert_true(bucket_take(&b, 1, 1000));
  assert_false(bucket_take(&b, 1, 1000));
  assert_false(bucket_take(&b, 1, 1099));
  assert_true(bucket_take(&b, 1, 1100));
  assert_false(bucket_take(&b, 1, 1100));
  assert_true(bucket_take(&b, 3, 9000));
  assert_false(bucket_take(&b, 1, 9000)); // no more than the burst was saved
}

static void slow_rates_lose_nothing_to_rounding(void **state) {
  struct bucket b;
  bucket_init(&b, 1, 1, 0);
  assert_true(bucket_take(&b, 1, 0));
  for (uint64_t ms = 1; ms < 1000; ms++) assert_false(bucket_take(&b, 1, ms));
  assert_true(bucket_take(&b, 1, 1000));
}

static void takes_all_or_nothing(void **state) {
  struct bucket b;
  bucket_init(&b, 5, 10, 0);
  assert_false(bucket_take(&b, 11, 0));
  assert_true(bucket_take(&b, 10, 0));
  assert_true(bucket_take(&b, 0, 0));
}

static void a_clock_that_goes_back_gives_nothing(void **state) {
  struct bucket b;
  bucket_init(&b, 1000, 1, 5000);
  assert_true(bucket_take(&b, 1, 5000));
  assert_false(bucket_take(&b, 1, 10));
  assert_true(bucket_take(&b, 1, 5001));
}

static void a_rate_of_nothing_never_refills(void **state) {
  struct bucket b;
  bucket_init(&b, 0, 2, 0);
  assert_true(bucket_take(&b, 2, 0));
  assert_false(bucket_take(&b, 1, UINT64_MAX));
}

static void huge_values_do_not_overflow(void **state) {
  struct bucket b;
  bucket_init(&b, UINT64_MAX, UINT64_MAX, 0);
  assert_true(bucket_take(&b, UINT64_MAX / 1000, 0));
  assert_false(bucket_take(&b, UINT64_MAX, UINT64_MAX));
  assert_true(bucket_take(&b, UINT64_MAX / 1000, UINT64_MAX));
  bucket_init(&b, UINT64_MAX / 2, 100, 0);
  assert_true(bucket_take(&b, 100, 0));
  assert_true(bucket_take(&b, 100, 3)); // 3 * rate wraps in 64 bits
  assert_false(bucket_take(&b, 1, 3));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(starts_full_and_refills_at_its_rate),
      cmocka_unit_test(slow_rates_lose_nothing_to_rounding),
      cmocka_unit_test(takes_all_or_nothing),
      cmocka_unit_test(a_rate_of_nothing_never_refills),
      cmocka_unit_test(a_clock_that_goes_back_gives_nothing),
      cmocka_unit_test(huge_values_do_not_overflow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
