// core_limits_test: defaults and own values of a user's limits.
#include "postern/core/limits.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void defaults_stand_where_nothing_is_set(void **state) {
  struct store_limits own = {.tunnels = -1, .connections = -1, .instances = -1};
  struct limits l;
  limits_from_store(&l, &own);
  assert_int_equal(l.tunnels, 64);
  assert_int_equal(l.visitors, 4096);
  assert_int_equal(l.dials, 256);
  assert_int_equal(l.instances, 16);
  assert_int_equal(l.nports, 0);
  assert_true(limits_port_ok(&l, 1));
  assert_true(limits_port_ok(&l, 65535));
}

static void own_values_replace_defaults(void **state) {
  struct store_limits own = {.tunnels = 0, .connections = INT64_C(5000000000), .instances = 3, .nports = 2};
  own.ports[0] = (struct store_range){20000, 20010};
  own.ports[1] = (struct store_range){20020, 20020};
  struct limits l;
  limits_from_store(&l, &own);
  assert_int_equal(l.tunnels, 0);
  assert_int_equal(l.visitors, UINT32_MAX);
  assert_int_equal(l.instances, 3);
  assert_false(limits_port_ok(&l, 19999));
  assert_true(limits_port_ok(&l, 20000));
  assert_true(limits_port_ok(&l, 20010));
  assert_false(limits_port_ok(&l, 20011));
  assert_true(limits_port_ok(&l, 20020));
  assert_false(limits_port_ok(&l, 20021));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_stand_where_nothing_is_set),
      cmocka_unit_test(own_values_replace_defaults),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
