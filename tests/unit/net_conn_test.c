// A conn on a plain socket at work: edges, half-close, aborts. The peer is a socket of the test's own.
#include "plain_fixture.h"

// ---- reading and writing ----

static void test_reading(void **state) {
  start_tcp();
  send_pattern(0, 1000);
  NX_UNTIL(loop, o.got == 1000);
  unsigned before = o.readables;
  send_pattern(1000, 10000);
  NX_UNTIL(loop, o.got == 11000);
  assert_true(o.readables > before);
  assert_int_equal(o.end, 0);
  assert_int_equal(o.writables, 0); // nobody was refused
  assert_false(conn_may_read(o.conn));
}

// One who stops before PERR_AGAIN gets no new edge; conn_resume brings him back, and bytes that come are heard.
static void test_stopping_before_the_end(void **state) {
  start_tcp();
  o.deaf = true;
  send_pattern(0, 1000);
  NX_UNTIL(loop, o.readables > 0);
  uint8_t buf[10];
  size_t n;
  await_bytes(o.conn, 1000);
  assert_int_equal(conn_read(o.conn, buf, sizeof buf, &n), 0);
  assert_int_equal(n, sizeof buf);
  o.got = n;
  assert_true(conn_may_read(o.conn));
  unsigned before = o.readables;
  nx_settle(loop);
  assert_int_equal(o.readables, before);
  o.deaf = false;
  conn_resume(o.conn);
  conn_resume(o.conn);
  assert_int_equal(o.readables, before); // at the end of the batch, not from within
  nx_settle(loop);
  assert_int_equal(o.readables, before + 1);
  assert_int_equal(o.got, 1000);
  send_pattern(1000, 5);
  NX_UNTIL(loop, o.got == 1005);
}

static void test_partial_writes(void **state) {
  int fd;
  nx_tcp(&fd, &peer);
  nx_small(fd, SO_SNDBUF);
  owner_start(&o, loop, fd);
  o.to_send = 2 * 1024 * 1024;
  assert_int_equal(owner_write(&o), PERR_AGAIN);
  assert_true(o.sent > 0 && o.sent < o.to_send);
  assert_false(conn_may_write(o.conn));
  assert_int_equal(o.writables, 0);
  drain_peer(0, o.to_send);
  assert_int_equal(o.sent, o.to_send);
  assert_true(o.writables > 0);
  unsigned before = o.writables;
  send_pattern(0, 10);
  NX_UNTIL(loop, o.got == 10);
  assert_int_equal(o.writables, before); // nobody waits any more, though that event said room too
}

// ---- half-close ----

static void test_peer_closes_first(void **state) {
  start_tcp();
  send_pattern(0, 100);
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, o.end);
  assert_int_equal(o.end, PERR_EOF);
  assert_int_equal(o.got, 100);
  o.to_send = 300 * 1024;
  (void)owner_write(&o);
  drain_peer(0, o.to_send);
  assert_int_equal(conn_shutdown(o.conn), 0);
  assert_int_equal(conn_shutdown(o.conn), 0);
  assert_int_equal(peer_end(), 0);
}

static void test_we_close_first(void **state) {
  start_tcp();
  o.to_send = 100;
  assert_int_equal(owner_write(&o), 0);
  assert_int_equal(conn_shutdown(o.conn), 0);
  drain_peer(0, 100);
  assert_int_equal(peer_end(), 0);
  size_t n;
  assert_int_equal(conn_write(o.conn, "x", 1, &n), PERR_CLOSED);
  send_pattern(0, 5000);
  NX_UNTIL(loop, o.got == 5000);
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, o.end);
  assert_int_equal(o.end, PERR_EOF);
}

// The FIN came with the bytes: no second event will tell, whatever the reader's appetite.
static void test_fin_together_with_bytes(void **state) {
  for (size_t once = 1; once <= 4096; once *= 16) {
    start_tcp();
    o.read_once = once;
    send_pattern(0, 1000);
    shutdown(peer, SHUT_WR);
    await_bytes(o.conn, 1000);
    NX_UNTIL(loop, o.end);
    assert_int_equal(o.end, PERR_EOF);
    assert_int_equal(o.got, 1000);
    tear_down(state);
    set_up(state);
  }
}

// … or after the reader thought he had read everything.
static void test_fin_behind_a_short_read(void **state) {
  start_tcp();
  send_pattern(0, 1000);
  NX_UNTIL(loop, o.got == 1000);
  assert_int_equal(o.end, 0);
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, o.end);
  assert_int_equal(o.end, PERR_EOF);
}

// ---- aborts ----

static void test_abort_of_a_reader(void **state) {
  start_tcp();
  nx_settle(loop);
  reset_peer();
  NX_UNTIL(loop, o.end);
  assert_int_equal(o.end, PERR_RESET);
}

static void test_abort_while_not_reading(void **state) {
  start_tcp();
  o.idle = true;
  send_pattern(0, 1000);
  NX_UNTIL(loop, o.readables > 0);
  assert_int_equal(o.aborts, 0);
  reset_peer();
  NX_UNTIL(loop, o.aborts);
  assert_int_equal(o.aborts, 1);
  o.idle = false;
  owner_read(&o);
  assert_int_equal(o.got, 1000); // what came before is still there
}

