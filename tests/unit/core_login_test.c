// core_login_test: the tokens of logins: good ones, five at most, and none taken from a live session.
#include "core_store.h"
#include "postern/core/auth.h"
#include "postern/core/login.h"

enum { NOW = 1000000, DAY = 24 * 3600, MANY = 8 };

struct world {
  struct core_store db;
  uint32_t alice, bob;
  char token[MANY][TOKEN_TEXT];
  const char *live[MANY]; // texts of tokens
};

static int setup(void **state) {
  struct world *w = calloc(1, sizeof *w);
  core_store_new(&w->db);
  w->alice = core_store_user(&w->db, "alice");
  w->bob = core_store_user(&w->db, "bob");
  *state = w;
  return 0;
}

static int teardown(void **state) {
  struct world *w = *state;
  core_store_free(&w->db);
  free(w);
  return 0;
}

static const char *id_of(const char *token, char id[STORE_TOKEN_ID_TEXT]) {
  uint8_t hash[SHA256_LEN];
  must(token_parse(token, id, hash));
  return id;
}

static bool is_live(void *ctx, const char *token_id) {
  const struct world *w = ctx;
  char id[STORE_TOKEN_ID_TEXT];
  for (int i = 0; i < MANY; i++)
    if (w->live[i] != NULL && strcmp(id_of(w->live[i], id), token_id) == 0) return true;
  return false;
}

static void login(struct world *w, uint32_t user, int64_t now, char out[TOKEN_TEXT]) {
  struct store_txn *t = core_store_begin(&w->db);
  must(login_token_make(t, user, now, is_live, w, out));
  core_store_commit(t);
}

// All within one second, as a program would.
static void log_in_often(struct world *w, int times) {
  for (int i = 0; i < times; i++) login(w, w->alice, NOW, w->token[i]);
}

static enum auth_result ask(struct world *w, const char *token, int64_t now) {
  struct identity who;
  int64_t until;
  return auth_token(w->db.store, token, NULL, now, &who, &until);
}

static bool count(void *ctx, const struct store_token *k) {
  ++*(int *)ctx;
  return true;
}

static int tokens_of(struct world *w, uint32_t user) {
  int n = 0;
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_each(t, user, count, &n));
  core_store_commit(t);
  return n;
}

static void add_other(struct world *w, const char *label, int64_t expires, char text[TOKEN_TEXT]) {
  struct store_token k = {.user = w->alice, .created = NOW, .expires = expires};
  snprintf(k.label, sizeof k.label, "%s", label);
  struct store_txn *t = core_store_begin(&w->db);
  must(token_add(t, &k, text));
  core_store_commit(t);
}

static void token_is_an_ordinary_one_for_30_days(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  struct store_token k;
  login(w, w->alice, NOW, w->token[0]);
  assert_int_equal(auth_token(w->db.store, w->token[0], NULL, NOW, &who, &until), AUTH_OK);
  assert_int_equal(who.user, w->alice);
  assert_int_equal(who.expires, NOW + 30 * DAY);
  assert_int_equal(ask(w, w->token[0], NOW + 30 * DAY), AUTH_EXPIRED);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_get(t, who.token_id, &k));
  assert_string_equal(k.label, "login");
  assert_int_equal(k.created, NOW);
  assert_false(k.enrol);
  core_store_commit(t);
}

static void newest_five_stay(void **state) {
  struct world *w = *state;
  log_in_often(w, MANY);
  assert_int_equal(tokens_of(w, w->alice), 5);
  for (int i = 0; i < MANY; i++)
    assert_int_equal(ask(w, w->token[i], NOW), i < MANY - 5 ? AUTH_UNKNOWN_TOKEN : AUTH_OK);
}

// Who set the clock back must not lose what was just given out.
static void newest_does_not_depend_on_the_clock(void **state) {
  struct world *w = *state;
  for (int i = 0; i < MANY; i++) login(w, w->alice, NOW - i, w->token[i]);
  for (int i = 0; i < MANY; i++)
    assert_int_equal(ask(w, w->token[i], NOW), i < MANY - 5 ? AUTH_UNKNOWN_TOKEN : AUTH_OK);
}

static void others_are_left_alone(void **state) {
  struct world *w = *state;
  char other[TOKEN_TEXT], spent[TOKEN_TEXT], bobs[TOKEN_TEXT];
  add_other(w, "laptop", 0, other);
  add_other(w, "", NOW - 1, spent);
  login(w, w->bob, NOW, bobs);
  log_in_often(w, MANY);
  assert_int_equal(ask(w, other, NOW), AUTH_OK);
  assert_int_equal(ask(w, spent, NOW), AUTH_EXPIRED);
  assert_int_equal(ask(w, bobs, NOW), AUTH_OK);
  assert_int_equal(tokens_of(w, w->alice), 7);
}

static void a_live_token_stays(void **state) {
  struct world *w = *state;
  log_in_often(w, 1);
  w->live[0] = w->token[0];
  for (int i = 1; i < MANY; i++) login(w, w->alice, NOW, w->token[i]);
  assert_int_equal(ask(w, w->token[0], NOW), AUTH_OK);
  assert_int_equal(ask(w, w->token[1], NOW), AUTH_UNKNOWN_TOKEN);
  assert_int_equal(tokens_of(w, w->alice), 6);
  login(w, w->alice, NOW + 31 * DAY, w->token[1]); // all but the new one have expired
  assert_int_equal(ask(w, w->token[0], NOW), AUTH_OK);
  assert_int_equal(tokens_of(w, w->alice), 2);
  w->live[0] = NULL;
  login(w, w->alice, NOW + 31 * DAY, w->token[2]);
  assert_int_equal(ask(w, w->token[0], NOW), AUTH_UNKNOWN_TOKEN);
  assert_int_equal(tokens_of(w, w->alice), 2);
}

static void a_revoked_token_takes_no_place(void **state) {
  struct world *w = *state;
  char id[STORE_TOKEN_ID_TEXT];
  log_in_often(w, 5);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_revoke(t, id_of(w->token[4], id), NOW));
  core_store_commit(t);
  login(w, w->alice, NOW, w->token[5]);
  assert_int_equal(ask(w, w->token[0], NOW), AUTH_OK);
  assert_int_equal(ask(w, w->token[4], NOW), AUTH_REVOKED);
  login(w, w->alice, NOW, w->token[6]);
  assert_int_equal(ask(w, w->token[0], NOW), AUTH_UNKNOWN_TOKEN);
  assert_int_equal(tokens_of(w, w->alice), 6);
}

static void needs_a_user(void **state) {
  struct world *w = *state;
  struct store_txn *t = core_store_begin(&w->db);
  assert_int_equal(login_token_make(t, 77, NOW, is_live, w, w->token[0]), PERR_NOTFOUND);
  core_store_commit(t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(token_is_an_ordinary_one_for_30_days),
      TEST(newest_five_stay),
      TEST(newest_does_not_depend_on_the_clock),
      TEST(others_are_left_alone),
      TEST(a_live_token_stays),
      TEST(a_revoked_token_takes_no_place),
      TEST(needs_a_user),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
