// Request heads: what is read, in pieces of every size; what is refused, and at which byte; framing; targets.
#include "postern/wire/http.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct http_head head;

// Feeds `text` in pieces of `piece` bytes, each time in a buffer of exactly the size so far; the last one stays.
static int feed(const char *text, size_t len, size_t piece, char **last) {
  int rc = PERR_AGAIN;
  char *copy = NULL;
  for (size_t n = piece < len ? piece : len; rc == PERR_AGAIN; n += piece) {
    if (n > len) n = len;
    free(copy);
    copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    rc = http_head_parse(&head, copy, n);
    if (n == len) break;
  }
  *last = copy;
  return rc;
}

static int parse_max(const char *text, size_t max) {
  http_head_init(&head, max);
  return http_head_parse(&head, text, strlen(text));
}

static int parse(const char *text) { return parse_max(text, 4096); }

static void assert_slice(struct http_slice s, const char *text) {
  assert_int_equal(s.len, strlen(text));
  assert_memory_equal(s.p, text, s.len);
}

static void assert_field(const char *name, unsigned count, const char *value) {
  struct http_slice s = {NULL, 0};
  assert_int_equal(http_field(&head, name, &s), count);
  if (count) assert_slice(s, value);
  else assert_null(s.p);
}

static void a_head_is_read(void **state) {
  static const char text[] = "GET /GetServerClientConfig?userid= HTTP/1.1\r\n"
                             "Cookie: NSPTK=zVw1HCO6e8eT2nIv/z54D0=\r\n"
                             "Host:127.0.0.1:12309\r\n"
                             "X-Empty:\r\n"
                             "x-twice: \t one two\t \r\n"
                             "X-Twice: caf\xe9\r\n"
                             "\r\nGET /next";
  size_t size = strlen(text) - strlen("GET /next");
  for (size_t piece = 1; piece <= sizeof text; piece++) {
    char *last = NULL;
    struct http_slice name, value;
    http_head_init(&head, 4096);
    assert_int_equal(feed(text, strlen(text), piece, &last), 0);
    assert_int_equal(http_head_size(&head), size);
    assert_slice(http_method(&head), "GET");
    assert_slice(http_target(&head), "/GetServerClientConfig?userid=");
    assert_int_equal(head.minor, 1);
    assert_int_equal(head.nfields, 5);
    assert_field("COOKIE", 1, "NSPTK=zVw1HCO6e8eT2nIv/z54D0=");
    assert_field("host", 1, "127.0.0.1:12309");
    assert_field("X-Empty", 1, "");
    assert_field("X-Twice", 2, "one two");
    assert_field("X-Twic", 0, NULL);
    http_field_at(&head, 4, &name, &value);
    assert_slice(name, "X-Twice");
    assert_slice(value, "caf\xe9");
    assert_true(http_persists(&head));
    assert_false(http_has_body(&head));
    free(last);
  }
}

static void a_cut_head_is_not_complete(void **state) {
  static const char text[] = "\r\nHEAD / HTTP/1.0\r\nA: b\r\nConnection: x\r\n\r\n";
  for (size_t cut = 0; cut < strlen(text); cut++) {
    http_head_init(&head, 4096);
    assert_int_equal(http_head_parse(&head, text, cut), PERR_AGAIN);
    assert_int_equal(http_head_size(&head), 0);
  }
  assert_int_equal(parse(text), 0);
  assert_int_equal(http_head_size(&head), strlen(text));
  assert_slice(http_method(&head), "HEAD");
}

#define HOST "Host: a\r\n"

