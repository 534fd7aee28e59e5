// The first control message each way, before there is a link.
#include "trunk_fixture.h"

enum { ID = 0x00010000 };

// ---- greeting ----

static unsigned greeting_calls;
static struct link_greeting greeting;
static int greeting_code;
static struct control greeted;
static struct err_text greeting_error;

static void on_greeting(void *ctx, struct conn *c) {
  greeting_calls++;
  if (greeting_code == PERR_AGAIN) greeting_code = link_greeting_read(&greeting, c, &greeted, &greeting_error);
}

static const struct conn_ops greeting_ops = {.on_readable = on_greeting};

static struct conn *start_greeting(void) {
  struct conn *conns[2];
  trunk_conns(conns, 0);
  raw.conn = conns[1];
  conn_rebind(raw.conn, &raw_ops, &raw);
  conn_rebind(conns[0], &greeting_ops, NULL);
  memset(&greeting, 0, sizeof greeting);
  greeting_code = PERR_AGAIN;
  nx_settle(loop);
  return conns[0];
}

// Exactly the first frame is read; what comes behind it, in the same record too, is the link's.
static void test_greeting(void **state) {
  struct conn *c = start_greeting();
  struct control end = {.type = CONTROL_END, .end = {.reason = "kicked"}};
  uint8_t bytes[1024];
  size_t len;
  assert_int_equal(control_encode(&end, bytes + FRAME_HEADER, sizeof bytes - FRAME_HEADER, &len), 0);
  frame_put_header(bytes, &(struct frame){.type = FRAME_CONTROL, .len = (uint16_t)len});
  len += FRAME_HEADER;
  frame_put_header(bytes + len, &(struct frame){.type = FRAME_OPEN, .stream = ID, .len = 7});
  memcpy(bytes + len + FRAME_HEADER, "\0\0\0\1\0\0\0", 7);
  for (size_t i = 0; i < 20; i++) raw_write(bytes + i, 1);
  nx_settle(loop);
  assert_int_equal(greeting_code, PERR_AGAIN);
  raw_write(bytes + 20, len + FRAME_HEADER + 7 - 20);
  nx_settle(loop);
  assert_int_equal(greeting_code, 0);
  assert_int_equal(greeted.type, CONTROL_END);
  assert_string_equal(greeted.end.reason, "kicked");
  for (size_t i = 0; i < len; i++) assert_int_equal(greeting.buf[i], 0); // a hello has a token in it
  link_side_start(&agent, LINK_AGENT, c);
  nx_settle(loop);
  assert_int_equal(agent.opens, 1);
}

static void test_bad_greetings(void **state) {
  struct conn *c = start_greeting();
  raw_say(FRAME_PING, 0, 0, "abcdefgh", 8);
  nx_settle(loop);
  assert_int_equal(greeting_code, PERR_PROTOCOL);
  assert_string_equal(greeting_error.s, "the first frame is of type 8");
  conn_close(c, CONN_CLOSE);
  raw_close(CONN_CLOSE);
  c = start_greeting();
  raw_write("GET / HT", 8);
  nx_settle(loop);
  assert_int_equal(greeting_code, PERR_PROTOCOL);
  assert_string_equal(greeting_error.s, "a frame of unknown type");
  conn_close(c, CONN_CLOSE);
  raw_close(CONN_CLOSE);
  c = start_greeting();
  raw_control("nonsense");
  nx_settle(loop);
  assert_int_equal(greeting_code, PERR_PROTOCOL);
  conn_close(c, CONN_CLOSE);
  raw_close(CONN_CLOSE);
  c = start_greeting();
  raw_write("\1\0\0\7", 4);
  raw_close(CONN_LINGER);
  nx_settle(loop);
  assert_int_equal(greeting_code, PERR_EOF);
  conn_close(c, CONN_CLOSE);
}

static void test_greeting_written(void **state) {
  struct conn *conns[2];
  trunk_conns(conns, 0);
  raw.conn = conns[1];
  conn_rebind(raw.conn, &raw_ops, &raw);
  struct control m = {.type = CONTROL_END, .end = {.reason = "limit", .message = "so many", .until = 5}};
  assert_int_equal(link_greeting_write(conns[0], &m), 0);
  conn_close(conns[0], CONN_LINGER);
  NX_UNTIL(loop, raw.end);
  struct frame f = {0};
  const uint8_t *p = NULL;
  struct control got;
  struct err_text e;
  assert_true(raw_next(&f, &p));
  assert_int_equal(control_decode(p, f.len, &got, &e), 0);
  assert_string_equal(got.end.message, "so many");
  assert_int_equal(raw.end, PERR_EOF);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, trunk_set_up, trunk_tear_down)
  const struct CMUnitTest tests[] = {
      T(greeting),
      T(bad_greetings),
      T(greeting_written),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
