// NSP: the table of dialects, and each message of the gateway, byte for byte.
#include "postern/core/config.h"
#include "postern/wire/nsp.h"
#include "wire_nsp_bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

// The page's table of dialects, once more by hand.
static const struct {
  const char *name;
  enum config_dialect value;
  size_t record;
  bool protocol, compress, host, description;
  bool token, old_id_first, adds_apps, reverse_auth;
  size_t transfer, keepalive, force_close; // bytes of the message; 0: none
  enum nsp_order to_client, from_client;
  enum nsp_compression compression;
} table[] = {
    {"0.4", CONFIG_NSP_0_4, 2, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, NSP_ORDER_NONE, NSP_ORDER_NONE, NSP_COMPRESSION_NONE},
    {"0.8", CONFIG_NSP_0_8, 2, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, NSP_ORDER_NONE, NSP_ORDER_NONE, NSP_COMPRESSION_NONE},
    {"hosts", CONFIG_NSP_HOSTS, 1027, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, NSP_ORDER_NONE, NSP_ORDER_NONE,
     NSP_COMPRESSION_NONE},
    {"1.0", CONFIG_NSP_1_0, 1123, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, NSP_ORDER_NONE, NSP_ORDER_NONE,
     NSP_COMPRESSION_NONE},
    {"1.2", CONFIG_NSP_1_2, 1124, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, NSP_ORDER_BE, NSP_ORDER_BE,
     NSP_COMPRESSION_UNFRAMED},
    {"1.4", CONFIG_NSP_1_4, 1124, 1, 1, 1, 1, 1, 0, 0, 1, 10, 10, 10, NSP_ORDER_LE, NSP_ORDER_BE,
     NSP_COMPRESSION_FRAMED},
};

enum { ROWS = sizeof table / sizeof *table };

static void test_dialects(void **state) {
  uint8_t out[NSP_CONTROL_MAX];
  for (size_t i = 0; i < ROWS; i++) {
    const struct nsp_dialect *d = nsp_dialect_find(table[i].name);
    assert_non_null(d);
    assert_string_equal(d->name, table[i].name);
    assert_ptr_equal(d, nsp_dialect_at(table[i].value));
    assert_int_equal(nsp_record_len(d), table[i].record);
    assert_int_equal(d->protocol_len, table[i].protocol ? 1 : 0);
    assert_int_equal(d->compress_len, table[i].compress ? 1 : 0);
    assert_int_equal(d->host_len, table[i].host ? 1024 : 0);
    assert_int_equal(d->description_len, table[i].description ? 96 : 0);
    assert_int_equal(d->token, table[i].token);
    assert_int_equal(d->old_id_first, table[i].old_id_first);
    assert_int_equal(d->adds_apps, table[i].adds_apps);
    assert_int_equal(d->reverse_auth, table[i].reverse_auth);
    assert_int_equal(nsp_put_transfer(d, (const uint8_t *)"abcd", out), table[i].transfer);
    assert_int_equal(nsp_put_keepalive(d, out), table[i].keepalive);
    assert_int_equal(nsp_put_force_close(d, out), table[i].force_close);
    assert_int_equal(d->udp_to_client, table[i].to_client);
    assert_int_equal(d->udp_from_client, table[i].from_client);
    assert_int_equal(d->compression, table[i].compression);
  }
}

static void test_dialects_unknown(void **state) {
  assert_null(nsp_dialect_at(ROWS));
  assert_null(nsp_dialect_at(SIZE_MAX));
  assert_null(nsp_dialect_find(""));
  assert_null(nsp_dialect_find("1"));
  assert_null(nsp_dialect_find("1.40"));
  assert_null(nsp_dialect_find("HOSTS"));
}

static bool carries(const char *dialect, uint8_t protocol, bool compress) {
  const struct nsp_app a = {.protocol = protocol, .compress = compress};
  return nsp_app_refusal(nsp_dialect_find(dialect), &a) == NULL;
}

static void test_what_a_dialect_carries(void **state) {
  for (size_t i = 0; i < ROWS; i++) {
    const char *name = table[i].name;
    assert_true(carries(name, NSP_TCP, false));
    assert_true(carries(name, NSP_HTTP, false));
    assert_int_equal(carries(name, NSP_UDP, false), i >= 4);
    assert_int_equal(carries(name, NSP_UDP, true), i >= 4); // it ignores the wish
    assert_int_equal(carries(name, NSP_TCP, true), i == 5);
    assert_int_equal(carries(name, NSP_HTTP, true), i == 5);
    for (unsigned protocol = 0; protocol < 256; protocol++)
      if (protocol != NSP_TCP && protocol != NSP_HTTP && protocol != NSP_UDP)
        assert_false(carries(name, (uint8_t)protocol, false));
  }
}

// ---- answers ----

