// A gateway's and an agent's link at work: streams and their ends, draining, liveness, congestion, close. Where only
// one side is looked at, the other is a peer of raw frames.
#include "trunk_fixture.h"

enum { ID = 0x00010000, CREDIT_FIRST = 262144 };

// ---- streams ----

static void test_bytes_both_ways(void **state) {
  struct stream_side *near, *far;
  char text[ADDR_TEXT];
  trunk_start();
  agent.sides_opened = true;
  near = open_stream(&far);
  assert_int_equal(agent.opens, 1);
  assert_int_equal(agent.open.tunnel, 7);
  assert_string_equal(addr_format(&agent.open.visitor, text), "192.0.2.9:4711");
  assert_int_equal(near->opened, 0);
  side_send(near, 3 * 1024 * 1024, false);
  side_send(far, 2 * 1024 * 1024, false);
  NX_UNTIL(loop, far->got == near->to_send && near->got == far->to_send);
  assert_int_equal(near->opened, 1);
  side_send(near, 1000, true);
  nx_settle(loop);
  assert_int_equal(far->fins, 1);
  side_send(far, 5000, false); // half-closed, the other half goes on
  nx_settle(loop);
  assert_int_equal(near->got, far->to_send);
  assert_non_null(near->stream);
  side_send(far, 0, true);
  nx_settle(loop);
  assert_null(near->stream);
  assert_null(far->stream);
  assert_int_equal(near->resets + far->resets, 0);
  assert_int_equal(link_streams(gateway.link), 0);
  assert_int_equal(link_streams(agent.link), 0);
}

static void test_agent_ends_first(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  side_send(far, 100, true);
  nx_settle(loop);
  assert_int_equal(near->got, 100);
  assert_int_equal(near->fins, 1);
  assert_int_equal(near->opened, 1); // data says it
  side_send(near, 200, true);
  nx_settle(loop);
  assert_int_equal(far->got, 200);
  assert_null(near->stream);
  assert_null(far->stream);
}

// The visitor's first bytes and his end are in the record that has the OPEN.
static void test_all_in_the_first_record(void **state) {
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  struct stream_side *e = gateway_open();
  e->to_send = 100;
  e->end_sends = true;
  struct frame f = {0};
  const uint8_t *p = NULL;
  struct frame_open open;
  nx_settle(loop);
  assert_true(raw_next(&f, &p));
  assert_int_equal(f.type, FRAME_OPEN);
  assert_int_equal(f.stream, ID);
  assert_int_equal(frame_get_open(p, f.len, &open), 0);
  assert_int_equal(open.tunnel, 7);
  assert_true(raw_next(&f, &p));
  assert_int_equal(f.type, FRAME_DATA);
  assert_int_equal(f.len, 100);
  assert_true(raw_next(&f, &p));
  assert_int_equal(f.type, FRAME_FIN);
  assert_false(raw_next(&f, &p));
}

static void test_an_end_alone(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  side_send(near, 0, true);
  side_send(far, 0, true);
  nx_settle(loop);
  assert_null(near->stream);
  assert_null(far->stream);
}

static void test_opened(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  far->stream->ops->opened(far->stream);
  far->stream->ops->opened(far->stream);
  nx_settle(loop);
  assert_int_equal(near->opened, 0); // it waits for data that would say the same
  nx_pass(loop, LINK_LAZY_MS);
  assert_int_equal(near->opened, 1);
  near = open_stream(&far);
  far->stream->ops->opened(far->stream);
  side_send(far, 10, false);
  nx_settle(loop);
  assert_int_equal(near->opened, 1);
  far->stream->ops->opened(far->stream);
  nx_pass(loop, 2 * LINK_LAZY_MS); // not twice: that were a breach
  assert_fine(&gateway);
}

static void test_refused_stream(void **state) {
  trunk_start();
  agent.refuses = STREAM_NO_TUNNEL;
  struct stream_side *near = gateway_open();
  near->to_send = 1000; // crosses the refusal
  nx_settle(loop);
  assert_int_equal(near->resets, 1);
  assert_int_equal(near->reason, STREAM_NO_TUNNEL);
  assert_fine(&agent);
  assert_int_equal(link_streams(agent.link), 0);
}

