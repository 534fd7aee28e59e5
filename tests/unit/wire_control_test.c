// Control messages: every type there and back, and each way of being wrong refused by name.
#include "postern/wire/control.h"
#include "postern/wire/frame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define RUN "00112233445566778899aabbccddeeff"
#define HELLO                                                                                                          \
  "{\"type\":\"hello\",\"version\":1,\"features\":[],\"software\":\"s\",\"token\":\"t\",\"instance\":\"i\","           \
  "\"run\":\"" RUN "\",\"previous\":\"none\"}"

static int decode(const char *json, struct control *c, struct err_text *e) {
  return control_decode((const uint8_t *)json, strlen(json), c, e);
}

static void assert_takes(const char *json) {
  struct control c;
  struct err_text e = {{0}};
  if (decode(json, &c, &e)) fail_msg("%s: %s", json, e.s);
}

// The error must hold `part`.
static void assert_refuses(const char *json, const char *part) {
  struct control c;
  struct err_text e = {{0}};
  assert_int_equal(decode(json, &c, &e), PERR_PROTOCOL);
  if (!strstr(e.s, part)) fail_msg("%s: \"%s\" does not say \"%s\"", json, e.s, part);
}

static void assert_text(const struct control *c, const char *json) {
  uint8_t out[FRAME_PAYLOAD_MAX];
  struct control back;
  struct err_text e = {{0}};
  size_t len = 0;
  assert_int_equal(control_encode(c, out, sizeof out, &len), 0);
  if (len != strlen(json) || memcmp(out, json, len) != 0) fail_msg("%.*s\nis not\n%s", (int)len, (char *)out, json);
  if (control_decode(out, len, &back, &e)) fail_msg("%s", e.s);
  assert_memory_equal(&back, c, sizeof back);
}

// All bytes zero, so that memory can be compared.
#define MESSAGE(c, kind)                                                                                               \
  struct control c;                                                                                                    \
  memset(&c, 0, sizeof c);                                                                                             \
  c.type = kind

static void test_hello(void **state) {
  MESSAGE(c, CONTROL_HELLO);
  c.hello.version = 1;
  strcpy(c.hello.software, "postern/0.1.0");
  strcpy(c.hello.token, "pst_x");
  strcpy(c.hello.instance, "default");
  for (uint8_t i = 0; i < CONTROL_RUN_LEN; i++) c.hello.run[i] = (uint8_t)(i * 0x11);
  c.hello.previous = CONTROL_PREVIOUS_DRAINING;
  assert_text(&c,
              "{\"type\":\"hello\",\"version\":1,\"features\":[],\"software\":\"postern/0.1.0\",\"token\":\"pst_x\","
              "\"instance\":\"default\",\"run\":\"" RUN "\",\"previous\":\"draining\"}");
}

static void test_welcome(void **state) {
  MESSAGE(c, CONTROL_WELCOME);
  c.welcome.version = 1;
  strcpy(c.welcome.software, "posternd/0.1.0");
  c.welcome.session = (uint64_t)INT64_MAX;
  strcpy(c.welcome.user, "alice");
  c.welcome.resumed = true;
  c.welcome.heartbeat_s = 15;
  c.welcome.dead_s = 45;
  c.welcome.dial_s = 10;
  c.welcome.stall_s = 600;
  assert_text(&c, "{\"type\":\"welcome\",\"version\":1,\"features\":[],\"software\":\"posternd/0.1.0\","
                  "\"session\":9223372036854775807,\"user\":\"alice\",\"resumed\":true,\"heartbeat_seconds\":15,"
                  "\"dead_seconds\":45,\"dial_seconds\":10,\"stall_seconds\":600}");
}

static void test_end(void **state) {
  MESSAGE(c, CONTROL_END);
  strcpy(c.end.reason, "instance_busy");
  assert_text(&c, "{\"type\":\"end\",\"reason\":\"instance_busy\"}");
  strcpy(c.end.message, "caf\xc3\xa9 \"x\"");
  c.end.until = 1900000000;
  assert_text(
      &c, "{\"type\":\"end\",\"reason\":\"instance_busy\",\"message\":\"caf\xc3\xa9 \\\"x\\\"\",\"until\":1900000000}");
}

