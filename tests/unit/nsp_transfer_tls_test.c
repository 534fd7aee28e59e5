// Reverse connections over TLS, where the conn takes all or nothing and holds back what the kernel does not take.
#include "nsp_fixture.h"
#include "tls_pair.h"

// The far side: a conn that keeps what it reads.
static struct tls_far {
  struct conn *conn;
  uint8_t in[8 * 1024 * 1024];
  size_t len, off;
  int end; // PERR_EOF, …
  bool deaf;
  uint64_t sent, got; // of the patterns
} far;

static void on_shaken(void *ctx, struct conn *c, int result) {
  assert_int_equal(result, 0);
  ++*(unsigned *)ctx;
}

static void on_unread(void *ctx, struct conn *c) {}

static const struct conn_ops shaking_ops = {.on_handshake = on_shaken, .on_readable = on_unread};

static void on_far_readable(void *ctx, struct conn *c) {
  size_t n = 0;
  while (!far.deaf && !far.end) {
    assert_true(far.len < sizeof far.in);
    int code = conn_read(c, far.in + far.len, sizeof far.in - far.len, &n);
    if (code == PERR_AGAIN) return;
    if (code)
      far.end = code;
    else
      far.len += n;
  }
}

static const struct conn_ops far_ops = {.on_readable = on_far_readable};

static void far_start(bool narrow) {
  struct conn *conns[2];
  unsigned shaken = 0;
  int fds[2];
  far.len = far.off = far.sent = far.got = 0;
  far.end = 0;
  far.deaf = false;
  nx_pair(fds);
  for (int i = 0; i < 2; i++) {
    if (narrow) nx_small(fds[i], SO_SNDBUF);
    conns[i] = conn_new(loop, fds[i], &shaking_ops, &shaken);
    assert_non_null(conns[i]);
    assert_int_equal(conn_start_tls(conns[i], i ? pair_client : pair_server), 0);
  }
  NX_UNTIL(loop, shaken == 2);
  nx_settle(loop);
  conn_rebind(conns[1], &far_ops, NULL);
  far.conn = conns[1];
  nsp_client_add_conn(owner.client, APP, conns[0]);
}

static void far_stop(void) {
  conn_close(far.conn, CONN_CLOSE);
  far.conn = NULL;
}

static void tls_expect(const void *data, size_t len) {
  NX_UNTIL(loop, far.len - far.off >= len);
  assert_memory_equal(far.in + far.off, data, len);
  far.off += len;
}

static void tls_transfer(void) {
  NX_UNTIL(loop, far.len - far.off >= NSP_CONTROL_MAX);
  assert_int_equal(far.in[far.off], NSP_CONTROL_TRANSFER);
  far.off += NSP_CONTROL_MAX;
}

static void tls_read(uint64_t n) {
  NX_UNTIL(loop, far.len - far.off >= n);
  nx_check(far.in + far.off, n, far.got);
  far.off += n;
  far.got += n;
}

static void tls_send(uint64_t n) {
  uint8_t buf[16384];
  size_t taken = 0;
  while (n) {
    size_t once = n < sizeof buf ? n : sizeof buf;
    nx_fill(buf, once, far.sent);
    if (conn_write(far.conn, buf, once, &taken) == 0) {
      far.sent += once;
      n -= once;
    }
    int code = conn_flush(far.conn);
    if (code) assert_int_equal(code, PERR_AGAIN);
    if (code) nx_peek(loop);
  }
}

static void test_bytes_both_ways(void **state) {
  enum { MUCH = 3 * 1024 * 1024 };
  static struct visitor v = {.to_send = MUCH};
  client_start("1.4");
  far_start(false);
  nsp_client_heartbeat(owner.client);
  tls_expect("\x03\0\0\0\0\0\0\0\0", 10);
  visitor_come(&v);
  tls_transfer();
  tls_send(MUCH);
  tls_read(MUCH);
  NX_UNTIL(loop, v.got == MUCH);
  nx_settle(loop);
  assert_int_equal(far.len, far.off);
  assert_true(visitor_send(&v, 10, true));
  tls_read(10);
  assert_true(v.fin_sent);
  nx_pass(loop, NSP_FIN_MS + 2 * NSP_TICK_BUSY_MS);
  assert_int_equal(far.end, PERR_EOF);
  tls_send(10);
  assert_int_equal(conn_shutdown(far.conn), 0);
  NX_UNTIL(loop, v.releases);
  assert_int_equal(v.got, MUCH + 10);
  far_stop();
}