static void test_resets(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  side_abort(near, STREAM_ABORTED);
  nx_settle(loop);
  assert_int_equal(far->resets, 1);
  assert_int_equal(far->reason, STREAM_ABORTED);
  near = open_stream(&far);
  side_send(near, 1000, true);
  nx_settle(loop);
  side_abort(far, STREAM_REFUSED);
  nx_settle(loop);
  assert_int_equal(near->resets, 1);
  assert_int_equal(near->reason, STREAM_REFUSED);
  near = open_stream(&far);
  side_abort(near, STREAM_ABORTED); // both at once
  side_abort(far, STREAM_ABORTED);
  assert_fine(&gateway);
  assert_fine(&agent);
}

// Reset before the OPEN went out: the agent never hears of it.
static void test_reset_before_the_opening(void **state) {
  trunk_start();
  side_abort(gateway_open(), STREAM_ABORTED);
  struct stream_side *far, *near = open_stream(&far);
  assert_int_equal(agent.opens, 1);
  assert_int_equal(link_streams(gateway.link), 1);
  side_send(near, 10, false);
  nx_settle(loop);
  assert_int_equal(far->got, 10);
}

// With the reader behind, both fins pass and the stream lives on here, not on the wire.
static void test_reader_behind_both_fins(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  agent.sides_slow = true;
  near = open_stream(&far);
  side_send(near, 1000, true);
  side_send(far, 0, true);
  nx_settle(loop);
  assert_null(near->stream);
  assert_non_null(far->stream);
  assert_int_equal(link_streams(agent.link), 0);
  assert_int_equal(atomic_load(&agent.budget.used), 1000);
  side_take(far, 400);
  side_take(far, 600);
  assert_null(far->stream);
  assert_int_equal(atomic_load(&agent.budget.used), 0);
  near = open_stream(&far); // the same with its own end as the last
  side_send(near, 1000, true);
  nx_settle(loop);
  side_send(far, 0, true);
  nx_settle(loop);
  assert_null(near->stream);
  assert_int_equal(link_streams(agent.link), 0);
  side_take(far, 1000);
  assert_null(far->stream);
}

// Each of many gets its turn, a record at a time.
static void test_turns(void **state) {
  struct stream_side *e[3];
  struct frame f = {0};
  const uint8_t *p = NULL;
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
  for (int i = 0; i < 3; i++) {
    e[i] = gateway_open();
    e[i]->to_send = 10 * 16384;
  }
  nx_settle(loop);
  uint64_t got[3] = {0};
  while (raw_find(FRAME_DATA, &f, &p)) {
    got[f.stream & 0xffff] += f.len;
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < 3; i++) {
      least = got[i] < least ? got[i] : least;
      most = got[i] > most ? got[i] : most;
    }
    assert_true(most - least <= 2 * FRAME_PAYLOAD_MAX);
  }
  for (int i = 0; i < 3; i++) assert_int_equal(got[i], 10 * 16384);
}

// ---- draining ----

static void test_drain(void **state) {
  struct stream_side *near, *far;
  struct frame_open open = {.tunnel = 1};
  trunk_start();
  agent.sides_slow = true;
  near = open_stream(&far);
  link_drain(gateway.link);
  link_drain(agent.link);
  assert_true(link_draining(gateway.link));
  assert_null(link_open_stream(gateway.link, &open));
  side_send(near, 1000, true);
  side_send(far, 1000, true);
  nx_settle(loop);
  assert_int_equal(gateway.drained, 1);
  assert_int_equal(agent.drained, 0); // its reader has not taken everything
  assert_int_equal(link_streams(agent.link), 0);
  side_take(far, 1000);
  assert_int_equal(agent.drained, 0); // never from within
  nx_settle(loop);
  assert_int_equal(agent.drained, 1);
  nx_pass(loop, 3000);
  link_drain(gateway.link);
  nx_settle(loop);
  assert_int_equal(gateway.drained + agent.drained, 2);
}

// The last stream goes with the link itself: that is no draining.
static void test_close_while_draining(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  link_drain(gateway.link);
  link_close(gateway.link, "closed", STREAM_LINK_LOST, true);
  assert_int_equal(near->resets, 1);
  nx_settle(loop);
  assert_int_equal(gateway.drained, 0);
}