static void test_abort_behind_the_peers_fin(void **state) {
  start_tcp();
  shutdown(peer, SHUT_WR);
  NX_UNTIL(loop, o.end == PERR_EOF);
  o.idle = true;
  reset_peer();
  NX_UNTIL(loop, o.aborts);
}

// Bytes and abort in one event: the read that empties the socket looks like any other.
static void test_abort_together_with_bytes(void **state) {
  start_tcp();
  nx_settle(loop);
  send_pattern(0, 1000);
  await_bytes(o.conn, 1000);
  reset_peer();
  await_abort(o.conn);
  NX_UNTIL(loop, o.got == 1000);
  nx_settle(loop);
  assert_int_equal(o.aborts, 0);
  nx_pass(loop, 1100);
  assert_int_equal(o.aborts, 1);
}

// The same for one whose buffer was full before the socket was empty, and who then reads no more.
static void test_abort_together_with_bytes_half_read(void **state) {
  start_tcp();
  o.deaf = true;
  nx_settle(loop);
  send_pattern(0, 1000);
  await_bytes(o.conn, 1000);
  reset_peer();
  await_abort(o.conn);
  unsigned before = o.readables;
  NX_UNTIL(loop, o.readables > before);
  uint8_t buf[100];
  size_t n;
  assert_int_equal(conn_read(o.conn, buf, sizeof buf, &n), 0);
  nx_pass(loop, 2200); // at first he might be going to read on
  assert_int_equal(o.aborts, 1);
}

// One who reads on, however slowly, gets to what came before the abort.
static void test_abort_behind_what_is_read_slowly(void **state) {
  start_tcp();
  o.deaf = true;
  nx_settle(loop);
  send_pattern(0, 1000);
  await_bytes(o.conn, 1000);
  reset_peer();
  await_abort(o.conn);
  nx_settle(loop);
  uint8_t buf[100];
  size_t n;
  for (int i = 0; i < 10; i++) {
    assert_int_equal(conn_read(o.conn, buf, sizeof buf, &n), 0);
    nx_check(buf, n, (uint64_t)i * sizeof buf);
    nx_pass(loop, 900);
  }
  assert_int_equal(o.aborts, 0);
  assert_int_equal(conn_read(o.conn, buf, sizeof buf, &n), PERR_RESET);
}

static void test_reading_on_to_the_abort(void **state) {
  start_tcp();
  o.read_once = 10;
  nx_settle(loop);
  send_pattern(0, 1000);
  await_bytes(o.conn, 1000);
  reset_peer();
  await_abort(o.conn);
  NX_UNTIL(loop, o.end);
  assert_int_equal(o.got, 1000);
  assert_int_equal(o.end, PERR_RESET);
}

// Several under suspicion at once, and whoever is told closes another one, before and behind him in the list.
static struct owner many[5];

static void close_a_neighbour(void *ctx, struct conn *c) {
  struct owner *me = ctx;
  size_t i = (size_t)(me - many);
  me->aborts++;
  for (size_t k = i ? i - 1 : 0; k <= i + 1 && k < 5; k++)
    if (many[k].conn) owner_close(&many[k], CONN_CLOSE);
}

static void test_aborts_that_close_each_other(void **state) {
  static const struct conn_ops ops = {.on_readable = owner_on_readable, .on_abort = close_a_neighbour};
  unsigned told = 0;
  int fds[5], peers[5];
  for (size_t i = 0; i < 5; i++) {
    many[i] = (struct owner){0};
    nx_tcp(&fds[i], &peers[i]);
    many[i].conn = conn_new(loop, fds[i], &ops, &many[i]);
    assert_non_null(many[i].conn);
  }
  nx_settle(loop);
  for (size_t i = 0; i < 5; i++) {
    uint8_t byte = nx_byte(0);
    nx_send(peers[i], &byte, 1);
    await_bytes(many[i].conn, 1);
    nx_reset(peers[i]);
    await_abort(many[i].conn);
  }
  for (size_t i = 0; i < 5; i++) NX_UNTIL(loop, many[i].got == 1);
  nx_pass(loop, 1100);
  for (size_t i = 0; i < 5; i++) {
    assert_null(many[i].conn);
    assert_int_equal(many[i].closed_in, 0);
    told += many[i].aborts;
  }
  assert_in_range(told, 2, 3);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(reading),
      T(stopping_before_the_end),
      T(partial_writes),
      T(peer_closes_first),
      T(we_close_first),
      T(fin_together_with_bytes),
      T(fin_behind_a_short_read),
      T(abort_of_a_reader),
      T(abort_while_not_reading),
      T(abort_behind_the_peers_fin),
      T(abort_together_with_bytes),
      T(abort_together_with_bytes_half_read),
      T(abort_behind_what_is_read_slowly),
      T(reading_on_to_the_abort),
      T(aborts_that_close_each_other),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
