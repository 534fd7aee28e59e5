// Idle reverse connections and waiting visitors: who gets whom, what is written then, and that nothing a visitor or a
// broken connection does costs another one.
#include "nsp_fixture.h"
#include <sys/ioctl.h>
#include <sys/resource.h>

// ---- who gets whom ----

static void test_connections_first(void **state) {
  static struct visitor v[2] = {{.to_send = 10}, {.to_send = 20}};
  client_start("1.4");
  struct far f[2] = {far_pair(), far_pair()};
  nx_settle(loop);
  visitor_come(&v[0]);
  visitor_come(&v[1]);
  assert_int_equal(v[0].pulls + v[1].pulls, 0); // not before its opener has returned
  for (int i = 0; i < 2; i++) {
    far_transfer(&f[i]);
    far_read(&f[i], v[i].to_send);
    far_quiet(&f[i]);
    assert_int_equal(v[i].opened, 1);
  }
  assert_true(memcmp(f[0].id, f[1].id, NSP_TRANSFER_ID) != 0);
  far_close(&f[0]);
  far_close(&f[1]);
}

static void test_visitors_first(void **state) {
  static struct visitor v[3] = {{.to_send = 10}, {.to_send = 20}, {.to_send = 30}};
  client_start("1.4");
  for (int i = 0; i < 3; i++) visitor_come(&v[i]);
  nx_settle(loop);
  assert_int_equal(v[0].pulls, 0); // his bytes stay in his socket
  for (int i = 0; i < 3; i++) {
    assert_int_equal(v[i].opened, 0);
    struct far f = far_pair();
    far_transfer(&f);
    far_read(&f, v[i].to_send);
    assert_int_equal(v[i].opened, 1);
    far_close(&f);
  }
}

static void test_two_apps(void **state) {
  static struct visitor v = {.to_send = 10};
  int fd[2];
  client_start("1.4");
  assert_int_equal(nsp_client_add_app(owner.client, 8), 0);
  assert_int_equal(nsp_client_add_app(owner.client, 8), PERR_EXISTS);
  nx_pair(fd);
  nsp_client_add_conn(owner.client, 8, plain_conn(fd[0]));
  visitor_come(&v);
  struct far other = {.fd = fd[1]};
  far_quiet(&other);
  struct far f = far_pair();
  far_transfer(&f);
  far_quiet(&other);
  far_close(&f);
  far_close(&other);
}

static void test_no_such_app(void **state) {
  int fd[2];
  client_start("1.4");
  assert_null(nsp_client_open_stream(owner.client, 8));
  nx_pair(fd);
  nsp_client_add_conn(owner.client, 8, plain_conn(fd[0]));
  struct far f = {.fd = fd[1]};
  assert_int_equal(far_end(&f), 0);
  assert_int_equal(owner.links, 0);
  far_close(&f);
}

// ---- visitors who do not wait ----

static void test_visitor_left_before_his_turn(void **state) {
  static struct visitor gone = {.leaves = true}, aborted = {0}, next = {.to_send = 10};
  client_start("1.4");
  visitor_come(&gone);
  visitor_come(&aborted);
  visitor_come(&next);
  visitor_abort(&aborted);
  struct far f = far_pair();
  far_transfer(&f);
  far_read(&f, 10);
  assert_int_equal(gone.pulls, 1);
  assert_int_equal(aborted.pulls, 0);
  far_close(&f);
}

static void test_visitor_left_costs_no_connection(void **state) {
  static struct visitor gone = {.leaves = true}, next = {0};
  client_start("1.4");
  struct far f = far_pair();
  nx_settle(loop);
  visitor_come(&gone);
  far_quiet(&f);
  assert_null(gone.stream);
  assert_int_equal(owner.links, 1);
  visitor_come(&next);
  far_transfer(&f);
  far_close(&f);
}

// The pump asks for aborts only when it is told that nothing can be pulled.
static void test_waiting_is_not_ready(void **state) {
  static struct visitor v = {0};
  client_start("1.4");
  visitor_come(&v);
  nx_settle(loop);
  assert_false(visitor_send(&v, 10, false));
  nx_settle(loop);
  assert_int_equal(v.pulls, 0);
  struct far f = far_pair();
  far_transfer(&f);
  far_read(&f, 10);
  assert_true(visitor_send(&v, 10, false));
  far_read(&f, 10);
  far_close(&f);
}

static void test_nobody_waits_for_ever(void **state) {
  static struct visitor early = {0}, late = {0};
  client_start("1.4");
  visitor_come(&early);
  nx_pass(loop, 10 * 1000);
  visitor_come(&late);
  nsp_client_heartbeat(owner.client);
  nx_pass(loop, NSP_WAIT_MS - 10 * 1000 - NSP_TICK_BUSY_MS);
  assert_non_null(early.stream);
  nx_pass(loop, 2 * NSP_TICK_BUSY_MS);
  assert_reset(&early, STREAM_DIAL_TIMEOUT);
  assert_non_null(late.stream);
  assert_int_equal(owner.losses, 0);
  struct far f = far_pair(); // the client lives, and the other is served
  far_transfer(&f);
  assert_int_equal(late.opened, 1);
  far_close(&f);
}

