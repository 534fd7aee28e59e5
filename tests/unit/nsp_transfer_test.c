// A visitor's stream over a reverse connection: bytes both ways, the end of either side, aborts, back-pressure, what
// time does to it, and the client's close from inside every callback.
#include "nsp_fixture.h"
#include "postern/pipe/pump.h"

// A transfer that carries, its message read.
static void begin(struct visitor *v, struct far *f) {
  visitor_come(v);
  far_transfer(f);
  nx_settle(loop);
  assert_int_equal(v->opened, 1);
}

static struct nsp_transfer *transfer(void) {
  struct nsp_transfer *t = TAILQ_FIRST(&owner.client->all);
  assert_non_null(t);
  return t;
}

// ---- bytes ----

static void test_bytes_both_ways(void **state) {
  enum { MUCH = 5 * 1024 * 1024 };
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  visitor_send(&v, MUCH, false);
  nx_await("all bytes");
  while (f.got < MUCH || v.got < MUCH) {
    if (f.sent < MUCH) far_send(&f, MUCH - f.sent < 65536 ? MUCH - f.sent : 65536);
    if (f.got < MUCH) far_read(&f, MUCH - f.got < 65536 ? MUCH - f.got : 65536);
    nx_peek(loop);
  }
  alarm(0);
  assert_int_equal(v.got, MUCH);
  far_quiet(&f);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
}

// The stream is not asked for more than the conn takes; what the conn took in part is kept and goes on.
static void test_slow_client(void **state) {
  static struct visitor v = {.to_send = 1000 * 1000};
  client_start("1.4");
  struct far f = far_pair_of(true);
  visitor_come(&v);
  nx_settle(loop);
  uint64_t sent = v.sent;
  assert_true(sent < 128 * 1024);
  assert_false(visitor_send(&v, 1, false)); // so that the pump asks for aborts
  nx_settle(loop);
  assert_int_equal(v.sent, sent);
  far_transfer(&f);
  while (f.got < v.to_send) far_read(&f, v.to_send - f.got < 1000 ? v.to_send - f.got : 1000);
  assert_int_equal(v.sent, v.to_send);
  assert_int_equal(transfer()->rest.len, 0);
  assert_true(visitor_send(&v, 0, false));
  far_close(&f);
}

static void test_slow_visitor(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_pair();
  begin(&v, &f);
  far_send(&f, 4 * 1024 * 1024);
  nx_settle(loop);
  uint64_t in_kernel = f.sent - v.got;
  assert_true(in_kernel > 0);
  assert_int_equal(v.got, NSP_PIECE);
  assert_int_equal(atomic_load(&budget.used), NSP_PIECE);
  visitor_take(&v, 1);
  nx_settle(loop);
  assert_int_equal(v.got, NSP_PIECE); // the rest of it waits for all of it
  visitor_take(&v, NSP_PIECE - 1);
  nx_settle(loop);
  assert_int_equal(v.got, 2 * NSP_PIECE);
  assert_int_equal(atomic_load(&budget.used), NSP_PIECE);
  v.slow = false;
  visitor_take(&v, v.held);
  NX_UNTIL(loop, v.got == f.sent);
  assert_int_equal(atomic_load(&budget.used), 0);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
}

