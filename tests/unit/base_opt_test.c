// opt: every type of option, and errors that name the key by its path or the line in the file.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/opt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct config {
  char *database;
  char *key;
  char *pin;
  int64_t workers;
  int64_t dead_seconds;
  bool anonymous;
  int level;
  struct opt_list address;
  struct opt_list listen;
  json_t *plaintext;
};

static const char *const levels[] = {"error", "warn", "info", NULL};

#define AT(field) offsetof(struct config, field)
static const struct opt table[] = {
    {.path = "database", .type = OPT_STRING, .offset = AT(database), .preset = "\"db\""},
    {.path = "tls.key", .type = OPT_STRING, .offset = AT(key), .reloadable = true},
    {.path = "tls.pin", .type = OPT_STRING, .offset = AT(pin), .preset = "null", .nullable = true},
    {.path = "workers", .type = OPT_INT, .offset = AT(workers), .max = 64, .preset = "0"},
    {.path = "limits.dead_seconds",
     .type = OPT_INT,
     .offset = AT(dead_seconds),
     .min = 1,
     .max = 86400,
     .preset = "45",
     .reloadable = true},
    {.path = "anonymous", .type = OPT_BOOL, .offset = AT(anonymous), .preset = "false"},
    {.path = "log.level", .type = OPT_ENUM, .offset = AT(level), .preset = "\"info\"", .choices = levels},
    {.path = "tunnels.address",
     .type = OPT_LIST,
     .offset = AT(address),
     .preset = "[\"0.0.0.0\", \"::\"]",
     .scalar_ok = true},
    {.path = "control.listen", .type = OPT_LIST, .offset = AT(listen), .preset = "null", .nullable = true},
    {.path = "nsp.plaintext", .type = OPT_JSON, .offset = AT(plaintext), .preset = "null"},
};
enum { ROWS = sizeof table / sizeof table[0] };

static int load(struct config *c, const char *text, struct err_text *e) {
  json_t *root = json_loads(text, JSON_DECODE_ANY, NULL);
  assert_non_null(root);
  int rc = opt_load(table, ROWS, root, c, e);
  json_decref(root);
  return rc;
}

static void defaults(void **state) {
  struct config c = {0};
  struct err_text e;
  assert_int_equal(load(&c, "{\"tls\": {\"key\": \"k\"}}", &e), 0);
  assert_string_equal(c.database, "db");
  assert_string_equal(c.key, "k");
  assert_null(c.pin);
  assert_true(c.workers == 0 && c.dead_seconds == 45 && !c.anonymous);
  assert_int_equal(c.level, 2);
  assert_int_equal(c.address.count, 2);
  assert_string_equal(c.address.items[1], "::");
  assert_int_equal(c.listen.count, 0);
  assert_null(c.plaintext);
  opt_free(table, ROWS, &c);
  opt_free(table, ROWS, &c);
}

static void values(void **state) {
  struct config c = {0};
  struct err_text e;
  int rc = load(&c,
                "{\"database\": \"\", \"tls\": {\"key\": \"k\", \"pin\": \"p\"}, \"workers\": 64,"
                " \"limits\": {\"dead_seconds\": 86400}, \"anonymous\": true, \"log\": {\"level\": \"error\"},"
                " \"tunnels\": {\"address\": \"127.0.0.1\"}, \"control\": {\"listen\": []},"
                " \"nsp\": {\"plaintext\": {\"control\": 1}}}",
                &e);
  assert_int_equal(rc, 0);
  assert_string_equal(c.database, "");
  assert_string_equal(c.pin, "p");
  assert_true(c.workers == 64 && c.dead_seconds == 86400 && c.anonymous && c.level == 0);
  assert_int_equal(c.address.count, 1);
  assert_string_equal(c.address.items[0], "127.0.0.1");
  assert_int_equal(c.listen.count, 0);
  assert_int_equal(json_integer_value(json_object_get(c.plaintext, "control")), 1); // outlives the root
  opt_free(table, ROWS, &c);
}

