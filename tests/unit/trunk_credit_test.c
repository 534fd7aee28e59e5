// Credit and windows, memory that runs short, readers and senders that stall.
#include "trunk_fixture.h"

enum { ID = 0x00010000, CREDIT_FIRST = 262144 };

// ---- credit ----

static void test_a_reader_that_stops(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  agent.sides_slow = true;
  near = open_stream(&far);
  side_send(near, 10 * CREDIT_FIRST, false);
  nx_settle(loop);
  assert_int_equal(near->sent, CREDIT_FIRST);
  assert_int_equal(far->got, CREDIT_FIRST);
  assert_false(near->stream->ops->ready(near->stream)); // so that the end asks for aborts itself
  assert_int_equal(atomic_load(&agent.budget.used), CREDIT_FIRST);
  nx_pass(loop, 100); // no fast reader
  side_take(far, CREDIT_FIRST / 4 - 1);
  nx_settle(loop);
  assert_int_equal(near->sent, CREDIT_FIRST);
  side_take(far, 1);
  nx_settle(loop);
  assert_int_equal(near->sent, CREDIT_FIRST + CREDIT_FIRST / 4);
}

// An end needs no credit of its own, but stands behind bytes that do.
static void test_an_end_behind_the_credit(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  agent.sides_slow = true;
  near = open_stream(&far);
  side_send(near, CREDIT_FIRST + 1, true);
  nx_settle(loop);
  assert_int_equal(far->fins, 0);
  side_take(far, CREDIT_FIRST);
  nx_settle(loop);
  assert_int_equal(far->got, CREDIT_FIRST + 1);
  assert_int_equal(far->fins, 1);
}

// The raw peer fills the window in one go, and the reader takes it `us` later.
static uint64_t credit_after(uint64_t us, uint64_t *at, uint64_t window) {
  struct stream_side *e = agent.sides[0];
  raw_data(ID, *at, window, FRAME_PAYLOAD_MAX);
  *at += window;
  nx_settle(loop);
  assert_int_equal(e->held, window);
  nx_advance_us(us);
  // A window is measured from the time when the one before it was through.
  side_take(e, window);
  nx_settle(loop);
  return raw_sum().credit;
}

static void test_windows_grow_for_the_fast(void **state) {
  enum { RTT = 10000 };
  trunk_start_raw(LINK_AGENT, RTT, 0);
  agent.sides_slow = true;
  raw_open(ID);
  nx_settle(loop);
  uint64_t at = 0, window = CREDIT_FIRST;
  assert_int_equal(credit_after(2 * RTT + 1, &at, window), window); // too slow
  assert_int_equal(credit_after(2 * RTT + 1, &at, window), window);
  while (window < WINDOW_MAX) {
    assert_int_equal(credit_after(2 * RTT, &at, window), 2 * window);
    window *= 2;
  }
  assert_int_equal(credit_after(0, &at, window), window); // not beyond 16 MiB
}

static void test_windows_do_not_grow_unmeasured(void **state) {
  struct conn *conns[2];
  trunk_conns(conns, 0);
  raw.conn = conns[1];
  conn_rebind(raw.conn, &raw_ops, &raw);
  link_side_start(&agent, LINK_AGENT, conns[0]);
  agent.sides_slow = true;
  raw_open(ID);
  nx_settle(loop);
  uint64_t at = 0;
  assert_int_equal(credit_after(0, &at, CREDIT_FIRST), CREDIT_FIRST);
}

// ---- memory ----

// Near the bound: no growth, and credit only for those whose readers have taken everything.
static void test_tight_memory(void **state) {
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  atomic_store(&agent.budget.bound, 430 * 1024);
  budget_add(&agent.budget, 70 * 1024); // another link's
  for (uint32_t i = 0; i < 2; i++) raw_open(ID + i);
  raw_data(ID, 0, CREDIT_FIRST, FRAME_PAYLOAD_MAX);
  raw_data(ID + 1, 0, 100 * 1024, FRAME_PAYLOAD_MAX);
  nx_settle(loop);
  assert_true(budget_tight(&agent.budget));
  raw_sum();
  struct stream_side *a = agent.sides[0], *b = agent.sides[1];
  side_take(b, 80 * 1024); // more than a quarter, but not all
  assert_int_equal(raw_sum().credit, 0);
  raw_data(ID + 1, 100 * 1024, 60 * 1024, FRAME_PAYLOAD_MAX);
  nx_settle(loop);
  side_take(b, 80 * 1024); // all
  assert_int_equal(raw_sum().credit, 160 * 1024);
  // With room again, the other's comes back before it has taken all.
  budget_sub(&agent.budget, 70 * 1024);
  side_take(a, CREDIT_FIRST - 1000);
  assert_int_equal(raw_sum().credit, CREDIT_FIRST - 1000);
}

