// A conn with TLS goes from one loop to another, with bytes inside TLS that no event will tell of, and between threads.
#include "tls_conn_fixture.h"
#include <pthread.h>

// What one read left inside TLS is found by the next owner, with nothing new on the wire.
static void test_hand_over_with_bytes_inside(void **state) {
  struct loop *other = loop_new("other");
  struct owner second = {0};
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = client.deaf = true;
  // No room either: not even that will be an event.
  while (write_record(&server, 16384) == 0) continue;
  for (int i = 0; i < 4; i++) assert_int_equal(write_record(&client, 5000), 0);
  assert_int_equal(conn_flush(client.conn), 0);
  nx_settle(loop);
  uint8_t buf[100];
  size_t n;
  assert_int_equal(conn_read(server.conn, buf, sizeof buf, &n), 0);
  assert_int_equal(bytes_at(server.conn), 0);
  assert_true(conn_may_read(server.conn));
  second.got = n;
  second.conn = server.conn;
  server.conn = NULL;
  conn_detach(second.conn);
  assert_int_equal(conn_attach(second.conn, other, &owner_ops, &second), 0);
  nx_settle(other);
  assert_int_equal(second.got, 20000);
  // What was written before the hand-over goes out after it.
  client.deaf = false;
  conn_resume(client.conn);
  nx_await("all that was written");
  while (client.got < server.sent) {
    nx_peek(loop);
    nx_peek(other);
  }
  alarm(0);
  owner_close(&second, CONN_LINGER);
  NX_UNTIL(loop, client.end);
  assert_int_equal(client.end, PERR_EOF);
  loop_free(other);
}

// What was written and not sent goes along.
static void test_hand_over_with_output(void **state) {
  struct loop *other = loop_new("other");
  struct owner second = {0};
  start_pair();
  assert_int_equal(write_record(&server, 3000), 0);
  second.conn = server.conn;
  second.sent = second.to_send = server.sent;
  server.conn = NULL;
  conn_detach(second.conn);
  assert_int_equal(conn_attach(second.conn, other, &owner_ops, &second), 0);
  assert_int_equal(conn_flush(second.conn), 0);
  NX_UNTIL(loop, client.got == 3000);
  owner_close(&second, CONN_CLOSE);
  loop_free(other);
}

// Two running loops throw a conn to each other while the peer sends without a pause.
enum { ROUNDS = 200, STEP = 1777 };

static struct ball {
  struct conn *conn;
  struct loop *loops[2];
  unsigned at, throws;
  uint64_t got;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool done;
} ball = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void catch_ball(void *arg);

static void end_game(struct conn *c) {
  conn_close(c, CONN_CLOSE);
  pthread_mutex_lock(&ball.lock);
  ball.done = true;
  pthread_cond_signal(&ball.changed);
  pthread_mutex_unlock(&ball.lock);
}

static void throw_on_readable(void *ctx, struct conn *c) {
  static uint8_t buf[STEP];
  size_t n;
  int code = conn_read(c, buf, sizeof buf, &n);
  if (code == PERR_AGAIN) return;
  if (code) {
    end_game(c);
    return;
  }
  nx_check(buf, n, ball.got);
  ball.got += n;
  if (++ball.throws > ROUNDS) {
    conn_resume(c);
    return;
  }
  ball.at ^= 1;
  conn_detach(c);
  loop_post(ball.loops[ball.at], catch_ball, NULL);
}

static const struct conn_ops throwing_ops = {.on_readable = throw_on_readable};

static void catch_ball(void *arg) {
  if (conn_attach(ball.conn, ball.loops[ball.at], &throwing_ops, NULL)) abort();
}

static void stop_loop(void *arg) {
  loop_stop(arg);
}

static void test_hand_over_between_threads(void **state) {
  start_tcp_pair();
  ball.conn = server.conn;
  server.conn = NULL;
  for (int i = 0; i < 2; i++) {
    ball.loops[i] = loop_new("catcher");
    assert_int_equal(loop_start_thread(ball.loops[i]), 0);
  }
  conn_detach(ball.conn);
  loop_post(ball.loops[0], catch_ball, NULL);
  client.to_send = (ROUNDS + 100) * STEP;
  (void)owner_write(&client);
  NX_UNTIL(loop, client.sent == client.to_send && conn_flush(client.conn) == 0);
  owner_close(&client, CONN_LINGER);
  nx_await("the last byte");
  pthread_mutex_lock(&ball.lock);
  while (!ball.done) pthread_cond_wait(&ball.changed, &ball.lock);
  pthread_mutex_unlock(&ball.lock);
  alarm(0);
  for (int i = 0; i < 2; i++) {
    loop_post(ball.loops[i], stop_loop, ball.loops[i]);
    loop_join(ball.loops[i]);
    loop_free(ball.loops[i]);
  }
  assert_int_equal(ball.got, client.to_send);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(hand_over_with_bytes_inside),
      T(hand_over_with_output),
      T(hand_over_between_threads),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
