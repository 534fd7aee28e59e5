// A chain of bytes that wait: what goes in comes out, whatever the pieces, and nothing is kept that has gone.
#include "postern/pipe/chain.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint8_t byte_at(size_t i) {
  return (uint8_t)(i ^ i >> 8 ^ i >> 16);
}

static void append(struct chain *c, size_t at, size_t n) {
  uint8_t *buf = malloc(n ? n : 1);
  for (size_t i = 0; i < n; i++) buf[i] = byte_at(at + i);
  assert_int_equal(chain_append(c, buf, n), 0);
  free(buf);
}

// Takes up to `n` bytes, checks them, and returns how many there were in one piece.
static size_t take(struct chain *c, size_t at, size_t n) {
  size_t have = 0;
  const uint8_t *data = chain_peek(c, &have);
  assert_non_null(data);
  assert_true(have > 0 && have <= c->len);
  if (n > have) n = have;
  for (size_t i = 0; i < n; i++) assert_int_equal(data[i], byte_at(at + i));
  chain_drop(c, n);
  return n;
}

static void test_empty(void **state) {
  struct chain c = {0};
  size_t n = 7;
  assert_null(chain_peek(&c, &n));
  chain_drop(&c, 0);
  chain_clear(&c);
  append(&c, 0, 0);
  assert_null(chain_peek(&c, &n));
  assert_int_equal(c.len, 0);
}

// A generator of its own, so that a failure comes again.
static uint32_t draw(uint32_t *seed, uint32_t below) {
  *seed = *seed * 1664525 + 1013904223;
  return (*seed >> 8) % below;
}

static void test_any_pieces(void **state) {
  static const uint32_t sizes[] = {2, 100, 4032, 4033, 9000, 70000};
  for (uint32_t seed = 1; seed <= 20; seed++) {
    struct chain c = {0};
    uint32_t random = seed;
    size_t in = 0, out = 0;
    for (int i = 0; i < 300; i++) {
      uint32_t size = sizes[draw(&random, sizeof sizes / sizeof *sizes)];
      if (draw(&random, 2)) {
        size_t n = draw(&random, size) + 1;
        append(&c, in, n);
        in += n;
      } else if (c.len) {
        out += take(&c, out, draw(&random, size) + 1);
      }
      assert_int_equal(c.len, in - out);
    }
    while (c.len) out += take(&c, out, SIZE_MAX);
    assert_int_equal(in, out);
    assert_null(c.head);
    assert_null(c.tail);
  }
}

static void test_drop_over_several_blocks(void **state) {
  struct chain c = {0};
  for (size_t i = 0; i < 10; i++) append(&c, i * 5000, 5000);
  chain_drop(&c, 33333);
  assert_int_equal(take(&c, 33333, 10), 10);
  chain_drop(&c, c.len);
  assert_null(c.head);
  append(&c, 0, 3); // it goes on being of use
  assert_int_equal(take(&c, 0, 3), 3);
  append(&c, 0, 100000);
  append(&c, 100000, 1);
  chain_clear(&c); // LeakSanitizer has the other half of this test
  assert_int_equal(c.len, 0);
}

// Many small pieces share a block.
static void test_small_pieces_share(void **state) {
  struct chain c = {0};
  size_t n = 0;
  for (size_t i = 0; i < 4000; i++) append(&c, i, 1);
  assert_non_null(chain_peek(&c, &n));
  assert_int_equal(n, 4000);
  // … also behind what was taken from it.
  assert_int_equal(take(&c, 0, 3999), 3999);
  append(&c, 4000, 10);
  assert_non_null(chain_peek(&c, &n));
  assert_int_equal(n, 11);
  assert_int_equal(take(&c, 3999, 11), 11);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),
      cmocka_unit_test(test_any_pieces),
      cmocka_unit_test(test_drop_over_several_blocks),
      cmocka_unit_test(test_small_pieces_share),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