static void test_credit_withheld_comes_back(void **state) {
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  atomic_store(&agent.budget.bound, 300 * 1024);
  raw_open(ID);
  raw_data(ID, 0, CREDIT_FIRST, FRAME_PAYLOAD_MAX);
  nx_settle(loop);
  // Another link of the session has bytes too.
  budget_add(&agent.budget, 40 * 1024);
  side_take(agent.sides[0], 70 * 1024);
  assert_true(budget_tight(&agent.budget) && agent.sides[0]->held);
  assert_int_equal(raw_sum().credit, 0);
  budget_sub(&agent.budget, 40 * 1024);
  atomic_store(&agent.budget.bound, 1024 * 1024);
  nx_pass(loop, 1500);
  assert_int_equal(raw_sum().credit, 70 * 1024);
}

static void test_windows_do_not_grow_in_tight_memory(void **state) {
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  raw_open(ID);
  raw_data(ID, 0, CREDIT_FIRST, FRAME_PAYLOAD_MAX);
  nx_settle(loop);
  atomic_store(&agent.budget.bound, 20 * 1024);
  budget_add(&agent.budget, 18 * 1024);
  side_take(agent.sides[0], CREDIT_FIRST);
  budget_sub(&agent.budget, 18 * 1024);
  assert_int_equal(raw_sum().credit, CREDIT_FIRST);
}

// Over the bound: whose reader has stood still longest is reset, and only as many as it takes.
static void test_relief(void **state) {
  enum { N = 4, EACH = 100 * 1024 };
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  for (uint32_t i = 0; i < N; i++) raw_open(ID + i);
  for (uint32_t i = 0; i < N; i++) {
    raw_data(ID + i, 0, EACH, FRAME_PAYLOAD_MAX);
    nx_settle(loop);
  }
  side_take(agent.sides[0], 1); // it moves
  atomic_store(&agent.budget.bound, 2 * EACH + 1000);
  raw_data(ID + 3, EACH, 500, 500);
  nx_settle(loop);
  assert_int_equal(agent.sides[0]->resets, 0);
  assert_int_equal(agent.sides[1]->resets, 1);
  assert_int_equal(agent.sides[2]->resets, 1);
  assert_int_equal(agent.sides[3]->resets, 0);
  assert_int_equal(agent.sides[1]->reason, STREAM_MEMORY);
  struct raw_sum sum = raw_sum();
  assert_int_equal(sum.frames[FRAME_RESET], 2);
  assert_int_equal(sum.reset_reason, STREAM_MEMORY);
  assert_int_equal(atomic_load(&agent.budget.used), 2 * EACH - 1 + 500);
  // Their bytes that are still under way count as nothing.
  raw_data(ID + 1, EACH, CREDIT_FIRST - EACH, FRAME_PAYLOAD_MAX);
  assert_fine(&agent);
  assert_int_equal(atomic_load(&agent.budget.used), 2 * EACH - 1 + 500);
}

// What others take of the whole is seen within a second, without a byte coming.
static void test_relief_of_what_others_take(void **state) {
  struct budget top;
  trunk_start_raw(LINK_AGENT, 10000, 0);
  budget_init(&top, 1024 * 1024, NULL);
  agent.budget.above = &top;
  agent.sides_slow = true;
  raw_open(ID);
  raw_data(ID, 0, 200 * 1024, FRAME_PAYLOAD_MAX);
  nx_settle(loop);
  budget_add(&top, 900 * 1024);
  nx_pass(loop, 1500);
  assert_int_equal(agent.sides[0]->resets, 1);
  assert_int_equal(agent.sides[0]->reason, STREAM_MEMORY);
  budget_sub(&top, 900 * 1024);
  assert_int_equal(atomic_load(&top.used), 0);
  agent.budget.above = NULL;
}

// ---- stalls ----

