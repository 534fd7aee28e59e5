// core_token_test: the form of a token.
#include "postern/core/token.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct made {
  char text[TOKEN_TEXT], id[STORE_TOKEN_ID_TEXT];
  uint8_t hash[SHA256_LEN];
};

static struct made make(void) {
  struct made m;
  token_generate(m.text, m.id, m.hash);
  return m;
}

static void generated_token_parses_back(void **state) {
  for (int i = 0; i < 200; i++) {
    struct made m = make();
    char id[STORE_TOKEN_ID_TEXT];
    uint8_t hash[SHA256_LEN], expected[SHA256_LEN];
    assert_int_equal(strlen(m.text), TOKEN_LEN);
    assert_int_equal(strncmp(m.text, "pst_", 4), 0);
    assert_int_equal(token_parse(m.text, id, hash), 0);
    assert_string_equal(id, m.id);
    assert_memory_equal(hash, m.hash, SHA256_LEN);
    crypto_sha256(m.text, TOKEN_LEN, expected);
    assert_memory_equal(hash, expected, SHA256_LEN);
  }
}

static void tokens_differ(void **state) {
  struct made a = make(), b = make();
  assert_string_not_equal(a.id, b.id);
  assert_string_not_equal(a.text + 17, b.text + 17);
}

static void every_cut_is_refused(void **state) {
  struct made m = make();
  char id[STORE_TOKEN_ID_TEXT], text[TOKEN_TEXT + 1];
  uint8_t hash[SHA256_LEN];
  for (size_t len = 0; len < TOKEN_LEN; len++) {
    memcpy(text, m.text, len);
    text[len] = '\0';
    assert_int_equal(token_parse(text, id, hash), PERR_INVALID);
  }
  memcpy(text, m.text, TOKEN_LEN);
  strcpy(text + TOKEN_LEN, "A");
  assert_int_equal(token_parse(text, id, hash), PERR_INVALID);
}

static void foreign_characters_are_refused(void **state) {
  struct made m = make();
  char id[STORE_TOKEN_ID_TEXT];
  uint8_t hash[SHA256_LEN];
  for (size_t at = 0; at < TOKEN_LEN; at++) {
    for (const char *bad = " \n+/=~\x80"; *bad != '\0'; bad++) {
      struct made other = m;
      other.text[at] = *bad;
      assert_int_equal(token_parse(other.text, id, hash), PERR_INVALID);
    }
  }
  m.text[5] = 'A'; // the id is lower case
  assert_int_equal(token_parse(m.text, id, hash), PERR_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(generated_token_parses_back),
      cmocka_unit_test(tokens_differ),
      cmocka_unit_test(every_cut_is_refused),
      cmocka_unit_test(foreign_characters_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
