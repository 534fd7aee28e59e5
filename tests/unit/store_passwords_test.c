// Passwords: kept, replaced, removed; who has none; broken records.
#include "postern/store/internal.h"
#include "store_fixture.h"

static struct store_password sample(uint8_t seed) {
  struct store_password p = {.n = 32768, .r = 8, .p = 1};
  for (unsigned i = 0; i < sizeof p.salt; i++) p.salt[i] = (uint8_t)(seed + i);
  crypto_sha256(p.salt, sizeof p.salt, p.hash);
  return p;
}

static void assert_same(const struct store_password *a, const struct store_password *b) {
  assert_int_equal(a->n, b->n);
  assert_int_equal(a->r, b->r);
  assert_int_equal(a->p, b->p);
  assert_memory_equal(a->salt, b->salt, sizeof a->salt);
  assert_memory_equal(a->hash, b->hash, sizeof a->hash);
}

static void is_kept_and_replaced(void **state) {
  struct fixture *f = *state;
  struct store_password first = sample(1), second = sample(200), got;
  struct store_txn *t = begin(f, STORE_WRITE);
  uint32_t alice = add_user(t, "alice"), bob = add_user(t, "bob");
  assert_int_equal(store_password_get(t, alice, &got), PERR_NOTFOUND);
  assert_int_equal(store_password_set(t, alice, &first), 0);
  commit(t);
  close_store(f);
  open_store(f);
  t = begin(f, STORE_WRITE);
  assert_int_equal(store_password_get(t, alice, &got), 0);
  assert_same(&got, &first);
  assert_int_equal(store_password_get(t, bob, &got), PERR_NOTFOUND);
  second.n = UINT32_MAX;
  assert_int_equal(store_password_set(t, alice, &second), 0);
  assert_int_equal(store_password_get(t, alice, &got), 0);
  assert_same(&got, &second);
  commit(t);
}

static void is_removed(void **state) {
  struct store_password p = sample(1), got;
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t alice = add_user(t, "alice"), bob = add_user(t, "bob");
  assert_int_equal(store_password_set(t, alice, &p), 0);
  assert_int_equal(store_password_set(t, bob, &p), 0);
  assert_int_equal(store_password_remove(t, alice), 0);
  assert_int_equal(store_password_remove(t, alice), PERR_NOTFOUND);
  assert_int_equal(store_password_get(t, alice, &got), PERR_NOTFOUND);
  assert_int_equal(store_password_get(t, bob, &got), 0);
  commit(t);
}

static void needs_a_user_that_may_have_one(void **state) {
  struct store_password p = sample(1);
  struct store_user u;
  struct err_text e = {""};
  struct store_txn *t = begin(*state, STORE_WRITE);
  assert_int_equal(store_password_set(t, 7, &p), PERR_NOTFOUND);
  assert_int_equal(store_anonymous_add(t, 1, &u), 0);
  assert_int_equal(store_password_set(t, u.id, &p), PERR_DENIED);
  assert_int_equal(store_commit(t, &e), PERR_DENIED);
  assert_non_null(strstr(e.s, "anonymous-60001"));
}

#define SALT "000102030405060708090a0b0c0d0e0f"
#define HASH SALT SALT

static void broken_record_is_corrupt(void **state) {
  static const char *const texts[] = {
      "{}",
      "{\"n\":0,\"r\":1,\"p\":1,\"salt\":\"" SALT "\",\"hash\":\"" HASH "\"}",
      "{\"n\":4294967296,\"r\":1,\"p\":1,\"salt\":\"" SALT "\",\"hash\":\"" HASH "\"}",
      "{\"n\":1,\"r\":-1,\"p\":1,\"salt\":\"" SALT "\",\"hash\":\"" HASH "\"}",
      "{\"n\":1,\"r\":1,\"p\":\"1\",\"salt\":\"" SALT "\",\"hash\":\"" HASH "\"}",
      "{\"n\":1,\"r\":1,\"p\":1,\"salt\":\"" SALT "00\",\"hash\":\"" HASH "\"}",
      "{\"n\":1,\"r\":1,\"p\":1,\"salt\":\"" SALT "\",\"hash\":\"" SALT "\"}",
      "{\"n\":1,\"r\":1,\"p\":1,\"salt\":\"" SALT "\",\"hash\":\"" HASH "00\"}",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    struct store_txn *t = begin(*state, STORE_WRITE);
    struct store_key k = store_key_u32(9);
    struct store_password p;
    struct err_text e = {""};
    assert_int_equal(store_db_put(t, DB_PASSWORDS, &k, texts[i], strlen(texts[i])), 0);
    assert_int_equal(store_password_get(t, 9, &p), PERR_CORRUPT);
    assert_int_equal(store_commit(t, &e), PERR_CORRUPT);
    assert_non_null(strstr(e.s, "password"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(is_kept_and_replaced, setup_store, teardown),
      cmocka_unit_test_setup_teardown(is_removed, setup_store, teardown),
      cmocka_unit_test_setup_teardown(needs_a_user_that_may_have_one, setup_store, teardown),
      cmocka_unit_test_setup_teardown(broken_record_is_corrupt, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
