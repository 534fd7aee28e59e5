// Flows and datagrams: whole both ways, apart from each other, dropped before they delay anything.
#include "trunk_fixture.h"

enum { ID = 0x00010000, LARGEST = FRAME_DATAGRAM_MAX };

static uint8_t payload[LARGEST + 1];

static void send_datagram(struct flow_side *e, size_t n, uint64_t pattern) {
  nx_fill(payload, n, pattern);
  e->flow->ops->send(e->flow, payload, n);
}

static void assert_last(const struct flow_side *e, size_t n, uint64_t pattern) {
  assert_int_equal(e->len, n);
  nx_check(e->data, n, pattern);
}

static uint64_t dropped(struct link_side *l) { return atomic_load(&l->dropped); }

// A flow of both links; the first datagram has passed.
static struct flow_side *start_flow(struct flow_side **far) {
  struct flow_side *near = gateway_flow();
  send_datagram(near, 1, 0);
  nx_settle(loop);
  *far = agent.flows[agent.nflows - 1];
  assert_int_equal((*far)->got, 1);
  return near;
}

static void start_both(void) {
  trunk_settings.udp = true;
  trunk_start();
}

static void start_raw(enum link_role role) {
  trunk_settings.udp = true;
  trunk_start_raw(role, 1000, 0);
}

static void raw_flow(uint32_t id) { raw_say(FRAME_FLOW, 0, id, (uint8_t[]){0, 0, 0, 1, 0, 0, 0}, 7); }

// ---- whole ----

static void test_datagrams_of_every_size(void **state) {
  static const size_t sizes[] = {0, 1, 7000, 8000, 9000, 16368, 16375, 16376, 16377, 32752, 32753, 65506, LARGEST};
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    send_datagram(near, sizes[i], i);
    send_datagram(far, sizes[i], i + 100);
    nx_settle(loop);
    assert_last(far, sizes[i], i);
    assert_last(near, sizes[i], i + 100);
  }
  assert_int_equal(dropped(&gateway) + dropped(&agent), 0);
}

static void test_the_agent_hears_of_a_flow_with_its_first_datagram(void **state) {
  start_both();
  struct flow_side *near = gateway_flow();
  nx_settle(loop);
  assert_int_equal(agent.nflows, 0);
  send_datagram(near, 0, 0);
  nx_settle(loop);
  assert_int_equal(agent.nflows, 1);
  assert_int_equal(agent.flows[0]->got, 1);
  assert_int_equal(agent.open.tunnel, 7);
  struct addr visitor = nx_addr("192.0.2.9", 4711);
  assert_true(addr_equal_ip(&agent.open.visitor, &visitor));
  assert_int_equal(addr_port(&agent.open.visitor), 4711);
}

// Small ones share records, and are not cut at their ends.
static void test_small_ones_are_not_cut(void **state) {
  start_raw(LINK_GATEWAY);
  struct flow_side *e = gateway_flow();
  struct frame f = {0};
  const uint8_t *p = NULL;
  for (unsigned i = 0; i < 100; i++) send_datagram(e, 1200, i);
  nx_settle(loop);
  for (unsigned i = 0; i < 100; i++) {
    assert_true(raw_find(FRAME_DATAGRAM, &f, &p));
    assert_int_equal(f.flags, FRAME_FIRST | FRAME_LAST);
    assert_int_equal(f.len, 1200);
    nx_check(p, f.len, i);
  }
}

static void test_more_than_the_longest_is_dropped(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  send_datagram(near, LARGEST + 1, 0);
  nx_settle(loop);
  assert_int_equal(far->got, 1);
  assert_int_equal(dropped(&gateway), 1);
}

// ---- the end ----

static void test_either_side_ends_a_flow(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  struct flow *f = near->flow;
  near->flow = NULL;
  f->ops->end(f, STREAM_NO_TUNNEL);
  nx_settle(loop);
  assert_int_equal(far->ended, 1);
  assert_int_equal(far->reason, STREAM_NO_TUNNEL);
  near = start_flow(&far);
  f = far->flow;
  far->flow = NULL;
  f->ops->end(f, STREAM_UNREACHABLE);
  nx_settle(loop);
  assert_int_equal(near->ended, 1);
  assert_int_equal(near->reason, STREAM_UNREACHABLE);
  assert_int_equal(gateway.link->nflows + agent.link->nflows, 0);
  assert_fine(&gateway);
  assert_fine(&agent);
}

