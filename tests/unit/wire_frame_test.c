// Frame headers and OPEN payloads, valid and not.
#include "postern/wire/frame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int take(uint8_t type, uint8_t flags, uint16_t len, uint32_t stream) {
  const struct frame in = {.type = type, .flags = flags, .len = len, .stream = stream};
  struct frame out;
  uint8_t bytes[FRAME_HEADER];
  const char *why = "untouched";
  frame_put_header(bytes, &in);
  int rc = frame_get_header(bytes, &out, &why);
  assert_int_equal(out.type, type);
  assert_int_equal(out.flags, flags);
  assert_int_equal(out.len, len);
  assert_int_equal(out.stream, stream);
  if (rc == 0)
    assert_null(why);
  else
    assert_non_null(why);
  return rc;
}

static void test_header_bytes(void **state) {
  const struct frame f = {.type = FRAME_DATA, .len = 0x1234, .stream = 0xa1b2c3d4};
  const uint8_t expected[] = {4, 0, 0x12, 0x34, 0xa1, 0xb2, 0xc3, 0xd4};
  uint8_t out[FRAME_HEADER];
  frame_put_header(out, &f);
  assert_memory_equal(out, expected, sizeof expected);
}

// Per type: the least and the greatest length pass, one less and one more do not; the stream id is as the type wants.
static void test_lengths_and_streams(void **state) {
  static const struct {
    uint8_t type, flags;
    unsigned min, max;
    uint32_t stream;
  } rows[] = {
      {FRAME_CONTROL, 0, 2, 16376, 0},  {FRAME_OPEN, 0, 7, 23, 9},        {FRAME_OPENED, 0, 0, 0, 9},
      {FRAME_DATA, 0, 1, 16376, 9},     {FRAME_FIN, 0, 0, 0, 9},          {FRAME_RESET, 0, 1, 1, 9},
      {FRAME_CREDIT, 0, 4, 4, 9},       {FRAME_PING, 0, 8, 8, 0},         {FRAME_PONG, 0, 8, 8, 0},
      {FRAME_DATAGRAM, 3, 0, 16376, 9}, {FRAME_DATAGRAM, 1, 1, 16376, 9}, {FRAME_DATAGRAM, 0, 1, 16376, 0xffffffff},
      {FRAME_FLOW, 0, 7, 23, 9},        {FRAME_FLOW_END, 0, 1, 1, 9},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    uint8_t type = rows[i].type, flags = rows[i].flags;
    uint32_t stream = rows[i].stream;
    assert_int_equal(take(type, flags, (uint16_t)rows[i].min, stream), 0);
    assert_int_equal(take(type, flags, (uint16_t)rows[i].max, stream), 0);
    if (rows[i].min) assert_int_equal(take(type, flags, (uint16_t)(rows[i].min - 1), stream), PERR_PROTOCOL);
    assert_int_equal(take(type, flags, (uint16_t)(rows[i].max + 1), stream), PERR_PROTOCOL);
    assert_int_equal(take(type, flags, 0xffff, stream), PERR_PROTOCOL);
    assert_int_equal(take(type, flags, (uint16_t)rows[i].max, stream ? 0 : 1), PERR_PROTOCOL);
  }
}

static void test_types_and_flags(void **state) {
  assert_int_equal(take(0, 0, 0, 0), PERR_PROTOCOL);
  assert_int_equal(take(13, 0, 0, 1), PERR_PROTOCOL);
  assert_int_equal(take(255, 0, 0, 1), PERR_PROTOCOL);
  for (uint8_t type = FRAME_CONTROL; type < FRAME_TYPES; type++)
    for (unsigned flags = 1; flags < 256 && type != FRAME_DATAGRAM; flags++)
      for (unsigned stream = 0; stream < 2; stream++)
        assert_int_equal(take(type, (uint8_t)flags, 8, stream), PERR_PROTOCOL);
  for (unsigned flags = 0; flags < 256; flags++)
    assert_int_equal(take(FRAME_DATAGRAM, (uint8_t)flags, 8, 1), flags < 4 ? 0 : PERR_PROTOCOL);
}

static struct frame_open opened_by(const char *ip, uint16_t port) {
  struct frame_open o = {.tunnel = 0x01020304};
  if (ip) assert_int_equal(addr_from_ip(&o.visitor, ip, port), 0);
  return o;
}

static void assert_round_trip(const struct frame_open *o, size_t expected_len) {
  uint8_t bytes[FRAME_OPEN_MAX];
  struct frame_open out;
  char a[ADDR_TEXT], b[ADDR_TEXT];
  size_t n = frame_put_open(bytes, o);
  assert_int_equal(n, expected_len);
  assert_int_equal(frame_get_open(bytes, n, &out), 0);
  assert_int_equal(out.tunnel, o->tunnel);
  assert_int_equal(out.visitor.len, o->visitor.len);
  assert_string_equal(addr_format(&out.visitor, a), addr_format(&o->visitor, b));
  for (size_t cut = 0; cut < n; cut++) assert_int_equal(frame_get_open(bytes, cut, &out), PERR_PROTOCOL);
}

static void test_open(void **state) {
  struct frame_open none = opened_by(NULL, 0), ip4 = opened_by("192.0.2.1", 50000), ip6 = opened_by("2001:db8::1", 1);
  assert_round_trip(&none, 7);
  assert_round_trip(&ip4, 11);
  assert_round_trip(&ip6, 23);
}

static void test_open_bytes(void **state) {
  const uint8_t expected[] = {1, 2, 3, 4, 4, 0xc3, 0x50, 192, 0, 2, 1};
  struct frame_open o = opened_by("192.0.2.1", 50000);
  uint8_t bytes[FRAME_OPEN_MAX];
  assert_int_equal(frame_put_open(bytes, &o), sizeof expected);
  assert_memory_equal(bytes, expected, sizeof expected);
}

static void test_open_refused(void **state) {
  struct frame_open out;
  const uint8_t family[] = {0, 0, 0, 1, 5, 0, 80, 192, 0, 2, 1};
  const uint8_t too_long[] = {0, 0, 0, 1, 4, 0, 80, 192, 0, 2, 1, 0};
  const uint8_t none_with_address[] = {0, 0, 0, 1, 0, 0, 80, 192, 0, 2, 1};
  assert_int_equal(frame_get_open(family, sizeof family, &out), PERR_PROTOCOL);
  assert_int_equal(frame_get_open(too_long, sizeof too_long, &out), PERR_PROTOCOL);
  assert_int_equal(frame_get_open(none_with_address, sizeof none_with_address, &out), PERR_PROTOCOL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header_bytes),    cmocka_unit_test(test_lengths_and_streams),
      cmocka_unit_test(test_types_and_flags), cmocka_unit_test(test_open),
      cmocka_unit_test(test_open_bytes),      cmocka_unit_test(test_open_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
