// NSP requests: the exchanges of the protocol's page, whole, in pieces and cut; each dialect's records; the caps.
#include "postern/wire/nsp.h"
#include "wire_nsp_bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct nsp_request_parser parser;
static struct nsp_app *apps; // exactly as many as were announced
static struct bytes input;

static void begin(const char *dialect) {
  free(apps);
  apps = NULL;
  nsp_request_init(&parser, nsp_dialect_find(dialect));
  assert_int_equal(parser.need, 1);
}

static void keep_app(void *ctx, unsigned index, const struct nsp_app *app) {
  assert_true(index < parser.request.count);
  ((struct nsp_app *)ctx)[index] = *app;
}

// Feeds `len` bytes in pieces of at most `piece`, gives the apps their place, and checks what must always hold.
static int feed(size_t len, size_t piece, size_t *taken) {
  int rc = PERR_AGAIN;
  *taken = 0;
  for (size_t at = 0; at < len || rc == 0;) {
    size_t n = len - at < piece ? len - at : piece, used = SIZE_MAX;
    uint8_t *copy = exact_copy(input.p + at, n);
    rc = nsp_request_feed(&parser, copy, n, &used);
    free(copy);
    assert_true(used <= n);
    at += used;
    *taken = at;
    if (rc == PERR_AGAIN) assert_int_equal(used, n);
    if (rc == PERR_AGAIN) assert_true(parser.need > 0);
    if (rc == PERR_PROTOCOL) assert_non_null(parser.why);
    if (rc == PERR_PROTOCOL || parser.state == NSP_REQUEST_DONE) return rc;
    if (rc == 0) assert_int_equal(parser.state, NSP_REQUEST_APPS);
    if (rc == 0 && at == len) return rc;
    if (parser.state == NSP_REQUEST_APPS && !apps) {
      apps = calloc(parser.request.count, sizeof *apps);
      parser.on_app = keep_app;
      parser.ctx = apps;
    }
  }
  return rc;
}

static int feed_as(const char *dialect, size_t piece) {
  size_t taken;
  begin(dialect);
  return feed(input.len, piece, &taken);
}

// The input is one whole request: it is taken in pieces of every kind, not without its last bytes, and nothing behind
// it.
static void assert_whole(const char *dialect, void (*check)(void)) {
  size_t taken, len = input.len;
  for (size_t piece = 1; piece <= len; piece = piece < 16 ? piece + 1 : piece * 3) {
    assert_int_equal(feed_as(dialect, piece), 0);
    assert_int_equal(parser.state, NSP_REQUEST_DONE);
    assert_int_equal(parser.need, 0);
    check();
  }
  for (size_t cut = 0; cut < len; cut++) {
    begin(dialect);
    int rc = feed(cut, SIZE_MAX, &taken);
    assert_true(rc == PERR_AGAIN || rc == 0);
    assert_int_not_equal(parser.state, NSP_REQUEST_DONE);
    assert_true(parser.need > 0 && parser.need <= len - cut);
  }
  add_hex(&input, "01 03 e8");
  begin(dialect);
  assert_int_equal(feed(input.len, SIZE_MAX, &taken), 0);
  assert_int_equal(taken, len);
  assert_int_equal(nsp_request_feed(&parser, input.p + len, 3, &taken), 0);
  assert_int_equal(taken, 0);
  check();
}

static void start(const char *hex) {
  input.len = 0;
  add_hex(&input, hex);
}

// ---- requests without apps ----

static void check_heartbeat(void) {
  assert_int_equal(parser.request.op, NSP_OP_HEARTBEAT);
  assert_int_equal(parser.request.client_id, 1000);
  assert_int_equal(parser.request.count, 0);
  assert_string_equal(nsp_request_token(&parser), "");
}

static void check_close(void) {
  assert_int_equal(parser.request.op, NSP_OP_CLOSE);
  assert_int_equal(parser.request.client_id, 1000);
  assert_string_equal(nsp_request_token(&parser), "");
}

static void check_disconnect(void) {
  assert_int_equal(parser.request.op, NSP_OP_DISCONNECT);
  assert_memory_equal(parser.request.transfer_id, "\xa4\x8a\x8f\xd8", 4);
  assert_int_equal(parser.request.client_id, 0);
  assert_string_equal(nsp_request_token(&parser), "");
}

