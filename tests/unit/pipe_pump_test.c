// The pump between a stream and a real socket: half-close in both orders, resets from both sides, dialling, and the
// account of what was pushed and taken. The stream is a script that watches the rules of pipe/stream.h.
#include "net_fixture.h"
#include "postern/pipe/pump.h"
#include <poll.h>

static struct loop *loop;
static int peer;
static uint64_t drained; // read there

// The protocol's side. After a reset or a release nothing may come any more.
static struct {
  struct stream stream;
  bool over;
  bool credit; // what `ready` answers
  bool asked;  // it was called since
  unsigned opened, resets, releases;
  enum stream_reason reset_reason;
  uint64_t pushed, took, pulled;
  bool fin_sent;
} script;

// The owner's side.
static struct {
  struct pump pump;
  unsigned opened, ends;
  enum stream_reason reason;
  bool local;
} end;

static bool script_ready(struct stream *s) {
  assert_false(script.over);
  script.asked = true;
  return script.credit;
}

static void script_took(struct stream *s, size_t n) {
  assert_false(script.over);
  assert_true(n > 0);
  script.took += n;
  assert_true(script.took <= script.pushed);
}

static void script_opened(struct stream *s) {
  assert_false(script.over);
  script.opened++;
}

static void script_reset(struct stream *s, enum stream_reason r) {
  assert_false(script.over);
  script.over = true;
  script.resets++;
  script.reset_reason = r;
}

static void script_release(struct stream *s) {
  assert_false(script.over);
  assert_int_equal(script.took, script.pushed);
  script.over = true;
  script.releases++;
}

static const struct stream_ops script_ops = {.ready = script_ready,
                                             .took = script_took,
                                             .opened = script_opened,
                                             .reset = script_reset,
                                             .release = script_release};

static void on_end(struct pump *p, enum stream_reason reason, bool local) {
  end.ends++;
  end.reason = reason;
  end.local = local;
  assert_null(p->conn);
  assert_null(p->stream);
}

static void on_opened(struct pump *p) {
  end.opened++;
}

static const struct pump_ops pump_ops = {.on_end = on_end, .on_opened = on_opened};