// More than is moved in one go, and no event comes behind it.
static void test_much_at_once(void **state) {
  static struct visitor v;
  int size = 1024 * 1024;
  client_start("1.4");
  struct far f = far_pair();
  setsockopt(f.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  begin(&v, &f);
  far_send(&f, 4 * 1024 * 1024);
  assert_true(f.sent > NSP_BATCH_CAP);
  NX_UNTIL(loop, v.got == f.sent);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
}

static void test_memory(void **state) {
  static struct visitor slow = {.slow = true}, fast;
  client_start("1.4");
  budget_init(&budget, 10 * 1000, NULL);
  struct far f = far_tcp(), g = far_tcp();
  begin(&fast, &f);
  begin(&slow, &g);
  far_send(&f, 100 * 1000); // above the bound for a moment, but taken
  NX_UNTIL(loop, fast.got == 100 * 1000);
  far_send(&g, 10 * 1000);
  NX_UNTIL(loop, slow.got == 10 * 1000);
  assert_non_null(slow.stream);
  visitor_take(&slow, slow.held);
  far_send(&g, 10 * 1000 + 1);
  NX_UNTIL(loop, slow.resets);
  assert_reset(&slow, STREAM_MEMORY);
  assert_int_equal(atomic_load(&budget.used), 0);
  assert_int_equal(far_end(&g), -ECONNRESET);
  far_close(&f);
  far_close(&g);
}

// ---- the visitor's end ----

static void test_visitor_ends(void **state) {
  static struct visitor v = {.to_send = 100, .end_sends = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  assert_true(v.fin_sent);
  far_read(&f, 100);
  nx_pass(loop, NSP_FIN_MS - 100);
  far_quiet(&f);
  far_send(&f, 10); // it is still answering
  NX_UNTIL(loop, v.got == 10);
  nx_pass(loop, NSP_FIN_MS - 100);
  far_quiet(&f);
  for (uint64_t s = 0; s < STALL_S + 2; s++) { // for as long as it likes
    far_send(&f, 10);
    NX_UNTIL(loop, v.got == f.sent);
    nx_pass(loop, 1000);
  }
  far_quiet(&f);
  nx_pass(loop, NSP_FIN_MS);
  assert_int_equal(far_end(&f), 0);
  far_send(&f, 10); // and may go on
  NX_UNTIL(loop, v.got == f.sent);
  far_close(&f);
  NX_UNTIL(loop, v.releases);
  assert_int_equal(v.resets, 0);
}

static void test_visitor_ends_while_bytes_wait(void **state) {
  static struct visitor slow = {.slow = true, .end_sends = true}, v = {.to_send = 30 * 1000, .end_sends = true};
  client_start("1.4");
  struct far f = far_tcp(), g = far_pair();
  begin(&slow, &f);
  far_send(&f, 1000);
  NX_UNTIL(loop, slow.held == 1000);
  nx_pass(loop, 2 * NSP_FIN_MS);
  far_quiet(&f); // the visitor has yet to hear what the client said
  visitor_take(&slow, 1000);
  visitor_come(&v);
  nx_settle(loop);
  nx_pass(loop, 2 * NSP_FIN_MS);
  assert_int_equal(far_end(&f), 0);
  assert_true(v.fin_sent);
  nx_pass(loop, 2 * NSP_FIN_MS);
  far_transfer(&g);
  far_read(&g, 30 * 1000);
  far_quiet(&g); // the client has yet to hear what the visitor said
  nx_pass(loop, NSP_FIN_MS + 2 * NSP_TICK_BUSY_MS);
  assert_int_equal(far_end(&g), 0);
  far_close(&f);
  far_close(&g);
  NX_UNTIL(loop, slow.releases && v.releases);
}

static void test_visitor_aborts(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 1000);
  NX_UNTIL(loop, v.held);
  visitor_abort(&v);
  assert_int_equal(far_end(&f), -ECONNRESET);
  assert_int_equal(atomic_load(&budget.used), 0);
  assert_false(owner.linked);
  far_close(&f);
}

// ---- the client's end ----

static void test_client_ends(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 50 * 1000);
  assert_int_equal(shutdown(f.fd, SHUT_WR), 0);
  nx_settle(loop);
  assert_int_equal(v.fins, 0); // behind everything
  assert_true(owner.linked);
  while (v.got < 50 * 1000 || v.held) {
    if (v.held) visitor_take(&v, v.held);
    nx_peek(loop);
  }
  NX_UNTIL(loop, v.fins == 1);
  assert_false(owner.linked);    // it has ended it
  visitor_send(&v, 1000, false); // a client that half-closes hears him out
  far_read(&f, 1000);
  nx_pass(loop, 2 * NSP_DISCARD_MS);
  assert_non_null(v.stream);
  visitor_send(&v, 2000, true);
  NX_UNTIL(loop, v.releases);
  far_read(&f, 2000);
  assert_int_equal(far_end(&f), 0);
  far_close(&f);
}