static void test_a_refused_flow(void **state) {
  start_both();
  agent.refuses = STREAM_NO_TUNNEL;
  struct flow_side *near = gateway_flow();
  for (int i = 0; i < 3; i++) send_datagram(near, 10, 0);
  nx_settle(loop);
  assert_int_equal(near->ended, 1);
  assert_int_equal(near->reason, STREAM_NO_TUNNEL);
  assert_fine(&gateway);
  assert_fine(&agent);
}

// An answer that comes late is dropped, also when another visitor has the slot by then.
static void test_late_answers(void **state) {
  struct flow_side *e[64], *next;
  start_raw(LINK_GATEWAY);
  for (int i = 0; i < 64; i++) {
    e[i] = gateway_flow();
    send_datagram(e[i], 1, 0);
  }
  assert_int_equal(raw_sum().last_flow, ID + 63);
  struct flow *f = e[17]->flow;
  e[17]->flow = NULL;
  f->ops->end(f, STREAM_OK);
  raw_say(FRAME_DATAGRAM, 3, ID + 17, "late", 4);
  assert_fine(&gateway);
  next = gateway_flow();
  send_datagram(next, 1, 0);
  struct raw_sum sum = raw_sum();
  assert_int_equal(sum.frames[FRAME_FLOW_END], 1);
  assert_int_equal(sum.last_flow, 0x00020000 + 17);
  raw_say(FRAME_DATAGRAM, 3, ID + 17, "late", 4);
  raw_say(FRAME_DATAGRAM, 1, ID + 17, "late", 4); // the rest never comes
  raw_say(FRAME_FLOW_END, 0, ID + 17, "\1", 1);
  assert_fine(&gateway);
  assert_int_equal(next->got, 0);
  raw_say(FRAME_DATAGRAM, 3, 0x00020000 + 17, "new", 3);
  assert_fine(&gateway);
  assert_int_equal(next->got, 1);
}

// All slots are taken; in one batch a flow ends and another gets its slot: the END has to be out before the FLOW.
static void test_a_slot_that_changes_hands_in_one_batch(void **state) {
  struct flow_side *e[64];
  start_both();
  for (int i = 0; i < 64; i++) {
    e[i] = gateway_flow();
    send_datagram(e[i], 1, 0);
  }
  nx_settle(loop);
  for (int i = 0; i < 25; i++) send_bulky(gateway.link); // more than a record
  struct flow *f = e[5]->flow;
  e[5]->flow = NULL;
  f->ops->end(f, STREAM_OK);
  struct flow_side *next = gateway_flow();
  send_datagram(next, 100, 3);
  nx_settle(loop);
  assert_fine(&agent);
  assert_int_equal(agent.nflows, 65);
  assert_last(agent.flows[64], 100, 3);
}

// Half of a datagram is out when its flow ends: nobody waits for the rest.
static void test_a_flow_that_ends_amid_a_datagram(void **state) {
  struct flow_side *e;
  start_raw(LINK_AGENT);
  raw_flow(ID);
  raw_flow(ID + 1);
  nx_settle(loop);
  raw_say(FRAME_DATAGRAM, FRAME_FIRST, ID, "x", 1);
  raw_say(FRAME_FLOW_END, 0, ID, "\1", 1);
  raw_say(FRAME_DATAGRAM, 3, ID + 1, "y", 1);
  assert_fine(&agent);
  assert_int_equal(agent.flows[1]->got, 1);
  // … or the receiver ends it.
  e = agent.flows[1];
  raw_say(FRAME_DATAGRAM, FRAME_FIRST, ID + 1, "x", 1);
  nx_settle(loop);
  struct flow *f = e->flow;
  e->flow = NULL;
  f->ops->end(f, STREAM_OK);
  raw_say(FRAME_DATAGRAM, 0, ID + 1, "y", 1);
  raw_flow(ID + 2);
  raw_say(FRAME_DATAGRAM, 3, ID + 2, "z", 1);
  assert_fine(&agent);
  assert_int_equal(agent.flows[2]->got, 1);
}

static void test_ends_within_a_callback(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  far->ends = true;
  send_datagram(near, LARGEST, 0);
  nx_settle(loop);
  assert_int_equal(near->ended, 1);
  near = start_flow(&far);
  far->closes = agent.link;
  send_datagram(near, LARGEST, 0);
  send_datagram(near, 5, 0);
  nx_settle(loop);
  assert_null(agent.link);
  assert_int_equal(near->ended, 1);
  assert_int_equal(near->reason, STREAM_LINK_LOST);
}

