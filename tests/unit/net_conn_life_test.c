// How a conn on a plain socket begins and ends: dialling, closing, lingering, changing owners and loops.
#include "plain_fixture.h"

// ---- dialling ----

static void dial(const struct addr *to) {
  int error = 0;
  o.loop = loop;
  o.conn = conn_dial(loop, to, &owner_ops, &o, &error);
  assert_non_null(o.conn);
}

// Somewhere nobody listens.
static struct addr closed_port(void) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  close(l);
  return a;
}

static void test_dial(void **state) {
  int l = nx_listen(), on = 0;
  struct addr a = nx_local(l);
  dial(&a);
  assert_true(addr_equal_ip(conn_peer(o.conn), &a));
  assert_int_equal(o.connects, 0);
  NX_UNTIL(loop, o.connects);
  assert_int_equal(o.connect_result, 0);
  socklen_t len = sizeof on;
  assert_int_equal(getsockopt(conn_fd(o.conn), IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
  assert_true(on);
  peer = accept(l, NULL, NULL);
  close(l);
  send_pattern(0, 77);
  NX_UNTIL(loop, o.got == 77);
  nx_settle(loop);
  assert_int_equal(o.connects, 1);
}

// Bytes before the answer: they wait, or they go and on_connect comes first; either way once and in order.
static void test_dial_with_early_bytes(void **state) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  dial(&a);
  o.to_send = 3000;
  int code = owner_write(&o);
  if (code == PERR_AGAIN)
    assert_int_equal(o.sent, 0);
  else
    assert_int_equal(o.connects, 1);
  NX_UNTIL(loop, o.connects);
  assert_int_equal(o.connect_result, 0);
  peer = accept(l, NULL, NULL);
  close(l);
  NX_UNTIL(loop, o.sent == o.to_send || owner_write(&o) == 0);
  drain_peer(0, o.to_send);
  nx_settle(loop);
  assert_int_equal(o.connects, 1);
}

static void test_dial_that_takes_time(void **state) {
  struct nx_slow_target t = nx_slow_target();
  struct addr a = nx_local(t.fd);
  dial(&a);
  o.to_send = 10;
  assert_int_equal(owner_write(&o), PERR_AGAIN);
  nx_settle(loop);
  assert_int_equal(o.connects, 0);
  assert_false(conn_may_write(o.conn));
  nx_answer(&t);
  NX_UNTIL(loop, o.writables); // for he was refused
  assert_int_equal(o.connects, 1);
  assert_int_equal(o.connect_result, 0);
  assert_int_equal(o.sent, 10);
  struct addr mine = nx_local(conn_fd(o.conn));
  peer = nx_accept_from(&t, &mine);
  drain_peer(0, 10);
}

static void test_dial_refused(void **state) {
  struct addr a = closed_port();
  dial(&a);
  NX_UNTIL(loop, o.connects);
  assert_int_equal(o.connect_result, PERR_RESET);
  assert_int_equal(o.connect_errno, ECONNREFUSED);
}

static void test_dial_refused_with_early_bytes(void **state) {
  struct addr a = closed_port();
  size_t n = 0;
  dial(&a);
  o.closes = true;
  int code = conn_write(o.conn, "x", 1, &n);
  if (code != PERR_AGAIN) {
    assert_int_equal(code, PERR_CLOSED);
    assert_int_equal(o.connects, 1);
  }
  NX_UNTIL(loop, o.connects);
  assert_int_equal(o.connect_result, PERR_RESET);
  nx_settle(loop);
  assert_int_equal(o.connects, 1); // the error is told once
  assert_int_equal(o.closed_in, 0);
}

static void test_dial_that_fails_at_once(void **state) {
  struct addr a = nx_addr("255.255.255.255", 9);
  int error = 0;
  assert_null(conn_dial(loop, &a, &owner_ops, &o, &error));
  assert_int_equal(error, PERR_IO);
  assert_true(errno == EACCES || errno == ENETUNREACH);
  assert_int_equal(o.connects, 0);
}

// Accepted and aborted before the event: that was a connection, and it was aborted.
static void test_dial_aborted_at_once(void **state) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  dial(&a);
  o.idle = true;
  peer = accept(l, NULL, NULL);
  close(l);
  reset_peer();
  await_abort(o.conn);
  NX_UNTIL(loop, o.aborts);
  assert_int_equal(o.connects, 1);
  assert_int_equal(o.connect_result, 0);
}

