// enrol: the enrolment line, whole and broken; its errors never show the token. pin: the texts of a pinned key.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/agent/enrol.h"
#include "postern/agent/pin.h"
#include <stdio.h>
#include <string.h>

#define PIN   "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define HEX   "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define TOKEN "pst_0011223344556677_S3cretS3cretS3cretS3cretS3cretS3cretS3cret1"

static void assert_counts_up(const uint8_t pin[SHA256_LEN]) {
  for (unsigned i = 0; i < SHA256_LEN; i++) assert_int_equal(pin[i], i);
}

static void pins_in_each_spelling(void **state) {
  static const char *const texts[] = {
      HEX,
      "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
      "00:01:02:03:04:05:06:07:08:09:0a:0B:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1F",
      PIN,
      PIN "=",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    uint8_t pin[SHA256_LEN] = {99};
    assert_int_equal(pin_parse(texts[i], pin), 0);
    assert_counts_up(pin);
  }
}

static void pins_that_are_none(void **state) {
  static const char *const texts[] = {
      "",
      "00",
      HEX "0",
      "0001020304050607:08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
      "0:00102:03:04:05:06:07:08:09:0a:0B:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1F",
      "00:01:02:03:04:05:06:07:08:09:0a:0B:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1g",
      "00-01-02-03-04-05-06-07-08-09-0a-0B-0c-0d-0e-0f-10-11-12-13-14-15-16-17-18-19-1a-1b-1c-1d-1e-1F",
      PIN "==",
      ("sha256//" PIN),
      "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9", // bits that belong to no byte
  };
  uint8_t pin[SHA256_LEN];
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) assert_int_equal(pin_parse(texts[i], pin), PERR_INVALID);
}

static void a_whole_line(void **state) {
  static const char *const lines[][2] = {
      {"postern://gw.example.com:7841#pin=" PIN "&token=" TOKEN, "gw.example.com:7841"},
      {"postern://gw.example.com:7841#token=" TOKEN "&pin=" PIN, "gw.example.com:7841"},
      {"postern://192.0.2.1:7841#pin=" HEX "&token=" TOKEN, "192.0.2.1:7841"},
      {"postern://[2001:db8::1]:7841#pin=" PIN "&token=" TOKEN, "[2001:db8::1]:7841"},
  };
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    struct enrolment got;
    struct err_text e = {""};
    assert_int_equal(enrol_parse(lines[i][0], &got, &e), 0);
    assert_string_equal(got.server, lines[i][1]);
    assert_string_equal(got.token, TOKEN);
    assert_counts_up(got.pin);
  }
}

static void broken_lines_say_what_is_wrong(void **state) {
  static const struct {
    const char *line, *says;
  } rows[] = {
      {"", "postern://"},
      {TOKEN, "does not begin"},
      {"https://gw:7841#pin=" PIN "&token=" TOKEN, "does not begin"},
      {"postern://gw:7841", "no #"},
      {"postern://gw:7841#", "a part other than"},
      {"postern://gw#pin=" PIN "&token=" TOKEN, "HOST:PORT"},
      {"postern://:7841#pin=" PIN "&token=" TOKEN, "HOST:PORT"},
      {"postern://gw:0#pin=" PIN "&token=" TOKEN, "HOST:PORT"},
      {"postern://gw:7841/#pin=" PIN "&token=" TOKEN, "HOST:PORT"},
      {"postern://gw:7841#pin=abc&token=" TOKEN, "the pin is not"},
      {"postern://gw:7841#pin=&token=" TOKEN, "the pin is not"},
      {"postern://gw:7841#pin=" PIN "&token=", "the token is empty"},
      {"postern://gw:7841#pin=" PIN, "missing"},
      {"postern://gw:7841#token=" TOKEN, "missing"},
      {"postern://gw:7841#pin=" PIN "&token=" TOKEN "&", "a part other than"},
      {"postern://gw:7841#pin=" PIN "&token=" TOKEN "&more=1", "a part other than"},
      {"postern://gw:7841#pin=" PIN "&token=" TOKEN "&token=" TOKEN, "twice"},
      {"postern://gw:7841#pin=" PIN "&pin=" PIN "&token=" TOKEN, "twice"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct enrolment got;
    struct err_text e = {""};
    assert_int_equal(enrol_parse(rows[i].line, &got, &e), PERR_INVALID);
    if (!strstr(e.s, rows[i].says)) fail_msg("row %zu: %s", i, e.s);
    assert_null(strstr(e.s, "S3cret"));
    assert_string_equal(got.token, "");
  }
}

static void lengths_at_their_bounds(void **state) {
  char line[ENROL_TEXT];
  static char token[CONTROL_TOKEN_TEXT + 1];
  struct enrolment got;
  struct err_text e = {""};
  memset(token, 't', CONTROL_TOKEN_TEXT - 1);
  snprintf(line, sizeof line, "postern://gw:7841#pin=" PIN "&token=%s", token);
  assert_int_equal(enrol_parse(line, &got, &e), 0);
  assert_string_equal(got.token, token);
  token[CONTROL_TOKEN_TEXT - 1] = 't';
  snprintf(line, sizeof line, "postern://gw:7841#pin=" PIN "&token=%s", token);
  assert_int_equal(enrol_parse(line, &got, &e), PERR_INVALID);
  snprintf(line, sizeof line, "postern://%0300d.example:7841#pin=" PIN "&token=t", 1);
  assert_int_equal(enrol_parse(line, &got, &e), PERR_INVALID);
  snprintf(line, sizeof line, "postern://gw:7841#pin=%0400d&token=t", 1);
  assert_int_equal(enrol_parse(line, &got, &e), PERR_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pins_in_each_spelling),
      cmocka_unit_test(pins_that_are_none),
      cmocka_unit_test(a_whole_line),
      cmocka_unit_test(broken_lines_say_what_is_wrong),
      cmocka_unit_test(lengths_at_their_bounds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
