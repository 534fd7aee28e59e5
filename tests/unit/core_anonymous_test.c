// core_anonymous_test: anonymous users are few and small, and go when they are idle for a day.
#include "core_store.h"
#include "postern/core/anonymous.h"
#include "postern/core/auth.h"
#include "postern/core/token.h"

enum { NOW = 1000000, DAY = 24 * 3600 };

struct world {
  struct core_store db;
  uint32_t alice, live; // `live`: who has a session
};

static int setup(void **state) {
  struct world *w = calloc(1, sizeof *w);
  core_store_new(&w->db);
  w->alice = core_store_user(&w->db, "alice");
  *state = w;
  return 0;
}

static int teardown(void **state) {
  struct world *w = *state;
  core_store_free(&w->db);
  free(w);
  return 0;
}

static uint32_t add(struct world *w, int64_t now) {
  struct store_user u;
  struct store_txn *t = core_store_begin(&w->db);
  must(anonymous_add(t, now, &u));
  core_store_commit(t);
  return u.id;
}

static bool is_live(void *ctx, uint32_t user) {
  const struct world *w = ctx;
  return user == w->live;
}

static void prune(struct world *w, int64_t now) {
  struct store_txn *t = core_store_begin(&w->db);
  must(anonymous_prune(t, now, is_live, w));
  core_store_commit(t);
}

static bool is_there(struct world *w, uint32_t user) {
  struct store_user u;
  struct store_txn *t = core_store_begin(&w->db);
  int rc = store_user_get(t, user, &u);
  core_store_commit(t);
  return rc == 0;
}

static struct store_token add_token(struct world *w, uint32_t user, int64_t now) {
  char text[TOKEN_TEXT];
  struct store_token k = {.user = user, .created = now};
  struct store_txn *t = core_store_begin(&w->db);
  must(token_add(t, &k, text));
  core_store_commit(t);
  return k;
}

static void has_small_limits(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  assert_int_equal(add(w, NOW), 60001);
  assert_int_equal(auth_user(w->db.store, "anonymous-60001", NOW, &who, &until), AUTH_OK);
  assert_int_equal(who.limits.tunnels, 4);
  assert_int_equal(who.limits.visitors, 64);
  assert_int_equal(who.limits.instances, 1);
}

static void a_thousand_at_most(void **state) {
  struct world *w = *state;
  struct store_user u;
  struct store_txn *t = core_store_begin(&w->db);
  for (int i = 0; i < 1000; i++) must(anonymous_add(t, NOW, &u));
  assert_int_equal(anonymous_add(t, NOW, &u), PERR_LIMIT);
  must(store_user_remove(t, 60500));
  must(anonymous_add(t, NOW, &u));
  assert_int_equal(u.id, 61001);
  assert_int_equal(anonymous_add(t, NOW, &u), PERR_LIMIT);
  core_store_commit(t);
}

static void goes_after_a_day(void **state) {
  struct world *w = *state;
  uint32_t a = add(w, NOW), b = add(w, NOW + 10);
  prune(w, NOW + DAY - 1);
  assert_true(is_there(w, a));
  prune(w, NOW + DAY);
  assert_false(is_there(w, a));
  assert_true(is_there(w, b));
  prune(w, NOW + 100 * DAY);
  assert_false(is_there(w, b));
  assert_true(is_there(w, w->alice));
}

static void a_touch_counts(void **state) {
  struct world *w = *state;
  uint32_t a = add(w, NOW);
  struct store_txn *t = core_store_begin(&w->db);
  must(anonymous_touch(t, a, NOW + 100));
  assert_int_equal(anonymous_touch(t, a + 1, NOW), PERR_NOTFOUND);
  assert_int_equal(anonymous_touch(t, w->alice, NOW), PERR_NOTFOUND);
  core_store_commit(t);
  prune(w, NOW + DAY + 99);
  assert_true(is_there(w, a));
  prune(w, NOW + DAY + 100);
  assert_false(is_there(w, a));
}

static void a_token_that_was_made_or_used_counts(void **state) {
  struct world *w = *state;
  uint32_t a = add(w, NOW);
  (void)add_token(w, a, NOW + 200);
  struct store_token used = add_token(w, a, NOW);
  (void)add_token(w, a, NOW);
  prune(w, NOW + DAY + 199);
  assert_true(is_there(w, a));
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_touch(t, used.id, NOW + 300, "192.0.2.1:5"));
  core_store_commit(t);
  prune(w, NOW + DAY + 299);
  assert_true(is_there(w, a));
  prune(w, NOW + DAY + 300);
  assert_false(is_there(w, a));
  t = core_store_begin(&w->db);
  assert_int_equal(store_token_get(t, used.id, &used), PERR_NOTFOUND);
  core_store_commit(t);
}

static void a_live_one_stays(void **state) {
  struct world *w = *state;
  uint32_t a = add(w, NOW), b = add(w, NOW);
  w->live = a;
  prune(w, NOW + 2 * DAY);
  assert_true(is_there(w, a));
  assert_false(is_there(w, b));
  w->live = 0;
  prune(w, NOW + 2 * DAY);
  assert_false(is_there(w, a));
}

static void few_go_in_one_call(void **state) {
  struct world *w = *state;
  struct store_txn *t = core_store_begin(&w->db);
  struct store_user u;
  for (int i = 0; i < 120; i++) must(anonymous_add(t, NOW, &u));
  must(anonymous_prune(t, NOW + DAY, is_live, w));
  assert_int_equal(store_anonymous_count(t), 70);
  must(anonymous_prune(t, NOW + DAY, is_live, w));
  must(anonymous_prune(t, NOW + DAY, is_live, w));
  assert_int_equal(store_anonymous_count(t), 0);
  core_store_commit(t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(has_small_limits),
      TEST(a_thousand_at_most),
      TEST(goes_after_a_day),
      TEST(a_touch_counts),
      TEST(a_token_that_was_made_or_used_counts),
      TEST(a_live_one_stays),
      TEST(few_go_in_one_call),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
