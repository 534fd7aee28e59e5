// Users, tokens, bans and limits: each operation with its errors.
#include "postern/store/internal.h"
#include "store_fixture.h"

static void user_is_added_found_and_listed(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_user u;
  assert_int_equal(store_user_add(t, "alice", 1234, &u), 0);
  assert_int_equal(u.id, 1);
  assert_string_equal(u.name, "alice");
  assert_int_equal(add_user(t, "bob"), 2);
  commit(t);

  t = begin(*state, STORE_READ);
  assert_int_equal(store_user_find(t, "alice", &u), 0);
  assert_int_equal(u.id, 1);
  assert_int_equal(u.created, 1234);
  assert_int_equal(store_user_get(t, 2, &u), 0);
  assert_string_equal(u.name, "bob");
  assert_int_equal(store_user_get(t, 3, &u), PERR_NOTFOUND);
  assert_int_equal(store_user_find(t, "carol", &u), PERR_NOTFOUND);
  assert_int_equal(store_user_find(t, "", &u), PERR_NOTFOUND);
  assert_int_equal(store_user_find(t, "No Name", &u), PERR_NOTFOUND);
  commit(t);
}

static void failed_add_sticks(struct fixture *f, const char *name, int code, const char *text) {
  struct store_txn *t = begin(f, STORE_WRITE);
  struct store_user u;
  struct err_text e = {""};
  assert_int_equal(store_user_add(t, name, 1, &u), code);
  assert_int_equal(store_user_add(t, "innocent", 1, &u), code);
  assert_int_equal(store_user_find(t, "alice", &u), code);
  assert_int_equal(store_user_add(t, "", 1, &u), code); // the first error stays
  assert_int_equal(store_error(t, &e), code);
  assert_non_null(strstr(e.s, text));
  assert_int_equal(store_commit(t, &e), code);
  t = begin(f, STORE_READ);
  assert_int_equal(store_user_find(t, "innocent", &u), PERR_NOTFOUND);
  commit(t);
}

static void user_add_refuses(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  add_user(t, "alice");
  commit(t);
  failed_add_sticks(*state, "alice", PERR_EXISTS, "alice");
  failed_add_sticks(*state, "Not a name", PERR_INVALID, "Not a name");
  failed_add_sticks(*state, "", PERR_INVALID, "name");
  failed_add_sticks(*state, "anonymous-1", PERR_INVALID, "anonymous-");
  t = begin(*state, STORE_WRITE);
  add_user(t, "anonymous");
  commit(t);
}

static void ids_end_at_the_last(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_key k = store_key_text(STORE_META_NEXT_USER), v = store_key_u64(STORE_USER_ID_MAX);
  assert_int_equal(store_db_put(t, DB_META, &k, v.b, v.len), 0);
  assert_int_equal(add_user(t, "last"), STORE_USER_ID_MAX);
  commit(t);
  failed_add_sticks(*state, "toomany", PERR_LIMIT, "60000");
}

static void ids_are_never_used_again(void **state) {
  struct fixture *f = *state;
  struct store_txn *t = begin(f, STORE_WRITE);
  uint32_t first = add_user(t, "alice");
  commit(t);
  t = begin(f, STORE_WRITE);
  assert_int_equal(store_user_remove(t, first), 0);
  assert_int_equal(store_user_remove(t, first), PERR_NOTFOUND);
  commit(t);
  close_store(f);
  open_store(f);
  t = begin(f, STORE_WRITE);
  assert_int_equal(add_user(t, "alice"), first + 1);
  commit(t);
}

static bool count_any_token(void *ctx, const struct store_token *k) {
  ++*(int *)ctx;
  return true;
}

static bool count_any_bound(void *ctx, const struct store_resource *r, uint32_t user) {
  ++*(int *)ctx;
  return true;
}

static bool count_any_claim(void *ctx, const struct store_claim *c) {
  ++*(int *)ctx;
  return true;
}

static void give_everything(struct store_txn *t, uint32_t user, const char *token, const char *port, const char *host) {
  struct store_token k = sample_token(user, token);
  struct store_ban b = {.since = 1, .reason = "why"};
  struct store_limits l = {.tunnels = 3, .connections = -1, .instances = -1};
  struct store_resource p = resource(port), h = resource(host);
  struct store_claim c = {.what = p, .user = user, .instance = "i", .tunnel = "t", .last_used = 9};
  struct store_password w = {.n = 2, .r = 1, .p = 1};
  assert_int_equal(store_token_add(t, &k), 0);
  assert_int_equal(store_ban_put(t, user, &b), 0);
  assert_int_equal(store_limits_put(t, user, &l), 0);
  assert_int_equal(store_password_set(t, user, &w), 0);
  assert_int_equal(store_bind(t, user, &p), 0);
  assert_int_equal(store_bind(t, user, &h), 0);
  assert_int_equal(store_claim_put(t, &c), 0);
}

