// The audit trail and the change sequence.
#include "postern/store/internal.h"
#include "store_fixture.h"

static void note(struct store_txn *t, int64_t at_ms, const char *detail) {
  struct store_audit a = {.at_ms = at_ms, .actor = "cli:uid 0", .action = "user.add", .user = "alice", .count = 3};
  snprintf(a.detail, sizeof a.detail, "%s", detail);
  assert_int_equal(store_audit_add(t, &a), 0);
}

struct trail {
  char details[256];
  struct store_audit last;
};

static bool follow(void *ctx, const struct store_audit *a) {
  struct trail *r = ctx;
  size_t used = strlen(r->details);
  snprintf(r->details + used, sizeof r->details - used, "%s ", a->detail);
  r->last = *a;
  return true;
}

static void assert_trail(struct store_txn *t, int64_t since_ms, const char *expected) {
  struct trail r = {.details = ""};
  assert_int_equal(store_audit_each(t, since_ms, follow, &r), 0);
  assert_string_equal(r.details, expected);
}

static void rows_come_by_time(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  note(t, 2000, "c");
  note(t, 1000, "a");
  note(t, 1000, "b");
  note(t, 3000, "e");
  note(t, 2000, "d");
  commit(t);
  t = begin(*state, STORE_READ);
  assert_trail(t, 0, "a b c d e ");
  assert_trail(t, -5, "a b c d e ");
  assert_trail(t, 2000, "c d e ");
  assert_trail(t, 3001, "");
  struct trail r = {.details = ""};
  assert_int_equal(store_audit_each(t, 3000, follow, &r), 0);
  assert_int_equal(r.last.at_ms, 3000);
  assert_string_equal(r.last.actor, "cli:uid 0");
  assert_string_equal(r.last.action, "user.add");
  assert_string_equal(r.last.user, "alice");
  assert_int_equal(r.last.count, 3);
  commit(t);
}

static void hostile_text_is_kept_readable(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  note(t, 1, "\x1b[31m\r\n\xc3\x28");
  struct trail r = {.details = ""};
  assert_int_equal(store_audit_each(t, 0, follow, &r), 0);
  assert_string_equal(r.last.detail, "\x1b[31m\r\n?(");
  struct store_audit bad = {.at_ms = -1};
  assert_int_equal(store_audit_add(t, &bad), PERR_INVALID);
  store_abort(t);
}

static void pruned_by_age_rows_and_step(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  char name[8];
  for (int i = 0; i < 9; i++) {
    snprintf(name, sizeof name, "%d", i);
    note(t, 100 * i, name);
  }
  assert_int_equal(store_audit_prune(t, 0, 100, 100), 0);
  assert_trail(t, 0, "0 1 2 3 4 5 6 7 8 ");
  assert_int_equal(store_audit_prune(t, 500, 100, 2), 0);
  assert_trail(t, 0, "2 3 4 5 6 7 8 ");
  assert_int_equal(store_audit_prune(t, 500, 100, 100), 0);
  assert_trail(t, 0, "5 6 7 8 ");
  assert_int_equal(store_audit_prune(t, 500, 3, 100), 0);
  assert_trail(t, 0, "6 7 8 ");
  assert_int_equal(store_audit_prune(t, INT64_MAX, 0, 0), 0);
  assert_trail(t, 0, "6 7 8 ");
  assert_int_equal(store_audit_prune(t, INT64_MAX, 0, 9), 0);
  assert_trail(t, 0, "");
  commit(t);
}

struct sequence {
  uint64_t expect;
  int seen;
  struct store_change last;
};

static bool next_change(void *ctx, const struct store_change *c) {
  struct sequence *q = ctx;
  assert_int_equal(c->seq, q->expect);
  q->expect++;
  q->seen++;
  q->last = *c;
  return true;
}

static void assert_next_change(struct store_txn *t, uint64_t *seq, enum store_change_kind kind, uint32_t user) {
  struct sequence q = {.expect = *seq + 1};
  assert_int_equal(store_change_each(t, *seq, next_change, &q), 0);
  assert_int_equal(q.seen, 1);
  assert_int_equal(q.last.kind, kind);
  assert_int_equal(q.last.user, user);
  ++*seq;
  assert_int_equal(store_change_last(t), *seq);
}

static void each_change_is_noted(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  struct sequence none = {.expect = 1};
  assert_int_equal(store_change_last(t), 0);
  assert_int_equal(store_change_each(t, 0, next_change, &none), 0);
  assert_int_equal(none.seen, 0);

  uint64_t seq = 0;
  uint32_t user = add_user(t, "alice");
  assert_next_change(t, &seq, STORE_CHANGED_USER, user);
  struct store_token k = sample_token(user, "0123456789ab");
  assert_int_equal(store_token_add(t, &k), 0);
  assert_next_change(t, &seq, STORE_CHANGED_TOKEN, user);
  assert_int_equal(store_token_touch(t, k.id, 5, "peer"), 0);
  assert_int_equal(store_change_last(t), seq);
  assert_int_equal(store_token_revoke(t, k.id, 5), 0);
  assert_next_change(t, &seq, STORE_CHANGED_TOKEN, user);
  struct store_ban b = {.since = 1};
  assert_int_equal(store_ban_put(t, user, &b), 0);
  assert_next_change(t, &seq, STORE_CHANGED_BAN, user);
  assert_int_equal(store_ban_remove(t, user), 0);
  assert_next_change(t, &seq, STORE_CHANGED_BAN, user);
  struct store_resource r = resource("tcp/1");
  assert_int_equal(store_bind(t, user, &r), 0);
  assert_next_change(t, &seq, STORE_CHANGED_BOUND, user);
  assert_int_equal(store_unbind(t, user, &r), 0);
  assert_next_change(t, &seq, STORE_CHANGED_BOUND, user);
  struct store_limits l = {.tunnels = 1};
  assert_int_equal(store_limits_put(t, user, &l), 0);
  assert_next_change(t, &seq, STORE_CHANGED_LIMITS, user);
  assert_int_equal(store_user_remove(t, user), 0);
  assert_next_change(t, &seq, STORE_CHANGED_USER, user);
  commit(t);
}

static void sequence_keeps_the_last_10000(void **state) {
  struct store_txn *t = begin(*state, STORE_WRITE);
  for (int i = 0; i < 10005; i++) assert_int_equal(store_change_note(t, STORE_CHANGED_BAN, 1), 0);
  assert_int_equal(store_db_rows(t, DB_CHANGES), 10000);
  struct sequence q = {.expect = 6};
  assert_int_equal(store_change_each(t, 4, next_change, &q), PERR_NOTFOUND);
  assert_int_equal(store_change_each(t, 0, next_change, &q), PERR_NOTFOUND);
  assert_int_equal(store_change_each(t, 10006, next_change, &q), PERR_NOTFOUND); // a store put back
  assert_int_equal(store_change_each(t, 5, next_change, &q), 0);
  assert_int_equal(q.seen, 10000);
  assert_int_equal(store_change_each(t, 10005, next_change, &q), 0);
  assert_int_equal(q.seen, 10000);
  commit(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(rows_come_by_time, setup_store, teardown),
      cmocka_unit_test_setup_teardown(hostile_text_is_kept_readable, setup_store, teardown),
      cmocka_unit_test_setup_teardown(pruned_by_age_rows_and_step, setup_store, teardown),
      cmocka_unit_test_setup_teardown(each_change_is_noted, setup_store, teardown),
      cmocka_unit_test_setup_teardown(sequence_keeps_the_last_10000, setup_store, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