static void test_tunnels(void **state) {
  MESSAGE(c, CONTROL_TUNNEL_OPEN);
  c.tunnel_open.tunnel = UINT32_MAX;
  strcpy(c.tunnel_open.name, "ssh");
  c.tunnel_open.port = 65535;
  c.tunnel_open.strict_port = true;
  assert_text(&c,
              "{\"type\":\"tunnel_open\",\"tunnel\":4294967295,\"name\":\"ssh\",\"protocol\":\"tcp\",\"port\":65535,"
              "\"strict_port\":true}");
  strcpy(c.tunnel_open.description, "d");
  c.tunnel_open.strict_port = false;
  assert_text(&c,
              "{\"type\":\"tunnel_open\",\"tunnel\":4294967295,\"name\":\"ssh\",\"protocol\":\"tcp\",\"port\":65535,"
              "\"strict_port\":false,\"description\":\"d\"}");
  MESSAGE(opened, CONTROL_TUNNEL_OPENED);
  opened.tunnel_opened = (struct control_tunnel_opened){.tunnel = 1, .port = 22022};
  assert_text(&opened, "{\"type\":\"tunnel_opened\",\"tunnel\":1,\"port\":22022}");
  opened.tunnel_opened.idle_s = 60;
  assert_text(&opened, "{\"type\":\"tunnel_opened\",\"tunnel\":1,\"port\":22022,\"idle_seconds\":60}");
  MESSAGE(udp, CONTROL_TUNNEL_OPEN);
  udp.tunnel_open =
      (struct control_tunnel_open){.tunnel = 7, .name = "dns", .protocol = CONTROL_UDP, .idle_s = CONTROL_IDLE_MAX_S};
  assert_text(&udp, "{\"type\":\"tunnel_open\",\"tunnel\":7,\"name\":\"dns\",\"protocol\":\"udp\",\"port\":0,"
                    "\"strict_port\":false,\"idle_seconds\":86400}");
  MESSAGE(refused, CONTROL_TUNNEL_REFUSED);
  refused.tunnel_refused.tunnel = 2;
  strcpy(refused.tunnel_refused.reason, "no_port");
  strcpy(refused.tunnel_refused.message, "none left");
  assert_text(&refused, "{\"type\":\"tunnel_refused\",\"tunnel\":2,\"reason\":\"no_port\",\"message\":\"none left\"}");
  MESSAGE(close, CONTROL_TUNNEL_CLOSE);
  close.tunnel_close.tunnel = 3;
  assert_text(&close, "{\"type\":\"tunnel_close\",\"tunnel\":3}");
  MESSAGE(closed, CONTROL_TUNNEL_CLOSED);
  closed.tunnel_closed.tunnel = 3;
  strcpy(closed.tunnel_closed.reason, "port_lost");
  assert_text(&closed, "{\"type\":\"tunnel_closed\",\"tunnel\":3,\"reason\":\"port_lost\"}");
}

static void test_goaway(void **state) {
  MESSAGE(c, CONTROL_GOAWAY);
  strcpy(c.goaway.reason, "drain");
  c.goaway.deadline_s = 86400;
  assert_text(&c, "{\"type\":\"goaway\",\"reason\":\"drain\",\"deadline_seconds\":86400}");
}

static void test_frame_of_a_message(void **state) {
  assert_refuses("", "not JSON");
  assert_refuses("{", "not JSON");
  assert_refuses("{\"type\":\"end\",\"reason\":\"x\"} x", "not JSON");
  assert_refuses("[]", "JSON object");
  assert_refuses("\"end\"", "not JSON"); // jansson takes an array or an object
  assert_refuses("{}", "\"type\"");
  assert_refuses("{\"type\":1}", "\"type\"");
  assert_refuses("{\"type\":\"sing\"}", "\"sing\"");
  assert_refuses("{\"type\":\"END\",\"reason\":\"x\"}", "\"END\"");
}