static void errors_name_the_path(void **state) {
  static const struct {
    const char *text, *error;
  } cases[] = {
      {"{\"foo\": 1}", "unknown key foo"},
      {"{\"limits\": {\"foo\": 1}}", "unknown key limits.foo"},
      {"{\"limits\": {\"dead\": 1}}", "unknown key limits.dead"},
      {"{\"limits.dead_seconds\": 1}", "unknown key limits.dead_seconds"},
      {"{\"limits\": {\"dead_seconds.x\": 1}}", "unknown key limits.dead_seconds.x"},
      {"{\"limit\": {}}", "unknown key limit"},
      {"{\"\": 1}", "unknown key "},
      {"{\"a\\nb\": 1}", "unknown key a b"},
      {"{}", "tls.key: missing"},
      {"{\"tls\": {}}", "tls.key: missing"},
      {"{\"tls\": null}", "tls: expected an object, got null"},
      {"{\"tls\": \"x\"}", "tls: expected an object, got a string"},
      {"{\"tls\": {\"key\": null}}", "tls.key: expected a string, got null"},
      {"{\"tls\": {\"key\": \"k\", \"pin\": 1}}", "tls.pin: expected a string or null, got an integer"},
      {"{\"tls\": {\"key\": {}}}", "tls.key: expected a string, got an object"},
      {"{\"tls\": {\"key\": \"k\"}, \"workers\": \"2\"}", "workers: expected an integer, got a string"},
      {"{\"tls\": {\"key\": \"k\"}, \"workers\": 2.0}", "workers: expected an integer, got a fraction"},
      {"{\"tls\": {\"key\": \"k\"}, \"workers\": -1}", "workers: -1 is out of range 0..64"},
      {"{\"tls\": {\"key\": \"k\"}, \"workers\": 65}", "workers: 65 is out of range 0..64"},
      {"{\"tls\": {\"key\": \"k\"}, \"limits\": {\"dead_seconds\": 0}}",
       "limits.dead_seconds: 0 is out of range 1..86400"},
      {"{\"tls\": {\"key\": \"k\"}, \"anonymous\": 1}", "anonymous: expected true or false, got an integer"},
      {"{\"tls\": {\"key\": \"k\"}, \"log\": {\"level\": \"loud\"}}",
       "log.level: \"loud\" is none of \"error\", \"warn\", \"info\""},
      {"{\"tls\": {\"key\": \"k\"}, \"log\": {\"level\": 1}}", "log.level: expected a string, got an integer"},
      {"{\"tls\": {\"key\": \"k\"}, \"tunnels\": {\"address\": [\"a\", 1]}}",
       "tunnels.address[1]: expected a string, got an integer"},
      {"{\"tls\": {\"key\": \"k\"}, \"tunnels\": {\"address\": false}}",
       "tunnels.address: expected a string or a list of strings, got a boolean"},
      {"{\"tls\": {\"key\": \"k\"}, \"control\": {\"listen\": \"a\"}}",
       "control.listen: expected a list of strings, got a string"},
      {"[]", "expected an object, got a list"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct config c = {0};
    struct err_text e = {""};
    assert_int_equal(load(&c, cases[i].text, &e), PERR_INVALID);
    assert_string_equal(e.s, cases[i].error);
    assert_null(c.database); // what was filled is freed already
    opt_free(table, ROWS, &c);
  }
}

static void a_long_key_is_unknown(void **state) {
  struct config c = {0};
  struct err_text e;
  char key[600];
  memset(key, 'k', sizeof key - 1);
  key[sizeof key - 1] = '\0';
  json_t *root = json_pack("{s:i}", key, 1);
  assert_int_equal(opt_load(table, ROWS, root, &c, &e), PERR_INVALID);
  assert_memory_equal(e.s, "unknown key kkk", 15);
  json_decref(root);
}

static void fixed_differences(void **state) {
  static const char base[] = "{\"tls\": {\"key\": \"k\"}}";
  static const struct {
    const char *text, *path;
  } cases[] = {
      {"{\"tls\": {\"key\": \"other\"}, \"limits\": {\"dead_seconds\": 9}}", NULL}, // both may change
      {base, NULL},
      {"{\"tls\": {\"key\": \"k\"}, \"database\": \"x\"}", "database"},
      {"{\"tls\": {\"key\": \"k\", \"pin\": \"x\"}}", "tls.pin"},
      {"{\"tls\": {\"key\": \"k\"}, \"workers\": 1}", "workers"},
      {"{\"tls\": {\"key\": \"k\"}, \"anonymous\": true}", "anonymous"},
      {"{\"tls\": {\"key\": \"k\"}, \"log\": {\"level\": \"warn\"}}", "log.level"},
      {"{\"tls\": {\"key\": \"k\"}, \"tunnels\": {\"address\": [\"0.0.0.0\", \"::1\"]}}", "tunnels.address"},
      {"{\"tls\": {\"key\": \"k\"}, \"control\": {\"listen\": [\"x\"]}}", "control.listen"},
      {"{\"tls\": {\"key\": \"k\"}, \"nsp\": {\"plaintext\": {}}}", "nsp.plaintext"},
  };
  struct config a = {0};
  struct err_text e;
  assert_int_equal(load(&a, base, &e), 0);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct config b = {0};
    assert_int_equal(load(&b, cases[i].text, &e), 0);
    const struct opt *differs = opt_fixed_difference(table, ROWS, &a, &b);
    if (cases[i].path)
      assert_string_equal(differs ? differs->path : "none", cases[i].path);
    else
      assert_null(differs);
    opt_free(table, ROWS, &b);
  }
  opt_free(table, ROWS, &a);
}

