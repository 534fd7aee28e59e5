// The rules of docs/protocol.md, one by one, against a peer that breaks them: each breach ends the link with a line
// that names it, and what is allowed does not.
#include "trunk_fixture.h"

enum { ID = 0x00010000, CREDIT_FIRST = 262144, CREDIT_MOST = 16777216 };

static void start_agent(void) {
  trunk_start_raw(LINK_AGENT, 1000, 0);
}

static void start_gateway(void) {
  trunk_start_raw(LINK_GATEWAY, 1000, 0);
}

// An agent with one stream, open.
static struct stream_side *start_agent_stream(void) {
  start_agent();
  raw_open(ID);
  nx_settle(loop);
  assert_int_equal(agent.nsides, 1);
  return agent.sides[0];
}

// A gateway with one stream, whose OPEN went out.
static struct stream_side *start_gateway_stream(void) {
  start_gateway();
  struct stream_side *e = gateway_open();
  struct raw_sum sum = raw_sum();
  assert_int_equal(sum.frames[FRAME_OPEN], 1);
  assert_int_equal(sum.last_open, ID);
  return e;
}

// ---- frames ----

static const struct {
  uint8_t type, flags;
  uint16_t len;
  uint32_t stream;
  const char *what;
} bad_headers[] = {
    {0, 0, 0, 0, "a frame of unknown type"},
    {FRAME_TYPES, 0, 0, 1, "a frame of unknown type"},
    {255, 255, 65535, ~0u, "a frame of unknown type"},
    {FRAME_DATA, 1, 1, ID, "a frame with unknown flags"},
    {FRAME_DATAGRAM, 4, 1, ID, "a frame with unknown flags"},
    {FRAME_DATA, 0, 0, ID, "a frame whose length does not fit its type"},
    {FRAME_DATA, 0, FRAME_PAYLOAD_MAX + 1, ID, "a frame whose length does not fit its type"},
    {FRAME_DATA, 0, 65535, ID, "a frame whose length does not fit its type"},
    {FRAME_CONTROL, 0, 1, 0, "a frame whose length does not fit its type"},
    {FRAME_FIN, 0, 1, ID, "a frame whose length does not fit its type"},
    {FRAME_RESET, 0, 0, ID, "a frame whose length does not fit its type"},
    {FRAME_CREDIT, 0, 3, ID, "a frame whose length does not fit its type"},
    {FRAME_PING, 0, 7, 0, "a frame whose length does not fit its type"},
    {FRAME_OPENED, 0, 1, ID, "a frame whose length does not fit its type"},
    {FRAME_OPEN, 0, 24, ID, "a frame whose length does not fit its type"},
    {FRAME_PING, 0, 8, 1, "a frame of the link with a stream id"},
    {FRAME_DATA, 0, 1, 0, "a frame of a stream without a stream id"},
    {FRAME_DATAGRAM, 1, 0, ID, "an empty piece of a datagram"},
    // Well-formed, but not for this ear.
    {FRAME_DATAGRAM, 3, 1, ID, "a frame of type 10, which the gateway may not send"},
    {FRAME_FLOW, 0, 7, ID, "a frame of type 11, which the gateway may not send"},
    {FRAME_FLOW_END, 0, 1, ID, "a frame of type 12, which the gateway may not send"},
    {FRAME_OPENED, 0, 0, ID, "a frame of type 3, which the gateway may not send"},
    // For streams that there never were.
    {FRAME_FIN, 0, 0, ID, "a frame of type 5 for stream 00010000, which the gateway did not get"},
    {FRAME_DATA, 0, 1, ID + 63, "a frame of type 4 for stream 0001003f, which the gateway did not get"},
    {FRAME_DATA, 0, 1, ID + 64, "a frame of type 4 for stream 00010040, which the gateway did not get"},
    {FRAME_RESET, 0, 1, 0xffffffff, "a frame of type 6 for stream ffffffff, which the gateway did not get"},
    {FRAME_CREDIT, 0, 4, 0x0000ffff, "a frame of type 7 for stream 0000ffff, which the gateway did not get"},
};