// As the stock client ends: both ways at once.
static void test_what_a_closed_client_would_get_is_dropped(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 1000);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
  visitor_send(&v, 1000, false); // its kernel refuses this
  NX_UNTIL(loop, transfer()->state == TRANSFER_DISCARDING || (visitor_send(&v, 1, false), false));
  assert_null(transfer()->conn);
  uint64_t sent = v.sent;
  assert_true(visitor_send(&v, 1000 * 1000, false));
  NX_UNTIL(loop, v.sent == sent + 1000 * 1000);
  nx_pass(loop, NSP_DISCARD_MS / 2);
  visitor_send(&v, 10, true);
  NX_UNTIL(loop, v.releases);
  assert_int_equal(v.resets, 0);
}

static void test_nobody_sends_for_ever_to_a_closed_client(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
  nx_pass(loop, 2 * NSP_DISCARD_MS); // who sends nothing may take his time
  NX_UNTIL(loop, transfer()->state == TRANSFER_DISCARDING || (visitor_send(&v, 1, false), false));
  nx_pass(loop, NSP_DISCARD_MS - NSP_TICK_BUSY_MS);
  visitor_send(&v, 1, false);
  assert_non_null(v.stream);
  nx_pass(loop, 2 * NSP_TICK_BUSY_MS);
  assert_reset(&v, STREAM_ABORTED);
}

// Nothing was written to it that could tell.
static void test_client_aborts_behind_its_end(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  assert_int_equal(shutdown(f.fd, SHUT_WR), 0);
  NX_UNTIL(loop, v.fins);
  far_abort(&f);
  NX_UNTIL(loop, transfer()->state == TRANSFER_DISCARDING);
  visitor_send(&v, 1000, true);
  NX_UNTIL(loop, v.releases);
}

// The visitor is slow, so the client's end is still in the kernel when the abort behind it makes a write fail.
static void test_closed_client_is_heard_out(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 40 * 1000);
  NX_UNTIL(loop, v.held);
  far_close(&f);
  NX_UNTIL(loop, transfer()->broken || (visitor_send(&v, 1, false), false));
  assert_int_equal(transfer()->broken, PERR_EOF);
  assert_false(visitor_send(&v, 100, true)); // asked for once he has heard everything
  while (v.got < 40 * 1000 || v.held) {
    if (v.held) visitor_take(&v, v.held);
    nx_peek(loop);
  }
  NX_UNTIL(loop, v.fins == 1);
  NX_UNTIL(loop, v.releases);
  assert_int_equal(v.sent, v.to_send);
}

static void test_client_aborts(void **state) {
  static struct visitor v, slow = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp(), g = far_tcp();
  begin(&v, &f);
  begin(&slow, &g);
  far_send(&f, 1000);
  far_abort(&f);
  nx_settle(loop);
  nx_pass(loop, 1100); // an abort that comes along with bytes is asked for once a second
  assert_reset(&v, STREAM_ABORTED);
  assert_int_equal(v.got, 1000);
  assert_int_equal(v.fins, 0);
  far_send(&g, 40 * 1000);
  NX_UNTIL(loop, slow.held);
  nx_settle(loop);
  far_abort(&g);
  nx_settle(loop);
  nx_pass(loop, 3000);
  assert_non_null(slow.stream);
  nx_await("the rest");
  while (slow.stream) {
    if (slow.held) visitor_take(&slow, slow.held);
    nx_peek(loop);
  }
  alarm(0);
  assert_reset(&slow, STREAM_ABORTED);
  assert_int_equal(slow.got, 40 * 1000);
  assert_int_equal(slow.fins, 0);
}

// Nothing is read from a visitor whose client has aborted; a write tells as well as a read.
static void test_client_aborts_under_a_write(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 3 * NSP_PIECE);
  NX_UNTIL(loop, v.held);
  nx_settle(loop);
  far_abort(&f);
  NX_UNTIL(loop, transfer()->broken || (visitor_send(&v, 1, false), false));
  assert_int_equal(transfer()->broken, PERR_RESET);
  assert_false(visitor_send(&v, 1, false));
  nx_await("the rest");
  while (v.stream) {
    if (v.held) visitor_take(&v, v.held);
    nx_peek(loop);
  }
  alarm(0);
  assert_reset(&v, STREAM_ABORTED);
  assert_int_equal(v.got, 3 * NSP_PIECE);
}

// ---- time ----

