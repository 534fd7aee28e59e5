// log_line: the two formats, escaping of what peers chose, and lines that are cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/log_line.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

#define TS       "2026-01-31T23:59:59.123Z"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

// The line as a string without its newline.
static const char *format(enum log_format kind, const char *msg, const struct log_field *fields, unsigned n) {
  static char line[LOG_LINE_MAX + 1];
  const struct log_record r = {
      .ts = TS, .level = LOG_INFO, .event = "visitor.open", .msg = msg, .fields = fields, .n = n};
  size_t len = log_line_format(line, kind, &r);
  assert_in_range(len, 1, LOG_LINE_MAX);
  assert_int_equal(line[len - 1], '\n');
  line[len - 1] = '\0';
  assert_null(strchr(line, '\n'));
  return line;
}

static json_t *parse(const char *line) {
  json_error_t error;
  json_t *root = json_loads(line, JSON_REJECT_DUPLICATES, &error);
  if (!root) fail_msg("%s: %s", error.text, line);
  return root;
}

static void text_lines(void **state) {
  const struct log_field fields[] = {LF_STR("user", "alice"), LF_INT("port", 22),       LF_STR("host", NULL),
                                     LF_STR("reason", "a b"), LF_STR("label", ""),      LF_STR("q", "x=y"),
                                     LF_DBL("seconds", 1.25), LF_INT("min", INT64_MIN), LF_STR("peer", "[::1]:80")};
  assert_string_equal(format(LOG_TEXT, "visitor came", fields, COUNT(fields)),
                      TS " INFO  visitor.open: visitor came user=alice port=22 reason=\"a b\" label=\"\" q=\"x=y\""
                         " seconds=1.25 min=-9223372036854775808 peer=[::1]:80");
  assert_string_equal(format(LOG_TEXT, "", fields, 1), TS " INFO  visitor.open: user=alice");
  assert_string_equal(format(LOG_TEXT, NULL, NULL, 0), TS " INFO  visitor.open:");
}

static void json_lines(void **state) {
  const struct log_field fields[] = {LF_STR("user", "alice"), LF_INT("port", INT64_MAX), LF_STR("host", NULL),
                                     LF_DBL("seconds", 0.5),  LF_DBL("nan", NAN),        LF_DBL("inf", -INFINITY)};
  assert_string_equal(format(LOG_JSON, "say \"hi\"", fields, COUNT(fields)),
                      "{\"ts\":\"" TS "\",\"level\":\"info\",\"event\":\"visitor.open\",\"msg\":\"say \\\"hi\\\"\","
                      "\"user\":\"alice\",\"port\":9223372036854775807,\"host\":null,\"seconds\":0.5,\"nan\":null,"
                      "\"inf\":null}");
}

static void levels_have_their_names(void **state) {
  static const char *const text[] = {"ERROR x:", "WARN  x:", "INFO  x:", "DEBUG x:"};
  static const char *const json[] = {"error", "warn", "info", "debug"};
  char line[LOG_LINE_MAX];
  for (int i = 0; i < 4; i++) {
    const struct log_record r = {.ts = TS, .level = (enum log_level)i, .event = "x", .msg = ""};
    size_t len = log_line_format(line, LOG_TEXT, &r);
    assert_int_equal(len, sizeof TS + 8 + 1);
    assert_memory_equal(line + sizeof TS, text[i], 8);
    len = log_line_format(line, LOG_JSON, &r);
    line[len - 1] = '\0';
    json_t *root = parse(line);
    assert_string_equal(json_string_value(json_object_get(root, "level")), json[i]);
    json_decref(root);
  }
}

static void doubles(void **state) {
  static const struct {
    double v;
    const char *text;
  } cases[] = {{0, "0.0"},
               {-0.0, "0.0"},
               {3, "3.0"},
               {-1.5, "-1.5"},
               {0.1, "0.1"},
               {1.000001, "1.000001"},
               {0.0000001, "0.0"},
               {-0.0000001, "0.0"},
               {0.9999999, "1.0"},
               {123456789.123, "123456789.123"},
               {1e15, "1000000000000000"},
               {1e300, "1.0000000000000001e+300"}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    const struct log_field field = LF_DBL("v", cases[i].v);
    const char *line = format(LOG_TEXT, "", &field, 1);
    assert_string_equal(strchr(line, '=') + 1, cases[i].text);
    json_decref(parse(format(LOG_JSON, "", &field, 1)));
  }
}

