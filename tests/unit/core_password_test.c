// core_password_test: scrypt as everybody computes it, and what a broken record can ask for.
#include "postern/core/password.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

// Both hashes by another implementation of scrypt.
static struct store_password record(uint32_t n, uint32_t r, uint32_t p, const char *hash) {
  struct store_password w = {.n = n, .r = r, .p = p};
  for (unsigned i = 0; i < sizeof w.salt; i++) w.salt[i] = (uint8_t)i;
  assert_int_equal(hex_decode(hash, w.hash, sizeof w.hash), 0);
  return w;
}

static struct store_password strong(void) {
  return record(32768, 8, 1, "b41b410d5499446a60e6a4016b5032968b63205c5dbfe9449fc81197e3c7a228");
}

static struct store_password weak(void) {
  return record(1024, 4, 2, "782180287f4417cf9a56e1742ccd77846baca538fa912bbb9cdc200027755bb0");
}

static void known_answers(void **state) {
  struct store_password s = strong(), w = weak();
  assert_true(password_check("correct horse \xc3\xbc", &s));
  assert_false(password_check("correct horse \xc3", &s));
  assert_false(password_check("", &s));
  assert_true(password_check("old", &w)); // with the costs of its record
  assert_false(password_check("Old", &w));
}

static void made_password_is_checked(void **state) {
  struct store_password a, b;
  assert_int_equal(password_make("secret", &a), 0);
  assert_int_equal(password_make("secret", &b), 0);
  assert_memory_not_equal(a.salt, b.salt, sizeof a.salt);
  assert_memory_not_equal(a.hash, b.hash, sizeof a.hash);
  assert_int_equal(a.n, 32768);
  assert_int_equal(a.r, 8);
  assert_int_equal(a.p, 1);
  assert_true(password_check("secret", &a));
  assert_false(password_check("secret ", &a));
  a.hash[SHA256_LEN - 1] ^= 1;
  assert_false(password_check("secret", &a));
}

static void what_is_a_password(void **state) {
  struct store_password p;
  char text[PASSWORD_MAX_LEN + 2];
  memset(text, 'x', sizeof text);
  text[PASSWORD_MAX_LEN + 1] = '\0';
  assert_false(password_valid(text));
  assert_int_equal(password_make(text, &p), PERR_INVALID);
  text[PASSWORD_MAX_LEN] = '\0';
  assert_true(password_valid(text));
  assert_true(password_valid("a"));
  assert_true(password_valid(" \xc3\xbc\xff~"));
  const char *const bad[] = {"", "a\n", "\x01", "a\x1f", "\x7f", "a\tb"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_false(password_valid(bad[i]));
  assert_int_equal(password_make("", &p), PERR_INVALID);
}

static double cpu_ms(void) {
  struct timespec t;
  assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void a_broken_cost_is_refused_at_once(void **state) {
  static const uint32_t bad[][3] = {
      {1, 8, 1},
      {3, 8, 1},
      {0, 8, 1},
      {32768, 0, 1},
      {32768, 8, 0},
      {1u << 30, 8, 1},
      {32768, 1u << 20, 1},
      {32768, 8, 1u << 20},
      {1u << 31, 1u << 31, 1u << 31},
      {1u << 17, 8, 1},
      {32768, 1, 1024}, // little memory, half a minute
      {UINT32_MAX, UINT32_MAX, UINT32_MAX},
  };
  double before = cpu_ms();
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct store_password p = weak();
    p.n = bad[i][0], p.r = bad[i][1], p.p = bad[i][2];
    assert_false(password_check("old", &p));
  }
  assert_true(cpu_ms() - before < 1000);
}

static void nobody_takes_as_long_as_a_user(void **state) {
  struct store_password s = strong();
  double start = cpu_ms();
  assert_false(password_check("x", &s));
  double user = cpu_ms() - start;
  start = cpu_ms();
  password_check_nobody("x");
  double nobody = cpu_ms() - start;
  if (nobody * 3 < user || user * 3 < nobody) fail_msg("a user %.1f ms, nobody %.1f ms", user, nobody);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_answers),
      cmocka_unit_test(made_password_is_checked),
      cmocka_unit_test(what_is_a_password),
      cmocka_unit_test(a_broken_cost_is_refused_at_once),
      cmocka_unit_test(nobody_takes_as_long_as_a_user),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