// A visitor who has ended already may want to hear something all the same.
static void test_fin_first(void **state) {
  static struct visitor v = {.end_sends = true};
  client_start("1.4");
  struct far f = far_pair();
  visitor_come(&v);
  far_transfer(&f);
  nx_settle(loop);
  assert_true(v.fin_sent);
  assert_int_equal(v.opened, 1);
  far_send(&f, 1000);
  NX_UNTIL(loop, v.got == 1000);
  far_close(&f);
  NX_UNTIL(loop, v.releases);
}

// ---- what is written ----

static void check_transfer(const char *dialect, size_t len) {
  struct visitor v = {.to_send = 5};
  uint8_t m[NSP_CONTROL_MAX + 5];
  client_start(dialect);
  struct far f = far_pair();
  visitor_come(&v);
  far_get(&f, m, len + 5);
  far_quiet(&f);
  assert_int_equal(m[0], 0x01);
  for (size_t i = 5; i < len; i++) assert_int_equal(m[i], 0);
  nx_check(m + len, 5, 0);
  far_close(&f);
  client_close(STREAM_SESSION_ENDED, false);
  nx_settle(loop);
}

static void test_transfer_messages(void **state) {
  check_transfer("1.4", 10);
  check_transfer("1.2", 1);
  check_transfer("1.0", 1);
  check_transfer("0.4", 1);
}

static void check_keepalive(const char *dialect, const void *message, size_t len) {
  struct visitor v = {0};
  client_start(dialect);
  struct far carrying = far_pair();
  visitor_come(&v);
  nx_settle(loop);
  struct far a = far_pair(), b = far_pair();
  uint8_t m[NSP_CONTROL_MAX];
  far_get(&carrying, m, *dialect == '1' && dialect[2] == '4' ? 10 : 1);
  nsp_client_heartbeat(owner.client);
  if (len) far_expect(&a, message, len);
  if (len) far_expect(&b, message, len);
  far_quiet(&a);
  far_quiet(&b);
  far_quiet(&carrying);
  far_close(&a);
  far_close(&b);
  far_close(&carrying);
  client_close(STREAM_SESSION_ENDED, false);
  nx_settle(loop);
}

// What it did not read yet is a keepalive too: it keeps its place without another.
static void test_keepalive_to_one_that_does_not_read(void **state) {
  enum { BEATS = 20000 };
  client_start("1.4");
  struct far f = far_pair_of(true);
  nx_settle(loop);
  for (int i = 0; i < BEATS; i++) nsp_client_heartbeat(owner.client);
  const struct nsp_pool *p = TAILQ_FIRST(&owner.client->pools);
  assert_int_equal(p->links, 1);
  far_close(&f);
}

static void test_keepalive(void **state) {
  check_keepalive("1.4", "\x03\0\0\0\0\0\0\0\0", 10);
  check_keepalive("1.2", "\x03", 1);
  check_keepalive("1.0", "", 0);
}

// ---- what a client says while it should not ----

static void test_junk_is_dropped(void **state) {
  static struct visitor v = {.to_send = 10};
  int fd[2];
  client_start("1.4");
  nx_pair(fd);
  struct far f = {.fd = fd[1]};
  nx_send(f.fd, "\0", 1); // the fourth byte of the ids
  nsp_client_add_conn(owner.client, APP, plain_conn(fd[0]));
  for (int i = 0; i < 64; i++) {
    far_send(&f, 64 * 1024);
    nx_peek(loop);
  }
  nx_settle(loop);
  f.sent = 0;
  visitor_come(&v);
  far_transfer(&f);
  far_read(&f, 10);
  assert_int_equal(v.got, 0);
  far_send(&f, 100); // the first bytes that count
  NX_UNTIL(loop, v.got == 100);
  far_close(&f);
}

// It comes with the connection, and a visitor is there already.
static void test_junk_before_the_match(void **state) {
  static struct visitor v = {.to_send = 10};
  int fd[2];
  client_start("1.4");
  visitor_come(&v);
  nx_pair(fd);
  struct far f = {.fd = fd[1]};
  nx_send(f.fd, "junk", 4);
  nsp_client_add_conn(owner.client, APP, plain_conn(fd[0]));
  struct nsp_pool *p = TAILQ_FIRST(&owner.client->pools);
  p->match.fn(&p->match); // before the loop looks at the socket
  far_transfer(&f);
  nx_settle(loop);
  assert_int_equal(v.got, 0);
  far_close(&f);
}

// ---- connections that end ----

