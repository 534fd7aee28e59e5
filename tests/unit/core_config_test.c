// core_config_test: gateway.json, its defaults and each of its errors.
#include "postern/core/config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TLS "\"tls\": {\"certificate\": \"c.crt\", \"key\": \"/k/c.key\"}"

struct file {
  char folder[64], path[96];
};

static int setup(void **state) {
  struct file *f = calloc(1, sizeof *f);
  strcpy(f->folder, "/tmp/postern-config-XXXXXX");
  assert_non_null(mkdtemp(f->folder));
  snprintf(f->path, sizeof f->path, "%s/gateway.json", f->folder);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  struct file *f = *state;
  unlink(f->path);
  rmdir(f->folder);
  free(f);
  return 0;
}

static int load(struct file *f, const char *text, struct config **out, struct err_text *e) {
  FILE *file = fopen(f->path, "w");
  assert_non_null(file);
  fputs(text, file);
  assert_int_equal(fclose(file), 0);
  return config_load(f->path, out, e);
}

static struct config *good(struct file *f, const char *text) {
  struct config *c = NULL;
  struct err_text e = {""};
  if (load(f, text, &c, &e) != 0) fail_msg("%s", e.s);
  return c;
}

// The error is the file's path, a colon and the text.
static void bad(struct file *f, const char *text, const char *expected) {
  struct config *c = NULL;
  struct err_text e = {""};
  char whole[640];
  assert_int_equal(load(f, text, &c, &e), PERR_INVALID);
  snprintf(whole, sizeof whole, "%s: %s", f->path, expected);
  assert_string_equal(e.s, whole);
}

static void check_address(const struct addr *a, const char *expected) {
  char text[ADDR_TEXT];
  assert_string_equal(addr_format(a, text), expected);
}

static void everything_has_its_default(void **state) {
  struct file *f = *state;
  struct config *c = good(f, "{" TLS "}");
  char path[128];
  assert_int_equal(c->control.count, 2);
  check_address(&c->control.addr[0], "0.0.0.0:7841");
  check_address(&c->control.addr[1], "[::]:7841");
  assert_false(c->control.written);
  assert_int_equal(c->reverse.count, 2);
  check_address(&c->reverse.addr[1], "[::]:7842");
  assert_int_equal(c->web.count, 1);
  check_address(&c->web.addr[0], "127.0.0.1:7843");
  snprintf(path, sizeof path, "%s/c.crt", f->folder);
  assert_string_equal(c->certificate, path);
  assert_string_equal(c->key, "/k/c.key");
  assert_null(c->client_ca);
  assert_int_equal(c->min_tls, CONFIG_TLS_1_2);
  snprintf(path, sizeof path, "%s/db", f->folder);
  assert_string_equal(c->database, path);
  assert_int_equal(c->tunnels.count, 2);
  assert_false(c->tunnels.written);
  check_address(&c->tunnels.addr[0], "0.0.0.0:0");
  check_address(&c->tunnels.addr[1], "[::]:0");
  assert_int_equal(c->port_low, 20000);
  assert_int_equal(c->port_high, 29999);
  assert_int_equal(c->http_port, 0);
  assert_int_equal(c->https_port, 0);
  assert_null(c->host_certificates);
  assert_int_equal(c->unbound_hosts, CONFIG_HOSTS_FIRST);
  assert_true(c->nsp_enabled);
  assert_int_equal(c->nsp_dialect, CONFIG_NSP_1_4);
  assert_false(c->nsp_plaintext);
  assert_false(c->anonymous);
  assert_int_equal(c->workers, 0);
  assert_int_equal(c->handshake_s, 10);
  assert_int_equal(c->heartbeat_s, 15);
  assert_int_equal(c->dead_s, 45);
  assert_int_equal(c->dial_s, 10);
  assert_int_equal(c->stall_s, 600);
  assert_int_equal(c->udp_idle_s, 60);
  assert_int_equal(c->http_head_s, 10);
  assert_int_equal(c->http_idle_s, 75);
  assert_int_equal(c->http_target_s, 60);
  assert_int_equal(c->buffer_mib, 256);
  assert_int_equal(c->log_format, LOG_TEXT);
  assert_int_equal(c->log_level, LOG_INFO);
  config_unref(c);
}

