// NSP: the opening of a reverse connection, whole, in pieces and cut; nothing behind it is taken.
#include "postern/wire/nsp.h"
#include "wire_nsp_bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct nsp_reverse_parser parser;
static struct bytes input;

static void begin(const char *dialect, const char *hex) {
  nsp_reverse_init(&parser, nsp_dialect_find(dialect));
  input.len = 0;
  add_hex(&input, hex);
}

// Feeds bytes `from` to `to` in pieces until the state moves; *taken counts on.
static int feed(size_t from, size_t to, size_t piece, size_t *taken) {
  int rc = PERR_AGAIN;
  *taken = from;
  while (*taken < to && rc == PERR_AGAIN) {
    size_t n = to - *taken < piece ? to - *taken : piece, used = SIZE_MAX;
    uint8_t *copy = exact_copy(input.p + *taken, n);
    rc = nsp_reverse_feed(&parser, copy, n, &used);
    free(copy);
    assert_true(used <= n);
    *taken += used;
    if (rc == PERR_AGAIN) assert_int_equal(used, n);
    if (rc == PERR_AGAIN) assert_true(parser.need > 0);
    if (rc == PERR_PROTOCOL) assert_non_null(parser.why);
  }
  return rc;
}

#define OPENING "f9 / 00 2c / " TOKEN_HEX

enum { OPENING_LEN = 1 + 2 + 44 };

// The auth byte goes out between the token and the ids; a client may have sent both in one write.
static void test_opening(void **state) {
  size_t taken;
  for (size_t i = 1; nsp_dialect_at(i); i++)
    for (size_t piece = 1; piece < 60; piece++) {
      begin(nsp_dialect_at(i)->name, OPENING "/ 03 e8 01");
      assert_int_equal(parser.need, 1);
      assert_int_equal(feed(0, input.len, piece, &taken), 0);
      assert_int_equal(parser.state, NSP_REVERSE_IDS);
      assert_int_equal(taken, OPENING_LEN);
      assert_string_equal(nsp_reverse_token(&parser), TOKEN);
      assert_int_equal(parser.need, 3);
      assert_int_equal(feed(taken, input.len, piece, &taken), 0);
      assert_int_equal(parser.state, NSP_REVERSE_DONE);
      assert_int_equal(parser.need, 0);
      assert_int_equal(parser.client_id, 1000);
      assert_int_equal(parser.app_id, 1);
      assert_string_equal(nsp_reverse_token(&parser), TOKEN);
    }
}

static void test_truncations(void **state) {
  size_t taken;
  for (size_t cut = 0; cut < OPENING_LEN + 3; cut++) {
    begin("1.4", OPENING "/ 03 e8 01");
    size_t first = cut < OPENING_LEN ? cut : OPENING_LEN;
    assert_int_equal(feed(0, first, SIZE_MAX, &taken), cut < OPENING_LEN ? PERR_AGAIN : 0);
    if (cut >= OPENING_LEN) assert_int_equal(feed(first, cut, 1, &taken), PERR_AGAIN);
    assert_int_not_equal(parser.state, NSP_REVERSE_DONE);
    assert_true(parser.need <= OPENING_LEN + 3 - cut);
  }
}

// What follows the ids belongs to the tunnel.
static void test_nothing_behind_is_taken(void **state) {
  size_t taken, used = 7;
  begin("1.4", OPENING "/ 03 e8 01 / 47 45 54");
  assert_int_equal(feed(0, input.len, SIZE_MAX, &taken), 0);
  assert_int_equal(feed(taken, input.len, SIZE_MAX, &taken), 0);
  assert_int_equal(taken, OPENING_LEN + 3);
  assert_int_equal(nsp_reverse_feed(&parser, "GET", 3, &used), 0);
  assert_int_equal(used, 0);
}

