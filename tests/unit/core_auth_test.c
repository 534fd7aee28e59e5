// core_auth_test: who gets in, who may stay, and with which reason the others do not.
#include "core_store.h"
#include "postern/core/auth.h"
#include "postern/core/token.h"

enum { NOW = 1000000, DAY = 24 * 3600 };

struct world {
  struct core_store db;
  uint32_t alice;
  char token[TOKEN_TEXT];
  struct store_token record;
};

static void add_token(struct world *w, bool enrol, int64_t expires, char text[TOKEN_TEXT]) {
  struct store_token k = {.user = w->alice, .created = NOW, .expires = expires, .enrol = enrol};
  token_generate(text, k.id, k.hash);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_add(t, &k));
  core_store_commit(t);
  w->record = k;
}

static int setup(void **state) {
  struct world *w = calloc(1, sizeof *w);
  core_store_new(&w->db);
  w->alice = core_store_user(&w->db, "alice");
  (void)core_store_user(&w->db, "bob");
  add_token(w, false, NOW + 500, w->token);
  *state = w;
  return 0;
}

static int teardown(void **state) {
  struct world *w = *state;
  core_store_free(&w->db);
  free(w);
  return 0;
}

static enum auth_result ask(struct world *w, const char *token, const char *client_name, int64_t now) {
  struct identity who;
  int64_t until;
  return auth_token(w->db.store, token, client_name, now, &who, &until);
}

static void good_token_gives_the_identity(void **state) {
  struct world *w = *state;
  struct store_limits own = {.tunnels = 7, .connections = -1, .instances = -1};
  struct store_txn *t = core_store_begin(&w->db);
  must(store_limits_put(t, w->alice, &own));
  core_store_commit(t);
  struct identity who;
  int64_t until = 77;
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW, &who, &until), AUTH_OK);
  assert_int_equal(who.user, w->alice);
  assert_string_equal(who.user_name, "alice");
  assert_string_equal(who.token_id, w->record.id);
  assert_int_equal(who.expires, NOW + 500);
  assert_int_equal(who.limits.tunnels, 7);
  assert_int_equal(who.limits.visitors, LIMIT_VISITORS);
  assert_int_equal(until, 0);
}

static void unknown_id_and_wrong_secret_look_alike(void **state) {
  struct world *w = *state;
  char text[TOKEN_TEXT], id[STORE_TOKEN_ID_TEXT];
  uint8_t hash[SHA256_LEN];
  token_generate(text, id, hash);
  assert_int_equal(ask(w, text, NULL, NOW), AUTH_UNKNOWN_TOKEN);
  memcpy(text + 4, w->record.id, 12); // a known id with another secret
  assert_int_equal(ask(w, text, NULL, NOW), AUTH_UNKNOWN_TOKEN);
}

static void malformed_text_is_unknown_up_to_a_length(void **state) {
  struct world *w = *state;
  char *text = malloc(4098);
  memset(text, 'a', 4097);
  text[4097] = '\0';
  assert_int_equal(ask(w, text, NULL, NOW), AUTH_MALFORMED);
  text[4096] = '\0';
  assert_int_equal(ask(w, text, NULL, NOW), AUTH_UNKNOWN_TOKEN);
  free(text);
  assert_int_equal(ask(w, "", NULL, NOW), AUTH_UNKNOWN_TOKEN);
  assert_int_equal(ask(w, "pst_", NULL, NOW), AUTH_UNKNOWN_TOKEN);
}

static void revoked_and_expired_tokens_are_refused(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->token, NULL, NOW + 499), AUTH_OK);
  assert_int_equal(ask(w, w->token, NULL, NOW + 500), AUTH_EXPIRED);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_revoke(t, w->record.id, NOW));
  core_store_commit(t);
  assert_int_equal(ask(w, w->token, NULL, NOW), AUTH_REVOKED);
}

// Who is refused stands in the log; a name that comes with a wrong secret is nobody's.
static void a_refusal_names_the_user_of_a_genuine_token(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW + 500, &who, &until), AUTH_EXPIRED);
  assert_string_equal(who.user_name, "alice");
  assert_int_equal(who.user, 0);
  w->token[TOKEN_LEN - 2] ^= 1;
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW, &who, &until), AUTH_UNKNOWN_TOKEN);
  assert_string_equal(who.user_name, "");
}