static void everything_can_be_written(void **state) {
  struct file *f = *state;
  struct config *c = good(
      f, "{\"control\": {\"listen\": [\"127.0.0.1:0\"]}, \"reverse\": {\"listen\": []}, \"web\": {\"listen\": []},"
         "\"tls\": {\"certificate\": \"/a\", \"key\": \"/b\", \"client_ca\": \"sub/ca.crt\", \"min_version\": \"1.3\"},"
         "\"database\": \"/var/db\","
         "\"tunnels\": {\"address\": \"127.0.0.1\", \"ports\": \"2222\", \"http_port\": 80, \"https_port\": 443,"
         "              \"host_certificates\": \"hosts\", \"unbound_hosts\": \"refuse\"},"
         "\"nsp\": {\"enabled\": false, \"dialect\": \"hosts\","
         "          \"plaintext\": {\"control\": \"127.0.0.1:12308\", \"reverse\": \"[::1]:19974\"}},"
         "\"anonymous\": true, \"workers\": 3,"
         "\"limits\": {\"handshake_seconds\": 300, \"heartbeat_seconds\": 1, \"dead_seconds\": 2, \"dial_seconds\": 4,"
         "             \"stall_seconds\": 5, \"udp_idle_seconds\": 6, \"http_head_seconds\": 7,"
         "             \"http_idle_seconds\": 8, \"http_target_seconds\": 9, \"buffer_mib\": 11},"
         "\"log\": {\"format\": \"json\", \"level\": \"debug\"}}");
  char path[128];
  assert_true(c->control.written);
  assert_int_equal(c->control.count, 1);
  assert_int_equal(c->reverse.count, 0);
  assert_int_equal(c->web.count, 0);
  snprintf(path, sizeof path, "%s/sub/ca.crt", f->folder);
  assert_string_equal(c->client_ca, path);
  assert_int_equal(c->min_tls, CONFIG_TLS_1_3);
  assert_string_equal(c->database, "/var/db");
  assert_int_equal(c->tunnels.count, 1);
  assert_true(c->tunnels.written);
  assert_int_equal(c->port_low, 2222);
  assert_int_equal(c->port_high, 2222);
  assert_int_equal(c->http_port, 80);
  assert_int_equal(c->https_port, 443);
  snprintf(path, sizeof path, "%s/hosts", f->folder);
  assert_string_equal(c->host_certificates, path);
  assert_int_equal(c->unbound_hosts, CONFIG_HOSTS_REFUSE);
  assert_false(c->nsp_enabled);
  assert_int_equal(c->nsp_dialect, CONFIG_NSP_HOSTS);
  assert_true(c->nsp_plaintext);
  check_address(&c->plaintext_control, "127.0.0.1:12308");
  check_address(&c->plaintext_reverse, "[::1]:19974");
  assert_int_equal(c->plaintext_web.len, 0);
  assert_true(c->anonymous);
  assert_int_equal(c->workers, 3);
  assert_int_equal(c->handshake_s, 300);
  assert_int_equal(c->heartbeat_s, 1);
  assert_int_equal(c->dead_s, 2);
  assert_int_equal(c->http_target_s, 9);
  assert_int_equal(c->buffer_mib, 11);
  assert_int_equal(c->log_format, LOG_JSON);
  assert_int_equal(c->log_level, LOG_DEBUG);
  config_unref(c);
}

static void tls_files_have_no_default(void **state) {
  struct file *f = *state;
  bad(f, "{}", "tls.certificate: missing");
  bad(f, "{\"tls\": {\"certificate\": \"c.crt\"}}", "tls.key: missing");
  bad(f, "{\"tls\": {\"certificate\": \"c.crt\", \"key\": \"\"}}", "tls.key: is empty");
}

static void numbers_have_ranges(void **state) {
  static const struct {
    const char *section, *key;
    long low, high;
  } rows[] = {
      {"limits", "handshake_seconds", 1, 300},    {"limits", "heartbeat_seconds", 1, 3600},
      {"limits", "dead_seconds", 2, 86400},       {"limits", "dial_seconds", 1, 300},
      {"limits", "stall_seconds", 1, 86400},      {"limits", "udp_idle_seconds", 1, 86400},
      {"limits", "http_head_seconds", 1, 3600},   {"limits", "http_idle_seconds", 1, 3600},
      {"limits", "http_target_seconds", 1, 3600}, {"limits", "buffer_mib", 1, 1048576},
      {"tunnels", "http_port", 0, 65535},         {"tunnels", "https_port", 0, 65535},
  };
  struct file *f = *state;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const long outside[] = {rows[i].low - 1, rows[i].high + 1};
    for (int j = 0; j < 2; j++) {
      char text[256], expected[256];
      snprintf(text, sizeof text, "{" TLS ", \"%s\": {\"%s\": %ld}}", rows[i].section, rows[i].key, outside[j]);
      snprintf(expected, sizeof expected, "%s.%s: %ld is out of range %ld..%ld", rows[i].section, rows[i].key,
               outside[j], rows[i].low, rows[i].high);
      bad(f, text, expected);
    }
  }
  bad(f, "{" TLS ", \"workers\": 257}", "workers: 257 is out of range 0..256");
  bad(f, "{" TLS ", \"workers\": -1}", "workers: -1 is out of range 0..256");
}