// A header is enough where the header is wrong: nobody waits for a payload that may never come.
static void test_bad_headers(void **state) {
  for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
    static const uint8_t zeros[FRAME_MAX];
    uint8_t header[FRAME_HEADER];
    size_t len = bad_headers[i].len < FRAME_MAX ? bad_headers[i].len : 0;
    start_agent();
    frame_put_header(header, &(struct frame){.type = bad_headers[i].type,
                                             .flags = bad_headers[i].flags,
                                             .len = bad_headers[i].len,
                                             .stream = bad_headers[i].stream});
    raw_write(header, sizeof header);
    if (i >= 18) raw_write(zeros, len);
    assert_violation(&agent, bad_headers[i].what);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

static void test_agents_may_not_open(void **state) {
  start_gateway();
  raw_open(ID);
  assert_violation(&gateway, "a frame of type 2, which the agent may not send");
}

static void test_datagrams_of_an_agent(void **state) {
  start_gateway();
  raw_say(FRAME_DATAGRAM, FRAME_FIRST | FRAME_LAST, ID, "x", 1);
  assert_violation(&gateway, "a frame of type 10, which the agent may not send");
}

// ---- control messages ----

static const struct {
  const char *json, *what;
} bad_controls[] = {
    {"{}", NULL},
    {"[1]", NULL},
    {"{\"type\":\"nonsense\"}", NULL},
    {"{\"type\":\"goaway\",\"reason\":\"x\",\"deadline_seconds\":-1}", NULL},
    {"{\"type\":\"goaway\",\"reason\":\"x\",\"deadline_seconds\":1,\"more\":1}", NULL},
    {"{\"type\":\"hello\",\"version\":1,\"features\":[],\"software\":\"x\",\"token\":\"pst_x\",\"instance\":\"a\","
     "\"run\":\"00000000000000000000000000000000\",\"previous\":\"none\"}",
     "a second greeting"},
    {"{\"type\":\"welcome\",\"version\":1,\"features\":[],\"software\":\"x\",\"session\":1,\"user\":\"a\",\"resumed\":"
     "false,"
     "\"heartbeat_seconds\":15,\"dead_seconds\":45,\"dial_seconds\":10,\"stall_seconds\":600}",
     "a second greeting"},
};

static void test_bad_controls(void **state) {
  for (size_t i = 0; i < sizeof bad_controls / sizeof *bad_controls; i++) {
    struct control c;
    struct err_text e = {""};
    start_gateway();
    raw_control(bad_controls[i].json);
    int code = control_decode((const uint8_t *)bad_controls[i].json, strlen(bad_controls[i].json), &c, &e);
    assert_int_equal(code == 0, bad_controls[i].what != NULL);
    assert_violation(&gateway, bad_controls[i].what ? bad_controls[i].what : e.s);
    assert_int_equal(gateway.controls, 0);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

static void test_good_control(void **state) {
  start_gateway();
  raw_control("{\"type\":\"goaway\",\"reason\":\"why\",\"deadline_seconds\":86400}");
  nx_settle(loop);
  assert_int_equal(gateway.controls, 1);
  assert_int_equal(gateway.control.type, CONTROL_GOAWAY);
  assert_int_equal(gateway.control.goaway.deadline_s, 86400);
  assert_fine(&gateway);
}

// ---- streams ----

static void test_malformed_open(void **state) {
  static const uint8_t bad[][12] = {
      {0, 0, 0, 1, 5, 0, 0},             // a family that there is not
      {0, 0, 0, 1, 4, 0, 0, 1, 2, 3},    // an address cut short
      {0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4}, // one too many
  };
  static const size_t lens[] = {7, 10, 11};
  for (size_t i = 0; i < 3; i++) {
    start_agent();
    raw_say(FRAME_OPEN, 0, ID, bad[i], lens[i]);
    assert_violation(&agent, "a malformed opening of stream 00010000");
    assert_int_equal(agent.opens, 0);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

static void test_open_of_a_taken_slot(void **state) {
  start_agent_stream();
  raw_open(0x00020000);
  assert_violation(&agent, "an opening of stream 00020000, whose slot is at generation 1");
  assert_int_equal(agent.sides[0]->resets, 1);
  assert_int_equal(agent.sides[0]->reason, STREAM_LINK_LOST);
}

static void test_open_of_a_wrong_generation(void **state) {
  static const struct {
    uint32_t id;
    const char *what;
  } bad[] = {
      {0x00000001, "an opening of stream 00000001, whose slot is at generation 0"},
      {0x00020001, "an opening of stream 00020001, whose slot is at generation 0"},
      {0x00010000, "an opening of stream 00010000, whose slot is at generation 1"}, // again
      {0x00030000, "an opening of stream 00030000, whose slot is at generation 1"}, // one left out
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    start_agent_stream();
    raw_reset(ID, STREAM_ABORTED);
    raw_open(bad[i].id);
    assert_violation(&agent, bad[i].what);
    assert_int_equal(agent.opens, 1);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

// The generation after 65,535 is 1; frames of the past are late, those of the future are not.
static void test_generations_go_round(void **state) {
  start_agent();
  agent.refuses = STREAM_OK;
  uint8_t bulk[24 * 512];
  size_t n = 0;
  const uint8_t open[] = {0, 0, 0, 1, 0, 0, 0}, reason = STREAM_ABORTED;
  for (uint32_t i = 1; i <= 65535 + 3; i++) {
    uint32_t generation = (i - 1) % 65535 + 1, id = generation << 16 | 5;
    frame_put_header(bulk + n, &(struct frame){.type = FRAME_OPEN, .stream = id, .len = sizeof open});
    memcpy(bulk + n + 8, open, sizeof open);
    frame_put_header(bulk + n + 15, &(struct frame){.type = FRAME_RESET, .stream = id, .len = 1});
    bulk[n + 23] = reason;
    n += 24;
    if (n == sizeof bulk) {
      raw_write(bulk, n);
      n = 0;
      raw.len = raw.off = 0;
    }
  }
  raw_write(bulk, n);
  assert_fine(&agent);
  assert_int_equal(agent.opens, 65538);
  assert_int_equal(link_streams(agent.link), 0);
  raw_reset(0x00020005, STREAM_ABORTED); // late: one back
  raw_reset(0xffff0005, STREAM_ABORTED); // … or three
  assert_fine(&agent);
  raw_reset(0x00040005, STREAM_ABORTED);
  assert_violation(&agent, "a frame of type 6 for stream 00040005, which the gateway did not get");
}

static void test_a_generation_to_come(void **state) {
  start_agent_stream();
  raw_say(FRAME_FIN, 0, 0x00020000, NULL, 0);
  assert_violation(&agent, "a frame of type 5 for stream 00020000, which the gateway did not get");
}

// Generation 0 is no stream's, also where the slot is in use.
static void test_no_generation(void **state) {
  start_agent();
  raw_open(ID + 1);
  raw_u32(FRAME_CREDIT, 1, 1);
  assert_violation(&agent, "a frame of type 7 for stream 00000001, which the gateway did not get");
}

static void test_second_opened(void **state) {
  struct stream_side *e = start_gateway_stream();
  raw_say(FRAME_OPENED, 0, ID, NULL, 0);
  assert_fine(&gateway);
  assert_int_equal(e->opened, 1);
  raw_say(FRAME_OPENED, 0, ID, NULL, 0);
  assert_violation(&gateway, "a second opening of stream 00010000");
}

// Data says it too.
static void test_opened_behind_data(void **state) {
  struct stream_side *e = start_gateway_stream();
  raw_data(ID, 0, 1, 1);
  assert_fine(&gateway);
  assert_int_equal(e->opened, 1);
  raw_say(FRAME_OPENED, 0, ID, NULL, 0);
  assert_violation(&gateway, "a second opening of stream 00010000");
}

static void test_second_fin(void **state) {
  start_agent_stream();
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  assert_fine(&agent);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  assert_violation(&agent, "a second end of stream 00010000");
}

static void test_data_after_fin(void **state) {
  start_agent_stream();
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  raw_data(ID, 0, 1, 1);
  assert_violation(&agent, "data after the end of stream 00010000");
}

static void test_frames_after_both_fins(void **state) {
  struct stream_side *e = start_agent_stream();
  side_send(e, 0, true);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  nx_settle(loop);
  assert_null(e->stream);
  raw_reset(ID, STREAM_ABORTED); // late, and no harm
  raw_u32(FRAME_CREDIT, ID, 1);
  assert_fine(&agent);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  assert_violation(&agent, "the end of stream 00010000, which is closed");
}

static void test_data_after_their_own_reset(void **state) {
  start_agent_stream();
  raw_reset(ID, STREAM_ABORTED);
  raw_data(ID, 0, 1, 1);
  assert_violation(&agent, "data for stream 00010000, which is closed");
}

static void test_reset_reasons(void **state) {
  static const struct {
    uint8_t wire;
    enum stream_reason told;
  } reasons[] = {{1, STREAM_ABORTED}, {2, STREAM_REFUSED},  {11, STREAM_INTERNAL},
                 {0, STREAM_ABORTED}, {12, STREAM_ABORTED}, {255, STREAM_ABORTED}};
  start_agent();
  for (uint32_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
    raw_open(ID + i);
    raw_reset(ID + i, reasons[i].wire);
    nx_settle(loop);
    assert_int_equal(agent.sides[i]->resets, 1);
    assert_int_equal(agent.sides[i]->reason, reasons[i].told);
  }
  assert_int_equal(raw_sum().frames[FRAME_RESET], 0); // a reset is not answered
}

// ---- late frames ----

// What may still be on its way when we reset: data within the credit that was out, an end, an answer.
static void test_late_frames(void **state) {
  struct stream_side *e = start_gateway_stream();
  raw_data(ID, 0, 1000, 1000);
  nx_settle(loop);
  side_abort(e, STREAM_ABORTED);
  assert_int_equal(raw_sum().frames[FRAME_RESET], 1);
  raw_say(FRAME_OPENED, 0, ID, NULL, 0);
  raw_u32(FRAME_CREDIT, ID, 1000);
  raw_data(ID, 1000, CREDIT_FIRST - 1000, FRAME_PAYLOAD_MAX);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  raw_reset(ID, STREAM_ABORTED);
  assert_fine(&gateway);
  raw_data(ID, 0, 1, 1);
  assert_violation(&gateway, "data for stream 00010000, which is closed");
}

static void test_a_second_late_fin(void **state) {
  struct stream_side *e = start_gateway_stream();
  side_abort(e, STREAM_ABORTED);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  assert_fine(&gateway);
  raw_say(FRAME_FIN, 0, ID, NULL, 0);
  assert_violation(&gateway, "the end of stream 00010000, which is closed");
}

// Late for a slot that is in use again.
static void test_late_for_the_slots_last_stream(void **state) {
  struct stream_side *e[65];
  start_gateway();
  for (int i = 0; i < 64; i++) e[i] = gateway_open();
  nx_settle(loop);
  raw_data(ID + 9, 0, 10, 10);
  nx_settle(loop);
  side_abort(e[9], STREAM_ABORTED);
  e[64] = gateway_open();
  assert_int_equal(raw_sum().last_open, 0x00020009);
  raw_data(ID + 9, 10, 1000, 100); // of the old one
  raw_data(0x00020009, 0, 500, 100);
  assert_fine(&gateway);
  assert_int_equal(e[64]->got, 500);
  assert_int_equal(e[9]->got, 10);
}

static void test_flood_of_late_frames(void **state) {
  start_agent_stream();
  raw_reset(ID, STREAM_ABORTED);
  for (int i = 0; i < 40000; i++) raw_reset(ID, STREAM_ABORTED);
  assert_fine(&agent);
  raw_reset(ID, STREAM_ABORTED);
  assert_violation(&agent, "a flood of frames for closed streams");
}

// ---- credit ----

static void test_data_beyond_the_credit(void **state) {
  start_agent();
  agent.sides_slow = true;
  raw_open(ID);
  raw_data(ID, 0, CREDIT_FIRST, FRAME_PAYLOAD_MAX);
  assert_fine(&agent);
  assert_int_equal(agent.sides[0]->got, CREDIT_FIRST);
  raw_data(ID, CREDIT_FIRST, 1, 1);
  assert_violation(&agent, "1 bytes for stream 00010000, which had credit for 0");
  assert_int_equal(agent.sides[0]->got, CREDIT_FIRST);
}

static void test_credit_up_to_the_largest_window(void **state) {
  start_agent_stream();
  raw_u32(FRAME_CREDIT, ID, CREDIT_MOST - CREDIT_FIRST);
  assert_fine(&agent);
  raw_u32(FRAME_CREDIT, ID, 1);
  assert_violation(&agent, "a credit of 1 for stream 00010000, which has 16777216");
}

static void test_credit_of_nothing(void **state) {
  start_agent_stream();
  raw_u32(FRAME_CREDIT, ID, 0);
  assert_violation(&agent, "a credit of 0 for stream 00010000, which has 262144");
}

static void test_credit_that_would_wrap(void **state) {
  start_agent_stream();
  raw_u32(FRAME_CREDIT, ID, UINT32_MAX);
  assert_violation(&agent, "a credit of 4294967295 for stream 00010000, which has 262144");
}

static void test_flood_of_credit(void **state) {
  start_agent_stream();
  for (int i = 0; i < 40000; i++) raw_u32(FRAME_CREDIT, ID, 1);
  assert_fine(&agent);
  nx_pass(loop, 100); // 2,000 more
  for (int i = 0; i < 2000; i++) raw_u32(FRAME_CREDIT, ID, 1);
  assert_fine(&agent);
  raw_u32(FRAME_CREDIT, ID, 1);
  assert_violation(&agent, "a flood of credit");
}

// ---- pings and floods ----

static void test_only_the_latest_ping_is_answered(void **state) {
  struct frame f = {0};
  const uint8_t *p = NULL;
  start_agent();
  uint8_t pings[3 * 16];
  for (uint8_t i = 0; i < 3; i++) {
    frame_put_header(pings + 16 * i, &(struct frame){.type = FRAME_PING, .len = 8});
    memset(pings + 16 * i + 8, i, 8);
  }
  raw_write(pings, sizeof pings);
  nx_settle(loop);
  assert_true(raw_find(FRAME_PONG, &f, &p));
  assert_memory_equal(p, "\2\2\2\2\2\2\2\2", 8);
  assert_false(raw_find(FRAME_PONG, &f, &p));
}

static void test_flood_of_pings(void **state) {
  start_agent();
  for (int i = 0; i < 50; i++) raw_say(FRAME_PING, 0, 0, "abcdefgh", 8);
  assert_fine(&agent);
  nx_pass(loop, 1000);
  for (int i = 0; i < 10; i++) raw_say(FRAME_PING, 0, 0, "abcdefgh", 8);
  assert_fine(&agent);
  raw_say(FRAME_PING, 0, 0, "abcdefgh", 8);
  assert_violation(&agent, "a flood of pings");
}

static void test_pong_without_a_ping(void **state) {
  start_agent();
  raw_say(FRAME_PONG, 0, 0, "abcdefgh", 8);
  assert_violation(&agent, "a pong without a ping");
}

static void test_pong_of_another_ping(void **state) {
  struct frame f = {0};
  const uint8_t *p = NULL;
  start_agent();
  nx_pass(loop, 15500);
  assert_true(raw_find(FRAME_PING, &f, &p));
  raw_say(FRAME_PONG, 0, 0, "abcdefgh", 8);
  assert_violation(&agent, "a pong without a ping");
}

static void test_flood_of_controls(void **state) {
  static const char message[] = "{\"type\":\"tunnel_close\",\"tunnel\":1}";
  start_gateway();
  for (int i = 0; i < 1000; i++) raw_control(message);
  assert_fine(&gateway);
  assert_int_equal(gateway.controls, 1000);
  raw_control(message);
  assert_violation(&gateway, "a flood of control messages");
}

// ---- how bytes come ----

// Frames cut at every byte, and many in one record.
static void test_any_cut(void **state) {
  uint8_t bytes[512];
  size_t n = 0;
  frame_put_header(bytes + n, &(struct frame){.type = FRAME_OPEN, .stream = ID, .len = 7});
  memcpy(bytes + n + 8, "\0\0\0\1\0\0\0", 7);
  n += 15;
  for (size_t at = 0, len = 1; len <= 10; at += len++) {
    frame_put_header(bytes + n, &(struct frame){.type = FRAME_DATA, .stream = ID, .len = (uint16_t)len});
    nx_fill(bytes + n + 8, len, at);
    n += 8 + len;
  }
  frame_put_header(bytes + n, &(struct frame){.type = FRAME_FIN, .stream = ID});
  n += 8;
  for (size_t cut = 1; cut <= n; cut += cut < 40 ? 1 : 13) {
    start_agent();
    for (size_t at = 0; at < n; at += cut) {
      raw_write(bytes + at, n - at < cut ? n - at : cut);
      nx_peek(loop);
    }
    assert_fine(&agent);
    assert_int_equal(agent.sides[0]->got, 55);
    assert_int_equal(agent.sides[0]->fins, 1);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

// The largest frame, begun in one record and ended in another.
static void test_a_cut_through_the_largest_frame(void **state) {
  static uint8_t bytes[2 * FRAME_MAX];
  start_agent();
  raw_open(ID);
  for (size_t i = 0; i < 2; i++) {
    frame_put_header(bytes + i * FRAME_MAX,
                     &(struct frame){.type = FRAME_DATA, .stream = ID, .len = FRAME_PAYLOAD_MAX});
    nx_fill(bytes + i * FRAME_MAX + 8, FRAME_PAYLOAD_MAX, i * FRAME_PAYLOAD_MAX);
  }
  static const size_t cuts[] = {1, 7, 8, 9, FRAME_MAX - 1, FRAME_MAX, FRAME_MAX + 1, FRAME_MAX + 8, sizeof bytes - 1};
  uint64_t got = 0;
  raw_write(bytes, sizeof bytes);
  nx_settle(loop);
  got += 2 * FRAME_PAYLOAD_MAX;
  assert_int_equal(agent.sides[0]->got, got);
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    for (size_t k = 0; k < 2; k++) nx_fill(bytes + k * FRAME_MAX + 8, FRAME_PAYLOAD_MAX, got + k * FRAME_PAYLOAD_MAX);
    raw_write(bytes, cuts[i]);
    nx_settle(loop);
    raw_write(bytes + cuts[i], sizeof bytes - cuts[i]);
    nx_settle(loop);
    got += 2 * FRAME_PAYLOAD_MAX;
    assert_fine(&agent);
    assert_int_equal(agent.sides[0]->got, got);
  }
  assert_null(agent.link->partial); // and nothing is kept of it
}

// ---- ends ----

static void test_ends(void **state) {
  static const struct {
    enum conn_end how;
    const char *why;
  } ends[] = {{CONN_LINGER, "lost: closed by the peer"}, {CONN_CLOSE, "lost: connection ended"}};
  for (size_t i = 0; i < 2; i++) {
    start_agent();
    raw_open(ID);
    nx_settle(loop);
    raw_close(ends[i].how);
    nx_settle(loop);
    assert_int_equal(agent.closes, 1);
    assert_string_equal(agent.why, ends[i].why);
    assert_false(agent.protocol_error);
    assert_int_equal(agent.sides[0]->reason, STREAM_LINK_LOST);
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(bad_headers),
      T(agents_may_not_open),
      T(datagrams_of_an_agent),
      T(bad_controls),
      T(good_control),
      T(malformed_open),
      T(open_of_a_taken_slot),
      T(open_of_a_wrong_generation),
      T(generations_go_round),
      T(a_generation_to_come),
      T(no_generation),
      T(second_opened),
      T(opened_behind_data),
      T(second_fin),
      T(data_after_fin),
      T(frames_after_both_fins),
      T(data_after_their_own_reset),
      T(reset_reasons),
      T(late_frames),
      T(a_second_late_fin),
      T(late_for_the_slots_last_stream),
      T(flood_of_late_frames),
      T(data_beyond_the_credit),
      T(credit_up_to_the_largest_window),
      T(credit_of_nothing),
      T(credit_that_would_wrap),
      T(flood_of_credit),
      T(only_the_latest_ping_is_answered),
      T(flood_of_pings),
      T(pong_without_a_ping),
      T(pong_of_another_ping),
      T(flood_of_controls),
      T(any_cut),
      T(a_cut_through_the_largest_frame),
      T(ends),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