static void test_requests_without_apps(void **state) {
  for (size_t i = 0; nsp_dialect_at(i); i++) {
    const char *dialect = nsp_dialect_at(i)->name;
    start("01 / 03 e8");
    assert_whole(dialect, check_heartbeat);
    start("04 / 03 e8");
    assert_whole(dialect, check_close);
  }
  start("05 / a4 8a 8f d8");
  assert_whole("1.4", check_disconnect);
}

// Every first byte that is no request is known for it at once. Disconnect names a transfer's id, which only 1.4 has.
static void test_unknown_requests(void **state) {
  for (size_t i = 0; nsp_dialect_at(i); i++) {
    const char *dialect = nsp_dialect_at(i)->name;
    for (unsigned op = 0; op < 256; op++) {
      input.len = 0;
      add_byte(&input, op);
      bool known = op >= 1 && op <= (strcmp(dialect, "1.4") == 0 ? 5 : 4);
      assert_int_equal(feed_as(dialect, 1), known ? PERR_AGAIN : PERR_PROTOCOL);
    }
  }
}

static void test_malformed_for_ever(void **state) {
  size_t used = 7;
  start("06");
  assert_int_equal(feed_as("1.4", 1), PERR_PROTOCOL);
  assert_int_equal(parser.state, NSP_REQUEST_BAD);
  assert_int_equal(parser.need, 0);
  assert_int_equal(nsp_request_feed(&parser, "\x01\x03\xe8", 3, &used), PERR_PROTOCOL);
  assert_int_equal(used, 0);
}

// ---- the Reconnect with five apps ----

static void add_text(const char *text, size_t len) {
  add(&input, text, strlen(text));
  add_fill(&input, 0, len - strlen(text));
}

static void add_record(unsigned port, unsigned protocol, unsigned compress, const char *host, const char *description) {
  add_u16(&input, port);
  add_byte(&input, protocol);
  add_byte(&input, compress);
  add_text(host, 1024);
  add_text(description, 96);
}

static const struct nsp_app five[] = {
    {.port = 31001, .description = "plain tcp"},
    {.port = 31002, .compress = true, .description = "snappy tcp"},
    {.port = 31003, .protocol = NSP_UDP, .description = "udp"},
    {.port = 31080, .protocol = NSP_HTTP, .host = "a.test", .description = "vhost a"},
    {.port = 31080, .protocol = NSP_HTTP, .host = "b.test", .description = "vhost b"},
};

static void add_five(void) {
  size_t at = input.len;
  for (size_t i = 0; i < 5; i++)
    add_record(five[i].port, five[i].protocol, five[i].compress, five[i].host, five[i].description);
  assert_int_equal(input.len - at, 5620);
  // The page's offsets.
  assert_memory_equal(input.p + at, "\x79\x19\0\0\0\0", 6);
  assert_memory_equal(input.p + at + 0x404, "plain tcp", 10);
  assert_memory_equal(input.p + at + 0x464, "\x79\x1a\x00\x01", 4);
  assert_memory_equal(input.p + at + 0x868, "snappy tcp", 11);
  assert_memory_equal(input.p + at + 0x8c8, "\x79\x1b\x04\x00", 4);
  assert_memory_equal(input.p + at + 0xccc, "udp", 4);
  assert_memory_equal(input.p + at + 0xd2c, "\x79\x68\x01\x00\x61\x2e\x74\x65\x73\x74", 11);
  assert_memory_equal(input.p + at + 0x1130, "vhost a", 8);
  assert_memory_equal(input.p + at + 0x1190, "\x79\x68\x01\x00\x62\x2e\x74\x65\x73\x74", 11);
  assert_memory_equal(input.p + at + 0x1594, "vhost b", 8);
}

static void check_five(void) {
  assert_int_equal(parser.request.count, 5);
  for (size_t i = 0; i < 5; i++) {
    assert_int_equal(apps[i].port, five[i].port);
    assert_int_equal(apps[i].protocol, five[i].protocol);
    assert_int_equal(apps[i].compress, five[i].compress);
    assert_string_equal(apps[i].host, five[i].host);
    assert_string_equal(apps[i].description, five[i].description);
  }
}