static void test_closing_while_dialling(void **state) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  dial(&a);
  o.conn = (conn_close(o.conn, CONN_LINGER), NULL);
  nx_settle(loop);
  assert_int_equal(o.connects, 0);
  close(l);
}

// ---- closing ----

static void test_abort_is_a_reset(void **state) {
  start_tcp();
  o.to_send = 100;
  assert_int_equal(owner_write(&o), 0);
  owner_close(&o, CONN_ABORT);
  assert_int_equal(peer_end(), -ECONNRESET);
}

static void test_close_sends_what_is_written(void **state) {
  start_tcp();
  o.to_send = 30000;
  assert_int_equal(owner_write(&o), 0);
  struct conn *c = o.conn;
  owner_close(&o, CONN_CLOSE);
  conn_close(c, CONN_ABORT); // the first one counts, and the object is there until the batch has ended
  conn_close(NULL, CONN_CLOSE);
  drain_peer(0, 30000);
  assert_int_equal(peer_end(), 0);
}

// A plain close would turn into a RST and cost the peer our last words, for he is still sending.
static void test_linger(void **state) {
  start_tcp();
  send_pattern(0, 16 * 1024);
  await_bytes(o.conn, 1);
  o.to_send = 20000;
  assert_int_equal(owner_write(&o), 0);
  owner_close(&o, CONN_LINGER);
  for (int i = 0; i < 64; i++) {
    send_pattern(0, 16 * 1024);
    nx_settle(loop);
  }
  drain_peer(0, 20000);
  assert_int_equal(peer_end(), 0);
  assert_int_equal(o.closed_in, 0); // nothing is called back any more
}

static bool is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

// It is over as soon as the peer has ended …
static void test_linger_ends_with_the_peer(void **state) {
  start_tcp();
  int fd = conn_fd(o.conn);
  owner_close(&o, CONN_LINGER);
  assert_int_equal(peer_end(), 0);
  nx_settle(loop);
  assert_true(is_open(fd));
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, !is_open(fd));
}

// … also when he had before, and no event will tell.
static void test_linger_behind_the_peers_end(void **state) {
  start_tcp();
  int fd = conn_fd(o.conn);
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, o.end == PERR_EOF);
  nx_settle(loop);
  owner_close(&o, CONN_LINGER);
  nx_settle(loop);
  assert_false(is_open(fd));
  assert_int_equal(peer_end(), 0);
}

static void test_linger_is_bounded(void **state) {
  start_tcp();
  owner_close(&o, CONN_LINGER);
  assert_int_equal(peer_end(), 0);
  nx_pass(loop, 1900);
  send_pattern(0, 1); // still taken
  nx_settle(loop);
  send_pattern(0, 1);
  nx_settle(loop);
  nx_pass(loop, 200);
  nx_send(peer, "x", 1);
  // Now the socket is closed: what we send is answered by a RST.
  nx_await("the RST");
  while (send(peer, "x", 1, MSG_NOSIGNAL) > 0) continue;
  alarm(0);
}

// The owner is gone. Whatever becomes of the conn is not told to what once was he.
static void test_linger_tells_nobody_of_an_abort(void **state) {
  start_tcp();
  nx_settle(loop);
  o.closes = true;
  owner_close(&o, CONN_LINGER);
  nx_settle(loop);
  send_pattern(0, 1000);
  reset_peer();
  nx_settle(loop);
  nx_pass(loop, 1500);
  assert_int_equal(o.aborts, 0);
  assert_int_equal(o.closed_in, 0);
}

// The same for one who was under suspicion when he let go.
static void test_linger_of_a_suspect(void **state) {
  start_tcp();
  nx_settle(loop);
  send_pattern(0, 1000);
  await_bytes(o.conn, 1000);
  reset_peer();
  await_abort(o.conn);
  NX_UNTIL(loop, o.got == 1000);
  owner_close(&o, CONN_LINGER);
  nx_pass(loop, 1500);
  assert_int_equal(o.aborts, 0);
}