static void test_idle_ends(void **state) {
  static struct visitor v = {.to_send = 10};
  client_start("1.4");
  struct far fin = far_tcp(), abort = far_tcp(), lives = far_tcp();
  nx_settle(loop);
  far_close(&fin);
  far_abort(&abort);
  nx_settle(loop);
  struct nsp_pool *p = TAILQ_FIRST(&owner.client->pools);
  NX_UNTIL(loop, p->client->nidle == 1);
  far_quiet(&lives);
  assert_true(owner.linked);
  visitor_come(&v);
  far_transfer(&lives);
  far_read(&lives, 10);
  far_close(&lives);
}

static void await_abort(int fd) {
  struct tcp_info info = {0};
  socklen_t len = sizeof info;
  nx_await("the abort");
  do assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
  while (info.tcpi_state != TCP_CLOSE);
  alarm(0);
}

// No event has told yet that they ended: the first write does. The visitor's bytes must not go with them.
static void test_idle_ended_unseen(void **state) {
  static struct visitor v = {.to_send = 40000};
  client_start("1.4");
  struct far dead[2] = {far_tcp(), far_tcp()};
  nx_settle(loop);
  struct nsp_pool *p = TAILQ_FIRST(&owner.client->pools);
  int fd[2] = {conn_fd(TAILQ_FIRST(&p->idle)->conn), conn_fd(TAILQ_NEXT(TAILQ_FIRST(&p->idle), idle)->conn)};
  visitor_come(&v);
  for (int i = 0; i < 2; i++) {
    far_abort(&dead[i]);
    await_abort(fd[i]);
  }
  p->match.fn(&p->match); // before the loop looks at the socket
  assert_int_equal(v.sent, NSP_PIECE);
  assert_int_equal(v.opened, 0);
  assert_true(TAILQ_EMPTY(&p->idle));
  struct far lives = far_tcp();
  far_transfer(&lives);
  far_read(&lives, 40000);
  assert_int_equal(v.opened, 1);
  far_close(&lives);
}

static void test_only_so_many_idle(void **state) {
  enum { MORE = NSP_IDLE_MAX + 1 };
  static struct far f[MORE];
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  client_start("1.4");
  for (int i = 0; i < MORE; i++) f[i] = far_pair();
  assert_int_equal(far_end(&f[MORE - 1]), 0);
  nsp_client_heartbeat(owner.client);
  for (int i = 0; i < MORE - 1; i++) far_expect(&f[i], "\x03", 1);
  for (int i = 0; i < MORE; i++) far_close(&f[i]);
}

// ---- close ----

static void test_close(void **state) {
  static struct visitor waits = {0}, has = {0};
  client_start("1.4");
  struct far carrying = far_tcp();
  visitor_come(&has);
  far_transfer(&carrying);
  struct far idle = far_tcp();
  nx_settle(loop);
  visitor_come(&waits);
  struct nsp_client *c = waits.asks = owner.client;
  owner.client = NULL;
  nsp_client_close(c, STREAM_SESSION_ENDED, false);
  nsp_client_close(c, STREAM_ABORTED, true); // once is enough
  assert_reset(&waits, STREAM_SESSION_ENDED);
  assert_reset(&has, STREAM_SESSION_ENDED);
  assert_int_equal(far_end(&idle), 0);
  assert_int_equal(far_end(&carrying), -ECONNRESET);
  far_close(&idle);
  far_close(&carrying);
}

static void test_close_for_good(void **state) {
  client_start("1.4");
  struct far a = far_pair(), b = far_pair();
  nx_settle(loop);
  client_close(STREAM_SESSION_ENDED, true);
  far_expect(&a, "\x06\0\0\0\0\0\0\0\0", 10);
  far_expect(&b, "\x06\0\0\0\0\0\0\0\0", 10);
  assert_int_equal(far_end(&a), 0);
  assert_int_equal(far_end(&b), 0);
  far_close(&a);
  far_close(&b);
  client_start("1.2"); // knows no such message
  a = far_pair();
  client_close(STREAM_SESSION_ENDED, true);
  assert_int_equal(far_end(&a), 0);
  far_close(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      nsp_test(test_connections_first),
      nsp_test(test_visitors_first),
      nsp_test(test_two_apps),
      nsp_test(test_no_such_app),
      nsp_test(test_visitor_left_before_his_turn),
      nsp_test(test_visitor_left_costs_no_connection),
      nsp_test(test_waiting_is_not_ready),
      nsp_test(test_nobody_waits_for_ever),
      nsp_test(test_fin_first),
      nsp_test(test_transfer_messages),
      nsp_test(test_keepalive),
      nsp_test(test_keepalive_to_one_that_does_not_read),
      nsp_test(test_junk_is_dropped),
      nsp_test(test_junk_before_the_match),
      nsp_test(test_idle_ends),
      nsp_test(test_idle_ended_unseen),
      nsp_test(test_only_so_many_idle),
      nsp_test(test_close),
      nsp_test(test_close_for_good),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
