// Tries: so many within any window, for each key; bounded memory; an IPv6 /64 counts as one address.
#include "postern/gateway/tries.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 10, WINDOW = 60000 };

static void so_many_in_any_window(void **state) {
  struct tries *t = tries_new(MOST, WINDOW, 8);
  assert_non_null(t);
  for (unsigned i = 0; i < MOST; i++) {
    assert_false(tries_spent(t, "a", 1000 + i * 1000));
    tries_note(t, "a", 1000 + i * 1000);
  }
  assert_true(tries_spent(t, "a", 10000));
  assert_false(tries_spent(t, "b", 10000));
  assert_true(tries_spent(t, "a", 1000 + WINDOW - 1));
  // The first one has left the window, not the second.
  assert_false(tries_spent(t, "a", 1000 + WINDOW));
  tries_note(t, "a", 1000 + WINDOW);
  assert_true(tries_spent(t, "a", 2000 + WINDOW - 1));
  assert_false(tries_spent(t, "a", 2000 + WINDOW));
  tries_free(t);
}

static void the_least_recent_key_is_forgotten(void **state) {
  struct tries *t = tries_new(1, WINDOW, 3);
  assert_non_null(t);
  tries_note(t, "a", 0);
  tries_note(t, "b", 1);
  tries_note(t, "c", 2);
  tries_note(t, "a", 3);
  tries_note(t, "d", 4);
  assert_true(tries_spent(t, "a", 5));
  assert_false(tries_spent(t, "b", 5));
  assert_true(tries_spent(t, "c", 5));
  assert_true(tries_spent(t, "d", 5));
  for (unsigned i = 0; i < 1000; i++) {
    char key[16];
    snprintf(key, sizeof key, "%u", i);
    tries_note(t, key, 6);
  }
  assert_false(tries_spent(t, "996", 7));
  assert_true(tries_spent(t, "997", 7));
  tries_free(t);
}

static void long_keys_are_cut(void **state) {
  static char key[2 * TRIES_KEY_TEXT];
  memset(key, 'x', sizeof key - 1);
  struct tries *t = tries_new(1, WINDOW, 3);
  assert_non_null(t);
  tries_note(t, key, 0);
  assert_true(tries_spent(t, key, 1));
  tries_free(t);
}

static void assert_key(const char *ip, const char *key) {
  struct addr a;
  char out[TRIES_KEY_TEXT];
  assert_int_equal(addr_from_ip(&a, ip, 1234), 0);
  assert_string_equal(tries_addr_key(&a, out), key);
}

static void a_network_is_one_address(void **state) {
  assert_key("192.0.2.1", "192.0.2.1");
  assert_key("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
  assert_key("2001:db8:1:2::1", "2001:db8:1:2::");
  assert_key("2001:db8:1:3::1", "2001:db8:1:3::");
  assert_key("::1", "::");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(so_many_in_any_window),
      cmocka_unit_test(the_least_recent_key_is_forgotten),
      cmocka_unit_test(long_keys_are_cut),
      cmocka_unit_test(a_network_is_one_address),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