static void test_slow_client(void **state) {
  static struct visitor v = {.to_send = 1000 * 1000};
  client_start("1.4");
  far_start(true);
  nx_settle(loop);
  far.deaf = true;
  visitor_come(&v);
  nx_settle(loop);
  uint64_t sent = v.sent;
  assert_true(sent < 256 * 1024);
  assert_false(visitor_send(&v, 0, true));
  nx_settle(loop);
  assert_int_equal(v.sent, sent);
  nx_pass(loop, 2 * NSP_FIN_MS);
  far.deaf = false;
  conn_resume(far.conn);
  tls_transfer();
  tls_read(1000 * 1000);
  NX_UNTIL(loop, v.fin_sent);
  assert_int_equal(far.end, 0);
  nx_pass(loop, NSP_FIN_MS + 2 * NSP_TICK_BUSY_MS);
  assert_int_equal(far.end, PERR_EOF);
  far_stop();
  NX_UNTIL(loop, v.releases);
}

static void test_stalled_client(void **state) {
  static struct visitor v = {.to_send = 1000 * 1000};
  client_start("1.4");
  far_start(true);
  nx_settle(loop);
  far.deaf = true;
  visitor_come(&v);
  nx_pass(loop, STALL_S * 1000 - 2 * NSP_TICK_BUSY_MS);
  assert_non_null(v.stream);
  nx_pass(loop, 4 * NSP_TICK_BUSY_MS);
  assert_reset(&v, STREAM_STALLED);
  far_stop();
}

static void test_slow_visitor(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  far_start(false);
  visitor_come(&v);
  tls_transfer();
  tls_send(100 * 1000);
  nx_settle(loop);
  nx_await("all bytes");
  while (v.got < 100 * 1000 || v.held) {
    assert_true(v.held <= NSP_PIECE);
    if (v.held) visitor_take(&v, v.held);
    nx_peek(loop);
  }
  alarm(0);
  far_stop();
  NX_UNTIL(loop, v.fins);
}

// Without close_notify, as a client in a hurry ends, it is an end all the same.
static void test_client_ends(void **state) {
  static struct visitor v, w;
  client_start("1.4");
  far_start(false);
  visitor_come(&v);
  tls_transfer();
  tls_send(1000);
  far_stop();
  NX_UNTIL(loop, v.fins);
  assert_int_equal(v.got, 1000);
  visitor_send(&v, 0, true);
  assert_int_equal(v.resets, 0);
  far_start(false);
  visitor_come(&w);
  tls_transfer();
  tls_send(1000);
  assert_int_equal(conn_shutdown(far.conn), 0);
  NX_UNTIL(loop, w.fins);
  assert_int_equal(w.got, 1000);
  visitor_send(&w, 1000, true);
  tls_read(1000); // before the connection goes
  NX_UNTIL(loop, w.releases && far.end == PERR_EOF);
  far_stop();
}

static void test_garbage(void **state) {
  static struct visitor v;
  client_start("1.4");
  far_start(false);
  visitor_come(&v);
  tls_transfer();
  tls_send(1000);
  nx_send(conn_fd(far.conn), "this is no record of TLS", 24);
  NX_UNTIL(loop, v.resets);
  assert_reset(&v, STREAM_ABORTED);
  assert_int_equal(v.got, 1000);
  far_stop();
}

static void test_idle(void **state) {
  static struct visitor v;
  client_start("1.4");
  far_start(false);
  tls_send(500 * 1000); // junk
  nx_settle(loop);
  far.sent = 0;
  visitor_come(&v);
  tls_transfer();
  tls_send(1000);
  NX_UNTIL(loop, v.got == 1000);
  visitor_abort(&v);
  NX_UNTIL(loop, far.end);
  far_stop();
  far_start(false);
  nx_send(conn_fd(far.conn), "this is no record of TLS", 24);
  NX_UNTIL(loop, !owner.linked);
  far_stop();
  far_start(false);
  client_close(STREAM_SESSION_ENDED, true);
  tls_expect("\x06\0\0\0\0\0\0\0\0", 10);
  NX_UNTIL(loop, far.end == PERR_EOF);
  far_stop();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      nsp_test(test_bytes_both_ways),
      nsp_test(test_slow_client),
      nsp_test(test_stalled_client),
      nsp_test(test_slow_visitor),
      nsp_test(test_client_ends),
      nsp_test(test_garbage),
      nsp_test(test_idle),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