// "Reconnect 0x03 with 5 apps": 03 e8 | 01 79 19 | …
static void test_answer(void **state) {
  static struct bytes expected;
  const struct nsp_assignment apps[] = {{1, 31001}, {2, 31002}, {3, 31003}, {4, 31080}, {5, 31080}};
  uint8_t out[NSP_ANSWER_MAX];
  expected.len = 0;
  add_hex(&expected, "03 e8 | 01 79 19 | 02 79 1a | 03 79 1b | 04 79 68 | 05 79 68");
  assert_int_equal(nsp_put_answer(out, 1000, apps, 5), expected.len);
  assert_memory_equal(out, expected.p, expected.len);
}

static void test_answer_caps(void **state) {
  struct nsp_assignment apps[256];
  uint8_t out[NSP_ANSWER_MAX];
  for (unsigned i = 0; i < 256; i++) apps[i] = (struct nsp_assignment){(uint8_t)(i + 1), (uint16_t)(0xffff - i)};
  assert_int_equal(nsp_put_answer(out, 0xffff, apps, 0), 2);
  assert_memory_equal(out, "\xff\xff", 2);
  assert_int_equal(nsp_put_answer(out, 1, apps, 1), 5);
  assert_int_equal(nsp_put_answer(out, 1, apps, 255), 767);
  assert_memory_equal(out + 764, "\xff\xff\x01", 3);
  assert_int_equal(nsp_put_answer(out, 1, apps, 256), 0);
}

static void test_single_bytes(void **state) {
  assert_int_equal(NSP_ACK, 0x01);
  assert_int_equal(NSP_ERROR_AUTH, 0x03);
  assert_int_equal(NSP_ERROR_BANNED, 0x04);
  assert_int_equal(NSP_ERROR_OTHER, 0x00);
  assert_int_equal(NSP_AUTH_OK, 0x01);
  assert_int_equal(NSP_AUTH_FAILED, 0x00);
}

// ---- control messages ----

static void assert_message(const uint8_t *out, size_t len, const char *hex) {
  static struct bytes expected;
  expected.len = 0;
  add_hex(&expected, hex);
  assert_int_equal(len, expected.len);
  assert_memory_equal(out, expected.p, len);
}

static void test_control_messages(void **state) {
  static const uint8_t id[] = {0xa4, 0x8a, 0x8f, 0xd8};
  uint8_t out[NSP_CONTROL_MAX];
  for (size_t i = 0; i < ROWS; i++) {
    const struct nsp_dialect *d = nsp_dialect_at(i);
    bool latest = strcmp(d->name, "1.4") == 0;
    memset(out, 0xee, sizeof out);
    assert_message(out, nsp_put_transfer(d, id, out), latest ? "01 a4 8a 8f d8 00 00 00 00 00" : "01");
    memset(out, 0xee, sizeof out);
    const char *keepalive = latest ? "03 00 00 00 00 00 00 00 00 00" : i == 4 ? "03" : "";
    assert_message(out, nsp_put_keepalive(d, out), keepalive);
    memset(out, 0xee, sizeof out);
    assert_message(out, nsp_put_force_close(d, out), latest ? "06 00 00 00 00 00 00 00 00 00" : "");
  }
}

// ---- blocks ----

static void test_block_header(void **state) {
  uint8_t out[NSP_BLOCK_HEADER];
  uint32_t len = 0;
  nsp_put_block_header(out, 84);
  assert_message(out, sizeof out, "54 00 00 00");
  nsp_put_block_header(out, 156);
  assert_message(out, sizeof out, "9c 00 00 00");
  nsp_put_block_header(out, 0x123456);
  assert_message(out, sizeof out, "56 34 12 00");
  assert_int_equal(nsp_get_block_header(out, &len), 0);
  assert_int_equal(len, 0x123456);
}

static void test_block_header_caps(void **state) {
  static const struct {
    uint32_t len;
    int rc;
  } rows[] = {{0, PERR_EOF},
              {1, 0},
              {NSP_BLOCK_MAX, 0},
              {NSP_BLOCK_MAX + 1, PERR_PROTOCOL},
              {0x7fffffff, PERR_PROTOCOL},
              {0x80000000, PERR_PROTOCOL},
              {0xffffffff, PERR_PROTOCOL}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    uint8_t in[NSP_BLOCK_HEADER];
    uint32_t len = 77;
    nsp_put_block_header(in, rows[i].len);
    assert_int_equal(nsp_get_block_header(in, &len), rows[i].rc);
    assert_int_equal(len, rows[i].rc ? 77 : rows[i].len);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dialects),
      cmocka_unit_test(test_dialects_unknown),
      cmocka_unit_test(test_what_a_dialect_carries),
      cmocka_unit_test(test_answer),
      cmocka_unit_test(test_answer_caps),
      cmocka_unit_test(test_single_bytes),
      cmocka_unit_test(test_control_messages),
      cmocka_unit_test(test_block_header),
      cmocka_unit_test(test_block_header_caps),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
