// clock: dates at their edges and durations as people type them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/clock.h"
#include "postern/base/err.h"

static void dates_are_rfc_3339(void **state) {
  char out[CLOCK_TEXT];
  assert_string_equal(clock_format_s(0, out), "1970-01-01T00:00:00Z");
  assert_string_equal(clock_format_s(-1, out), "1969-12-31T23:59:59Z");
  assert_string_equal(clock_format_s(1769903999, out), "2026-01-31T23:59:59Z");
  assert_string_equal(clock_format_s(1709164800, out), "2024-02-29T00:00:00Z");
  assert_string_equal(clock_format_ms(1769903999123, out), "2026-01-31T23:59:59.123Z");
  assert_string_equal(clock_format_ms(1769903999007, out), "2026-01-31T23:59:59.007Z");
  assert_string_equal(clock_format_ms(-1, out), "1969-12-31T23:59:59.999Z");
}

static void dates_beyond_four_digits_stay_at_the_edge(void **state) {
  char out[CLOCK_TEXT];
  assert_string_equal(clock_format_s(INT64_MAX, out), "9999-12-31T23:59:59Z");
  assert_string_equal(clock_format_s(INT64_MIN, out), "0000-01-01T00:00:00Z");
  clock_format_ms(INT64_MAX, out);
  clock_format_ms(INT64_MIN, out);
}

static void clocks_go_forward_together(void **state) {
  uint64_t us = clock_mono_us(), ms = clock_mono_ms();
  assert_true(ms >= us / 1000 && clock_mono_us() >= us);
  int64_t s = clock_wall_s(), wall_ms = clock_wall_ms();
  assert_true(wall_ms / 1000 >= s && wall_ms / 1000 <= s + 60);
}

static void durations(void **state) {
  static const struct {
    const char *text;
    int64_t seconds;
  } good[] = {{"1", 1},
              {"90s", 90},
              {"15m", 900},
              {"2h", 7200},
              {"30d", 2592000},
              {"36500d", 3153600000},
              {"3153600000", 3153600000}};
  static const char *const bad[] = {
      "",   "0",   "0s", "s",   "-1s", "+1s", " 1s",   "1s ",    "1 s",        "1.5h",
      "1w", "1hh", "1H", "5ms", "01s", "1e3", "0x10s", "36501d", "3153600001", "18446744073709551617"};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    int64_t seconds = -1;
    assert_int_equal(duration_parse(good[i].text, &seconds), 0);
    assert_true(seconds == good[i].seconds);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    int64_t seconds = -1;
    if (duration_parse(bad[i], &seconds) != PERR_INVALID) fail_msg("\"%s\" was taken", bad[i]);
    assert_true(seconds == -1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dates_are_rfc_3339),
      cmocka_unit_test(dates_beyond_four_digits_stay_at_the_edge),
      cmocka_unit_test(clocks_go_forward_together),
      cmocka_unit_test(durations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
