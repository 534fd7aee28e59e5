// text: names, decimal numbers and secret files.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/text.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], file[128];

static int make_folder(void **state) {
  strcpy(folder, "/tmp/base_text_XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(file, sizeof file, "%s/token", folder);
  return 0;
}

static int remove_folder(void **state) {
  unlink(file);
  return rmdir(folder);
}

static void fill(const void *data, size_t len, mode_t mode) {
  int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, data, len), len);
  assert_int_equal(fchmod(fd, mode), 0);
  close(fd);
}

static void names(void **state) {
  static const char *const good[] = {"a", "0", "alice", "web-1", "a.b_c-d", "9..--"};
  static const char *const bad[] = {"", ".a", "-a", "_a", "A", "aB", "a b", "a/b", "a\n", "h\xc3\xb6", "a:b", "a*"};
  char longest[NAME_TEXT + 1];
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_true(name_valid(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_false(name_valid(bad[i]));
  memset(longest, 'x', NAME_TEXT);
  longest[NAME_TEXT] = '\0';
  assert_false(name_valid(longest));
  longest[NAME_MAX_LEN] = '\0';
  assert_true(name_valid(longest));
  assert_false(name_valid(NULL));
}

static void decimals(void **state) {
  uint64_t v = 0;
  assert_int_equal(decimal_parse("0", 1, 0, &v), 0);
  assert_int_equal(decimal_parse("65535x", 5, 65535, &v), 0);
  assert_true(v == 65535);
  assert_int_equal(decimal_parse("18446744073709551615", 20, UINT64_MAX, &v), 0);
  assert_true(v == UINT64_MAX);
  static const char *const bad[] = {"",
                                    "65536",
                                    "100000",
                                    "00",
                                    "01",
                                    "-1",
                                    "+1",
                                    " 1",
                                    "1 ",
                                    "0x1",
                                    "1a",
                                    "18446744073709551616",
                                    "99999999999999999999999"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(decimal_parse(bad[i], strlen(bad[i]), 65535, &v), PERR_INVALID);
  assert_int_equal(decimal_parse("18446744073709551616", 20, UINT64_MAX, &v), PERR_INVALID);
  assert_int_equal(decimal_parse("1", 1, 0, &v), PERR_INVALID);
  assert_true(v == UINT64_MAX);
}

static void a_secret_is_trimmed(void **state) {
  char out[16];
  bool loose = true;
  struct err_text e;
  fill(" \tpst_abc\r\n\n", 12, 0600);
  assert_int_equal(secret_read(file, "token file", out, sizeof out, &loose, &e), 0);
  assert_string_equal(out, "pst_abc");
  assert_false(loose);
  for (size_t i = 7; i < 13; i++) assert_int_equal(out[i], 0); // no copy behind it
  fill("123456789012345", 15, 0600);
  assert_int_equal(secret_read(file, "token file", out, sizeof out, &loose, &e), 0);
  assert_string_equal(out, "123456789012345");
}

static void looseness(void **state) {
  char out[16];
  struct err_text e;
  static const struct {
    mode_t mode;
    bool loose;
  } cases[] = {{0600, false}, {0400, false}, {0640, true}, {0604, true}, {0644, true}, {0622, false}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    bool loose = !cases[i].loose;
    fill("x", 1, cases[i].mode);
    assert_int_equal(secret_read(file, "token file", out, sizeof out, &loose, &e), 0);
    assert_int_equal(loose, cases[i].loose);
    assert_int_equal(file_is_loose(file), cases[i].loose);
  }
  assert_false(file_is_loose("/nonexistent/file"));
}

static void expect_refused(int code, const char *why) {
  char out[16] = "unchanged", expected[256];
  bool loose;
  struct err_text e;
  assert_int_equal(secret_read(file, "token file", out, sizeof out, &loose, &e), code);
  snprintf(expected, sizeof expected, "token file %s: %s", file, why);
  assert_string_equal(e.s, expected);
}

static void bad_secret_files(void **state) {
  fill("", 0, 0600);
  expect_refused(PERR_INVALID, "empty");
  fill(" \n\t\n", 4, 0600);
  expect_refused(PERR_INVALID, "empty");
  fill("1234567890123456", 16, 0600);
  expect_refused(PERR_LIMIT, "more than 15 bytes");
  fill("one\ntwo\n", 8, 0600);
  expect_refused(PERR_INVALID, "more than one line");
  fill("a\0b", 3, 0600);
  expect_refused(PERR_INVALID, "not a text file");
  unlink(file);
  expect_refused(PERR_NOTFOUND, "No such file or directory");
  assert_int_equal(mkdir(file, 0700), 0);
  expect_refused(PERR_IO, "Is a directory");
  assert_int_equal(rmdir(file), 0);
}

// A shell's <(command) is a pipe.
static void a_secret_from_a_pipe(void **state) {
  int ends[2];
  char path[32], out[16];
  bool loose = true;
  struct err_text e;
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(write(ends[1], "secret\n", 7), 7);
  close(ends[1]);
  snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
  assert_int_equal(secret_read(path, "token file", out, sizeof out, &loose, &e), 0);
  assert_string_equal(out, "secret");
  assert_false(loose);
  close(ends[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names),     cmocka_unit_test(decimals),         cmocka_unit_test(a_secret_is_trimmed),
      cmocka_unit_test(looseness), cmocka_unit_test(bad_secret_files), cmocka_unit_test(a_secret_from_a_pipe),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