static void test_keys(void **state) {
  assert_takes(HELLO);
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":1,\"colour\":2}", "tunnel_close: unknown key \"colour\"");
  assert_refuses("{\"type\":\"tunnel_close\"}", "tunnel_close: \"tunnel\" is missing");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":1,\"tunnel\":1}", "duplicate key \"tunnel\"");
  assert_refuses("{\"type\":\"pst_0123456789ab_secretsecret\"}", "message \"pst_0123456789ab_...\"");
  assert_refuses("{\"pst_0123456789ab_secret\":1,\"pst_0123456789ab_secret\":1}", "a duplicate key, at byte 5");
  assert_refuses("{\"type\":\"end\",\"type\":\"end\",\"reason\":\"x\"}", "duplicate");
  assert_refuses("{\"type\":\"end\",\"reason\":\"x\",\"\\u001b[31m\":1}", "unknown key \"?[31m\"");
}

// Every required key of a hello is missed by name.
static void test_missing_keys(void **state) {
  static const char *const pairs[] = {
      "\"version\":1",      "\"features\":[]",     "\"software\":\"s\"",    "\"token\":\"t\"",
      "\"instance\":\"i\"", "\"run\":\"" RUN "\"", "\"previous\":\"none\"",
  };
  enum { N = sizeof pairs / sizeof *pairs };
  for (size_t without = 0; without < N; without++) {
    char json[512] = "{\"type\":\"hello\"", part[64];
    for (size_t i = 0; i < N; i++)
      if (i != without) strcat(strcat(json, ","), pairs[i]);
    strcat(json, "}");
    snprintf(part, sizeof part, "%.*s is missing", (int)strcspn(pairs[without], ":"), pairs[without]);
    assert_refuses(json, part);
  }
}

static void test_values(void **state) {
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":\"1\"}", "\"tunnel\" must be an integer");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":1.0}", "\"tunnel\" must be an integer");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":null}", "\"tunnel\" must be an integer");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":0}", "\"tunnel\" must be 1 to 4294967295");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":-1}", "\"tunnel\" must be");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":4294967296}", "\"tunnel\" must be");
  assert_refuses("{\"type\":\"tunnel_close\",\"tunnel\":99999999999999999999}", "not JSON");
  assert_refuses("{\"type\":\"tunnel_opened\",\"tunnel\":1,\"port\":65536}", "\"port\" must be 1 to 65535");
  assert_refuses("{\"type\":\"goaway\",\"reason\":\"x\",\"deadline_seconds\":86401}", "\"deadline_seconds\" must be");
  assert_refuses("{\"type\":\"end\",\"reason\":\"x\",\"until\":-1}", "\"until\" must be");
  assert_refuses("{\"type\":\"end\",\"reason\":\"\"}", "\"reason\" must be 1 to 64");
  assert_refuses("{\"type\":\"end\",\"reason\":\"two words\"}", "\"reason\" must be 1 to 64");
  assert_refuses("{\"type\":\"end\",\"reason\":\"a\\u0000b\"}", "not JSON");
  assert_refuses("{\"type\":\"end\",\"reason\":\"x\",\"message\":\"\xff\"}", "not JSON");
  assert_refuses("{\"type\":\"end\",\"reason\":\"x\",\"message\":1}", "\"message\" must be a string");
}

static void test_values_of_tunnel_open(void **state) {
#define OPEN(name, protocol, port, strict)                                                                             \
  "{\"type\":\"tunnel_open\",\"tunnel\":1,\"name\":" name ",\"protocol\":" protocol ",\"port\":" port                  \
  ",\"strict_port\":" strict "}"
  assert_takes(OPEN("\"a\"", "\"tcp\"", "0", "false"));
  assert_refuses(OPEN("\"A\"", "\"tcp\"", "0", "false"), "\"name\"");
  assert_refuses(OPEN("\"a\"", "\"sctp\"", "0", "false"), "\"protocol\"");
  assert_refuses(OPEN("\"a\"", "1", "0", "false"), "\"protocol\"");
  assert_refuses(OPEN("\"a\"", "\"tcp\"", "65536", "false"), "\"port\" must be 0 to 65535");
  assert_refuses(OPEN("\"a\"", "\"tcp\"", "0", "0"), "\"strict_port\" must be true or false");
}

static void assert_hello_refuses(const char *was, const char *now, const char *part) {
  char json[1024];
  const char *at = strstr(HELLO, was);
  assert_non_null(at);
  snprintf(json, sizeof json, "%.*s%s%s", (int)(at - HELLO), HELLO, now, at + strlen(was));
  assert_refuses(json, part);
}