static void test_stalled(void **state) {
  static struct visitor v = {.slow = true}, w = {.to_send = 1000 * 1000}, crawls = {.to_send = 1000 * 1000};
  static struct visitor ended = {.to_send = 1000, .end_sends = true};
  client_start("1.4");
  struct far f = far_tcp(), g = far_pair_of(true), h = far_pair_of(true), k = far_pair();
  begin(&v, &f);
  visitor_come(&w);
  visitor_come(&crawls);
  visitor_come(&ended);
  far_transfer(&h);
  far_send(&f, 1000);
  NX_UNTIL(loop, v.held);
  for (int s = 0; s < STALL_S - 2; s += 2) {
    far_read(&h, 500);
    nsp_client_heartbeat(owner.client);
    nx_pass(loop, 2000);
  }
  assert_non_null(v.stream);
  assert_non_null(w.stream);
  for (int s = 0; s < 4; s += 2) {
    far_read(&h, 500);
    nx_pass(loop, 2000);
  }
  assert_reset(&v, STREAM_STALLED);
  assert_reset(&w, STREAM_STALLED);
  assert_reset(&ended, STREAM_STALLED); // the kernel took it all, the client nothing
  assert_non_null(crawls.stream);
  nx_settle(loop);
  assert_int_equal(far_end(&f), -ECONNRESET);
  far_close(&f);
  far_close(&g);
  far_close(&h);
  far_close(&k);
}

// Silence alone is no stall.
static void test_idle_transfer_lives(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  for (int i = 0; i < 4; i++) {
    nsp_client_heartbeat(owner.client);
    nx_pass(loop, STALL_S * 1000);
  }
  visitor_send(&v, 10, false);
  far_read(&f, 10);
  far_close(&f);
}

static void test_disconnect(void **state) {
  static struct visitor v, other;
  client_start("1.4");
  struct far f = far_tcp(), g = far_tcp();
  begin(&v, &f);
  begin(&other, &g);
  nsp_client_disconnect(owner.client, (const uint8_t *)"\1\2\3\4"); // nobody's
  nsp_client_disconnect(owner.client, f.id);
  nx_pass(loop, NSP_CHECK_MS / 2);
  far_send(&f, 1000); // was on its way
  NX_UNTIL(loop, v.got == 1000);
  nx_pass(loop, NSP_CHECK_MS - 200);
  assert_non_null(v.stream);
  nx_pass(loop, NSP_TICK_BUSY_MS + 200);
  assert_reset(&v, STREAM_ABORTED);
  assert_int_equal(far_end(&f), -ECONNRESET);
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_non_null(other.stream);
  far_close(&f);
  far_close(&g);
}

// As the stock client does it: the visitor gets everything and an orderly end, however slow he is.
static void test_disconnect_behind_the_end(void **state) {
  static struct visitor v = {.slow = true};
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_send(&f, 50 * 1000);
  far_close(&f);
  nsp_client_disconnect(owner.client, f.id);
  while (v.got < 50 * 1000 || v.held) {
    nx_pass(loop, 2 * NSP_CHECK_MS);
    if (v.held) visitor_take(&v, v.held);
  }
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_int_equal(v.fins, 1);
  nsp_client_disconnect(owner.client, f.id); // again
  nx_pass(loop, 2 * NSP_DISCARD_MS);
  assert_non_null(v.stream);
  visitor_send(&v, 10, true);
  NX_UNTIL(loop, v.releases);
}

static void test_disconnect_of_an_ended_one(void **state) {
  static struct visitor v;
  client_start("1.4");
  struct far f = far_tcp();
  begin(&v, &f);
  far_close(&f);
  NX_UNTIL(loop, v.fins);
  assert_non_null(transfer()->conn);
  nsp_client_disconnect(owner.client, f.id);
  assert_null(transfer()->conn);
  nx_pass(loop, 2 * NSP_DISCARD_MS);
  visitor_send(&v, 10, true);
  NX_UNTIL(loop, v.releases);
}

// ---- from inside a callback ----

