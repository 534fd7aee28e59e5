// NSP datagrams: both directions in both byte orders, every truncation, the caps.
#include "postern/wire/nsp.h"
#include "wire_nsp_bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct bytes input, expected;
static uint8_t out[NSP_UDP_FRAME_MAX];
static uint8_t filler[70000];

static struct nsp_datagram datagram(const char *addr, uint16_t port, const char *data) {
  return (struct nsp_datagram){.addr = (const uint8_t *)addr,
                               .addr_len = strlen(addr),
                               .port = port,
                               .data = (const uint8_t *)data,
                               .len = strlen(data)};
}

static void assert_encoded(const char *dialect, const struct nsp_datagram *g, const char *hex) {
  size_t len = 0;
  expected.len = 0;
  add_hex(&expected, hex);
  assert_int_equal(nsp_put_datagram(nsp_dialect_find(dialect), g, out, sizeof out, &len), 0);
  assert_int_equal(len, expected.len);
  assert_memory_equal(out, expected.p, len);
}

// 1.4: lengths LE behind ten bytes of control message, "What works with the stock client". 1.2: BE, no padding.
static void test_to_the_client(void **state) {
  struct nsp_datagram hello = datagram("127.0.0.1", 0xeb0b, "hello"), empty = datagram("", 0, "");
  assert_encoded("1.4", &hello,
                 "04 00 00 00 00 00 00 00 00 00 | 09 00 | 31 32 37 2e 30 2e 30 2e 31 | eb 0b | 05 00 | 68 65 6c 6c 6f");
  assert_encoded("1.2", &hello, "04 / 00 09 / 31 32 37 2e 30 2e 30 2e 31 / eb 0b / 00 05 / 68 65 6c 6c 6f");
  assert_encoded("1.4", &empty, "04 00 00 00 00 00 00 00 00 00 | 00 00 | 00 00 | 00 00");
  assert_encoded("1.2", &empty, "04 / 00 00 / 00 00 / 00 00");
}

static int encode(size_t addr_len, size_t len, size_t cap) {
  const struct nsp_datagram g = {.addr = filler, .addr_len = addr_len, .data = filler, .len = len};
  size_t written = 0;
  return nsp_put_datagram(nsp_dialect_find("1.4"), &g, out, cap, &written);
}

static void test_to_the_client_caps(void **state) {
  assert_int_equal(encode(64, 32767, sizeof out), 0);
  assert_int_equal(encode(64, 32767, sizeof out - 1), PERR_FULL);
  assert_int_equal(encode(0, 0, 16), 0);
  for (size_t cap = 0; cap < 16; cap++) assert_int_equal(encode(0, 0, cap), PERR_FULL);
  assert_int_equal(encode(65, 1, sizeof out), PERR_LIMIT);
  assert_int_equal(encode(1, 32768, sizeof out), PERR_LIMIT);
  assert_int_equal(encode(SIZE_MAX, 1, sizeof out), PERR_LIMIT);
  assert_int_equal(encode(1, SIZE_MAX, sizeof out), PERR_LIMIT);
}

static void test_length_of_two_bytes(void **state) {
  const struct nsp_datagram g = {.addr = filler, .addr_len = 0, .data = filler, .len = 0x1234};
  size_t len = 0;
  assert_int_equal(nsp_put_datagram(nsp_dialect_find("1.4"), &g, out, sizeof out, &len), 0);
  assert_memory_equal(out + 14, "\x34\x12", 2);
  assert_int_equal(nsp_put_datagram(nsp_dialect_find("1.2"), &g, out, sizeof out, &len), 0);
  assert_memory_equal(out + 5, "\x12\x34", 2);
}

// ---- from the client ----

static int decode(const struct nsp_dialect *d, size_t at, size_t len, struct nsp_datagram *g, size_t *size) {
  const char *why = NULL;
  int rc = nsp_get_datagram(d, input.p + at, len, g, size, &why);
  assert_int_equal(rc == PERR_PROTOCOL, why != NULL);
  return rc;
}

static void start(const char *hex) {
  input.len = 0;
  add_hex(&input, hex);
}

