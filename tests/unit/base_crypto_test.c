// crypto: known digests, and encodings with every malformed text.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/crypto.h"
#include <string.h>

static void sha256_of_known_texts(void **state) {
  uint8_t digest[SHA256_LEN];
  char hex[2 * SHA256_LEN + 1];
  crypto_sha256("abc", 3, digest);
  hex_encode(digest, sizeof digest, hex);
  assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  crypto_sha256(NULL, 0, digest);
  hex_encode(digest, sizeof digest, hex);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void random_fills_everything(void **state) {
  uint8_t seen[1000] = {0}, now[1000];
  crypto_random(now, 0);
  for (int round = 0; round < 8; round++) {
    crypto_random(now, sizeof now);
    for (size_t i = 0; i < sizeof now; i++) seen[i] |= now[i];
  }
  for (size_t i = 0; i < sizeof seen; i++) assert_int_not_equal(seen[i], 0);
}

static void equal_and_wipe(void **state) {
  char secret[] = "secret";
  assert_true(crypto_equal("abc", "abc", 3));
  assert_false(crypto_equal("abc", "abd", 3));
  assert_true(crypto_equal("abc", "xyz", 0));
  crypto_wipe(secret, sizeof secret);
  assert_memory_equal(secret, "\0\0\0\0\0\0", 7);
}

static void hex_both_ways(void **state) {
  uint8_t out[3] = {0};
  assert_int_equal(hex_decode("00fFa9", out, 3), 0);
  assert_memory_equal(out, "\x00\xff\xa9", 3);
  assert_int_equal(hex_decode("", out, 0), 0);
  static const char *const bad[] = {"", "00ffa", "00ffa9 ", "00ffa90", "00ffg9", "0xffa9", "00ff:9", "00ff\xff\xff"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(hex_decode(bad[i], out, 3), PERR_INVALID);
}

static void base64_known_texts(void **state) {
  static const char *const encoded[] = {"", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"};
  static const char *const padded[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
  for (size_t n = 0; n <= 6; n++) {
    char text[16];
    uint8_t out[6];
    base64_encode("foobar", n, text);
    assert_string_equal(text, encoded[n]);
    assert_int_equal(strlen(text), BASE64_LEN(n));
    assert_int_equal(base64_decode(encoded[n], out, n), 0);
    assert_memory_equal(out, "foobar", n);
    assert_int_equal(base64_decode(padded[n], out, n), 0);
  }
}

static void base64_reads_both_alphabets(void **state) {
  uint8_t out[3];
  char text[8];
  base64_encode("\xfb\xff\xbf", 3, text);
  assert_string_equal(text, "-_-_");
  assert_int_equal(base64_decode("-_-_", out, 3), 0);
  assert_memory_equal(out, "\xfb\xff\xbf", 3);
  memset(out, 0, sizeof out);
  assert_int_equal(base64_decode("+/+/", out, 3), 0);
  assert_memory_equal(out, "\xfb\xff\xbf", 3);
}

static void base64_refuses(void **state) {
  // For one byte: wrong length, padding or character, and bits that belong to no byte.
  static const char *const bad[] = {
      "", "Z", "Zm8", "Zg=", "Zg===", "Zg==x", "=Zg=", "Z=g", "Zg==\n", "Zh", "Z ", " Zg", "Z\xc3", "Zm9v"};
  uint8_t out[3];
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (base64_decode(bad[i], out, 1) != PERR_INVALID) fail_msg("\"%s\" was taken", bad[i]);
  assert_int_equal(base64_decode("Zm9v=", out, 3), PERR_INVALID);
  assert_int_equal(base64_decode("=", out, 0), PERR_INVALID);
}

static void base64_round_trip_of_every_length(void **state) {
  uint8_t data[64], out[64];
  char text[BASE64_LEN(64) + 1];
  crypto_random(data, sizeof data);
  for (size_t n = 0; n <= sizeof data; n++) {
    base64_encode(data, n, text);
    assert_int_equal(base64_decode(text, out, n), 0);
    assert_memory_equal(data, out, n);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sha256_of_known_texts),
      cmocka_unit_test(random_fills_everything),
      cmocka_unit_test(equal_and_wipe),
      cmocka_unit_test(hex_both_ways),
      cmocka_unit_test(base64_known_texts),
      cmocka_unit_test(base64_refuses),
      cmocka_unit_test(base64_reads_both_alphabets),
      cmocka_unit_test(base64_round_trip_of_every_length),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