static void test_drain_of_an_idle_link(void **state) {
  trunk_start();
  link_drain(gateway.link);
  link_drain(gateway.link);
  assert_int_equal(gateway.drained, 0);
  nx_settle(loop);
  assert_int_equal(gateway.drained, 1);
  link_drain(agent.link);
  link_close(agent.link, "closed", STREAM_LINK_LOST, true);
  nx_settle(loop);
  assert_int_equal(agent.drained, 0);
}

static void test_deadline(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  link_drain(agent.link);
  link_set_deadline(agent.link, 2000);
  nx_pass(loop, 1900);
  assert_fine(&agent);
  nx_pass(loop, 200);
  assert_string_equal(agent.why, "the deadline of a goaway has passed");
  assert_int_equal(far->reason, STREAM_LINK_LOST);
  assert_int_equal(near->reason, STREAM_LINK_LOST);
}

// ---- liveness ----

static void test_heartbeats_keep_a_quiet_link(void **state) {
  trunk_start();
  nx_pass(loop, 200 * 1000);
  assert_fine(&gateway);
  assert_fine(&agent);
  uint64_t silent = loop_now_ms(loop) - link_last_heard(gateway.link);
  assert_true(silent <= 15500);
}

static void test_a_dead_peer(void **state) {
  trunk_start_raw(LINK_AGENT, 10000, 0);
  raw_open(ID);
  nx_settle(loop);
  nx_pass(loop, 44500);
  assert_fine(&agent);
  assert_true(raw_sum().frames[FRAME_PING] == 1); // one at a time
  nx_pass(loop, 500);
  assert_string_equal(agent.why, "dead: nothing heard for 45 s");
  assert_false(agent.protocol_error);
  assert_int_equal(agent.sides[0]->reason, STREAM_LINK_LOST);
}

// It talks, but hears nothing.
static void test_a_deaf_peer(void **state) {
  trunk_start_raw(LINK_AGENT, 10000, 0);
  for (int i = 0; i < 58; i++) {
    raw_say(FRAME_PING, 0, 0, "abcdefgh", 8);
    nx_pass(loop, 1000);
  }
  assert_fine(&agent);
  nx_pass(loop, 2000); // the ping of the fifteenth second
  assert_null(agent.link);
  assert_string_equal(agent.why, "dead: no ping answered for 45 s");
}

// ---- congestion ----

// A peer that does not read: what must not be dropped waits, to a bound.
static void test_congestion(void **state) {
  struct control c = {.type = CONTROL_TUNNEL_CLOSED, .tunnel_closed = {.tunnel = 1, .reason = "requested"}};
  trunk_start_raw(LINK_GATEWAY, 1000, 4096);
  raw.deaf = true;
  int code, sent = 0;
  while ((code = link_send(gateway.link, &c)) == 0) {
    if (++sent % 100 == 0) nx_settle(loop);
    assert_true(sent < 40000);
  }
  assert_int_equal(code, PERR_LIMIT);
  assert_true(sent > 10000); // a megabyte of them
  assert_non_null(gateway.link);
  nx_settle(loop);
  assert_int_equal(gateway.closes, 1);
  assert_string_equal(gateway.why, "congested: too many control frames wait");
}

// A link that is closed behind its last words, with everything before them stuck: they arrive.
static void test_last_words_of_a_congested_link(void **state) {
  struct control c = {.type = CONTROL_END, .end = {.reason = "shutdown"}};
  trunk_start_raw(LINK_GATEWAY, 1000, 4096);
  raw.deaf = true;
  struct stream_side *e = gateway_open();
  e->to_send = CREDIT_FIRST;
  nx_settle(loop);
  assert_true(e->sent < CREDIT_FIRST); // the rest stays in the visitor's socket
  for (int i = 0; i < 60; i++) send_bulky(gateway.link);
  assert_int_equal(link_send(gateway.link, &c), 0);
  link_close(gateway.link, "shutdown", STREAM_SESSION_ENDED, true);
  assert_int_equal(e->reason, STREAM_SESSION_ENDED);
  raw.deaf = false;
  conn_resume(raw.conn);
  NX_UNTIL(loop, raw.end);
  assert_int_equal(raw.end, PERR_EOF);
  struct frame f = {0};
  const uint8_t *p = NULL;
  struct control got = {.type = CONTROL_HELLO};
  struct err_text err;
  while (raw_find(FRAME_CONTROL, &f, &p)) assert_int_equal(control_decode(p, f.len, &got, &err), 0);
  assert_int_equal(got.type, CONTROL_END);
  assert_string_equal(got.end.reason, "shutdown");
}