static int set_up(void **state) {
  memset(&script, 0, sizeof script);
  memset(&end, 0, sizeof end);
  script.stream.ops = &script_ops;
  script.credit = true;
  peer = -1;
  drained = 0;
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static int tear_down(void **state) {
  if (end.pump.stream) pump_abort(&end.pump, STREAM_SESSION_ENDED);
  if (peer >= 0) close(peer);
  nx_settle(loop);
  loop_free(loop);
  return 0;
}

static void start_on(int fd, const struct pump_totals *totals) {
  struct conn *c = conn_new(loop, fd, &pump_conn_ops, &end.pump);
  assert_non_null(c);
  pump_start(&end.pump, loop, &script.stream, c, &pump_ops, totals);
}

static void start(void) {
  int fd;
  nx_tcp(&fd, &peer);
  start_on(fd, NULL);
}

static void push(size_t n) {
  static uint8_t buf[64 * 1024];
  assert_true(n <= sizeof buf);
  nx_fill(buf, n, script.pushed);
  script.pushed += n;
  script.stream.end->push(script.stream.end_ctx, buf, n);
}

static void push_fin(void) {
  script.stream.end->fin(script.stream.end_ctx);
}

// As a link pulls: until it is told that there is nothing now, or nothing any more. `most` bytes at a time.
static int pull(size_t most) {
  static uint8_t buf[16 * 1024];
  for (;;) {
    size_t n = 0;
    int code = script.stream.end->pull(script.stream.end_ctx, buf, most, &n);
    if (code == PERR_EOF) {
      script.fin_sent = true;
      script.stream.end->fin_sent(script.stream.end_ctx);
    }
    if (code) return code;
    nx_check(buf, n, script.pulled);
    script.pulled += n;
  }
}

static void send_pattern(uint64_t at, size_t n) {
  uint8_t buf[16 * 1024];
  assert_true(n <= sizeof buf);
  nx_fill(buf, n, at);
  nx_send(peer, buf, n);
}

// Reads at the peer up to byte `upto` of the pattern; the loop goes on meanwhile.
static void drain_peer(uint64_t upto) {
  static uint8_t buf[64 * 1024];
  nx_await("the peer's bytes");
  while (drained < upto) {
    ssize_t r = recv(peer, buf, upto - drained < sizeof buf ? upto - drained : sizeof buf, MSG_DONTWAIT);
    if (r < 0 && errno == EAGAIN) {
      nx_peek(loop);
      continue;
    }
    assert_true(r > 0);
    nx_check(buf, (size_t)r, drained);
    drained += (uint64_t)r;
  }
  alarm(0);
}

static int peer_end(void) {
  uint8_t byte;
  ssize_t r;
  nx_await("the peer's end");
  while ((r = recv(peer, &byte, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
    nx_peek(loop);
  alarm(0);
  return r < 0 ? -errno : (int)r;
}

// Pulls whenever the pump says that there may be something, until the pull says `code`.
static void pull_until(int code) {
  int last;
  nx_await("the end of the bytes");
  while ((last = pull(4096)) == PERR_AGAIN && code != PERR_AGAIN) {
    script.asked = false;
    while (!script.asked && !script.over) nx_step(loop);
    if (script.over) break;
  }
  alarm(0);
  assert_int_equal(last, code);
}

static void assert_reset(enum stream_reason reason, bool local) {
  assert_int_equal(end.ends, 1);
  assert_int_equal(end.reason, reason);
  assert_int_equal(end.local, local);
  assert_int_equal(script.releases, 0);
  assert_int_equal(script.resets, local);
  if (local) assert_int_equal(script.reset_reason, reason);
}

static void assert_closed(void) {
  assert_int_equal(end.ends, 1);
  assert_int_equal(end.reason, STREAM_OK);
  assert_int_equal(script.releases, 1);
  assert_int_equal(script.resets, 0);
  assert_int_equal(script.took, script.pushed);
}

// ---- bytes ----

static void test_to_the_conn(void **state) {
  start();
  push(1000);
  push(1);
  assert_int_equal(script.took, 1001); // the kernel has them
  drain_peer(1001);
  assert_int_equal(end.pump.pushed, 1001);
}

static void test_from_the_conn(void **state) {
  start();
  nx_settle(loop);
  script.asked = false;
  send_pattern(0, 10000);
  NX_UNTIL(loop, script.asked);
  pull_until(PERR_AGAIN);
  NX_UNTIL(loop, script.pulled == 10000 || pull(100) != PERR_AGAIN);
  assert_int_equal(end.pump.pulled, 10000);
}

static void test_totals(void **state) {
  int fds[2];
  _Atomic uint64_t pulled = 1, pushed = 2;
  struct pump_totals totals = {&pulled, &pushed};
  nx_pair(fds);
  peer = fds[1];
  start_on(fds[0], &totals);
  push(100);
  send_pattern(0, 50);
  assert_int_equal(pull(1000), PERR_AGAIN);
  assert_int_equal(atomic_load(&pulled), 51);
  assert_int_equal(atomic_load(&pushed), 102);
}

// Nothing counts as taken before the kernel has it, and then all of it does.
static void test_slow_reader(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[0], SO_SNDBUF);
  peer = fds[1];
  start_on(fds[0], NULL);
  for (int i = 0; i < 16; i++) push(i % 2 ? 64 * 1024 : 1000);
  assert_true(script.took < script.pushed);
  assert_int_equal(end.pump.pending.len, script.pushed - script.took);
  uint64_t before = script.took;
  nx_settle(loop);
  assert_int_equal(script.took, before);
  drain_peer(script.pushed / 2);
  assert_true(script.took > before && script.took < script.pushed);
  assert_int_equal(end.pump.pending.len, script.pushed - script.took);
  push(5000); // behind the others
  drain_peer(script.pushed);
  assert_int_equal(script.took, script.pushed);
  assert_int_equal(end.pump.pushed, script.pushed);
  assert_int_equal(end.pump.pending.len, 0);
}

// ---- half-close ----

static void test_conn_ends_first(void **state) {
  start();
  send_pattern(0, 3000);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  assert_int_equal(script.pulled, 3000);
  assert_int_equal(end.ends, 0);
  assert_int_equal(pull(100), PERR_AGAIN); // the end is told once
  push(20000);
  drain_peer(20000);
  push_fin();
  assert_closed();
  assert_int_equal(peer_end(), 0);
}

static void test_stream_ends_first(void **state) {
  start();
  push(2000);
  push_fin();
  drain_peer(2000);
  assert_int_equal(peer_end(), 0);
  assert_int_equal(end.ends, 0);
  send_pattern(0, 3000);
  NX_UNTIL(loop, pull(4096) == PERR_AGAIN && script.pulled == 3000);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  assert_closed();
}

// The stream's end waits behind bytes that the conn has not taken.
static void test_fin_behind_pending_bytes(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[0], SO_SNDBUF);
  peer = fds[1];
  start_on(fds[0], NULL);
  for (int i = 0; i < 8; i++) push(64 * 1024);
  push_fin();
  assert_false(end.pump.fin_sent);
  drain_peer(script.pushed);
  assert_int_equal(peer_end(), 0);
  assert_int_equal(end.ends, 0);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  assert_closed();
}

// The same, the conn's end being through: what the peer gets is a FIN behind the last byte.
static void test_fin_behind_pending_bytes_as_the_last(void **state) {
  int fd;
  nx_tcp(&fd, &peer);
  nx_small(fd, SO_SNDBUF);
  start_on(fd, NULL);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  for (int i = 0; i < 40; i++) push(64 * 1024);
  push_fin();
  assert_int_equal(end.ends, 0);
  drain_peer(script.pushed);
  assert_int_equal(peer_end(), 0);
  assert_closed();
}

// ---- resets ----

static void test_reset_by_the_stream(void **state) {
  start();
  push(100);
  script.over = true;
  script.stream.end->reset(script.stream.end_ctx, STREAM_MEMORY);
  assert_reset(STREAM_MEMORY, false);
  drain_peer(100);
  assert_int_equal(peer_end(), -ECONNRESET);
  pump_abort(&end.pump, STREAM_LIMIT);
  assert_int_equal(end.ends, 1);
}

static void test_reset_by_the_stream_with_bytes_waiting(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[0], SO_SNDBUF);
  peer = fds[1];
  start_on(fds[0], NULL);
  push(64 * 1024);
  script.over = true;
  script.stream.end->reset(script.stream.end_ctx, STREAM_LINK_LOST);
  assert_reset(STREAM_LINK_LOST, false);
  assert_int_equal(end.pump.pending.len, 0);
  nx_settle(loop);
}

static void reset_peer(void) {
  nx_reset(peer);
  peer = -1;
}

static void test_abort_of_a_conn_that_is_read(void **state) {
  start();
  nx_settle(loop);
  send_pattern(0, 100);
  NX_UNTIL(loop, pull(4096) == PERR_AGAIN && script.pulled == 100);
  script.asked = false;
  reset_peer();
  NX_UNTIL(loop, script.asked || script.over);
  if (!script.over) assert_int_equal(pull(4096), PERR_CLOSED);
  assert_reset(STREAM_ABORTED, true);
}

// Without credit nobody reads, and still the abort is told.
static void test_abort_of_a_conn_that_is_not_read(void **state) {
  start();
  script.credit = false;
  send_pattern(0, 100);
  nx_settle(loop);
  assert_int_equal(end.ends, 0);
  reset_peer();
  NX_UNTIL(loop, end.ends);
  assert_reset(STREAM_ABORTED, true);
  assert_int_equal(script.pulled, 0);
}

static void test_abort_behind_the_conns_end(void **state) {
  start();
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  reset_peer();
  NX_UNTIL(loop, end.ends);
  assert_reset(STREAM_ABORTED, true);
}

static void test_abort_found_in_a_push(void **state) {
  start();
  nx_settle(loop);
  reset_peer();
  nx_await("a push to fail");
  while (!script.over) push(1000); // with no event in between
  alarm(0);
  assert_reset(STREAM_ABORTED, true);
}

static void test_abort_with_bytes_waiting(void **state) {
  int fd;
  nx_tcp(&fd, &peer);
  nx_small(fd, SO_SNDBUF);
  start_on(fd, NULL);
  while (end.pump.pending.len == 0) push(64 * 1024);
  push_fin();
  reset_peer();
  NX_UNTIL(loop, end.ends);
  assert_reset(STREAM_ABORTED, true);
  assert_true(script.took < script.pushed);
}

static void test_abort_by_the_owner(void **state) {
  start();
  pump_abort(&end.pump, STREAM_NO_TUNNEL);
  assert_reset(STREAM_NO_TUNNEL, true);
  assert_int_equal(peer_end(), -ECONNRESET);
  pump_abort(&end.pump, STREAM_NO_TUNNEL);
  nx_settle(loop);
  assert_int_equal(end.ends, 1);
}

// ---- dialling ----

static int target; // listens

static void start_dial(void) {
  target = nx_listen();
  struct addr a = nx_local(target);
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
}

static void accept_dial(void) {
  peer = accept(target, NULL, NULL);
  assert_true(peer >= 0);
  close(target);
}

static void test_dial(void **state) {
  start_dial();
  assert_int_equal(pull(100), PERR_AGAIN);
  NX_UNTIL(loop, end.opened);
  assert_int_equal(script.opened, 1);
  accept_dial();
  push(100);
  drain_peer(100);
  send_pattern(0, 200);
  NX_UNTIL(loop, pull(4096) == PERR_AGAIN && script.pulled == 200);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  push_fin();
  assert_closed();
  assert_int_equal(end.opened, 1);
  assert_int_equal(script.opened, 1);
}

// Everything that the visitor had to say is there before the target is.
static void test_dial_with_all_said(void **state) {
  start_dial();
  push(3000);
  push(50000);
  push_fin();
  NX_UNTIL(loop, end.opened);
  accept_dial();
  drain_peer(script.pushed);
  assert_int_equal(peer_end(), 0);
  assert_int_equal(script.opened, 1);
  send_pattern(0, 10);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  assert_int_equal(script.pulled, 10);
  assert_closed();
}

// An end that comes before the connection, alone.
static void test_dial_with_an_early_end(void **state) {
  struct nx_slow_target t = nx_slow_target();
  struct addr a = nx_local(t.fd);
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
  push_fin();
  nx_settle(loop);
  assert_int_equal(end.opened, 0);
  nx_answer(&t);
  NX_UNTIL(loop, end.opened);
  struct addr mine = nx_local(conn_fd(end.pump.conn));
  peer = nx_accept_from(&t, &mine);
  assert_int_equal(peer_end(), 0);
  send_pattern(0, 10);
  shutdown(peer, SHUT_WR);
  pull_until(PERR_EOF);
  assert_closed();
}

// Bytes before the connection, and more when it is there and nobody has told us yet.
static void test_dial_keeps_the_order(void **state) {
  struct nx_slow_target t = nx_slow_target();
  struct addr a = nx_local(t.fd);
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
  push(1000);
  assert_int_equal(script.took, 0);
  nx_answer(&t);
  struct pollfd p = {.fd = conn_fd(end.pump.conn), .events = POLLOUT};
  nx_await("the connection");
  assert_int_equal(poll(&p, 1, -1), 1);
  alarm(0);
  push(1000);
  push_fin();
  NX_UNTIL(loop, script.took == 2000);
  struct addr mine = nx_local(conn_fd(end.pump.conn));
  peer = nx_accept_from(&t, &mine);
  drain_peer(2000);
  assert_int_equal(peer_end(), 0);
}

static struct addr closed_port(void) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  close(l);
  return a;
}