static void malformed_heads_are_refused(void **state) {
  static const char *const bad[] = {
      "GET / HTTP/1.1\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\n\n",
      "GET / HTTP/1.1\rHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
      "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n",
      "GET / HTTP/1.1\r\n" HOST "A: b\r\n\tc: d\r\n\r\n",
      "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost\r\n\r\n",
      "GET / HTTP/1.1\r\n: a\r\n" HOST "\r\n",
      "GET / HTTP/1.1\r\nH(st: a\r\n" HOST "\r\n",
      "GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n",
      "GET / HTTP/1.1\r\n" HOST "A: b\x7f\r\n\r\n",
      "GET / HTTP/1.1\r\n" HOST "A\x80: b\r\n\r\n",
      "GET  / HTTP/1.1\r\n" HOST "\r\n",
      "GET / HTTP/1.1 \r\n" HOST "\r\n",
      " GET / HTTP/1.1\r\n" HOST "\r\n",
      "GET\t/\tHTTP/1.1\r\n" HOST "\r\n",
      "GET /a b HTTP/1.1\r\n" HOST "\r\n",
      "GET /\xe9 HTTP/1.1\r\n" HOST "\r\n",
      "GET /\r\n\r\n",
      "GET\r\n\r\n",
      "G(T / HTTP/1.1\r\n" HOST "\r\n",
      "GET / http/1.1\r\n" HOST "\r\n",
      "GET / HTTP/11\r\n" HOST "\r\n",
      "GET / HTTP/1.1x\r\n" HOST "\r\n",
      "GET / HTTP/1.x\r\n" HOST "\r\n",
      "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n",
      "GET / HTTP/1.1\r\n\r\n",
      "GET / HTTP/1.1\r\n" HOST "host: b\r\n\r\n",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (parse(bad[i]) != PERR_PROTOCOL || !head.why || head.state != HTTP_BAD) fail_msg("taken: %s", bad[i]);
    // For good, whatever comes.
    assert_int_equal(http_head_parse(&head, bad[i], strlen(bad[i])), PERR_PROTOCOL);
    assert_int_equal(http_head_size(&head), 0);
  }
}

static void a_nul_is_refused(void **state) {
  static const char text[] = "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n";
  http_head_init(&head, 4096);
  assert_int_equal(http_head_parse(&head, text, sizeof text - 1), PERR_PROTOCOL);
}

// A bad byte is enough: nobody has to send the rest.
static void refused_at_the_first_bad_byte(void **state) {
  http_head_init(&head, 4096);
  assert_int_equal(http_head_parse(&head, "\x16\x03\x01", 3), PERR_PROTOCOL);
}

static void other_versions_are_told_apart(void **state) {
  assert_int_equal(parse("GET / HTTP/1.2\r\n" HOST "\r\n"), PERR_VERSION);
  assert_int_equal(parse("PRI * HTTP/2.0\r\n\r\n"), PERR_VERSION);
  assert_int_equal(parse("GET / HTTP/0.9\r\n" HOST "\r\n"), PERR_VERSION);
  assert_int_equal(parse("GET / HTTP/1.0\r\n\r\n"), 0);
}

static void heads_are_capped(void **state) {
  static const char text[] = "GET / HTTP/1.1\r\n" HOST "\r\n";
  assert_int_equal(parse_max(text, strlen(text)), 0);
  assert_int_equal(parse_max(text, strlen(text) - 1), PERR_LIMIT);
  char *last = NULL;
  http_head_init(&head, 20);
  assert_int_equal(feed(text, strlen(text), 1, &last), PERR_LIMIT);
  free(last);
}

static void fields_are_capped(void **state) {
  static char text[16 * HTTP_FIELDS_MAX];
  for (int over = 0; over < 2; over++) {
    char *p = text + sprintf(text, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 1; i < HTTP_FIELDS_MAX + over; i++) p += sprintf(p, "A: b\r\n");
    strcpy(p, "\r\n");
    assert_int_equal(parse(text), over ? PERR_LIMIT : 0);
  }
}

static int parse_fields(const char *fields) {
  static char text[1024];
  snprintf(text, sizeof text, "POST / HTTP/1.1\r\n" HOST "%s\r\n", fields);
  return parse(text);
}