// Control messages come in their order and whole, however often the queue is drained in part and filled again.
static void test_controls_through_congestion(void **state) {
  enum { ROUNDS = 12, EACH = 30 };
  struct control c = {.type = CONTROL_TUNNEL_OPENED, .tunnel_opened = {.port = 1}}, got;
  struct frame f = {0};
  const uint8_t *p = NULL;
  struct err_text e;
  uint32_t said = 0, heard = 0;
  trunk_start_raw(LINK_GATEWAY, 1000, 4096);
  raw.deaf = true;
  for (int i = 0; i < ROUNDS; i++) {
    for (int k = 0; k < EACH; k++) {
      send_bulky(gateway.link);
      c.tunnel_opened.tunnel = ++said;
      assert_int_equal(link_send(gateway.link, &c), 0);
    }
    nx_settle(loop);
    raw.deaf = false; // some of it passes
    on_raw_readable(NULL, raw.conn);
    raw.deaf = true;
    nx_peek(loop);
  }
  assert_true(gateway.link->queue.len > gateway.link->queue.off);
  raw.deaf = false;
  conn_resume(raw.conn);
  nx_await("the last message");
  while (heard < said) {
    nx_settle(loop);
    while (raw_find(FRAME_CONTROL, &f, &p)) {
      assert_int_equal(control_decode(p, f.len, &got, &e), 0);
      if (got.type == CONTROL_TUNNEL_OPENED) assert_int_equal(got.tunnel_opened.tunnel, ++heard);
    }
  }
  alarm(0);
}

// A congested link leaves the bytes where they are, and goes on when there is room.
static void test_congestion_passes(void **state) {
  trunk_start_raw(LINK_GATEWAY, 1000, 4096);
  raw.deaf = true;
  struct stream_side *e = gateway_open();
  e->to_send = CREDIT_FIRST;
  nx_settle(loop);
  assert_true(e->sent > 0 && e->sent < 150 * 1024);
  uint64_t stuck = e->sent;
  nx_settle(loop);
  assert_int_equal(e->sent, stuck);
  raw.deaf = false;
  conn_resume(raw.conn);
  NX_UNTIL(loop, e->sent == CREDIT_FIRST);
  nx_settle(loop);
  assert_int_equal(raw_sum().data, CREDIT_FIRST);
}

// Megabytes that the kernel holds or takes at once: the link does a part per batch, and comes back for the rest though
// no event tells.
static void test_more_than_a_batch(void **state) {
  int size = 8 * 1024 * 1024;
  struct stream_side *near[8], *far;
  trunk_start();
  if (setsockopt(conn_fd(gateway.link->conn), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size)) skip(); // not root
  for (int i = 0; i < 8; i++) {
    near[i] = open_stream(&far);
    side_send(near[i], CREDIT_FIRST, false);
  }
  nx_settle(loop);
  for (unsigned i = 0; i < 8; i++) assert_int_equal(agent.sides[i]->got, CREDIT_FIRST);
}

// ---- close ----

static void test_close(void **state) {
  struct stream_side *near, *far;
  trunk_start();
  near = open_stream(&far);
  struct link *k = gateway.link;
  link_close(k, "why not", STREAM_SESSION_ENDED, true);
  assert_int_equal(gateway.closes, 1);
  assert_string_equal(gateway.why, "why not");
  assert_false(gateway.protocol_error);
  assert_int_equal(near->resets, 1);
  assert_int_equal(near->reason, STREAM_SESSION_ENDED);
  // Until the batch has ended it may be called, to no effect.
  struct frame_open open = {.tunnel = 1};
  link_close(k, "again", STREAM_INTERNAL, false);
  link_drain(k);
  link_set_deadline(k, 1);
  assert_null(link_open_stream(k, &open));
  assert_int_equal(link_send(k, &(struct control){.type = CONTROL_TUNNEL_CLOSE}), PERR_CLOSED);
  nx_settle(loop);
  assert_int_equal(gateway.closes, 1);
  assert_string_equal(agent.why, "lost: closed by the peer");
  assert_int_equal(far->reason, STREAM_LINK_LOST);
}