// What a peer wrote, how the text format shows it (quoted), and what a reader of the JSON gets.
static void peer_bytes_are_escaped(void **state) {
  static const struct {
    const char *raw, *text, *json;
  } cases[] = {
      {"a\r\nb c", "a\\r\\nb c", "a\r\nb c"},
      {"\x1b[31mred", "\\x1b[31mred", "\x1b[31mred"},
      {"tab\t", "tab\\t", "tab\t"},
      {"\"quoted\\\"", "\\\"quoted\\\\\\\"", "\"quoted\\\""},
      {"del\x7f", "del\\x7f", "del\x7f"},
      {"h\xc3\xb6st", "h\xc3\xb6st", "h\xc3\xb6st"},
      {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
      {"csi\xc2\x9b"
       "31m",
       "csi\\u009b31m",
       "csi\xc2\x9b"
       "31m"},
      {"bidi\xe2\x80\xae", "bidi\\u202e", "bidi\xe2\x80\xae"},
      {"line\xe2\x80\xa8", "line\\u2028", "line\xe2\x80\xa8"},
      {"\xff\xfe", "\\xff\\xfe", "\\xff\\xfe"},
      {"cut\xe2\x80", "cut\\xe2\\x80", "cut\\xe2\\x80"},
      {"overlong\xc0\xaf", "overlong\\xc0\\xaf", "overlong\\xc0\\xaf"},
      {"surrogate\xed\xa0\x80", "surrogate\\xed\\xa0\\x80", "surrogate\\xed\\xa0\\x80"},
      {"beyond\xf4\x90\x80\x80", "beyond\\xf4\\x90\\x80\\x80", "beyond\\xf4\\x90\\x80\\x80"},
      {"tag\xf3\xa0\x80\x81", "tag\\xf3\\xa0\\x80\\x81", "tag\\xf3\\xa0\\x80\\x81"},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    char expected[128];
    const struct log_field field = LF_STR("host", cases[i].raw);
    snprintf(expected, sizeof expected, "host=\"%s\"", cases[i].text);
    assert_string_equal(strstr(format(LOG_TEXT, "", &field, 1), "host="), expected);
    const char *line = format(LOG_JSON, cases[i].raw, &field, 1);
    for (const char *p = line; *p; p++) assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
    json_t *root = parse(line);
    assert_string_equal(json_string_value(json_object_get(root, "host")), cases[i].json);
    assert_string_equal(json_string_value(json_object_get(root, "msg")), cases[i].json);
    json_decref(root);
  }
}

static void a_message_cannot_make_a_second_line(void **state) {
  assert_string_equal(format(LOG_TEXT, "\"x\"\n" TS " ERROR forged: \x1b[2J\\", NULL, 0),
                      TS " INFO  visitor.open: \"x\"\\n" TS " ERROR forged: \\x1b[2J\\\\");
}

// Every length around the limit, with a character that must not be split or an escape at the cut.
static void long_lines_are_cut_and_stay_valid(void **state) {
  static char value[3 * LOG_LINE_MAX];
  static const char *const fills[] = {"x", "\xc3\xb6", "\n", "\xff", "\""};
  for (size_t f = 0; f < COUNT(fills); f++) {
    size_t step = strlen(fills[f]);
    for (size_t target = LOG_LINE_MAX - 200; target < LOG_LINE_MAX + 20; target++) {
      size_t len = 0;
      while (len < target) {
        memcpy(value + len, fills[f], step);
        len += step;
      }
      value[len] = '\0';
      const struct log_field fields[] = {LF_STR("host", value), LF_INT("port", 22), LF_STR("after", "x")};
      json_t *root = parse(format(LOG_JSON, "m", fields, COUNT(fields)));
      bool cut = json_is_true(json_object_get(root, "cut"));
      const char *got = json_string_value(json_object_get(root, "host"));
      assert_true(cut || json_object_get(root, "after"));
      assert_non_null(got);
      json_decref(root);
      const char *line = format(LOG_TEXT, "m", fields, COUNT(fields));
      const char *end = line + strlen(line);
      assert_true(strcmp(end - 3, "...") == 0 || strcmp(end - 8, " after=x") == 0);
    }
  }
}

static void a_long_message_is_cut(void **state) {
  static char msg[2 * LOG_LINE_MAX];
  memset(msg, 'm', sizeof msg - 1);
  const struct log_field field = LF_INT("port", 1);
  json_t *root = parse(format(LOG_JSON, msg, &field, 1));
  assert_true(json_is_true(json_object_get(root, "cut")));
  assert_null(json_object_get(root, "port"));
  assert_true(json_string_length(json_object_get(root, "msg")) > LOG_LINE_MAX - 200);
  json_decref(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(text_lines),
      cmocka_unit_test(json_lines),
      cmocka_unit_test(levels_have_their_names),
      cmocka_unit_test(doubles),
      cmocka_unit_test(peer_bytes_are_escaped),
      cmocka_unit_test(a_message_cannot_make_a_second_line),
      cmocka_unit_test(long_lines_are_cut_and_stay_valid),
      cmocka_unit_test(a_long_message_is_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