static void check_reconnect(void) {
  assert_int_equal(parser.request.op, NSP_OP_RECONNECT);
  assert_int_equal(parser.request.client_id, 1000);
  assert_int_equal(parser.request.old_id, 0);
  assert_string_equal(nsp_request_token(&parser), TOKEN);
  check_five();
}

static void test_reconnect_with_five_apps(void **state) {
  start("03 / 00 2c | " TOKEN_HEX "| 03 e8 | 05");
  add_five();
  assert_whole("1.4", check_reconnect);
}

static void check_new_apps(void) {
  assert_int_equal(parser.request.op, NSP_OP_NEW_APPS);
  assert_int_equal(parser.request.client_id, 0);
  assert_string_equal(nsp_request_token(&parser), TOKEN);
  check_five();
}

static void test_new_apps_by_cached_token(void **state) {
  start("02 / 00 2c | " TOKEN_HEX "| 00 00 | 05");
  add_five();
  assert_whole("1.4", check_new_apps);
}

static void check_bad_token(void) {
  assert_int_equal(parser.request.op, NSP_OP_NEW_APPS);
  assert_string_equal(nsp_request_token(&parser), "AAAAAAAAAAAAAAAAAAAAAA==");
  check_five();
}

// The whole request is read before the refusal goes out.
static void test_new_apps_with_a_bad_token(void **state) {
  start("02 / 00 18");
  add_text("AAAAAAAAAAAAAAAAAAAAAA==", 24);
  add_hex(&input, "00 00 05");
  add_five();
  assert_whole("1.4", check_bad_token);
}

// Who reads what is needed and no more gets there in a few reads, the array announced between head and records.
static void test_reading_what_is_needed(void **state) {
  static const size_t steps[] = {1, 2, 44, 3, 1124, 1124, 1124, 1124, 1124};
  size_t at = 0, used;
  start("03 / 00 2c | " TOKEN_HEX "| 03 e8 | 05");
  add_five();
  begin("1.4");
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    assert_int_equal(parser.need, steps[i]);
    int rc = nsp_request_feed(&parser, input.p + at, parser.need, &used);
    assert_int_equal(rc, i == 3 || i == 8 ? 0 : PERR_AGAIN);
    assert_int_equal(used, steps[i]);
    at += used;
  }
  assert_int_equal(parser.state, NSP_REQUEST_DONE);
}

static void test_apps_that_nobody_keeps(void **state) {
  size_t used, more;
  start("03 / 00 2c | " TOKEN_HEX "| 03 e8 | 05");
  add_five();
  begin("1.4");
  assert_int_equal(nsp_request_feed(&parser, input.p, input.len, &used), 0);
  assert_int_equal(parser.state, NSP_REQUEST_APPS);
  assert_int_equal(used, 50);
  assert_int_equal(nsp_request_feed(&parser, input.p + used, input.len - used, &more), 0);
  assert_int_equal(parser.state, NSP_REQUEST_DONE);
  assert_int_equal(used + more, input.len);
}

// ---- each dialect's records ----

static void check_ports(void) {
  assert_int_equal(parser.request.count, 2);
  assert_int_equal(apps[0].port, 31001);
  assert_int_equal(apps[1].port, 0);
  for (size_t i = 0; i < 2; i++) {
    assert_int_equal(apps[i].protocol, NSP_TCP);
    assert_false(apps[i].compress);
    assert_string_equal(apps[i].host, "");
    assert_string_equal(apps[i].description, "");
  }
}

static void check_04_new(void) {
  assert_int_equal(parser.request.op, NSP_OP_NEW_APPS);
  assert_int_equal(parser.request.client_id, 0x1234);
  assert_int_equal(parser.request.old_id, 0);
  assert_string_equal(nsp_request_token(&parser), "");
  check_ports();
}

static void check_04_reconnect(void) {
  assert_int_equal(parser.request.op, NSP_OP_RECONNECT);
  assert_int_equal(parser.request.old_id, 0x4321);
  assert_int_equal(parser.request.client_id, 0x1234);
  assert_string_equal(nsp_request_token(&parser), "");
  check_ports();
}

// Excerpts 9 and 10: no token; Reconnect names the old client first.
static void test_04(void **state) {
  start("02 / 12 34 | 02 / 79 19 | 00 00");
  assert_whole("0.4", check_04_new);
  start("03 / 43 21 / 12 34 | 02 / 79 19 | 00 00");
  assert_whole("0.4", check_04_reconnect);
}

