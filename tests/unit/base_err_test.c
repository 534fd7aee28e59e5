// err: texts of codes, and errors that stay one bounded line.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/err.h"
#include <string.h>

static void every_code_has_its_own_text(void **state) {
  for (int a = PERR_VERSION; a <= PERR_OK; a++) {
    assert_string_not_equal(perr_str(a), "unknown error");
    for (int b = a + 1; b <= PERR_OK; b++) assert_string_not_equal(perr_str(a), perr_str(b));
  }
  assert_string_equal(perr_str(1), "unknown error");
  assert_string_equal(perr_str(PERR_VERSION - 1), "unknown error");
}

static void set_returns_the_code(void **state) {
  struct err_text e;
  assert_int_equal(err_set(&e, PERR_IO, "%s: %d", "disk", 7), PERR_IO);
  assert_string_equal(e.s, "disk: 7");
  assert_int_equal(err_set(NULL, PERR_LIMIT, "unseen"), PERR_LIMIT);
  err_prefix(NULL, "unseen");
}

static void text_may_hold_its_own_old_text(void **state) {
  struct err_text e;
  err_set(&e, PERR_IO, "old");
  err_set(&e, PERR_IO, "<%s>", e.s);
  err_prefix(&e, "%s:%d", "file", 3);
  assert_string_equal(e.s, "file:3: <old>");
}

static void controls_do_not_break_the_line(void **state) {
  struct err_text e;
  err_set(&e, PERR_INVALID, "a\nb\r\x1b[31mc\x7f");
  assert_string_equal(e.s, "a b  [31mc ");
  err_prefix(&e, "x\ny");
  assert_string_equal(e.s, "x y: a b  [31mc ");
}

static void long_texts_are_cut(void **state) {
  struct err_text e;
  char longer[2000];
  memset(longer, 'x', sizeof longer - 1);
  longer[sizeof longer - 1] = '\0';
  err_set(&e, PERR_INVALID, "%s", longer);
  assert_int_equal(strlen(e.s), sizeof e.s - 1);
  err_prefix(&e, "%s", "ab");
  assert_int_equal(strlen(e.s), sizeof e.s - 1);
  assert_memory_equal(e.s, "ab: xx", 6);
  err_prefix(&e, "%s", longer);
  assert_int_equal(strlen(e.s), sizeof e.s - 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_code_has_its_own_text),
      cmocka_unit_test(set_returns_the_code),
      cmocka_unit_test(text_may_hold_its_own_old_text),
      cmocka_unit_test(controls_do_not_break_the_line),
      cmocka_unit_test(long_texts_are_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
