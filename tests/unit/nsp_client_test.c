// When a client is lost, and what keeps it: heartbeats, reverse connections, and a CloseClient that may be somebody
// else's.
#include "nsp_fixture.h"

enum { SLACK_MS = NSP_TICK_IDLE_MS + 100 }; // how late the time is looked at

static void beat(uint64_t ms) {
  nsp_client_heartbeat(owner.client);
  nx_pass(loop, ms);
}

#define assert_lost(reason)                                                                                            \
  do {                                                                                                                 \
    assert_int_equal(owner.losses, 1);                                                                                 \
    assert_int_equal(owner.why, reason);                                                                               \
  } while (0)

static void test_silent(void **state) {
  client_start("1.4");
  struct far f = far_pair(); // a connection alone is no sign of life
  nx_pass(loop, DEAD_S * 1000 - SLACK_MS);
  assert_int_equal(owner.losses, 0);
  nsp_client_heartbeat(owner.client);
  nx_pass(loop, DEAD_S * 1000 - SLACK_MS);
  assert_int_equal(owner.losses, 0);
  nx_pass(loop, 2 * SLACK_MS);
  assert_lost(NSP_LOST_SILENT);
  nx_pass(loop, 2 * DEAD_S * 1000);
  assert_int_equal(owner.losses, 1); // told once
  far_close(&f);
}

static void test_never_connected(void **state) {
  client_start("1.4");
  nx_pass(loop, DEAD_S * 1000 - SLACK_MS);
  assert_int_equal(owner.losses, 0);
  nx_pass(loop, 2 * SLACK_MS);
  assert_lost(NSP_LOST_SILENT);
  assert_int_equal(owner.links, 0);
}

static void test_gone(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far carrying = far_tcp(), idle = far_tcp();
  visitor_come(&v);
  far_transfer(&carrying);
  nx_settle(loop);
  far_close(&idle);
  nx_pass(loop, 2 * NSP_GONE_MS);
  assert_int_equal(owner.losses, 0);
  assert_true(owner.linked);
  far_close(&carrying); // the visitor holds on, but the client has let go
  NX_UNTIL(loop, !owner.linked);
  assert_non_null(v.stream);
  nx_pass(loop, NSP_GONE_MS - 100);
  assert_int_equal(owner.losses, 0);
  nx_pass(loop, SLACK_MS);
  assert_lost(NSP_LOST_GONE);
  assert_int_equal(owner.links, 2);
}

static void test_gone_and_back(void **state) {
  client_start("1.4");
  struct far f = far_tcp();
  nx_settle(loop);
  far_close(&f);
  NX_UNTIL(loop, !owner.linked);
  nx_pass(loop, NSP_GONE_MS / 2);
  f = far_tcp();
  assert_true(owner.linked);
  nx_pass(loop, 2 * NSP_GONE_MS);
  assert_int_equal(owner.losses, 0);
  far_close(&f);
  NX_UNTIL(loop, !owner.linked);
  nx_pass(loop, NSP_GONE_MS / 2);
  nsp_client_heartbeat(owner.client);
  nx_pass(loop, NSP_STARVED_MS - SLACK_MS);
  assert_int_equal(owner.losses, 0);
}

static void test_starved(void **state) {
  int fd[2];
  client_start("1.4");
  assert_int_equal(nsp_client_add_app(owner.client, 8), 0);
  struct far f = far_tcp();
  nx_pass(loop, 1000);
  beat(1000);
  nx_pair(fd);
  nsp_client_add_conn(owner.client, 8, plain_conn(fd[0])); // it counts from the end of this one
  nx_settle(loop);
  close(fd[1]);
  beat(NSP_STARVED_MS / 2);
  nx_pass(loop, NSP_STARVED_MS / 2 + SLACK_MS); // one heartbeat may have been on its way
  assert_int_equal(owner.losses, 0);
  beat(SLACK_MS);
  assert_lost(NSP_LOST_STARVED);
  assert_true(owner.linked); // the other app has one
  far_close(&f);
}