static void assert_owns(struct store_txn *t, uint32_t user, const char *token, const char *port, bool there) {
  int code = there ? 0 : PERR_NOTFOUND, tokens = 0, bounds = 0;
  struct store_user u;
  struct store_token k;
  struct store_ban b;
  struct store_limits l;
  struct store_resource p = resource(port);
  uint32_t holder;
  assert_int_equal(store_user_get(t, user, &u), code);
  assert_int_equal(store_token_get(t, token, &k), code);
  assert_int_equal(store_ban_get(t, user, &b), code);
  assert_int_equal(store_limits_get(t, user, &l), 0);
  assert_int_equal(l.tunnels, there ? 3 : -1);
  assert_int_equal(store_bound_get(t, &p, &holder), code);
  assert_int_equal(store_token_each(t, user, count_any_token, &tokens), 0);
  assert_int_equal(tokens, there ? 1 : 0);
  assert_int_equal(store_bound_each(t, user, count_any_bound, &bounds), 0);
  assert_int_equal(bounds, there ? 2 : 0);
}

static void removal_takes_everything_of_one_user(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t a = add_user(t, "alice"), b = add_user(t, "bob");
  give_everything(t, a, "aaaaaaaaaaaa", "tcp/2222", "host/a.example.com");
  give_everything(t, b, "bbbbbbbbbbbb", "udp/2222", "host/b.example.com");
  commit(t);
  t = begin(*state, STORE_WRITE);
  assert_owns(t, a, "aaaaaaaaaaaa", "tcp/2222", true);
  assert_int_equal(store_user_remove(t, a), 0);
  commit(t);
  t = begin(*state, STORE_READ);
  assert_owns(t, a, "aaaaaaaaaaaa", "tcp/2222", false);
  assert_owns(t, b, "bbbbbbbbbbbb", "udp/2222", true);
  int claims = 0;
  assert_int_equal(store_claim_each(t, count_any_claim, &claims), 0);
  assert_int_equal(claims, 1);
  const enum store_db one[] = {DB_USERS, DB_NAMES,  DB_TOKENS, DB_USER_TOKENS,
                               DB_BANS,  DB_LIMITS, DB_CLAIMS, DB_PASSWORDS};
  for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) assert_int_equal(store_db_rows(t, one[i]), 1);
  assert_int_equal(store_db_rows(t, DB_BOUNDS), 2);
  assert_int_equal(store_db_rows(t, DB_USER_BOUNDS), 2);
  commit(t);
}

struct removal {
  struct store_txn *t;
  int seen;
};

static bool remove_this(void *ctx, const struct store_user *u) {
  struct removal *r = ctx;
  assert_int_equal(store_user_remove(r->t, u->id), 0);
  return ++r->seen < 150;
}

static void iteration_may_write(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  char name[NAME_TEXT];
  for (int i = 0; i < 200; i++) {
    snprintf(name, sizeof name, "user-%d", i);
    add_user(t, name);
  }
  struct removal r = {.t = t};
  assert_int_equal(store_user_each(t, remove_this, &r), 0);
  assert_int_equal(r.seen, 150); // a false from the callback ends it
  assert_int_equal(store_db_rows(t, DB_USERS), 50);
  r.seen = 0;
  assert_int_equal(store_user_each(t, remove_this, &r), 0);
  assert_int_equal(r.seen, 50);
  assert_int_equal(store_db_rows(t, DB_NAMES), 0);
  commit(t);
}

static void token_keeps_its_fields(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t user = add_user(t, "alice");
  struct store_token k = sample_token(user, "0123456789ab"), got;
  snprintf(k.label, sizeof k.label, "büro \"1\"\n");
  assert_int_equal(store_token_add(t, &k), 0);
  assert_int_equal(store_token_touch(t, k.id, 77, "192.0.2.1:5"), 0);
  commit(t);
  t = begin(*state, STORE_READ);
  assert_int_equal(store_token_get(t, k.id, &got), 0);
  assert_string_equal(got.id, k.id);
  assert_int_equal(got.user, user);
  assert_memory_equal(got.hash, k.hash, SHA256_LEN);
  assert_string_equal(got.label, k.label);
  assert_int_equal(got.created, 5);
  assert_int_equal(got.expires, 99);
  assert_int_equal(got.last_used, 77);
  assert_int_equal(got.revoked, 0);
  assert_string_equal(got.last_peer, "192.0.2.1:5");
  assert_true(got.enrol);
  commit(t);
}

