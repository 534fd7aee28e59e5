// addr: addresses and host names, well-formed and not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/addr.h"
#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

static const char *round_trip(const char *text, char out[ADDR_TEXT]) {
  struct addr a;
  return addr_parse(&a, text) == 0 ? addr_format(&a, out) : NULL;
}

static void addresses_and_their_texts(void **state) {
  static const char *const texts[][2] = {
      {"192.0.2.1:80", "192.0.2.1:80"},
      {"127.0.0.1:0", "127.0.0.1:0"},
      {"255.255.255.255:65535", "255.255.255.255:65535"},
      {"[2001:db8::1]:80", "[2001:db8::1]:80"},
      {"[2001:DB8:0:0:0:0:0:1]:80", "[2001:db8::1]:80"},
      {"[::]:7841", "[::]:7841"},
      {"[1111:2222:3333:4444:5555:6666:7777:8888]:65535", "[1111:2222:3333:4444:5555:6666:7777:8888]:65535"},
      {"[::ffff:192.0.2.1]:80", "192.0.2.1:80"},
  };
  char out[ADDR_TEXT];
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    const char *text = round_trip(texts[i][0], out);
    assert_non_null(text);
    assert_string_equal(text, texts[i][1]);
  }
}

static void malformed_addresses(void **state) {
  static const char *const bad[] = {"",
                                    ":",
                                    ":80",
                                    "192.0.2.1",
                                    "192.0.2.1:",
                                    "192.0.2.1:65536",
                                    "192.0.2.1:-1",
                                    "192.0.2.1:+1",
                                    "192.0.2.1: 1",
                                    "192.0.2.1:1 ",
                                    "192.0.2.1:080",
                                    "192.0.2.1:99999999999999999999",
                                    "192.0.2:80",
                                    "192.0.2.256:80",
                                    "192.0.2.1.5:80",
                                    " 192.0.2.1:80",
                                    "[192.0.2.1]:80",
                                    "2001:db8::1:80",
                                    "::1:80",
                                    "[]:80",
                                    "[::1:80",
                                    "::1]:80",
                                    "[::1]80",
                                    "[::1]",
                                    "[[::1]]:80",
                                    "[fe80::1%eth0]:80",
                                    "[1:2:3:4:5:6:7:8:9]:80",
                                    "localhost:80"};
  struct addr a;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (addr_parse(&a, bad[i]) != PERR_INVALID) fail_msg("\"%s\" was taken", bad[i]);
}

