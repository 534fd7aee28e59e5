// bytes: cursors at their ends, and the sticky error.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/bytes.h"
#include <string.h>

static void integers_are_big_endian_both_ways(void **state) {
  uint8_t buf[15];
  struct wr w = wr_init(buf, sizeof buf);
  wr_u8(&w, 0x01);
  wr_u16(&w, 0x0203);
  wr_u32(&w, 0x04050607);
  wr_u64(&w, UINT64_C(0x08090a0b0c0d0e0f));
  assert_false(w.bad);
  assert_int_equal(w.len, sizeof buf);
  for (size_t i = 0; i < sizeof buf; i++) assert_int_equal(buf[i], i + 1);

  struct rd r = rd_init(buf, sizeof buf);
  assert_int_equal(rd_u8(&r), 0x01);
  assert_int_equal(rd_u16(&r), 0x0203);
  assert_int_equal(rd_u32(&r), 0x04050607);
  assert_false(rd_done(&r));
  assert_true(rd_u64(&r) == UINT64_C(0x08090a0b0c0d0e0f));
  assert_true(rd_done(&r));
}

static void reading_past_the_end_sticks(void **state) {
  const uint8_t data[] = {0xff, 0xff, 0xff};
  struct rd r = rd_init(data, sizeof data);
  assert_int_equal(rd_u32(&r), 0);
  assert_true(r.bad);
  assert_int_equal(r.left, 0);
  assert_int_equal(rd_u8(&r), 0);
  assert_null(rd_bytes(&r, 0));
  assert_false(rd_done(&r));
}

static void lengths_are_compared_without_overflow(void **state) {
  uint8_t data[4] = {1, 2, 3, 4};
  struct rd r = rd_init(data, sizeof data);
  rd_u8(&r);
  assert_null(rd_bytes(&r, SIZE_MAX));
  assert_true(r.bad);
  struct wr w = wr_init(data, sizeof data);
  wr_u8(&w, 1);
  wr_bytes(&w, data, SIZE_MAX);
  assert_true(w.bad);
  assert_int_equal(w.len, 1);
}

static void bytes_are_borrowed(void **state) {
  const uint8_t data[] = "abc";
  struct rd r = rd_init(data, 3);
  assert_ptr_equal(rd_bytes(&r, 2), data);
  assert_ptr_equal(rd_bytes(&r, 1), data + 2);
  assert_non_null(rd_bytes(&r, 0));
  assert_true(rd_done(&r));
  struct rd nothing = rd_init(NULL, 0);
  assert_true(rd_done(&nothing));
}

static void a_write_without_room_writes_nothing(void **state) {
  uint8_t buf[4];
  memset(buf, 0xee, sizeof buf);
  struct wr w = wr_init(buf, 3);
  wr_u16(&w, 1);
  wr_u16(&w, 2);
  assert_true(w.bad);
  wr_u8(&w, 3); // would fit, but the message has a hole already
  assert_int_equal(w.len, 2);
  assert_int_equal(buf[2], 0xee);
  assert_int_equal(buf[3], 0xee);
  struct wr none = wr_init(NULL, 0);
  wr_bytes(&none, NULL, 0);
  assert_false(none.bad);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(integers_are_big_endian_both_ways),     cmocka_unit_test(reading_past_the_end_sticks),
      cmocka_unit_test(lengths_are_compared_without_overflow), cmocka_unit_test(bytes_are_borrowed),
      cmocka_unit_test(a_write_without_room_writes_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