// Two frames one behind the other, and the first cut at every byte.
static void test_from_the_client(void **state) {
  for (size_t i = 4; nsp_dialect_at(i); i++) {
    const struct nsp_dialect *d = nsp_dialect_at(i);
    struct nsp_datagram g;
    size_t size, at;
    start("00 09 / 31 32 37 2e 30 2e 30 2e 31 / eb 0b / 00 07 / 45 3a 68 65 6c 6c 6f / 00 00 / 00 01 / 00 00");
    assert_int_equal(decode(d, 0, input.len, &g, &size), 0);
    assert_int_equal(size, 22);
    assert_int_equal(g.addr_len, 9);
    assert_memory_equal(g.addr, "127.0.0.1", 9);
    assert_int_equal(g.port, 0xeb0b);
    assert_int_equal(g.len, 7);
    assert_memory_equal(g.data, "E:hello", 7);
    at = size;
    assert_int_equal(decode(d, at, input.len - at, &g, &size), 0);
    assert_int_equal(size, input.len - at);
    assert_int_equal(g.addr_len, 0);
    assert_int_equal(g.port, 1);
    assert_int_equal(g.len, 0);
    for (size_t cut = 0; cut < 22; cut++) {
      const char *why = NULL;
      uint8_t *copy = exact_copy(input.p, cut);
      assert_int_equal(nsp_get_datagram(d, copy, cut, &g, &size, &why), PERR_AGAIN);
      assert_int_equal(size, cut < 2 ? 2 : cut < 15 ? 15 : 22);
      free(copy);
    }
  }
}

// What a stock client makes of lengths in the wrong order: 2304 bytes of address.
static void test_from_the_client_in_the_wrong_order(void **state) {
  struct nsp_datagram g;
  size_t size;
  start("09 00");
  assert_int_equal(decode(nsp_dialect_find("1.4"), 0, 2, &g, &size), PERR_PROTOCOL);
}

static void test_from_the_client_caps(void **state) {
  static const struct {
    unsigned addr, data;
    int rc;
  } rows[] = {{0, 0, 0},
              {1, 1, 0},
              {64, 65507, 0},
              {65, 0, PERR_PROTOCOL},
              {0xffff, 0, PERR_PROTOCOL},
              {0, 32768, 0},
              {0, 65508, PERR_PROTOCOL},
              {0, 0xffff, PERR_PROTOCOL}};
  const struct nsp_dialect *d = nsp_dialect_find("1.4");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct nsp_datagram g;
    size_t size;
    input.len = 0;
    add_u16(&input, rows[i].addr);
    add_fill(&input, 'a', rows[i].addr);
    add_u16(&input, 7);
    add_u16(&input, rows[i].data);
    size_t head = input.len;
    add_fill(&input, 'd', rows[i].data);
    assert_int_equal(decode(d, 0, input.len, &g, &size), rows[i].rc);
    if (rows[i].rc == 0) assert_int_equal(size, input.len);
    if (rows[i].rc == 0) assert_int_equal(g.len, rows[i].data);
    // The lengths alone tell, before what they announce has come.
    assert_int_equal(decode(d, 0, head, &g, &size), rows[i].rc || !rows[i].data ? rows[i].rc : PERR_AGAIN);
  }
}

static void test_dialects_without_udp(void **state) {
  struct nsp_datagram g = datagram("a", 1, "b");
  size_t n;
  start("00 00 00 00 00 00");
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(nsp_put_datagram(nsp_dialect_at(i), &g, out, sizeof out, &n), PERR_INVALID);
    assert_int_equal(decode(nsp_dialect_at(i), 0, input.len, &g, &n), PERR_PROTOCOL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_to_the_client),        cmocka_unit_test(test_to_the_client_caps),
      cmocka_unit_test(test_length_of_two_bytes),  cmocka_unit_test(test_from_the_client),
      cmocka_unit_test(test_from_the_client_caps), cmocka_unit_test(test_from_the_client_in_the_wrong_order),
      cmocka_unit_test(test_dialects_without_udp),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