static void test_the_end_of_a_link_is_that_of_its_flows(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  gateway_flow(); // never announced
  send_datagram(near, LARGEST, 0); // waits
  link_close(gateway.link, "the end", STREAM_SESSION_ENDED, false);
  assert_int_equal(near->reason, STREAM_SESSION_ENDED);
  nx_settle(loop);
  assert_int_equal(far->reason, STREAM_LINK_LOST);
}

static void test_a_link_drains_when_its_flows_have_ended(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  link_drain(gateway.link);
  nx_settle(loop);
  assert_int_equal(gateway.drained, 0);
  assert_null(link_open_flow(gateway.link, &(struct frame_open){.tunnel = 1}));
  send_datagram(near, 10, 0);
  send_datagram(far, 10, 0);
  nx_settle(loop);
  assert_int_equal(far->got + near->got, 3);
  struct flow *f = near->flow;
  near->flow = NULL;
  f->ops->end(f, STREAM_OK);
  nx_settle(loop);
  assert_int_equal(gateway.drained, 1);
}

static void test_most_flows(void **state) {
  struct frame_open open = {.tunnel = 1};
  start_raw(LINK_GATEWAY);
  struct flow *last = NULL;
  for (int i = 0; i < LINK_MAX_FLOWS; i++) assert_non_null(last = link_open_flow(gateway.link, &open));
  assert_null(link_open_flow(gateway.link, &open));
  last->ops->end(last, STREAM_OK);
  assert_non_null(link_open_flow(gateway.link, &open));
  assert_int_equal(raw_sum().frames[FRAME_FLOW], 0);
}

static void test_no_flows_without_the_feature(void **state) {
  trunk_start();
  assert_null(link_open_flow(gateway.link, &(struct frame_open){.tunnel = 1}));
}

// ---- violations ----

static const struct step {
  uint8_t type, flags;
  uint32_t id;
  uint16_t len; // 0 too
} steps[][6] = {
    {{FRAME_DATAGRAM, 0, ID, 1}},
    {{FRAME_DATAGRAM, 2, ID, 1}},
    {{FRAME_DATAGRAM, 1, ID, 1}, {FRAME_DATAGRAM, 1, ID, 1}},
    {{FRAME_DATAGRAM, 1, ID, 1}, {FRAME_DATAGRAM, 3, ID, 1}},
    {{FRAME_DATAGRAM, 1, ID, 1}, {FRAME_DATAGRAM, 3, ID + 1, 1}},
    {{FRAME_DATAGRAM, 1, ID, 1}, {FRAME_DATAGRAM, 2, ID + 1, 1}},
    {{FRAME_DATAGRAM, 1, ID, 16376},
     {FRAME_DATAGRAM, 0, ID, 16376},
     {FRAME_DATAGRAM, 0, ID, 16376},
     {FRAME_DATAGRAM, 0, ID, 16376},
     {FRAME_DATAGRAM, 2, ID, 4}},
    {{FRAME_DATAGRAM, 3, ID + 2, 1}},
    {{FRAME_DATAGRAM, 3, 0x00020000, 1}},
    {{FRAME_FLOW_END, 0, 0xffff0000 + 77, 1}},
    {{FRAME_FLOW, 0, ID, 7}},
    {{FRAME_FLOW, 0, 0x00020000 + 2, 7}},
    {{FRAME_FLOW, 0, ID + 2, 8}},
};

static const char *const breaches[] = {
    "a piece of a datagram of flow 00010000 out of turn",
    "a piece of a datagram of flow 00010000 out of turn",
    "a piece of a datagram of flow 00010000 out of turn",
    "a piece of a datagram of flow 00010000 out of turn",
    "a piece of a datagram of flow 00010001 out of turn",
    "a piece of a datagram of flow 00010001 out of turn",
    "a datagram of more than 65507 bytes for flow 00010000",
    "a frame of type 10 for flow 00010002, which the gateway did not get",
    "a frame of type 10 for flow 00020000, which the gateway did not get",
    "a frame of type 12 for flow ffff004d, which the gateway did not get",
    "an opening of flow 00010000, whose slot is at generation 1",
    "an opening of flow 00020002, whose slot is at generation 0",
    "a malformed opening of flow 00010002",
};

