// Ports and hosts: their texts, bounds and claims.
#include "postern/store/internal.h"
#include "store_fixture.h"

static void texts_are_read_and_written(void **state) {
  static const struct {
    const char *text, *canonical;
  } good[] = {
      {"tcp/1", "tcp/1"},
      {"tcp/65535", "tcp/65535"},
      {"udp/53", "udp/53"},
      {"host/App.Example.COM", "host/app.example.com"},
      {"host/app.example.com.", "host/app.example.com"},
      {"host/*.example.com", "host/*.example.com"},
      {"host/*", "host/*"},
      {"host/*.com", "host/*.com"},
      {"host/xn--bcher-kva.example", "host/xn--bcher-kva.example"},
  };
  char out[HOST_TEXT + 8];
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    struct store_resource r = resource(good[i].text);
    assert_string_equal(store_resource_format(&r, out), good[i].canonical);
  }
}

static void malformed_texts_are_refused(void **state) {
  static const char *const bad[] = {
      "",          "tcp",      "tcp/",      "tcp/0",    "tcp/65536", "tcp/99999999999999999999",
      "tcp/01",    "tcp/+1",   "tcp/ 1",    "tcp/1 ",   "tcp/1-2",   "TCP/1",
      "sctp/1",    "2222",     "host/",     "host/.",   "host/..",   "host/a..b",
      "host/.a",   "host/-a",  "host/a-",   "host/a b", "host/é",    "host/a.*",
      "host/a*.b", "host/*.*", "host/*a.b", "host/a/b", "host/a:80", "host/[::1]",
  };
  struct store_resource r;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (store_resource_parse(bad[i], &r) != PERR_INVALID) fail_msg("'%s' was taken", bad[i]);
}

static void host_lengths(void **state) {
  char text[400] = "host/";
  struct store_resource r;
  memset(text + 5, 'a', 63);
  assert_int_equal(store_resource_parse(text, &r), 0);
  text[5 + 63] = 'a';
  assert_int_equal(store_resource_parse(text, &r), PERR_INVALID); // a label of 64
  for (size_t i = 0; i < 253; i++) text[5 + i] = i % 50 == 49 ? '.' : 'a';
  text[5 + 253] = '\0';
  assert_int_equal(store_resource_parse(text, &r), 0);
  strcpy(text + 5 + 253, ".");
  assert_int_equal(store_resource_parse(text, &r), 0);
  strcpy(text + 5 + 253, "a");
  assert_int_equal(store_resource_parse(text, &r), PERR_INVALID);
  memset(text + 5, 'a', sizeof text - 6);
  assert_int_equal(store_resource_parse(text, &r), PERR_INVALID);
}

static void bound_to_one_user(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t a = add_user(t, "alice"), b = add_user(t, "bob"), holder = 0;
  struct store_resource r = resource("tcp/2222"), other = resource("udp/2222");
  assert_int_equal(store_bound_get(t, &r, &holder), PERR_NOTFOUND);
  assert_int_equal(store_bind(t, 99, &r), PERR_NOTFOUND);
  assert_int_equal(store_bind(t, a, &r), 0);
  uint64_t seq = store_change_last(t);
  assert_int_equal(store_bind(t, a, &r), 0);
  assert_int_equal(store_change_last(t), seq); // nothing new
  assert_int_equal(store_bound_get(t, &r, &holder), 0);
  assert_int_equal(holder, a);
  assert_int_equal(store_unbind(t, b, &r), PERR_NOTFOUND);
  assert_int_equal(store_unbind(t, a, &other), PERR_NOTFOUND);
  commit(t);

  t = begin(*state, STORE_WRITE);
  struct err_text e = {""};
  assert_int_equal(store_bind(t, b, &other), 0);
  assert_int_equal(store_bind(t, b, &r), PERR_EXISTS);
  assert_int_equal(store_commit(t, &e), PERR_EXISTS);
  assert_non_null(strstr(e.s, "tcp/2222"));

  t = begin(*state, STORE_WRITE);
  assert_int_equal(store_bound_get(t, &other, &holder), PERR_NOTFOUND); // the whole transaction is void
  assert_int_equal(store_unbind(t, a, &r), 0);
  assert_int_equal(store_bind(t, b, &r), 0);
  commit(t);
}

struct listing {
  struct store_txn *t;
  char text[256];
};

static bool list_bound(void *ctx, const struct store_resource *r, uint32_t user) {
  struct listing *l = ctx;
  char one[HOST_TEXT + 8];
  size_t used = strlen(l->text);
  snprintf(l->text + used, sizeof l->text - used, "%u:%s ", user, store_resource_format(r, one));
  return true;
}

static bool unbind_this(void *ctx, const struct store_resource *r, uint32_t user) {
  struct listing *l = ctx;
  return store_unbind(l->t, user, r) == 0;
}