static void addresses_without_port(void **state) {
  struct addr a;
  char out[ADDR_TEXT];
  assert_int_equal(addr_from_ip(&a, "192.0.2.1", 80), 0);
  assert_string_equal(addr_format(&a, out), "192.0.2.1:80");
  assert_int_equal(addr_from_ip(&a, "2001:db8::1", 81), 0);
  assert_string_equal(addr_format(&a, out), "[2001:db8::1]:81");
  assert_string_equal(addr_format_ip(&a, out), "2001:db8::1");
  assert_int_equal(addr_from_ip(&a, "[::]", 0), 0);
  assert_string_equal(addr_format(&a, out), "[::]:0");
  static const char *const bad[] = {"", "[]", "[", "[::", "::]", "[192.0.2.1]", "192.0.2.1:80", "[::1]:80", "name"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(addr_from_ip(&a, bad[i], 80), PERR_INVALID);
}

static void mapped_addresses_become_ipv4(void **state) {
  struct addr a, plain;
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
  char out[ADDR_TEXT];
  assert_int_equal(inet_pton(AF_INET6, "::ffff:127.0.0.1", &in6.sin6_addr), 1);
  addr_from_sockaddr(&a, (const struct sockaddr *)&in6, sizeof in6);
  assert_string_equal(addr_format(&a, out), "127.0.0.1:9");
  assert_int_equal(a.len, sizeof(struct sockaddr_in));
  assert_true(addr_is_loopback(&a));
  assert_int_equal(addr_from_ip(&plain, "127.0.0.1", 1), 0);
  assert_true(addr_equal_ip(&a, &plain));
  assert_int_equal(addr_from_ip(&a, "::ffff:127.0.0.1", 1), 0);
  assert_true(addr_is_loopback(&a));
}

static void what_the_system_gives(void **state) {
  struct addr a, b;
  char out[ADDR_TEXT];
  assert_int_equal(addr_parse(&a, "[fe80::1]:5"), 0);
  a.in6.sin6_scope_id = 3; // a link-local address is no use without it
  addr_from_sockaddr(&b, &a.sa, a.len);
  assert_int_equal(b.in6.sin6_scope_id, 3);
  assert_string_equal(addr_format(&b, out), "[fe80::1]:5");
  addr_from_sockaddr(&b, &b.sa, b.len);
  assert_string_equal(addr_format(&b, out), "[fe80::1]:5");

  struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/tmp/socket"};
  addr_from_sockaddr(&b, (const struct sockaddr *)&un, sizeof un);
  assert_string_equal(addr_format(&b, out), "unix");
  assert_string_equal(addr_format_ip(&b, out), "unix");
  addr_from_sockaddr(&b, (const struct sockaddr *)&un, sizeof un.sun_family);
  assert_string_equal(addr_format(&b, out), "unix");
  assert_int_equal(addr_port(&b), 0);
  addr_from_sockaddr(&b, &a.sa, 7); // shorter than its family needs
  assert_int_equal(b.len, 0);
  addr_from_sockaddr(&b, &a.sa, 0);
  assert_int_equal(b.len, 0);
  assert_string_equal(addr_format(&b, out), "-");
}

static void ports(void **state) {
  struct addr a;
  assert_int_equal(addr_parse(&a, "[::1]:5"), 0);
  addr_set_port(&a, 65535);
  assert_int_equal(addr_port(&a), 65535);
  assert_int_equal(addr_parse(&a, "127.0.0.1:5"), 0);
  addr_set_port(&a, 6);
  assert_int_equal(addr_port(&a), 6);
}

static void comparing(void **state) {
  struct addr a, b, none = {0};
  assert_int_equal(addr_parse(&a, "192.0.2.1:1"), 0);
  assert_int_equal(addr_parse(&b, "192.0.2.1:2"), 0);
  assert_true(addr_equal_ip(&a, &b));
  assert_int_equal(addr_parse(&b, "192.0.2.2:1"), 0);
  assert_false(addr_equal_ip(&a, &b));
  assert_int_equal(addr_parse(&b, "[::c000:201]:1"), 0);
  assert_false(addr_equal_ip(&a, &b));
  assert_false(addr_equal_ip(&none, &none));
  static const struct {
    const char *text;
    bool loopback;
  } cases[] = {{"127.0.0.1:1", true}, {"127.255.0.9:1", true}, {"128.0.0.1:1", false}, {"[::1]:1", true},
               {"[::2]:1", false},    {"0.0.0.0:1", false},    {"[::]:1", false}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    assert_int_equal(addr_parse(&a, cases[i].text), 0);
    assert_int_equal(addr_is_loopback(&a), cases[i].loopback);
  }
  assert_false(addr_is_loopback(&none));
}

static void hosts_with_ports(void **state) {
  static const struct {
    const char *text, *host;
    uint16_t port;
  } good[] = {{"gw.example.com:7841", "gw.example.com", 7841}, {"localhost:1", "localhost", 1},
              {"192.0.2.1:65535", "192.0.2.1", 65535},         {"[2001:db8::1]:80", "2001:db8::1", 80},
              {"a_b.example.com.:80", "a_b.example.com.", 80}, {"X-1:80", "X-1", 80}};
  static const char *const bad[] = {"",        "host",    "host:",   ":80",     "host:0",    "host:65536",   "host:80x",
                                    "a:b:1",   "::1:80",  "[::1]",   "[::1]:0", "[host]:80", "[]:80",        "ho st:80",
                                    ".:80",    "a..b:80", ".a:80",   "a/b:80",  "a@b:80",    "h\xc3\xb6:80", "a\n:80",
                                    "host:+8", "host: 8", "host:08", "*:80"};
  char host[HOST_TEXT] = "";
  uint16_t port = 0;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    assert_int_equal(hostport_split(good[i].text, host, &port), 0);
    assert_string_equal(host, good[i].host);
    assert_int_equal(port, good[i].port);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (hostport_split(bad[i], host, &port) != PERR_INVALID) fail_msg("\"%s\" was taken", bad[i]);
}

static void long_hosts(void **state) {
  char text[400], host[HOST_TEXT];
  uint16_t port;
  memset(text, 'a', sizeof text);
  for (size_t i = 63; i < 253; i += 64) text[i] = '.';
  memcpy(text + 253, ":80", 4);
  assert_int_equal(hostport_split(text, host, &port), 0);
  assert_int_equal(strlen(host), 253);
  memcpy(text + 253, "a:80", 5);
  assert_int_equal(hostport_split(text, host, &port), PERR_INVALID);
  memset(text, 'a', 64);
  memcpy(text + 64, ":80", 4);
  assert_int_equal(hostport_split(text, host, &port), PERR_INVALID);
  memcpy(text + 63, ":80", 4);
  assert_int_equal(hostport_split(text, host, &port), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(addresses_and_their_texts),
      cmocka_unit_test(malformed_addresses),
      cmocka_unit_test(addresses_without_port),
      cmocka_unit_test(mapped_addresses_become_ipv4),
      cmocka_unit_test(what_the_system_gives),
      cmocka_unit_test(ports),
      cmocka_unit_test(comparing),
      cmocka_unit_test(hosts_with_ports),
      cmocka_unit_test(long_hosts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