static void test_dial_refused(void **state) {
  struct addr a = closed_port();
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
  NX_UNTIL(loop, end.ends);
  assert_reset(STREAM_REFUSED, true);
  assert_int_equal(end.opened + script.opened, 0);
}

// The refusal is found by a push, before the event.
static void test_dial_refused_with_early_bytes(void **state) {
  struct addr a = closed_port();
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
  push(100);
  if (!script.over) push(100);
  NX_UNTIL(loop, end.ends);
  nx_settle(loop);
  assert_reset(STREAM_REFUSED, true);
}

static void test_dial_unreachable(void **state) {
  struct addr a = nx_addr("255.255.255.255", 9);
  pump_dial(&end.pump, loop, &script.stream, &a, &pump_ops);
  assert_reset(STREAM_UNREACHABLE, true);
}

static void test_reset_while_dialling(void **state) {
  start_dial();
  push(10);
  if (!script.opened) {
    script.over = true;
    script.stream.end->reset(script.stream.end_ctx, STREAM_ABORTED);
    assert_reset(STREAM_ABORTED, false);
  }
  nx_settle(loop);
  close(target);
}

static void test_opened_by_the_far_side(void **state) {
  start();
  script.stream.end->opened(script.stream.end_ctx);
  assert_int_equal(end.opened, 1);
}

static void test_words(void **state) {
  assert_string_equal(stream_reason_str(STREAM_OK), "closed");
  for (int r = 0; r < STREAM_REASONS; r++) assert_true(strlen(stream_reason_str((enum stream_reason)r)) > 3);
  assert_string_equal(stream_reason_str((enum stream_reason)200), "aborted");
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(to_the_conn),
      T(from_the_conn),
      T(totals),
      T(slow_reader),
      T(conn_ends_first),
      T(stream_ends_first),
      T(fin_behind_pending_bytes),
      T(fin_behind_pending_bytes_as_the_last),
      T(reset_by_the_stream),
      T(reset_by_the_stream_with_bytes_waiting),
      T(abort_of_a_conn_that_is_read),
      T(abort_of_a_conn_that_is_not_read),
      T(abort_behind_the_conns_end),
      T(abort_found_in_a_push),
      T(abort_with_bytes_waiting),
      T(abort_by_the_owner),
      T(dial),
      T(dial_with_all_said),
      T(dial_with_an_early_end),
      T(dial_keeps_the_order),
      T(dial_refused),
      T(dial_refused_with_early_bytes),
      T(dial_unreachable),
      T(reset_while_dialling),
      T(opened_by_the_far_side),
      T(words),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