static void check_08(void) {
  assert_int_equal(parser.request.op, NSP_OP_RECONNECT);
  assert_int_equal(parser.request.old_id, 0);
  assert_int_equal(parser.request.client_id, 1000);
  assert_string_equal(nsp_request_token(&parser), TOKEN);
  check_ports();
}

// Excerpt 11.
static void test_08(void **state) {
  start("03 / 00 2c | " TOKEN_HEX "| 03 e8 | 02 / 79 19 | 00 00");
  assert_whole("0.8", check_08);
}

static void check_hosts(void) {
  assert_int_equal(parser.request.count, 1);
  assert_int_equal(apps[0].port, 31080);
  assert_int_equal(apps[0].protocol, NSP_HTTP);
  assert_false(apps[0].compress);
  assert_string_equal(apps[0].host, "a.test");
  assert_string_equal(apps[0].description, "");
}

// Excerpt 6, second half: 2 + 1 + 1024 bytes.
static void test_hosts(void **state) {
  start("02 / 00 2c | " TOKEN_HEX "| 00 00 | 01 / 79 68 01");
  add_text("a.test", 1024);
  assert_whole("hosts", check_hosts);
}

static void check_10(void) {
  assert_int_equal(apps[0].port, 31080);
  assert_int_equal(apps[0].protocol, NSP_HTTP);
  assert_false(apps[0].compress);
  assert_string_equal(apps[0].host, "a.test");
  assert_string_equal(apps[0].description, "vhost a");
}

static void test_10(void **state) {
  start("02 / 00 2c | " TOKEN_HEX "| 00 00 | 01 / 79 68 01");
  add_text("a.test", 1024);
  add_text("vhost a", 96);
  assert_whole("1.0", check_10);
}

static void test_12(void **state) {
  start("03 / 00 2c | " TOKEN_HEX "| 03 e8 | 05");
  add_five();
  assert_whole("1.2", check_reconnect);
}

// ---- caps ----

static void start_token(unsigned declared, size_t there, unsigned fill) {
  start("02");
  add_u16(&input, declared);
  add_fill(&input, fill, there);
}

static void test_token_lengths(void **state) {
  static const size_t lengths[] = {0, 1, 255, 256, NSP_TOKEN_MAX};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    start_token((unsigned)lengths[i], lengths[i], 'x');
    add_hex(&input, "00 00 00");
    for (size_t piece = 1; piece < 8000; piece *= 5) {
      assert_int_equal(feed_as("1.4", piece), 0);
      assert_int_equal(parser.state, NSP_REQUEST_DONE);
      assert_int_equal(strlen(nsp_request_token(&parser)), lengths[i]);
    }
  }
}

// Known for malformed by their length alone, before a byte of them has come.
static void test_token_too_long(void **state) {
  static const unsigned lengths[] = {NSP_TOKEN_MAX + 1, 0x7fff, 0x8000, 0xffff};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    start_token(lengths[i], 0, 0);
    assert_int_equal(feed_as("1.4", 1), PERR_PROTOCOL);
    start_token(lengths[i], lengths[i], 'x');
    assert_int_equal(feed_as("0.8", SIZE_MAX), PERR_PROTOCOL);
  }
}

static void test_token_bytes(void **state) {
  for (unsigned c = 0; c < 256; c++) {
    start_token(3, 1, 'a');
    add_byte(&input, c);
    add_hex(&input, "62 00 00 00");
    assert_int_equal(feed_as("1.4", SIZE_MAX), 0);
    assert_int_equal(strlen(nsp_request_token(&parser)), c >= 0x20 && c < 0x7f ? 3 : 0);
  }
}

static void test_counts(void **state) {
  static const unsigned counts[] = {0, 1, 2, 254, 255};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    start_token(2, 2, 'x');
    add_u16(&input, 0xffff);
    add_byte(&input, counts[i]);
    for (unsigned n = 0; n < counts[i]; n++) add_record(n, NSP_TCP, 0, "", "");
    assert_int_equal(feed_as("1.4", 4096), 0);
    assert_int_equal(parser.state, NSP_REQUEST_DONE);
    assert_int_equal(parser.request.client_id, 0xffff);
    assert_int_equal(parser.napps, counts[i]);
    for (unsigned n = 0; n < counts[i]; n++) assert_int_equal(apps[n].port, n);
  }
}