static void lengths_are_strict(void **state) {
  static const char *const bad[] = {
      "Content-Length: 5\r\ncontent-length: 6\r\n", "Content-Length: +5\r\n", "Content-Length: -5\r\n",
      "Content-Length: 5, 5\r\n", "Content-Length: \r\n", "Content-Length: 0x5\r\n", "Content-Length: 5 5\r\n",
      "Content-Length: 05\r\n", "Content-Length: 9223372036854775808\r\n",
      "Content-Length: 18446744073709551621\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (parse_fields(bad[i]) != PERR_PROTOCOL) fail_msg("taken: %s", bad[i]);
  assert_int_equal(parse_fields("Content-Length: 9223372036854775807\r\n"), 0);
  assert_true(head.has_length && head.length == INT64_MAX && http_has_body(&head));
  assert_int_equal(parse_fields("Content-Length: 5\r\nContent-Length: 5\r\n"), 0);
  assert_int_equal(head.length, 5);
  assert_int_equal(parse_fields("Content-Length: 0\r\n"), 0);
  assert_true(head.has_length);
  assert_false(http_has_body(&head));
  assert_int_equal(parse_fields("Transfer-Encoding: chunked\r\n"), 0);
  assert_true(head.coded && !head.has_length && http_has_body(&head));
  assert_int_equal(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), PERR_PROTOCOL);
}

static bool persists(const char *version, const char *fields) {
  char text[256];
  snprintf(text, sizeof text, "GET / HTTP/%s\r\n" HOST "%s\r\n", version, fields);
  assert_int_equal(parse(text), 0);
  return http_persists(&head);
}

static void connections_persist_or_not(void **state) {
  assert_true(persists("1.1", ""));
  assert_true(persists("1.1", "Connection: Upgrade, HTTP2-Settings\r\n"));
  assert_true(persists("1.1", "Connection: closed\r\n"));
  assert_false(persists("1.1", "Connection: Close\r\n"));
  assert_false(persists("1.1", "Connection: ,, upgrade ,\tclose,\r\n"));
  assert_false(persists("1.1", "Connection: upgrade\r\nConnection: close\r\n"));
  assert_false(persists("1.0", ""));
  assert_true(persists("1.0", "Connection: Keep-Alive\r\n"));
  assert_false(persists("1.0", "Connection: keep-alive, close\r\n"));
}

static void assert_split(const char *target, const char *path, const char *query) {
  struct http_slice p, q;
  assert_true(http_target_split((struct http_slice){target, strlen(target)}, &p, &q));
  assert_slice(p, path);
  assert_slice(q, query);
}

static void targets_are_split(void **state) {
  struct http_slice p, q;
  assert_split("/", "/", "");
  assert_split("/a?b", "/a", "b");
  assert_split("/a?b?c#d/e", "/a", "b?c#d/e");
  assert_split("/a?", "/a", "");
  assert_split("/a#b?c", "/a", "");
  assert_split("http://h:80/a?b=http://c/d", "/a", "b=http://c/d");
  assert_split("HTTPS://h?b", "", "b");
  assert_split("http://h", "", "");
  static const char *const others[] = {"*", "h:443", "ftp://h/a", "", "a/b", "http:/a"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    assert_false(http_target_split((struct http_slice){others[i], strlen(others[i])}, &p, &q));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_head_is_read),
      cmocka_unit_test(a_cut_head_is_not_complete),
      cmocka_unit_test(malformed_heads_are_refused),
      cmocka_unit_test(a_nul_is_refused),
      cmocka_unit_test(refused_at_the_first_bad_byte),
      cmocka_unit_test(other_versions_are_told_apart),
      cmocka_unit_test(heads_are_capped),
      cmocka_unit_test(fields_are_capped),
      cmocka_unit_test(lengths_are_strict),
      cmocka_unit_test(connections_persist_or_not),
      cmocka_unit_test(targets_are_split),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