// Whatever is called, the link may be closed in it.
static void test_closing_in_on_open(void **state) {
  trunk_start();
  agent.closes_on_open = true;
  for (int i = 0; i < 3; i++) gateway_open();
  nx_settle(loop);
  assert_int_equal(agent.opens, 1);
  assert_int_equal(agent.closes, 1);
  assert_int_equal(gateway.closes, 1);
}

static void test_closing_in_on_control(void **state) {
  trunk_start();
  gateway.closes_on_control = true;
  for (int i = 0; i < 3; i++) send_bulky(agent.link);
  nx_settle(loop);
  assert_int_equal(gateway.controls, 1);
  assert_int_equal(gateway.closes, 1);
}

static void test_closing_in_a_streams_callback(void **state) {
  for (int which = 0; which < 4; which++) {
    struct stream_side *near, *far;
    trunk_start();
    near = open_stream(&far);
    near->closes = gateway.link;
    if (which == 0) side_send(near, 10, false); // in pull
    if (which == 1) side_send(far, 10, false);  // in opened
    if (which == 2) {                           // in push
      near->closes = NULL;
      side_send(far, 1, false);
      nx_settle(loop);
      near->closes = gateway.link;
      side_send(far, 10, false);
    }
    if (which == 3) { // in fin
      near->closes = NULL;
      side_send(far, 1, false);
      nx_settle(loop);
      near->closes = gateway.link;
      side_send(far, 0, true);
    }
    nx_settle(loop);
    assert_int_equal(gateway.closes, 1);
    assert_string_equal(gateway.why, "closed in a callback");
    assert_int_equal(near->resets, 1);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

static struct stream_side *victim;

static void abort_victim(struct stream_side *self) {
  if (victim->stream) side_abort(victim, STREAM_ABORTED);
}

// The reset of one makes its owner give up others, while the link is walking over all of them.
static void test_resets_that_cause_others(void **state) {
  for (int first = 0; first < 4; first++)
    for (int second = 0; second < 4; second++) {
      if (first == second) continue;
      trunk_settings.stall_s = 2;
      trunk_start_raw(LINK_AGENT, 1000, 0);
      agent.sides_slow = true;
      for (uint32_t i = 0; i < 4; i++) {
        raw_open(ID + i);
        raw_data(ID + i, 0, 100, 100);
      }
      nx_settle(loop);
      victim = agent.sides[second];
      agent.sides[first]->on_reset = abort_victim;
      nx_pass(loop, 4000); // all of them stall
      for (int i = 0; i < 4; i++) {
        assert_null(agent.sides[i]->stream);
        assert_true(agent.sides[i]->resets == 1 || i == second);
      }
      assert_int_equal(atomic_load(&agent.budget.used), 0);
      trunk_tear_down(state);
      trunk_set_up(state);
    }
}

static void test_resets_that_cause_others_at_the_end(void **state) {
  struct stream_side *e[3];
  trunk_start();
  for (int i = 0; i < 3; i++) e[i] = gateway_open();
  nx_settle(loop);
  victim = e[1];
  e[0]->on_reset = abort_victim;
  link_close(gateway.link, "over", STREAM_SESSION_ENDED, false);
  assert_int_equal(e[0]->resets, 1);
  assert_int_equal(e[1]->resets, 0);
  assert_int_equal(e[2]->resets, 1);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(bytes_both_ways),
      T(agent_ends_first),
      T(all_in_the_first_record),
      T(an_end_alone),
      T(opened),
      T(refused_stream),
      T(resets),
      T(reset_before_the_opening),
      T(reader_behind_both_fins),
      T(turns),
      T(drain),
      T(close_while_draining),
      T(drain_of_an_idle_link),
      T(deadline),
      T(heartbeats_keep_a_quiet_link),
      T(a_dead_peer),
      T(a_deaf_peer),
      T(congestion),
      T(last_words_of_a_congested_link),
      T(controls_through_congestion),
      T(congestion_passes),
      T(more_than_a_batch),
      T(close),
      T(closing_in_on_open),
      T(closing_in_on_control),
      T(closing_in_a_streams_callback),
      T(resets_that_cause_others),
      T(resets_that_cause_others_at_the_end),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