static void enrolment_token_is_void_after_a_day_unused(void **state) {
  struct world *w = *state;
  char text[TOKEN_TEXT];
  add_token(w, true, 0, text);
  assert_int_equal(ask(w, text, NULL, NOW + DAY - 1), AUTH_OK);
  assert_int_equal(ask(w, text, NULL, NOW + DAY), AUTH_EXPIRED);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_touch(t, w->record.id, NOW + 5, "192.0.2.1:1"));
  core_store_commit(t);
  struct identity who;
  int64_t until;
  assert_int_equal(auth_token(w->db.store, text, NULL, NOW + 10 * DAY, &who, &until), AUTH_OK);
  assert_int_equal(who.expires, 0);
}

static void ban(struct world *w, int64_t until) {
  struct store_ban b = {.since = NOW, .until = until, .reason = "test"};
  struct store_txn *t = core_store_begin(&w->db);
  must(store_ban_put(t, w->alice, &b));
  core_store_commit(t);
}

static void ban_holds_until_it_runs_out(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until = 0;
  ban(w, NOW + 100);
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW + 99, &who, &until), AUTH_BANNED);
  assert_int_equal(until, NOW + 100);
  assert_int_equal(who.user, 0);
  assert_int_equal(ask(w, w->token, NULL, NOW + 100), AUTH_OK);
  ban(w, 0);
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW + 400, &who, &until), AUTH_BANNED);
  assert_int_equal(until, 0);
}

static void certificate_must_name_the_user(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->token, "alice", NOW), AUTH_OK);
  assert_int_equal(ask(w, w->token, "bob", NOW), AUTH_CERTIFICATE);
  assert_int_equal(ask(w, w->token, "", NOW), AUTH_CERTIFICATE);
  ban(w, 0);
  assert_int_equal(ask(w, w->token, "bob", NOW), AUTH_CERTIFICATE);
}

static void removed_user_has_no_token(void **state) {
  struct world *w = *state;
  core_store_remove_user(&w->db, w->alice);
  assert_int_equal(ask(w, w->token, NULL, NOW), AUTH_UNKNOWN_TOKEN);
}

static struct identity let_in(struct world *w) {
  struct identity who;
  int64_t until;
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW, &who, &until), AUTH_OK);
  return who;
}

static void recheck_refreshes_the_limits(void **state) {
  struct world *w = *state;
  struct identity who = let_in(w);
  int64_t until;
  struct store_limits own = {.tunnels = -1, .connections = 9, .instances = -1, .nports = 1};
  own.ports[0] = (struct store_range){20000, 20001};
  struct store_txn *t = core_store_begin(&w->db);
  must(store_limits_put(t, w->alice, &own));
  core_store_commit(t);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW, &until), AUTH_OK);
  assert_int_equal(who.limits.visitors, 9);
  assert_false(limits_port_ok(&who.limits, 20002));
  assert_int_equal(who.expires, NOW + 500);
}

static void recheck_finds_what_ended(void **state) {
  struct world *w = *state;
  struct identity who = let_in(w);
  int64_t until = 0;
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 500, &until), AUTH_EXPIRED);
  ban(w, NOW + 10);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 9, &until), AUTH_BANNED);
  assert_int_equal(until, NOW + 10);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 10, &until), AUTH_OK);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_revoke(t, w->record.id, NOW));
  core_store_commit(t);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW, &until), AUTH_REVOKED);
  core_store_remove_user(&w->db, w->alice);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW, &until), AUTH_UNKNOWN_TOKEN);
}

// The session was let in while the token was good; that its use is not on disk yet must not end it.
static void recheck_does_not_ask_for_the_enrolment_again(void **state) {
  struct world *w = *state;
  char text[TOKEN_TEXT];
  add_token(w, true, 0, text);
  struct identity who;
  int64_t until;
  assert_int_equal(auth_token(w->db.store, text, NULL, NOW + DAY - 1, &who, &until), AUTH_OK);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + DAY, &until), AUTH_OK);
}

static enum auth_result ask_name(struct world *w, const char *name, int64_t now, struct identity *who, int64_t *until) {
  memset(who, 0xff, sizeof *who);
  *until = 77;
  return auth_user(w->db.store, name, now, who, until);
}

static void a_name_alone_gives_the_identity(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  struct store_limits own = {.tunnels = 7, .connections = -1, .instances = -1};
  struct store_txn *t = core_store_begin(&w->db);
  must(store_limits_put(t, w->alice, &own));
  core_store_commit(t);
  assert_int_equal(ask_name(w, "alice", NOW, &who, &until), AUTH_OK);
  assert_int_equal(who.user, w->alice);
  assert_string_equal(who.user_name, "alice");
  assert_string_equal(who.token_id, "");
  assert_int_equal(who.expires, 0);
  assert_int_equal(who.certificate_ends, 0);
  assert_int_equal(who.limits.tunnels, 7);
  assert_false(who.anonymous);
  assert_int_equal(until, 0);
}