static void heartbeat_is_less_than_dead(void **state) {
  bad(*state, "{" TLS ", \"limits\": {\"heartbeat_seconds\": 45}}",
      "limits.heartbeat_seconds: 45 is not less than limits.dead_seconds, 45");
  config_unref(good(*state, "{" TLS ", \"limits\": {\"heartbeat_seconds\": 44}}"));
}

static void unknown_keys_and_wrong_types_are_named(void **state) {
  struct file *f = *state;
  bad(f, "{" TLS ", \"limit\": {}}", "unknown key limit");
  bad(f, "{" TLS ", \"limits\": {\"dead\": 1}}", "unknown key limits.dead");
  bad(f, "{" TLS ", \"limits\": 3}", "limits: expected an object, got an integer");
  bad(f, "{" TLS ", \"anonymous\": 1}", "anonymous: expected true or false, got an integer");
  bad(f, "{" TLS ", \"control\": {\"listen\": \"0.0.0.0:1\"}}",
      "control.listen: expected a list of strings, got a string");
  bad(f, "{" TLS ", \"log\": {\"level\": \"loud\"}}",
      "log.level: \"loud\" is none of \"error\", \"warn\", \"info\", \"debug\"");
  bad(f, "{" TLS ", \"nsp\": {\"dialect\": \"2.0\"}}",
      "nsp.dialect: \"2.0\" is none of \"0.4\", \"0.8\", \"hosts\", \"1.0\", \"1.2\", \"1.4\"");
}

static void addresses_are_checked(void **state) {
  struct file *f = *state;
  bad(f, "{" TLS ", \"control\": {\"listen\": [\"localhost:7841\"]}}",
      "control.listen: \"localhost:7841\" is not an IP address with a port, such as 0.0.0.0:7841");
  bad(f, "{" TLS ", \"web\": {\"listen\": [\"127.0.0.1\"]}}",
      "web.listen: \"127.0.0.1\" is not an IP address with a port, such as 0.0.0.0:7841");
  bad(f, "{" TLS ", \"control\": {\"listen\": []}}", "control.listen: needs at least one address");
  bad(f, "{" TLS ", \"tunnels\": {\"address\": []}}", "tunnels.address: needs at least one address");
  bad(f, "{" TLS ", \"tunnels\": {\"address\": [\"::\", \"gw.example.com\"]}}",
      "tunnels.address: \"gw.example.com\" is not an IP address");
  char text[1024] = "{" TLS ", \"tunnels\": {\"address\": [\"127.0.0.1\"";
  for (int i = 0; i < CONFIG_MAX_LISTEN; i++) strcat(text, ", \"127.0.0.1\"");
  strcat(text, "]}}");
  bad(f, text, "tunnels.address: more than 16 addresses");
}

static void ports_are_checked(void **state) {
  struct file *f = *state;
  bad(f, "{" TLS ", \"tunnels\": {\"ports\": \"3-2\"}}",
      "tunnels.ports: \"3-2\" is not a range of ports, such as 20000-29999");
  bad(f, "{" TLS ", \"tunnels\": {\"ports\": \"0-5\"}}",
      "tunnels.ports: \"0-5\" is not a range of ports, such as 20000-29999");
  bad(f, "{" TLS ", \"tunnels\": {\"http_port\": 80, \"https_port\": 80}}",
      "tunnels.https_port: 80 is tunnels.http_port too");
  // Control's own port is in the range: it is kept back when ports are given out.
  config_unref(good(f, "{" TLS ", \"tunnels\": {\"ports\": \"7000-8000\"}}"));
}