static void bounds_are_listed(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  uint32_t a = add_user(t, "alice"), b = add_user(t, "bob");
  const char *of_a[] = {"host/z.example", "tcp/900", "tcp/80", "udp/53"};
  for (size_t i = 0; i < 4; i++) {
    struct store_resource r = resource(of_a[i]);
    assert_int_equal(store_bind(t, a, &r), 0);
  }
  struct store_resource r = resource("tcp/81");
  assert_int_equal(store_bind(t, b, &r), 0);
  struct listing l = {.t = t};
  assert_int_equal(store_bound_each(t, a, list_bound, &l), 0);
  assert_string_equal(l.text, "1:tcp/80 1:tcp/900 1:udp/53 1:host/z.example ");
  l.text[0] = '\0';
  assert_int_equal(store_bound_each(t, a, unbind_this, &l), 0);
  assert_int_equal(store_bound_each(t, 0, list_bound, &l), 0);
  assert_string_equal(l.text, "2:tcp/81 ");
  commit(t);
}

static void impossible_resources_are_invalid(void **state) {
  struct store_resource bad[] = {{.kind = STORE_TCP}, {.kind = STORE_HOST}, {.port = 1}, {.kind = 9, .port = 1}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    uint32_t holder;
    struct store_txn *t = begin(*state, STORE_WRITE);
    assert_int_equal(store_bind(t, add_user(t, "alice"), &bad[i]), PERR_INVALID);
    store_abort(t);
    t = begin(*state, STORE_READ);
    assert_int_equal(store_bound_get(t, &bad[i], &holder), PERR_INVALID);
    store_abort(t);
  }
}

static bool keep_claim(void *ctx, const struct store_claim *c) {
  *(struct store_claim *)ctx = *c;
  return true;
}

static void newer_claim_replaces(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_claim c = {.what = resource("tcp/20000"), .user = add_user(t, "alice"), .last_used = 100},
                     got = {.user = 0};
  copy_name(c.instance, "office");
  copy_name(c.tunnel, "ssh");
  uint64_t seq = store_change_last(t);
  assert_int_equal(store_claim_put(t, &c), 0);
  c.user = add_user(t, "bob");
  c.last_used = 200;
  memset(c.tunnel, 'x', NAME_MAX_LEN);
  assert_int_equal(store_claim_put(t, &c), 0);
  assert_int_equal(store_change_last(t), seq + 1); // bob, and no claim
  assert_int_equal(store_claim_each(t, keep_claim, &got), 0);
  assert_int_equal(store_db_rows(t, DB_CLAIMS), 1);
  assert_int_equal(got.user, 2);
  assert_int_equal(got.last_used, 200);
  assert_int_equal(got.what.port, 20000);
  assert_string_equal(got.instance, "office");
  assert_string_equal(got.tunnel, c.tunnel);
  commit(t);
}

static void claim_needs_a_user_that_is_there(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct store_claim c = {.what = resource("host/a.example"), .user = 5}, got = {.user = 0};
  assert_int_equal(store_claim_put(t, &c), PERR_NOTFOUND);
  c.user = STORE_USER_ID_MAX + 1; // anonymous, and its id may be another's later
  assert_int_equal(store_claim_put(t, &c), PERR_NOTFOUND);
  struct store_user u;
  assert_int_equal(store_anonymous_add(t, 1, &u), 0);
  assert_int_equal(u.id, c.user);
  assert_int_equal(store_claim_put(t, &c), 0);
  assert_int_equal(store_claim_each(t, keep_claim, &got), 0);
  assert_string_equal(got.what.host, "a.example");
  c.what.host[0] = '\0';
  assert_int_equal(store_claim_put(t, &c), PERR_INVALID);
  store_abort(t);
}

static void broken_claim_is_corrupt(void **state) {
  static const char value[] = "\0\0\0\1\0\0\0\0\0\0\0\2\1i\1t"; // whole without its last NUL
  for (size_t len = 0; len <= sizeof value; len++) {
    struct store_txn *t = begin(*state, STORE_WRITE);
    struct store_resource r = resource("tcp/1");
    struct store_key k = {.len = 0};
    struct store_claim got;
    assert_int_equal(store_resource_key(&r, &k), 0);
    assert_int_equal(store_db_put(t, DB_CLAIMS, &k, value, len), 0);
    assert_int_equal(store_claim_each(t, keep_claim, &got), len == sizeof value - 1 ? 0 : PERR_CORRUPT);
    store_abort(t);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(texts_are_read_and_written),
      cmocka_unit_test(malformed_texts_are_refused),
      cmocka_unit_test(host_lengths),
      cmocka_unit_test_setup_teardown(bound_to_one_user, setup_store, teardown),
      cmocka_unit_test_setup_teardown(bounds_are_listed, setup_store, teardown),
      cmocka_unit_test_setup_teardown(impossible_resources_are_invalid, setup_store, teardown),
      cmocka_unit_test_setup_teardown(newer_claim_replaces, setup_store, teardown),
      cmocka_unit_test_setup_teardown(claim_needs_a_user_that_is_there, setup_store, teardown),
      cmocka_unit_test_setup_teardown(broken_claim_is_corrupt, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