static void test_reading_what_is_needed(void **state) {
  static const size_t steps[] = {1, 2, 44, 3};
  size_t at = 0, used;
  begin("1.4", OPENING "/ 03 e8 01");
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(parser.need, steps[i]);
    assert_int_equal(nsp_reverse_feed(&parser, input.p + at, parser.need, &used), i < 2 ? PERR_AGAIN : 0);
    at += used;
  }
  assert_int_equal(parser.state, NSP_REVERSE_DONE);
  assert_int_equal(at, input.len);
}

static void test_04_sends_ids_alone(void **state) {
  size_t taken;
  for (size_t piece = 1; piece < 5; piece++) {
    begin("0.4", "03 e8 ff / 01");
    assert_int_equal(parser.state, NSP_REVERSE_IDS);
    assert_int_equal(parser.need, 3);
    assert_int_equal(feed(0, input.len, piece, &taken), 0);
    assert_int_equal(parser.state, NSP_REVERSE_DONE);
    assert_int_equal(taken, 3);
    assert_int_equal(parser.client_id, 1000);
    assert_int_equal(parser.app_id, 255);
    assert_string_equal(nsp_reverse_token(&parser), "");
  }
  for (size_t cut = 0; cut < 3; cut++) {
    begin("0.4", "03 e8 ff");
    assert_int_equal(feed(0, cut, 1, &taken), PERR_AGAIN);
    assert_int_equal(parser.need, 3 - cut);
  }
}

static void test_first_byte(void **state) {
  size_t taken;
  for (unsigned first = 0; first < 256; first++) {
    begin("1.4", "");
    add_byte(&input, first);
    assert_int_equal(feed(0, 1, 1, &taken), first == 0xf9 ? PERR_AGAIN : PERR_PROTOCOL);
  }
}

static int feed_token(unsigned declared, size_t there, size_t piece) {
  size_t taken;
  begin("1.4", "f9");
  add_u16(&input, declared);
  add_fill(&input, 'x', there);
  return feed(0, input.len, piece, &taken);
}

static void test_token_lengths(void **state) {
  static const unsigned good[] = {0, 1, 255, 256, NSP_TOKEN_MAX};
  static const unsigned bad[] = {NSP_TOKEN_MAX + 1, 0x7fff, 0x8000, 0xffff};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    for (size_t piece = 1; piece < 9000; piece *= 5) {
      assert_int_equal(feed_token(good[i], good[i], piece), 0);
      assert_int_equal(parser.state, NSP_REVERSE_IDS);
      assert_int_equal(strlen(nsp_reverse_token(&parser)), good[i]);
      if (good[i]) assert_int_equal(feed_token(good[i], good[i] - 1, piece), PERR_AGAIN);
    }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(feed_token(bad[i], 0, 1), PERR_PROTOCOL);
    assert_int_equal(feed_token(bad[i], bad[i], SIZE_MAX), PERR_PROTOCOL);
  }
}

static void test_token_bytes(void **state) {
  size_t taken;
  for (unsigned c = 0; c < 256; c++) {
    begin("1.4", "f9 00 02 61");
    add_byte(&input, c);
    assert_int_equal(feed(0, input.len, SIZE_MAX, &taken), 0);
    assert_int_equal(strlen(nsp_reverse_token(&parser)), c >= 0x20 && c < 0x7f ? 2 : 0);
  }
}

static void test_malformed_for_ever(void **state) {
  size_t used = 7;
  begin("1.4", "");
  assert_int_equal(nsp_reverse_feed(&parser, "\x55", 1, &used), PERR_PROTOCOL);
  assert_int_equal(parser.state, NSP_REVERSE_BAD);
  assert_int_equal(parser.need, 0);
  assert_int_equal(nsp_reverse_feed(&parser, "\xf9", 1, &used), PERR_PROTOCOL);
  assert_int_equal(used, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_opening),
      cmocka_unit_test(test_truncations),
      cmocka_unit_test(test_first_byte),
      cmocka_unit_test(test_nothing_behind_is_taken),
      cmocka_unit_test(test_token_lengths),
      cmocka_unit_test(test_reading_what_is_needed),
      cmocka_unit_test(test_token_bytes),
      cmocka_unit_test(test_04_sends_ids_alone),
      cmocka_unit_test(test_malformed_for_ever),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