static void token_errors(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_token k = sample_token(7, "0123456789ab"), got;
  assert_int_equal(store_token_add(t, &k), PERR_NOTFOUND); // no such user
  k.user = add_user(t, "alice");
  assert_int_equal(store_token_add(t, &k), 0);
  assert_int_equal(store_token_get(t, "000000000000", &got), PERR_NOTFOUND);
  assert_int_equal(store_token_get(t, "", &got), PERR_NOTFOUND);
  assert_int_equal(store_token_get(t, "0123456789abc", &got), PERR_NOTFOUND);
  assert_int_equal(store_token_revoke(t, "nonsense", 1), PERR_NOTFOUND);
  assert_int_equal(store_token_touch(t, "000000000000", 1, ""), PERR_NOTFOUND);
  assert_int_equal(store_error(t, NULL), 0);
  assert_int_equal(store_token_add(t, &k), PERR_EXISTS);
  assert_int_equal(store_commit(t, NULL), PERR_EXISTS);
  t = begin(*state, STORE_WRITE);
  snprintf(k.id, sizeof k.id, "short");
  assert_int_equal(store_token_add(t, &k), PERR_INVALID);
  store_abort(t);
}

static void token_revoked_once(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_token k = sample_token(add_user(t, "alice"), "0123456789ab"), got;
  assert_int_equal(store_token_add(t, &k), 0);
  uint64_t before = store_change_last(t);
  assert_int_equal(store_token_revoke(t, k.id, 50), 0);
  assert_int_equal(store_token_revoke(t, k.id, 60), 0);
  assert_int_equal(store_change_last(t), before + 1);
  assert_int_equal(store_token_get(t, k.id, &got), 0);
  assert_int_equal(got.revoked, 50);
  commit(t);
}

static void tokens_are_numbered(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_token a = sample_token(add_user(t, "alice"), "bbbbbbbbbbbb"), b = sample_token(a.user, "aaaaaaaaaaaa");
  a.seq = 99;
  assert_int_equal(store_token_add(t, &a), 0);
  assert_int_equal(store_token_add(t, &b), 0);
  assert_int_equal(store_token_touch(t, a.id, 9, "192.0.2.1:5"), 0);
  assert_int_equal(store_token_get(t, a.id, &a), 0);
  assert_int_equal(store_token_get(t, b.id, &b), 0);
  assert_true(a.seq > 0 && a.seq < b.seq && b.seq < 99);
  commit(t);
}

static void removed_token_is_gone(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_token a = sample_token(add_user(t, "alice"), "aaaaaaaaaaaa"), b = sample_token(a.user, "bbbbbbbbbbbb");
  assert_int_equal(store_token_add(t, &a), 0);
  assert_int_equal(store_token_add(t, &b), 0);
  uint64_t before = store_change_last(t);
  assert_int_equal(store_token_remove(t, a.id), 0);
  assert_int_equal(store_change_last(t), before + 1);
  assert_int_equal(store_token_remove(t, a.id), PERR_NOTFOUND);
  assert_int_equal(store_token_remove(t, "nonsense"), PERR_NOTFOUND);
  assert_int_equal(store_token_get(t, a.id, &a), PERR_NOTFOUND);
  int tokens = 0;
  assert_int_equal(store_token_each(t, a.user, count_any_token, &tokens), 0);
  assert_int_equal(tokens, 1);
  assert_int_equal(store_token_get(t, b.id, &b), 0);
  commit(t);
}

static bool revoke_this(void *ctx, const struct store_token *k) {
  return store_token_revoke(ctx, k->id, 8) == 0;
}

static bool is_revoked(void *ctx, const struct store_token *k) {
  assert_int_equal(k->revoked, 8);
  ++*(int *)ctx;
  return true;
}

static void tokens_of_one_user_are_listed(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t a = add_user(t, "alice"), b = add_user(t, "bob");
  char id[STORE_TOKEN_ID_TEXT];
  for (unsigned i = 0; i < 60; i++) {
    snprintf(id, sizeof id, "%012x", i * 7919);
    struct store_token k = sample_token(i % 3 ? a : b, id);
    assert_int_equal(store_token_add(t, &k), 0);
  }
  assert_int_equal(store_token_each(t, a, revoke_this, t), 0);
  int of_a = 0, of_b = 0;
  assert_int_equal(store_token_each(t, a, is_revoked, &of_a), 0);
  assert_int_equal(store_token_each(t, b, count_any_token, &of_b), 0);
  assert_int_equal(of_a, 40);
  assert_int_equal(of_b, 20);
  commit(t);
}

