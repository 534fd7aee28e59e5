// Slots and their generations, and the order of frames that it hangs on: a slot's next OPEN behind its last RESET.
#include "trunk_fixture.h"

enum { ID = 0x00010000 };

// ---- slots ----

static void test_slots_come_again_with_new_generations(void **state) {
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  struct stream_side *e[64];
  for (int i = 0; i < 64; i++) e[i] = gateway_open();
  assert_int_equal(raw_sum().last_open, ID + 63);
  // Only the one slot is free, and only once the stream is over on the wire.
  side_abort(e[17], STREAM_ABORTED);
  e[17] = gateway_open();
  assert_int_equal(raw_sum().last_open, 0x00020000 + 17);
  side_send(e[17], 10, true);
  assert_int_equal(raw_sum().data, 10);
  gateway_open(); // no slot of the 64
  assert_int_equal(raw_sum().last_open, ID + 64);
  raw_say(FRAME_FIN, 0, 0x00020000 + 17, NULL, 0);
  nx_settle(loop);
  assert_null(e[17]->stream);
  assert_int_equal(link_streams(gateway.link), 64);
}

// Oldest first, so that a late frame has the longest time.
static void test_slots_come_again_in_turn(void **state) {
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  for (uint32_t i = 0; i < 200; i++) {
    struct stream_side *e = gateway_open();
    uint32_t generation = 1 + i / 64;
    assert_int_equal(raw_sum().last_open, generation << 16 | i % 64);
    side_abort(e, STREAM_ABORTED);
  }
}

static void test_generations_of_a_slot_go_round(void **state) {
  struct stream_side *e[64], *last;
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  for (int i = 0; i < 64; i++) e[i] = gateway_open();
  last = e[63];
  nx_settle(loop);
  for (uint32_t i = 2; i <= 65535 + 3; i++) {
    side_abort(last, STREAM_ABORTED);
    last = gateway_open();
    nx_peek(loop);
    raw.len = raw.off = 0;
  }
  side_abort(last, STREAM_ABORTED);
  last = gateway_open();
  assert_int_equal(raw_sum().last_open, 0x0004003f);
  raw_data(0x0003003f, 0, 10, 10); // of the one before
  raw_data(0x0004003f, 0, 20, 10);
  assert_fine(&gateway);
  assert_int_equal(last->got, 20);
}

static void test_most_streams(void **state) {
  static const struct stream_end end = {.pull = side_pull, .reset = side_reset};
  static struct stream_side one;
  struct frame_open open = {.tunnel = 1};
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  one = (struct stream_side){0};
  for (int i = 0; i < LINK_MAX_STREAMS; i++) {
    struct stream *s = link_open_stream(gateway.link, &open);
    assert_non_null(s);
    s->end = &end;
    s->end_ctx = &one;
    one.stream = s;
    if (i % 4096 == 0) {
      nx_settle(loop);
      raw.len = raw.off = 0;
    }
  }
  assert_null(link_open_stream(gateway.link, &open));
  assert_int_equal(raw_sum().last_open, 0x0001ffff);
  raw_reset(0x00018000, STREAM_ABORTED);
  nx_settle(loop);
  struct stream_side *e = gateway_open();
  assert_int_equal(raw_sum().last_open, 0x00028000);
  assert_null(link_open_stream(gateway.link, &open));
  side_abort(e, STREAM_ABORTED);
  for (struct tstream *s = TAILQ_FIRST(&gateway.link->all); s; s = TAILQ_NEXT(s, all)) s->base.end = NULL;
}

// All slots are taken. In one batch a visitor is found to have aborted and another comes, who gets the slot: the RESET
// has to be out before his OPEN.
static int pull_that_aborts(void *ctx, uint8_t *buf, size_t cap, size_t *n) {
  side_abort(ctx, STREAM_ABORTED);
  return PERR_CLOSED;
}

static void test_a_slot_that_changes_hands_in_one_batch(void **state) {
  static struct stream_end aborting;
  struct stream_side *e[64];
  aborting = stream_side_end;
  aborting.pull = pull_that_aborts;
  trunk_start();
  for (int i = 0; i < 64; i++) e[i] = gateway_open();
  nx_settle(loop);
  assert_int_equal(agent.opens, 64);
  e[5]->stream->end = &aborting;
  side_send(e[5], 1, false);
  struct stream_side *next = gateway_open();
  next->to_send = 100;
  nx_settle(loop);
  assert_fine(&agent);
  assert_fine(&gateway);
  assert_int_equal(agent.opens, 65);
  assert_int_equal(agent.sides[64]->got, 100);
  assert_int_equal(agent.sides[5]->resets, 1);
}

// The same when control messages wait, more than a record takes.
static void test_a_slot_that_changes_hands_behind_controls(void **state) {
  struct stream_side *e[64];
  trunk_start();
  for (int i = 0; i < 64; i++) e[i] = gateway_open();
  nx_settle(loop);
  for (int i = 0; i < 25; i++) send_bulky(gateway.link);
  side_abort(e[5], STREAM_ABORTED);
  struct stream_side *next = gateway_open();
  next->to_send = 100;
  nx_settle(loop);
  assert_fine(&agent);
  assert_int_equal(agent.controls, 25);
  assert_int_equal(agent.sides[64]->got, 100);
}

// An OPENED that waits behind control messages must not come behind the data that say the same.
static void queue_controls(void *ctx) {
  for (int i = 0; i < 25; i++) send_bulky(agent.link);
}

static void send_hundred(void *ctx) {
  side_send(ctx, 100, false);
}

static void test_opened_behind_controls(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  // All in one batch, in this order: control messages, the OPENED, the data.
  struct loop_timer *before = loop_timer_new(loop, queue_controls, NULL),
                    *behind = loop_timer_new(loop, send_hundred, far);
  far->stream->ops->opened(far->stream);
  loop_timer_set(before, LINK_LAZY_MS / 2);
  loop_timer_set(behind, 2 * LINK_LAZY_MS);
  nx_advance(3 * LINK_LAZY_MS);
  nx_settle(loop);
  assert_fine(&gateway);
  assert_int_equal(gateway.controls, 25);
  assert_int_equal(near->opened, 1);
  assert_int_equal(near->got, 100);
  loop_timer_free(before);
  loop_timer_free(behind);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(slots_come_again_with_new_generations),
      T(slots_come_again_in_turn),
      T(generations_of_a_slot_go_round),
      T(most_streams),
      T(a_slot_that_changes_hands_in_one_batch),
      T(a_slot_that_changes_hands_behind_controls),
      T(opened_behind_controls),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
