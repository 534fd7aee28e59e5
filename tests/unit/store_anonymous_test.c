// Anonymous users: their ids go round, their marks and times are kept, and what is removed is gone.
#include "postern/store/internal.h"
#include "store_fixture.h"

enum { FIRST = STORE_USER_ID_MAX + 1, LAST = STORE_ANONYMOUS_ID_MAX };

static uint32_t add(struct store_txn *t, int64_t now) {
  struct store_user u = {.id = 0};
  assert_int_equal(store_anonymous_add(t, now, &u), 0);
  return u.id;
}

static void set_next(struct store_txn *t, uint64_t id) {
  assert_int_equal(store_meta_put(t, STORE_META_NEXT_ANONYMOUS, id), 0);
}

static void has_its_mark_name_and_id(void **state) {
  struct fixture *f = *state;
  struct store_user u, got;
  struct store_txn *t = begin(f, STORE_WRITE);
  uint32_t alice = add_user(t, "alice");
  assert_int_equal(store_anonymous_add(t, 1234, &u), 0);
  assert_int_equal(u.id, 60001);
  assert_string_equal(u.name, "anonymous-60001");
  commit(t);
  close_store(f);
  open_store(f);
  t = begin(f, STORE_WRITE);
  assert_int_equal(store_user_find(t, "anonymous-60001", &got), 0);
  assert_int_equal(got.id, 60001);
  assert_int_equal(got.created, 1234);
  assert_true(got.anonymous);
  assert_int_equal(store_user_get(t, alice, &got), 0);
  assert_false(got.anonymous);
  assert_int_equal(add_user(t, "bob"), alice + 1);
  assert_int_equal(add(t, 1), 60002);
  assert_int_equal(store_anonymous_count(t), 2);
  commit(t);
}

static void ids_go_round_past_those_in_use(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  assert_int_equal(add(t, 1), FIRST);
  assert_int_equal(add(t, 1), FIRST + 1);
  assert_int_equal(store_user_remove(t, FIRST), 0);
  assert_int_equal(add(t, 1), FIRST + 2); // not the one that has just become free
  set_next(t, LAST);
  assert_int_equal(add(t, 1), LAST);
  assert_int_equal(add(t, 1), FIRST);
  assert_int_equal(add(t, 1), FIRST + 3);
  commit(t);
}

// A user may have such a name since before the names were reserved.
static void a_name_that_is_taken_is_passed_over(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_user old = {.id = 5, .name = "anonymous-60001", .created = 1}, got;
  assert_int_equal(store_user_put(t, &old), 0);
  assert_int_equal(add(t, 1), FIRST + 1);
  assert_int_equal(store_user_find(t, "anonymous-60001", &got), 0);
  assert_int_equal(got.id, 5);
  commit(t);
}

static void all_ids_in_use(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_user u;
  struct err_text e = {""};
  for (uint32_t id = FIRST; id <= LAST; id++) assert_int_equal(add(t, 1), id);
  assert_int_equal(store_user_remove(t, FIRST + 9), 0);
  assert_int_equal(add(t, 1), FIRST + 9);
  assert_int_equal(store_anonymous_add(t, 1, &u), PERR_LIMIT);
  assert_int_equal(store_commit(t, &e), PERR_LIMIT);
  assert_non_null(strstr(e.s, "5000"));
}

static void next_id_out_of_range_is_corrupt(void **state) {
  const uint64_t bad[] = {0, 1, FIRST - 1, LAST + 2, UINT64_MAX};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct store_txn *t = begin(*state, STORE_WRITE);
    struct store_user u;
    set_next(t, bad[i]);
    assert_int_equal(store_anonymous_add(t, 1, &u), PERR_CORRUPT);
    store_abort(t);
  }
}

struct seen {
  uint32_t user[4];
  int64_t active[4];
  unsigned n, most;
};

static bool see(void *ctx, uint32_t user, int64_t active) {
  struct seen *s = ctx;
  assert_true(s->n < 4);
  s->user[s->n] = user;
  s->active[s->n] = active;
  return ++s->n < s->most;
}

static void last_activity_is_kept(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t a = add(t, 100), b = add(t, 200), alice = add_user(t, "alice");
  uint64_t before = store_change_last(t);
  assert_int_equal(store_anonymous_touch(t, a, 300), 0);
  assert_int_equal(store_change_last(t), before);
  assert_int_equal(store_anonymous_touch(t, alice, 300), PERR_NOTFOUND);
  assert_int_equal(store_anonymous_touch(t, b + 1, 300), PERR_NOTFOUND);
  commit(t);
  t = begin(*state, STORE_READ);
  struct seen s = {.most = 4}, one = {.most = 1};
  assert_int_equal(store_anonymous_each(t, see, &s), 0);
  assert_int_equal(s.n, 2);
  assert_int_equal(s.user[0], a);
  assert_int_equal(s.active[0], 300);
  assert_int_equal(s.user[1], b);
  assert_int_equal(s.active[1], 200);
  assert_int_equal(store_anonymous_each(t, see, &one), 0);
  assert_int_equal(one.n, 1);
  commit(t);
}

static void removal_takes_everything(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t id = add(t, 1);
  struct store_token k = sample_token(id, "aaaaaaaaaaaa");
  struct store_limits l = {.tunnels = 1, .connections = 1, .instances = 1};
  struct store_claim c = {.what = resource("tcp/20000"), .user = id, .instance = "i", .tunnel = "t"};
  assert_int_equal(store_token_add(t, &k), 0);
  assert_int_equal(store_limits_put(t, id, &l), 0);
  assert_int_equal(store_claim_put(t, &c), 0);
  assert_int_equal(store_user_remove(t, id), 0);
  for (enum store_db db = 0; db < DB_COUNT; db++)
    if (db != DB_META && db != DB_CHANGES) assert_int_equal(store_db_rows(t, db), 0);
  assert_int_equal(store_anonymous_count(t), 0);
  commit(t);
}

static void broken_record_is_corrupt(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_key k = store_key_u32(FIRST);
  struct seen s = {.most = 4};
  assert_int_equal(store_db_put(t, DB_ANONYMOUS, &k, "1234567", 7), 0);
  assert_int_equal(store_anonymous_each(t, see, &s), PERR_CORRUPT);
  assert_int_equal(s.n, 0);
  store_abort(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(has_its_mark_name_and_id, setup_store, teardown),
      cmocka_unit_test_setup_teardown(ids_go_round_past_those_in_use, setup_store, teardown),
      cmocka_unit_test_setup_teardown(a_name_that_is_taken_is_passed_over, setup_store, teardown),
      cmocka_unit_test_setup_teardown(all_ids_in_use, setup_store, teardown),
      cmocka_unit_test_setup_teardown(next_id_out_of_range_is_corrupt, setup_store, teardown),
      cmocka_unit_test_setup_teardown(last_activity_is_kept, setup_store, teardown),
      cmocka_unit_test_setup_teardown(removal_takes_everything, setup_store, teardown),
      cmocka_unit_test_setup_teardown(broken_record_is_corrupt, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