static void close_in(enum visitor_call call) {
  struct visitor v = {.closes = call}, carries = {0}, waits = {0};
  client_start("1.4");
  struct far f = far_tcp(), g = far_tcp();
  visitor_come(&v);
  visitor_come(&carries);
  visitor_come(&waits);
  nx_settle(loop);
  if (call == CALL_RESET) nsp_client_disconnect(owner.client, transfer()->id);
  if (call == CALL_FIN_SENT) visitor_send(&v, 1000, true);
  if (call == CALL_PUSH) far_send(&f, 100 * 1000);
  if (call == CALL_FIN) assert_int_equal(shutdown(f.fd, SHUT_WR), 0);
  nx_settle(loop);
  nx_pass(loop, 2 * NSP_CHECK_MS);
  assert_null(owner.client);
  assert_int_equal(v.resets, 1);
  assert_reset(&carries, STREAM_SESSION_ENDED);
  assert_reset(&waits, STREAM_SESSION_ENDED);
  far_close(&f);
  far_close(&g);
  nx_settle(loop);
  assert_int_equal(atomic_load(&budget.used), 0);
}

static void test_close_in_callbacks(void **state) {
  for (enum visitor_call call = CALL_PULL; call <= CALL_RESET; call++) close_in(call);
}

// ---- with a real pump ----

static struct {
  struct pump pump;
  unsigned opened, ends;
  enum stream_reason reason;
  bool local;
} pumped;

static void on_pump_end(struct pump *p, enum stream_reason reason, bool local) {
  pumped.ends++;
  pumped.reason = reason;
  pumped.local = local;
}

static void on_pump_opened(struct pump *p) {
  pumped.opened++;
}

static const struct pump_ops pump_ops = {.on_end = on_pump_end, .on_opened = on_pump_opened};

// The visitor's own socket.
static int pump_visitor(void) {
  int ours, theirs;
  memset(&pumped, 0, sizeof pumped);
  nx_tcp(&ours, &theirs);
  nx_nonblock(theirs);
  struct conn *c = conn_new(loop, ours, &pump_conn_ops, &pumped.pump);
  struct stream *s = nsp_client_open_stream(owner.client, APP);
  assert_non_null(c);
  assert_non_null(s);
  pump_start(&pumped.pump, loop, s, c, &pump_ops, NULL);
  return theirs;
}

static void test_pump(void **state) {
  client_start("1.4");
  struct far f = far_tcp(), visitor = {.fd = pump_visitor()};
  far_transfer(&f);
  assert_int_equal(pumped.opened, 1);
  far_send(&visitor, 100 * 1000);
  far_read(&f, 100 * 1000);
  far_send(&f, 100 * 1000);
  far_read(&visitor, 100 * 1000);
  far_close(&f);
  assert_int_equal(far_end(&visitor), 0);
  far_close(&visitor);
  NX_UNTIL(loop, pumped.ends);
  assert_int_equal(pumped.reason, STREAM_OK);
}

static void test_pumped_visitor_aborts_while_waiting(void **state) {
  client_start("1.4");
  struct far visitor = {.fd = pump_visitor()};
  nx_settle(loop);
  far_abort(&visitor);
  NX_UNTIL(loop, pumped.ends);
  assert_true(pumped.local);
  struct far f = far_tcp();
  far_quiet(&f);
  visitor.fd = pump_visitor();
  far_transfer(&f);
  client_close(STREAM_SESSION_ENDED, false);
  assert_int_equal(pumped.reason, STREAM_SESSION_ENDED);
  far_close(&visitor);
  far_close(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      nsp_test(test_bytes_both_ways),
      nsp_test(test_slow_client),
      nsp_test(test_slow_visitor),
      nsp_test(test_much_at_once),
      nsp_test(test_memory),
      nsp_test(test_visitor_ends),
      nsp_test(test_visitor_ends_while_bytes_wait),
      nsp_test(test_visitor_aborts),
      nsp_test(test_client_ends),
      nsp_test(test_what_a_closed_client_would_get_is_dropped),
      nsp_test(test_nobody_sends_for_ever_to_a_closed_client),
      nsp_test(test_client_aborts_behind_its_end),
      nsp_test(test_closed_client_is_heard_out),
      nsp_test(test_client_aborts),
      nsp_test(test_client_aborts_under_a_write),
      nsp_test(test_stalled),
      nsp_test(test_idle_transfer_lives),
      nsp_test(test_disconnect),
      nsp_test(test_disconnect_behind_the_end),
      nsp_test(test_disconnect_of_an_ended_one),
      nsp_test(test_close_in_callbacks),
      nsp_test(test_pump),
      nsp_test(test_pumped_visitor_aborts_while_waiting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