static void ban_comes_and_goes(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_ban b = {.since = 10, .until = 20, .reason = "spam \xff\xfe"}, got;
  assert_int_equal(store_ban_put(t, 1, &b), PERR_NOTFOUND);
  uint32_t user = add_user(t, "alice");
  assert_int_equal(store_ban_remove(t, user), PERR_NOTFOUND);
  assert_int_equal(store_ban_put(t, user, &b), 0);
  assert_int_equal(store_ban_get(t, user, &got), 0);
  assert_int_equal(got.since, 10);
  assert_int_equal(got.until, 20);
  assert_string_equal(got.reason, "spam ??"); // what is no UTF-8 is kept readable
  assert_int_equal(store_ban_remove(t, user), 0);
  assert_int_equal(store_ban_get(t, user, &got), PERR_NOTFOUND);
  commit(t);
}

static void limits_round_trip(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t user = add_user(t, "alice");
  struct store_limits l = {.tunnels = 1, .connections = 0, .instances = -1, .nports = 2, .nhosts = 1}, got;
  l.ports[0] = (struct store_range){1, 65535};
  l.ports[1] = (struct store_range){20000, 20000};
  snprintf(l.hosts[0], sizeof l.hosts[0], "*.a.example.com");
  assert_int_equal(store_limits_get(t, user, &got), 0);
  assert_int_equal(got.tunnels, -1);
  assert_int_equal(got.nports, 0);
  assert_int_equal(store_limits_put(t, user, &l), 0);
  assert_int_equal(store_limits_get(t, user, &got), 0);
  assert_int_equal(got.tunnels, 1);
  assert_int_equal(got.connections, 0);
  assert_int_equal(got.instances, -1);
  assert_int_equal(got.nports, 2);
  assert_int_equal(got.ports[0].high, 65535);
  assert_int_equal(got.ports[1].low, 20000);
  assert_int_equal(got.nhosts, 1);
  assert_string_equal(got.hosts[0], "*.a.example.com");
  assert_int_equal(store_limits_put(t, user + 1, &l), PERR_NOTFOUND);
  commit(t);
}

static void limits_out_of_range(void **state) {
  struct store_limits bad[] = {
      {.tunnels = -2},
      {.nports = STORE_MAX_RANGES + 1},
      {.nhosts = STORE_MAX_HOSTS + 1},
      {.nports = 1, .ports = {{20, 10}}},
      {.nports = 1},
      {.nhosts = 1},
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct store_txn *t = begin(*state, STORE_WRITE);
    assert_int_equal(store_limits_put(t, add_user(t, "alice"), &bad[i]), PERR_INVALID);
    store_abort(t);
  }
}

static void broken_record_is_corrupt(void **state) {
  const char *texts[] = {
      "",
      "{",
      "[]",
      "{\"name\":\"x\"}",
      "{\"name\":7,\"created\":1}",
      "{\"name\":\"x\",\"created\":\"1\"}",
      "{\"name\":\"x\",\"created\":1,\"anonymous\":1}",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    struct store_txn *t = begin(*state, STORE_WRITE);
    struct store_key k = store_key_u32(9);
    struct store_user u;
    struct err_text e = {""};
    assert_int_equal(store_db_put(t, DB_USERS, &k, texts[i], strlen(texts[i])), 0);
    assert_int_equal(store_user_get(t, 9, &u), PERR_CORRUPT);
    assert_int_equal(store_commit(t, &e), PERR_CORRUPT);
    assert_non_null(strstr(e.s, "user"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(user_is_added_found_and_listed, setup_store, teardown),
      cmocka_unit_test_setup_teardown(user_add_refuses, setup_store, teardown),
      cmocka_unit_test_setup_teardown(ids_end_at_the_last, setup_store, teardown),
      cmocka_unit_test_setup_teardown(ids_are_never_used_again, setup_store, teardown),
      cmocka_unit_test_setup_teardown(removal_takes_everything_of_one_user, setup_store, teardown),
      cmocka_unit_test_setup_teardown(iteration_may_write, setup_store, teardown),
      cmocka_unit_test_setup_teardown(token_keeps_its_fields, setup_store, teardown),
      cmocka_unit_test_setup_teardown(token_errors, setup_store, teardown),
      cmocka_unit_test_setup_teardown(token_revoked_once, setup_store, teardown),
      cmocka_unit_test_setup_teardown(tokens_are_numbered, setup_store, teardown),
      cmocka_unit_test_setup_teardown(removed_token_is_gone, setup_store, teardown),
      cmocka_unit_test_setup_teardown(tokens_of_one_user_are_listed, setup_store, teardown),
      cmocka_unit_test_setup_teardown(ban_comes_and_goes, setup_store, teardown),
      cmocka_unit_test_setup_teardown(limits_round_trip, setup_store, teardown),
      cmocka_unit_test_setup_teardown(limits_out_of_range, setup_store, teardown),
      cmocka_unit_test_setup_teardown(broken_record_is_corrupt, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