static void plaintext_is_loopback_or_says_insecure(void **state) {
  struct file *f = *state;
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"control\": \"0.0.0.0:12308\"}}}",
      "nsp.plaintext.control: 0.0.0.0:12308 is not a loopback address; that needs \"insecure\": true beside it");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"web\": \"[::]:1\", \"insecure\": false}}}",
      "nsp.plaintext.web: [::]:1 is not a loopback address; that needs \"insecure\": true beside it");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"reverse\": \"19974\"}}}",
      "nsp.plaintext.reverse: \"19974\" is not an IP address with a port");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"contrl\": \"127.0.0.1:1\"}}}", "unknown key nsp.plaintext.contrl");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"control\": 12308}}}",
      "nsp.plaintext.control: expected a string or null, got an integer");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": \"127.0.0.1:1\"}}", "nsp.plaintext: expected an object, got a string");
  bad(f, "{" TLS ", \"nsp\": {\"plaintext\": {}}}", "nsp.plaintext: names no address");
  struct config *c =
      good(f, "{" TLS ", \"nsp\": {\"plaintext\": {\"control\": \"0.0.0.0:12308\", \"insecure\": true}}}");
  check_address(&c->plaintext_control, "0.0.0.0:12308");
  config_unref(c);
}

static void files_that_cannot_be_read_are_named(void **state) {
  struct file *f = *state;
  struct config *c;
  struct err_text e = {""};
  assert_int_not_equal(config_load("/nowhere/gateway.json", &c, &e), 0);
  assert_non_null(strstr(e.s, "/nowhere/gateway.json"));
  assert_int_not_equal(load(f, "{" TLS ",}", &c, &e), 0);
  assert_non_null(strstr(e.s, f->path));
}

static const char *difference(struct file *f, const char *a, const char *b) {
  struct config *x = good(f, a), *y = good(f, b);
  const char *path = config_fixed_difference(x, y);
  config_unref(x);
  config_unref(y);
  return path;
}

static void what_cannot_be_reloaded_is_named(void **state) {
  static const struct {
    const char *text, *path;
  } rows[] = {
      {"{" TLS ", \"control\": {\"listen\": [\"127.0.0.1:1\"]}}", "control.listen"},
      {"{" TLS ", \"reverse\": {\"listen\": [\"127.0.0.1:1\"]}}", "reverse.listen"},
      {"{" TLS ", \"web\": {\"listen\": [\"127.0.0.1:1\"]}}", "web.listen"},
      {"{" TLS ", \"database\": \"other\"}", "database"},
      {"{" TLS ", \"workers\": 2}", "workers"},
      {"{" TLS ", \"tunnels\": {\"address\": \"127.0.0.1\"}}", "tunnels.address"},
      {"{" TLS ", \"tunnels\": {\"http_port\": 1}}", "tunnels.http_port"},
      {"{" TLS ", \"tunnels\": {\"https_port\": 1}}", "tunnels.https_port"},
      {"{" TLS ", \"nsp\": {\"enabled\": false}}", "nsp.enabled"},
      {"{" TLS ", \"nsp\": {\"dialect\": \"0.4\"}}", "nsp.dialect"},
      {"{" TLS ", \"nsp\": {\"plaintext\": {\"web\": \"127.0.0.1:1\"}}}", "nsp.plaintext"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    assert_string_equal(difference(*state, "{" TLS "}", rows[i].text), rows[i].path);
  }
}

static void the_rest_can_be_reloaded(void **state) {
  assert_null(difference(*state, "{" TLS "}",
                         "{\"tls\": {\"certificate\": \"x\", \"key\": \"y\", \"client_ca\": \"z\","
                         "           \"min_version\": \"1.3\"},"
                         "\"tunnels\": {\"ports\": \"1-2\", \"unbound_hosts\": \"refuse\"}, \"anonymous\": true,"
                         "\"limits\": {\"dead_seconds\": 100, \"buffer_mib\": 1},"
                         "\"log\": {\"format\": \"json\", \"level\": \"warn\"}}"));
  // What is written as the default is no difference.
  assert_null(
      difference(*state, "{" TLS "}", "{" TLS ", \"control\": {\"listen\": [\"0.0.0.0:7841\", \"[::]:7841\"]}}"));
}

static void last_reference_frees(void **state) {
  struct config *c = good(*state, "{" TLS "}");
  assert_ptr_equal(config_ref(c), c);
  config_unref(c);
  assert_int_equal(c->port_low, 20000);
  config_unref(c);
  config_unref(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(everything_has_its_default),
      TEST(everything_can_be_written),
      TEST(tls_files_have_no_default),
      TEST(numbers_have_ranges),
      TEST(heartbeat_is_less_than_dead),
      TEST(unknown_keys_and_wrong_types_are_named),
      TEST(addresses_are_checked),
      TEST(ports_are_checked),
      TEST(plaintext_is_loopback_or_says_insecure),
      TEST(files_that_cannot_be_read_are_named),
      TEST(what_cannot_be_reloaded_is_named),
      TEST(the_rest_can_be_reloaded),
      TEST(last_reference_frees),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