static void a_name_that_nobody_has_or_a_banned_user_is_refused(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  const char *const nobody[] = {"carol", "", "Alice", "no name", "anonymous-60001"};
  for (size_t i = 0; i < sizeof nobody / sizeof nobody[0]; i++) {
    assert_int_equal(ask_name(w, nobody[i], NOW, &who, &until), AUTH_UNKNOWN_TOKEN);
    assert_int_equal(who.user, 0);
  }
  ban(w, NOW + 100);
  assert_int_equal(ask_name(w, "alice", NOW, &who, &until), AUTH_BANNED);
  assert_int_equal(until, NOW + 100);
  assert_string_equal(who.user_name, "alice");
  assert_int_equal(who.user, 0);
  assert_int_equal(ask_name(w, "alice", NOW + 100, &who, &until), AUTH_OK);
  core_store_remove_user(&w->db, w->alice);
  assert_int_equal(ask_name(w, "alice", NOW + 100, &who, &until), AUTH_UNKNOWN_TOKEN);
}

static void an_anonymous_user_is_marked(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  struct store_user u;
  struct store_txn *t = core_store_begin(&w->db);
  must(store_anonymous_add(t, NOW, &u));
  core_store_commit(t);
  assert_int_equal(ask_name(w, u.name, NOW, &who, &until), AUTH_OK);
  assert_true(who.anonymous);
  w->alice = u.id; // whom the next token is for
  add_token(w, false, 0, w->token);
  assert_int_equal(auth_token(w->db.store, w->token, NULL, NOW, &who, &until), AUTH_OK);
  assert_true(who.anonymous);
}

static void recheck_without_a_token(void **state) {
  struct world *w = *state;
  struct identity who;
  int64_t until;
  assert_int_equal(ask_name(w, "alice", NOW, &who, &until), AUTH_OK);
  struct store_txn *t = core_store_begin(&w->db);
  must(store_token_revoke(t, w->record.id, NOW)); // alice's, but not this session's
  core_store_commit(t);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 1000 * DAY, &until), AUTH_OK);
  assert_int_equal(who.expires, 0);
  who.certificate_ends = NOW + 5;
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 6, &until), AUTH_CERTIFICATE);
  ban(w, NOW + 3);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW + 2, &until), AUTH_BANNED);
  assert_int_equal(until, NOW + 3);
  core_store_remove_user(&w->db, w->alice);
  assert_int_equal(auth_recheck(w->db.store, &who, NOW, &until), AUTH_UNKNOWN_TOKEN);
}

static void every_reason_has_its_name(void **state) {
  assert_string_equal(auth_reason(AUTH_UNKNOWN_TOKEN), "unknown_token");
  assert_string_equal(auth_reason(AUTH_REVOKED), "revoked");
  assert_string_equal(auth_reason(AUTH_EXPIRED), "expired");
  assert_string_equal(auth_reason(AUTH_BANNED), "banned");
  assert_string_equal(auth_reason(AUTH_MALFORMED), "malformed");
  assert_string_equal(auth_reason(AUTH_LIMIT), "limit");
  assert_string_equal(auth_reason(AUTH_CERTIFICATE), "certificate");
  assert_string_equal(auth_reason(AUTH_HANDSHAKE), "handshake");
  assert_string_equal(auth_reason(AUTH_INSTANCE_BUSY), "instance_busy");
  assert_string_equal(auth_reason(AUTH_STORE), "unavailable");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(good_token_gives_the_identity),
      TEST(unknown_id_and_wrong_secret_look_alike),
      TEST(malformed_text_is_unknown_up_to_a_length),
      TEST(revoked_and_expired_tokens_are_refused),
      TEST(a_refusal_names_the_user_of_a_genuine_token),
      TEST(enrolment_token_is_void_after_a_day_unused),
      TEST(ban_holds_until_it_runs_out),
      TEST(certificate_must_name_the_user),
      TEST(removed_user_has_no_token),
      TEST(recheck_refreshes_the_limits),
      TEST(recheck_finds_what_ended),
      TEST(recheck_does_not_ask_for_the_enrolment_again),
      TEST(a_name_alone_gives_the_identity),
      TEST(a_name_that_nobody_has_or_a_banned_user_is_refused),
      TEST(an_anonymous_user_is_marked),
      TEST(recheck_without_a_token),
      cmocka_unit_test(every_reason_has_its_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