// loop_free takes with it what still lingers (LeakSanitizer would tell).
static void test_linger_past_the_loop(void **state) {
  start_tcp();
  owner_close(&o, CONN_LINGER);
  loop_free(loop);
  loop = loop_new("test");
  assert_int_equal(peer_end(), 0);
}

// ---- closing in a callback ----

static void test_closing_in_on_readable(void **state) {
  start_tcp();
  o.closes = true;
  send_pattern(0, 100);
  NX_UNTIL(loop, !o.conn);
  nx_settle(loop);
  assert_int_equal(o.readables, 1);
  assert_int_equal(o.closed_in, 0);
}

// There would be bytes to read in the same event.
static void test_closing_in_on_writable(void **state) {
  int fds[2];
  nx_pair(fds);
  peer = fds[1];
  owner_start(&o, loop, fds[0]);
  o.deaf = true;
  nx_settle(loop);
  o.to_send = 8 * 1024 * 1024;
  assert_int_equal(owner_write(&o), PERR_AGAIN);
  o.closes = true;
  static uint8_t buf[1024 * 1024];
  send_pattern(0, 100);
  while (recv(peer, buf, sizeof buf, MSG_DONTWAIT) > 0) continue;
  NX_UNTIL(loop, !o.conn);
  assert_int_equal(o.writables, 1);
  assert_int_equal(o.closed_in, 0);
}

static void test_closing_in_on_connect(void **state) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  dial(&a);
  o.closes = true;
  peer = accept(l, NULL, NULL);
  close(l);
  send_pattern(0, 10);
  NX_UNTIL(loop, !o.conn);
  nx_settle(loop);
  assert_int_equal(o.connects, 1);
  assert_int_equal(o.closed_in, 0);
}

static void test_closing_with_a_resume_pending(void **state) {
  start_tcp();
  nx_settle(loop);
  conn_resume(o.conn);
  owner_close(&o, CONN_CLOSE);
  unsigned before = o.readables;
  nx_settle(loop);
  assert_int_equal(o.readables, before);
}

// ---- owners ----

static void test_rebind(void **state) {
  struct owner second = {0};
  start_tcp();
  nx_settle(loop);
  unsigned before = o.readables;
  conn_rebind(o.conn, &owner_ops, &second);
  second.conn = o.conn;
  nx_settle(loop);
  assert_int_equal(second.readables, 1); // though nothing came
  send_pattern(0, 10);
  NX_UNTIL(loop, second.got == 10);
  assert_int_equal(o.readables, before);
}

// Between detach and attach nothing is called, and what came meanwhile is found.
static void test_hand_over(void **state) {
  struct loop *other = loop_new("other");
  struct owner second = {0};
  start_tcp();
  nx_settle(loop);
  struct conn *c = o.conn;
  unsigned before = o.readables;
  conn_resume(c);
  conn_detach(c);
  o.conn = NULL;
  send_pattern(0, 100);
  shutdown(peer, SHUT_WR);
  nx_settle(loop);
  assert_int_equal(o.readables, before);
  assert_int_equal(conn_attach(c, other, &owner_ops, &second), 0);
  second.conn = c;
  NX_UNTIL(other, second.end);
  assert_int_equal(second.got, 100);
  assert_int_equal(second.end, PERR_EOF);
  second.to_send = 1000;
  assert_int_equal(owner_write(&second), 0);
  drain_peer(0, 1000);
  owner_close(&second, CONN_CLOSE);
  nx_settle(other);
  loop_free(other);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(dial),
      T(dial_with_early_bytes),
      T(dial_that_takes_time),
      T(dial_refused),
      T(dial_refused_with_early_bytes),
      T(dial_that_fails_at_once),
      T(dial_aborted_at_once),
      T(closing_while_dialling),
      T(abort_is_a_reset),
      T(close_sends_what_is_written),
      T(linger),
      T(linger_ends_with_the_peer),
      T(linger_behind_the_peers_end),
      T(linger_is_bounded),
      T(linger_tells_nobody_of_an_abort),
      T(linger_of_a_suspect),
      T(linger_past_the_loop),
      T(closing_in_on_readable),
      T(closing_in_on_writable),
      T(closing_in_on_connect),
      T(closing_with_a_resume_pending),
      T(rebind),
      T(hand_over),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