// ---- what stands in a record ----

static void start_record(unsigned compress, const void *host, size_t host_len, const void *text, size_t text_len) {
  start("02 0001 78 0000 01 | 7919 01");
  add_byte(&input, compress);
  add(&input, host, host_len);
  add_fill(&input, 0, 1024 - host_len);
  add(&input, text, text_len);
  add_fill(&input, 0, 96 - text_len);
}

static void test_fields_full_to_the_last_byte(void **state) {
  uint8_t full[1024];
  memset(full, 'h', sizeof full);
  start_record(0, full, 1024, full, 96);
  assert_int_equal(feed_as("1.4", 7), 0);
  assert_int_equal(strlen(apps[0].host), 1024);
  assert_int_equal(strlen(apps[0].description), 96);
}

static void test_host_ends_at_nul(void **state) {
  start_record(0, "a.test\0b.test\xff", 14, "one\0two", 7);
  assert_int_equal(feed_as("1.4", SIZE_MAX), 0);
  assert_string_equal(apps[0].host, "a.test");
  assert_string_equal(apps[0].description, "one");
}

static void test_host_bytes(void **state) {
  for (unsigned c = 1; c < 256; c++) {
    const uint8_t host[] = {'a', (uint8_t)c};
    start_record(0, host, 2, "", 0);
    assert_int_equal(feed_as("1.4", SIZE_MAX), c >= 0x20 && c < 0x7f ? 0 : PERR_PROTOCOL);
  }
}

static void test_compress_values(void **state) {
  for (unsigned c = 0; c < 256; c++) {
    start_record(c, "", 0, "", 0);
    assert_int_equal(feed_as("1.4", SIZE_MAX), c < 2 ? 0 : PERR_PROTOCOL);
    if (c < 2) assert_int_equal(apps[0].compress, c);
  }
}

static void assert_description(const char *written, const char *expected) {
  uint8_t field[96];
  size_t len = strlen(written);
  memset(field, 'd', sizeof field);
  memcpy(field + 96 - len, written, len);
  start_record(0, "", 0, field, 96);
  assert_int_equal(feed_as("1.4", SIZE_MAX), 0);
  assert_int_equal(strlen(apps[0].description), 96 - len + strlen(expected));
  assert_string_equal(apps[0].description + 96 - len, expected);
}

// A field that ends within a character of UTF-8 loses that character, and nothing else.
static void test_description_cut_within_a_character(void **state) {
  assert_description("\xc3\xa9", "\xc3\xa9");
  assert_description("\xc3", "");
  assert_description("\xe5\x9b\xbe", "\xe5\x9b\xbe");
  assert_description("\xe5\x9b", "");
  assert_description("\xc3\xa9\xe5", "\xc3\xa9");
  assert_description("\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80");
  assert_description("\xf0\x9f\x98", "");
  assert_description("x\xf0", "x");
  start_record(0, "", 0, "\xbe", 1); // no character at all
  assert_int_equal(feed_as("1.4", SIZE_MAX), 0);
  assert_string_equal(apps[0].description, "\xbe");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_requests_without_apps),
      cmocka_unit_test(test_unknown_requests),
      cmocka_unit_test(test_malformed_for_ever),
      cmocka_unit_test(test_reconnect_with_five_apps),
      cmocka_unit_test(test_new_apps_by_cached_token),
      cmocka_unit_test(test_new_apps_with_a_bad_token),
      cmocka_unit_test(test_reading_what_is_needed),
      cmocka_unit_test(test_apps_that_nobody_keeps),
      cmocka_unit_test(test_04),
      cmocka_unit_test(test_08),
      cmocka_unit_test(test_hosts),
      cmocka_unit_test(test_10),
      cmocka_unit_test(test_12),
      cmocka_unit_test(test_token_lengths),
      cmocka_unit_test(test_token_too_long),
      cmocka_unit_test(test_token_bytes),
      cmocka_unit_test(test_counts),
      cmocka_unit_test(test_fields_full_to_the_last_byte),
      cmocka_unit_test(test_host_ends_at_nul),
      cmocka_unit_test(test_host_bytes),
      cmocka_unit_test(test_compress_values),
      cmocka_unit_test(test_description_cut_within_a_character),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free(apps);
  return failed;
}