static char file[64];

static int read_text(const char *text, json_t **root, struct err_text *e) {
  FILE *f = fopen(file, "w");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
  return opt_read_file(file, root, e);
}

static void files(void **state) {
  json_t *root = NULL;
  struct err_text e;
  char expected[128];
  assert_int_equal(read_text("{\"a\": 1}\n", &root, &e), 0);
  assert_int_equal(json_integer_value(json_object_get(root, "a")), 1);
  json_decref(root);
  static const struct {
    const char *text;
    int line;
  } bad[] = {{"", 1},
             {"{\n\"a\": 1,\n}", 3},
             {"{\n\"a\": 1,\n\"a\": 2}", 3},
             {"{}\n\n{}", 3},
             {"{\"a\": \"\xff\"}", 1},
             {"{\"a\": {\n\"b\": 1,\n\"b\": 2}}", 3},
             {"[1]", 1},
             {"\"x\"", 1}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    assert_int_equal(read_text(bad[i].text, &root, &e), PERR_INVALID);
    int n = snprintf(expected, sizeof expected, "%s:%d: ", file, bad[i].line);
    if (strncmp(e.s, expected, (size_t)n) != 0) fail_msg("\"%s\" does not begin with \"%s\"", e.s, expected);
  }
}

static void files_that_cannot_be_read(void **state) {
  json_t *root;
  struct err_text e;
  assert_int_equal(opt_read_file("/nonexistent/x.json", &root, &e), PERR_IO);
  assert_string_equal(e.s, "/nonexistent/x.json: No such file or directory");
  assert_int_equal(opt_read_file("/tmp", &root, &e), PERR_IO);
  assert_string_equal(e.s, "/tmp: Is a directory");
}

static void relative_paths(void **state) {
  static const char *const cases[][3] = {{"/etc/postern/gateway.json", "db", "/etc/postern/db"},
                                         {"/etc/postern/gateway.json", "/var/db", "/var/db"},
                                         {"gateway.json", "db", "db"},
                                         {"conf/gateway.json", "../db", "conf/../db"},
                                         {"/gateway.json", "db", "/db"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *path = opt_resolve_path(cases[i][0], cases[i][1]);
    assert_string_equal(path, cases[i][2]);
    free(path);
  }
}

static void port_ranges(void **state) {
  uint16_t low, high;
  assert_int_equal(port_range_parse("20000-29999", &low, &high), 0);
  assert_true(low == 20000 && high == 29999);
  assert_int_equal(port_range_parse("2222", &low, &high), 0);
  assert_true(low == 2222 && high == 2222);
  assert_int_equal(port_range_parse("1-65535", &low, &high), 0);
  static const char *const bad[] = {"",        "-",     "1-",   "-1",  "0", "0-5",         "5-4", "65536",
                                    "1-65536", "1-2-3", "1 -2", "1,2", "a", "20000–29999", "01",  "1--2"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (port_range_parse(bad[i], &low, &high) != PERR_INVALID) fail_msg("\"%s\" was taken", bad[i]);
}

static int make_file(void **state) {
  strcpy(file, "/tmp/base_opt_XXXXXX");
  int fd = mkstemp(file);
  return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
  return unlink(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults),
      cmocka_unit_test(values),
      cmocka_unit_test(errors_name_the_path),
      cmocka_unit_test(a_long_key_is_unknown),
      cmocka_unit_test(fixed_differences),
      cmocka_unit_test(files),
      cmocka_unit_test(files_that_cannot_be_read),
      cmocka_unit_test(relative_paths),
      cmocka_unit_test(port_ranges),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