static void test_breaches(void **state) {
  static const uint8_t zeros[FRAME_MAX];
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    start_raw(LINK_AGENT);
    raw_flow(ID);
    raw_flow(ID + 1);
    assert_fine(&agent);
    for (const struct step *s = steps[i]; s->type; s++) raw_say(s->type, s->flags, s->id, zeros, s->len);
    assert_violation(&agent, breaches[i]);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

static void test_agents_may_not_open_flows(void **state) {
  start_raw(LINK_GATEWAY);
  raw_flow(ID);
  assert_violation(&gateway, "a frame of type 11, which the agent may not send");
}

static void test_a_datagram_that_no_flow_is_for(void **state) {
  start_raw(LINK_GATEWAY);
  gateway_flow(); // not announced: the agent cannot know it
  raw_say(FRAME_DATAGRAM, 3, ID, "x", 1);
  assert_violation(&gateway, "a frame of type 10 for flow 00010000, which the agent did not get");
}

// ---- congestion ----

static unsigned number_of(const uint8_t *p) { return (unsigned)(p[0] | p[1] << 8 | p[2] << 16); }

static void send_numbered(struct flow_side *e, unsigned number, size_t n) {
  memset(payload, 0, n);
  memcpy(payload, (uint8_t[]){(uint8_t)number, (uint8_t)(number >> 8), (uint8_t)(number >> 16)}, 3);
  e->flow->ops->send(e->flow, payload, n);
}

// The peer does not read. What waits is bounded, the oldest make room, and the rest comes in order.
static void test_a_congested_link_drops_the_oldest(void **state) {
  enum { N = 20000, LEN = 500 };
  struct frame f = {0};
  const uint8_t *p = NULL;
  unsigned got = 0, last = 0;
  trunk_settings.udp = true;
  trunk_start_raw(LINK_GATEWAY, 1000, 1);
  raw.deaf = true;
  struct flow_side *e = gateway_flow();
  for (unsigned i = 1; i <= N; i++) {
    send_numbered(e, i, LEN);
    if (i % 100 == 0) nx_peek(loop);
    assert_true(gateway.link->datagram_bytes <= LINK_DATAGRAMS_MAX);
    assert_int_equal(atomic_load(&gateway.budget.used), gateway.link->datagram_bytes);
  }
  uint64_t lost = dropped(&gateway);
  assert_true(lost > N / 2);
  raw.deaf = false;
  conn_resume(raw.conn);
  nx_settle(loop);
  for (int i = 0; i < 100; i++) nx_settle(loop);
  while (raw_find(FRAME_DATAGRAM, &f, &p)) {
    assert_int_equal(f.len, LEN);
    assert_true(number_of(p) > last);
    last = number_of(p);
    got++;
  }
  assert_int_equal(last, N);
  assert_int_equal(got + lost, N);
  assert_int_equal(dropped(&gateway), lost);
  assert_int_equal(atomic_load(&gateway.budget.used), 0);
}

// A datagram of which pieces are out is finished, whatever is dropped meanwhile.
static void test_pieces_are_finished_on_a_congested_link(void **state) {
  struct frame f = {0};
  const uint8_t *p = NULL;
  size_t len = 0;
  unsigned whole = 0;
  trunk_settings.udp = true;
  trunk_start_raw(LINK_GATEWAY, 1000, 1);
  raw.deaf = true;
  struct flow_side *e = gateway_flow();
  for (int i = 0; i < 200; i++) {
    send_datagram(e, LARGEST, 0);
    nx_peek(loop);
  }
  assert_true(dropped(&gateway) > 100);
  raw.deaf = false;
  conn_resume(raw.conn);
  for (int i = 0; i < 100; i++) nx_settle(loop);
  while (raw_find(FRAME_DATAGRAM, &f, &p)) {
    assert_true(!(f.flags & FRAME_FIRST) == (len > 0));
    nx_check(p, f.len, len);
    len += f.len;
    if (!(f.flags & FRAME_LAST)) continue;
    assert_int_equal(len, LARGEST);
    len = 0;
    whole++;
  }
  assert_int_equal(len, 0);
  assert_int_equal(whole + dropped(&gateway), 200);
}

static void test_what_has_waited_too_long_is_dropped(void **state) {
  trunk_settings.udp = true;
  trunk_start_raw(LINK_GATEWAY, 1000, 1);
  raw.deaf = true;
  struct flow_side *e = gateway_flow();
  for (unsigned i = 0; i < 10; i++) {
    send_datagram(e, 50000, 0);
    nx_peek(loop);
  }
  struct flow_side *unheard = gateway_flow();
  send_datagram(unheard, 10, 0);
  nx_pass(loop, LINK_DATAGRAM_WAIT_MS + 500);
  raw.deaf = false;
  conn_resume(raw.conn);
  nx_settle(loop);
  assert_true(dropped(&gateway) >= 1);
  assert_int_equal(raw_sum().frames[FRAME_FLOW], 1); // of the other the agent never heard
  assert_int_equal(atomic_load(&gateway.budget.used), 0);
}

static void test_short_memory_is_the_streams(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  atomic_store(&gateway.budget.bound, 1000);
  budget_add(&gateway.budget, 800);
  send_datagram(near, 10, 0);
  nx_settle(loop);
  assert_int_equal(dropped(&gateway), 1);
  budget_sub(&gateway.budget, 800);
  send_datagram(near, 10, 0);
  nx_settle(loop);
  assert_int_equal(dropped(&gateway), 1);
  assert_int_equal(far->got, 2);
}

// With both there to be sent, a record has as much of the stream as of datagrams.
static void share_of(size_t datagram, unsigned count) {
  struct frame f = {0};
  const uint8_t *p = NULL;
  uint64_t data = 0, datagrams = 0;
  start_raw(LINK_GATEWAY);
  struct stream_side *s = gateway_open();
  struct flow_side *e = gateway_flow();
  for (unsigned i = 0; i < count; i++) send_numbered(e, i + 1, datagram);
  side_send(s, 200 * 1024, false);
  nx_settle(loop);
  assert_int_equal(dropped(&gateway), 0);
  for (unsigned got = 0; got < count;) {
    assert_true(raw_next(&f, &p));
    if (f.type == FRAME_DATA) data += f.len;
    if (f.type == FRAME_DATAGRAM) {
      datagrams += f.len;
      got += (f.flags & FRAME_LAST) != 0;
    }
  }
  assert_int_equal(datagrams, count * datagram);
  assert_true(data * 10 > datagrams * 8);
}

static void test_streams_keep_their_half(void **state) {
  share_of(200, 500);
  trunk_tear_down(state);
  trunk_set_up(state);
  share_of(12000, 10);
  trunk_tear_down(state);
  trunk_set_up(state);
  share_of(LARGEST, 2);
}

// Whoever gets more than he can hand on in a turn drops the rest while streams move, for they wait behind it.
static void test_a_flood_does_not_hold_up_streams_at_the_receiver(void **state) {
  enum { N = 1000 };
  struct flow_side *near, *far;
  struct stream_side *s, *t;
  start_both();
  near = start_flow(&far);
  for (unsigned i = 0; i < N; i++) send_datagram(near, 100, i);
  nx_settle(loop);
  assert_int_equal(far->got, 1 + N); // there is nobody else
  s = open_stream(&t);
  side_send(s, 1000, false);
  nx_settle(loop);
  far->got = 0;
  for (unsigned i = 0; i < N; i++) send_datagram(near, 100, i);
  nx_settle(loop);
  assert_in_range(far->got, LINK_DATAGRAMS_TURN, N - 1);
  assert_int_equal(far->got + dropped(&agent), N);
  nx_pass(loop, 2 * LINK_MOVING_MS); // the stream has fallen silent
  far->got = 0;
  for (unsigned i = 0; i < N; i++) send_datagram(near, 100, i);
  nx_settle(loop);
  assert_int_equal(far->got, N);
}

// Memory for reassembly is there while it is needed.
static void test_memory_for_pieces_is_given_back(void **state) {
  struct flow_side *near, *far;
  start_both();
  near = start_flow(&far);
  assert_null(agent.link->joining.data);
  send_datagram(near, LARGEST, 0);
  nx_settle(loop);
  assert_non_null(agent.link->joining.data);
  nx_pass(loop, 2000);
  assert_null(agent.link->joining.data);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(datagrams_of_every_size),
      T(the_agent_hears_of_a_flow_with_its_first_datagram),
      T(small_ones_are_not_cut),
      T(more_than_the_longest_is_dropped),
      T(either_side_ends_a_flow),
      T(a_refused_flow),
      T(late_answers),
      T(a_slot_that_changes_hands_in_one_batch),
      T(a_flow_that_ends_amid_a_datagram),
      T(ends_within_a_callback),
      T(the_end_of_a_link_is_that_of_its_flows),
      T(a_link_drains_when_its_flows_have_ended),
      T(most_flows),
      T(no_flows_without_the_feature),
      T(breaches),
      T(agents_may_not_open_flows),
      T(a_datagram_that_no_flow_is_for),
      T(a_congested_link_drops_the_oldest),
      T(pieces_are_finished_on_a_congested_link),
      T(what_has_waited_too_long_is_dropped),
      T(short_memory_is_the_streams),
      T(streams_keep_their_half),
      T(a_flood_does_not_hold_up_streams_at_the_receiver),
      T(memory_for_pieces_is_given_back),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