static void test_carrying_is_not_starved(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  visitor_come(&v);
  for (int i = 0; i < 6; i++) beat(NSP_STARVED_MS / 2);
  assert_int_equal(owner.losses, 0);
  far_abort(&f);
  nx_settle(loop);
  assert_reset(&v, STREAM_ABORTED);
  for (int i = 0; i < 3; i++) beat(NSP_STARVED_MS / 2);
  assert_lost(NSP_LOST_STARVED);
}

// ---- CloseClient ----

static void test_close_client(void **state) {
  client_start("1.4");
  struct far f = far_tcp();
  nx_settle(loop);
  nsp_client_check(owner.client);
  nx_pass(loop, NSP_CHECK_MS / 2);
  far_close(&f);
  nsp_client_check(owner.client); // does not put it off
  nx_pass(loop, NSP_CHECK_MS - 100); // counted from the end of the last connection, which came later
  assert_int_equal(owner.losses, 0);
  nx_pass(loop, NSP_TICK_BUSY_MS + 100);
  assert_lost(NSP_LOST_CLOSED);
}

// Somebody else's word at the time when the last connection is gone and the next has not come.
static void test_close_client_in_a_gap(void **state) {
  client_start("1.4");
  struct far f = far_tcp();
  nx_settle(loop);
  nsp_client_check(owner.client);
  nx_pass(loop, NSP_CHECK_MS - 200);
  far_close(&f);
  nx_pass(loop, NSP_TICK_BUSY_MS);
  f = far_tcp();
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_int_equal(owner.losses, 0);
  far_close(&f);
}

static void test_close_client_by_somebody_else(void **state) {
  static struct visitor v;
  client_start("1.4");
  nsp_client_check(owner.client); // before its first connection
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_int_equal(owner.losses, 0);
  struct far f = far_tcp();
  nsp_client_check(owner.client); // idle
  nx_pass(loop, 2 * NSP_CHECK_MS);
  visitor_come(&v);
  nx_settle(loop);
  nsp_client_check(owner.client); // carrying
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_int_equal(owner.losses, 0);
  far_close(&f);
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_int_equal(owner.losses, 0); // what was asked before is over
}

static void test_close_client_without_apps(void **state) {
  struct nsp_client_settings s = {.dialect = nsp_dialect_find("1.4"), .dead_s = DEAD_S, .stall_s = STALL_S};
  memset(&owner, 0, sizeof owner);
  owner.client = nsp_client_new(loop, &s, &budget, &owner_ops, &owner);
  assert_non_null(owner.client);
  nsp_client_check(owner.client);
  nx_pass(loop, NSP_CHECK_MS + NSP_TICK_BUSY_MS);
  assert_lost(NSP_LOST_CLOSED);
}

// ---- the owner closes it when he is told ----

static void test_closed_when_lost(void **state) {
  static struct visitor v;
  client_start("1.4");
  owner.closes = true;
  struct far f = far_tcp(), carrying = far_tcp();
  visitor_come(&v);
  nx_pass(loop, DEAD_S * 1000 + SLACK_MS);
  assert_lost(NSP_LOST_SILENT);
  assert_null(owner.client);
  assert_reset(&v, STREAM_SESSION_ENDED);
  far_close(&f);
  far_close(&carrying);
}

// A visitor whose time is over takes the client along, in the middle of the walk.
static void test_closed_in_the_walk(void **state) {
  static struct visitor v[3];
  client_start("1.4");
  v[1].closes = CALL_RESET;
  for (int i = 0; i < 3; i++) visitor_come(&v[i]);
  nx_pass(loop, NSP_WAIT_MS + NSP_TICK_BUSY_MS);
  assert_null(owner.client);
  assert_reset(&v[0], STREAM_DIAL_TIMEOUT);
  assert_reset(&v[1], STREAM_DIAL_TIMEOUT);
  assert_reset(&v[2], STREAM_SESSION_ENDED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      nsp_test(test_silent),
      nsp_test(test_never_connected),
      nsp_test(test_gone),
      nsp_test(test_gone_and_back),
      nsp_test(test_starved),
      nsp_test(test_carrying_is_not_starved),
      nsp_test(test_close_client),
      nsp_test(test_close_client_in_a_gap),
      nsp_test(test_close_client_by_somebody_else),
      nsp_test(test_close_client_without_apps),
      nsp_test(test_closed_when_lost),
      nsp_test(test_closed_in_the_walk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