static void test_values_of_hello(void **state) {
  assert_hello_refuses("\"version\":1", "\"version\":-1", "\"version\"");
  assert_hello_refuses("[]", "{}", "\"features\" must be a list of names");
  assert_hello_refuses("[]", "[1]", "\"features\" must be a list of names");
  assert_hello_refuses("[]", "[\"\"]", "\"features\" must be a list of names");
  assert_hello_refuses(RUN, "00", "\"run\" must be 32 hex digits");
  assert_hello_refuses("0011", "g011", "\"run\" must be 32 hex digits");
  assert_hello_refuses("none", "maybe", "\"previous\"");
}

// Features of a later version pass and are not taken for ours.
static void test_unknown_features(void **state) {
  struct control c;
  struct err_text e;
  assert_int_equal(decode("{\"type\":\"hello\",\"version\":9,\"features\":[\"udp\",\"later.x\"],\"software\":\"\","
                          "\"token\":\"\",\"instance\":\"i\",\"run\":\"" RUN "\",\"previous\":\"lost\"}",
                          &c, &e),
                   0);
  assert_int_equal(c.hello.version, 9);
  assert_int_equal(c.hello.features, CONTROL_FEATURE_UDP);
  assert_int_equal(c.hello.previous, CONTROL_PREVIOUS_LOST);
}

static void test_length_of_text(void **state) {
  char json[512], text[CONTROL_TEXT + 1] = {0};
  memset(text, 'x', CONTROL_TEXT - 1);
  snprintf(json, sizeof json, "{\"type\":\"end\",\"reason\":\"x\",\"message\":\"%s\"}", text);
  assert_takes(json);
  memset(text, 'x', CONTROL_TEXT);
  snprintf(json, sizeof json, "{\"type\":\"end\",\"reason\":\"x\",\"message\":\"%s\"}", text);
  assert_refuses(json, "\"message\" must be a shorter string");
}

// What the peer sent as a token is in no error text, wherever the message breaks.
static void test_errors_keep_the_token(void **state) {
  static const char json[] = "{\"type\":\"hello\",\"token\":\"pst_secret\",\"version\":true,\"software\":\"s\"}";
  for (size_t len = 0; len < sizeof json; len++) {
    struct control c;
    struct err_text e = {{0}};
    assert_int_equal(control_decode((const uint8_t *)json, len, &c, &e), PERR_PROTOCOL);
    assert_null(strstr(e.s, "pst"));
    assert_true(e.s[0]);
  }
}

static void test_encode_without_room(void **state) {
  MESSAGE(c, CONTROL_TUNNEL_CLOSE);
  c.tunnel_close.tunnel = 7;
  static const char expected[] = "{\"type\":\"tunnel_close\",\"tunnel\":7}";
  uint8_t out[sizeof expected];
  size_t len = 0;
  for (size_t cap = 0; cap < sizeof expected - 1; cap++)
    assert_int_equal(control_encode(&c, out, cap, &len), PERR_FULL);
  assert_int_equal(control_encode(&c, out, sizeof expected - 1, &len), 0);
  assert_int_equal(len, sizeof expected - 1);
}

// A text that was cut within a character still makes a message.
static void test_encode_broken_text(void **state) {
  MESSAGE(c, CONTROL_END);
  strcpy(c.end.reason, "protocol");
  strcpy(c.end.message, "caf\xc3");
  uint8_t out[FRAME_PAYLOAD_MAX];
  struct control back;
  struct err_text e;
  size_t len;
  assert_int_equal(control_encode(&c, out, sizeof out, &len), 0);
  assert_int_equal(control_decode(out, len, &back, &e), 0);
  assert_string_equal(back.end.message, "caf?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hello),
      cmocka_unit_test(test_welcome),
      cmocka_unit_test(test_end),
      cmocka_unit_test(test_tunnels),
      cmocka_unit_test(test_goaway),
      cmocka_unit_test(test_frame_of_a_message),
      cmocka_unit_test(test_keys),
      cmocka_unit_test(test_missing_keys),
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_values_of_tunnel_open),
      cmocka_unit_test(test_values_of_hello),
      cmocka_unit_test(test_unknown_features),
      cmocka_unit_test(test_length_of_text),
      cmocka_unit_test(test_errors_keep_the_token),
      cmocka_unit_test(test_encode_without_room),
      cmocka_unit_test(test_encode_broken_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