static void test_a_stalled_reader(void **state) {
  trunk_settings.stall_s = 5;
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  for (uint32_t i = 0; i < 3; i++) raw_open(ID + i);
  raw_data(ID, 0, 1000, 1000);
  raw_data(ID + 1, 0, 1000, 1000);
  nx_settle(loop);
  nx_pass(loop, 4000);
  side_take(agent.sides[1], 1); // slow, but alive
  nx_pass(loop, 2500);
  assert_int_equal(agent.sides[0]->resets, 1);
  assert_int_equal(agent.sides[0]->reason, STREAM_STALLED);
  assert_int_equal(agent.sides[1]->resets, 0);
  assert_int_equal(agent.sides[2]->resets, 0); // idle is not stalled
  assert_int_equal(raw_sum().reset_reason, STREAM_STALLED);
  nx_pass(loop, 4000);
  assert_int_equal(agent.sides[1]->resets, 1);
  assert_int_equal(agent.sides[2]->resets, 0);
}

// What comes in is no progress of the reader's.
static void test_a_stalled_reader_who_is_still_fed(void **state) {
  trunk_settings.stall_s = 5;
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  raw_open(ID);
  for (uint64_t i = 0; i < 10 && !(agent.nsides && agent.sides[0]->resets); i++) {
    raw_data(ID, i * 100, 100, 100);
    nx_pass(loop, 1000);
  }
  assert_int_equal(agent.sides[0]->resets, 1);
  assert_int_equal(agent.sides[0]->reason, STREAM_STALLED);
  assert_in_range(agent.sides[0]->got, 500, 700);
}

// A peer that gives no credit holds up a sender no longer than that.
static void test_a_stalled_sender(void **state) {
  trunk_settings.stall_s = 5;
  trunk_start_raw(LINK_AGENT, 10000, 0);
  raw_open(ID);
  nx_settle(loop);
  struct stream_side *e = agent.sides[0];
  side_send(e, CREDIT_FIRST + 10, false);
  nx_pass(loop, 4500);
  assert_int_equal(e->sent, CREDIT_FIRST);
  assert_int_equal(e->resets, 0);
  raw_u32(FRAME_CREDIT, ID, 5);
  nx_pass(loop, 4500);
  assert_int_equal(e->resets, 0);
  nx_pass(loop, 2000);
  assert_int_equal(e->resets, 1);
  assert_int_equal(e->reason, STREAM_STALLED);
}

// A reader so slow that a quarter of his window takes longer than the limit makes progress all the same, and the sender
// has to hear of it.
static void test_a_slow_reader_is_not_stalled(void **state) {
  struct stream_side *near, *far;
  trunk_settings.stall_s = 8;
  trunk_start();
  agent.sides_slow = true;
  near = open_stream(&far);
  side_send(near, 10 * CREDIT_FIRST, false);
  for (int i = 0; i < 40; i++) {
    nx_pass(loop, 1000);
    assert_int_equal(near->resets, 0);
    side_take(far, 100);
  }
  assert_true(far->got > CREDIT_FIRST);
  assert_true(far->got <= CREDIT_FIRST + 40 * 100);
}

// … now and then, not with every byte.
static void test_credit_of_a_slow_reader(void **state) {
  trunk_settings.stall_s = 8;
  trunk_start_raw(LINK_AGENT, 10000, 0);
  agent.sides_slow = true;
  raw_open(ID);
  raw_data(ID, 0, 10000, 10000);
  nx_settle(loop);
  raw_sum();
  for (int i = 0; i < 40; i++) {
    nx_pass(loop, 1000);
    side_take(agent.sides[0], 100);
  }
  struct raw_sum sum = raw_sum();
  assert_in_range(sum.frames[FRAME_CREDIT], 5, 10);
  assert_in_range(sum.credit, 3000, 4000);
}

static void test_a_dial_that_is_not_answered(void **state) {
  struct stream_side *slow, *quick, *far;
  trunk_settings.dial_s = 3;
  trunk_start();
  slow = open_stream(&far);
  quick = open_stream(&far);
  side_send(far, 1, false);
  nx_pass(loop, 7500);
  assert_int_equal(slow->resets, 0);
  nx_pass(loop, 2000);
  assert_int_equal(slow->resets, 1);
  assert_int_equal(slow->reason, STREAM_DIAL_TIMEOUT);
  assert_int_equal(quick->resets, 0);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(a_reader_that_stops),
      T(an_end_behind_the_credit),
      T(windows_grow_for_the_fast),
      T(windows_do_not_grow_unmeasured),
      T(tight_memory),
      T(credit_withheld_comes_back),
      T(windows_do_not_grow_in_tight_memory),
      T(relief),
      T(relief_of_what_others_take),
      T(a_stalled_reader),
      T(a_stalled_reader_who_is_still_fed),
      T(a_stalled_sender),
      T(a_slow_reader_is_not_stalled),
      T(credit_of_a_slow_reader),
      T(a_dial_that_is_not_answered),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
