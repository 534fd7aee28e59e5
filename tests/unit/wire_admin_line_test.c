// Tests of wire/admin_line: what posternctl understands of an answer, and that each line is read as it was written.
#include "postern/wire/admin_line.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse_reply(const char *line, json_t **data, struct err_text *e) {
  *data = NULL;
  return admin_reply_parse(line, strlen(line), data, e);
}

static void test_request_there_and_back(void **state) {
  json_t *request = json_pack("{s:s, s:s}", "command", "session.kick", "user", "a\nb"), *got = NULL;
  char *line = admin_request_format(request);
  size_t len = strlen(line);
  assert_ptr_equal(strchr(line, '\n'), line + len - 1); // one line, whatever is in the strings
  assert_int_equal(admin_request_parse(line, len - 1, &got, NULL), 0);
  assert_string_equal(admin_request_command(got), "session.kick");
  assert_true(json_equal(request, got));
  json_decref(request);
  json_decref(got);
  free(line);
}

static void test_replies_there_and_back(void **state) {
  struct err_text e = {""};
  json_t *data = json_pack("[i, s]", 1, "x"), *got;
  char *line = admin_reply_ok(data);
  assert_int_equal(parse_reply(line, &got, &e), 0);
  assert_true(json_equal(data, got));
  json_decref(data);
  json_decref(got);
  free(line);

  line = admin_reply_ok(NULL);
  assert_int_equal(parse_reply(line, &got, &e), 0);
  assert_true(json_is_null(got));
  free(line);

  line = admin_reply_error("no \"luck\"");
  assert_int_equal(parse_reply(line, &got, &e), PERR_DENIED);
  assert_string_equal(e.s, "no \"luck\"");
  free(line);

  line = admin_reply_error("\xff"); // still a line
  assert_int_equal(parse_reply(line, &got, &e), PERR_DENIED);
  free(line);
}

static void test_replies_that_make_no_sense(void **state) {
  static const char *const lines[] = {"",
                                      "x",
                                      "[]",
                                      "{}",
                                      "{\"ok\":true}",
                                      "{\"ok\":false}",
                                      "{\"ok\":1,\"data\":1}",
                                      "{\"ok\":false,\"error\":1}",
                                      "{\"data\":null}",
                                      "{\"ok\":true,\"data\":1"};
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    struct err_text e = {""};
    json_t *got;
    assert_int_equal(parse_reply(lines[i], &got, &e), PERR_PROTOCOL);
    assert_null(got);
    assert_true(e.s[0]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_request_there_and_back),
      cmocka_unit_test(test_replies_there_and_back),
      cmocka_unit_test(test_replies_that_make_no_sense),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
