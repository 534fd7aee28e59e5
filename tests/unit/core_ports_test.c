// core_ports_test: the rules of "who gets which port".
#include "core_ports_world.h"

// ---- asked for 0 ----

static void any_port_is_the_first_of_the_range(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  assert_int_equal(ask(w, w->alice, "b", 0), LOW + 1);
  assert_int_equal(ask(w, w->bob, "a", 0), LOW + 2);
  w->kind = STORE_UDP; // a space of its own
  assert_int_equal(ask(w, w->bob, "u", 0), LOW);
}

static void any_port_is_the_one_the_tunnel_had(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", LOW + 7), LOW + 7);
  release(w, w->alice, LOW + 7);
  w->now += 10 * DAY;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 7);
  // Another name or instance is another tunnel.
  assert_int_equal(ask(w, w->alice, "other/a", 0), LOW);
}

static void last_port_must_be_free_and_allowed(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", LOW + 7), LOW + 7);
  release(w, w->alice, LOW + 7);
  w->answer[LOW + 7] = PERR_IN_USE;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  release(w, w->alice, LOW);
  w->limits.ports[w->limits.nports++] = (struct store_range){LOW + 4, LOW + 5};
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 4);
  release(w, w->alice, LOW + 4);
  core_store_bind(&w->db, w->bob, "tcp/20004");
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 5);
}

// A port that the same tunnel had before its last one needs no rest.
static void earlier_port_of_the_tunnel_comes_next(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", LOW), LOW);
  release(w, w->alice, LOW);
  assert_int_equal(ask(w, w->alice, "a", LOW + 3), LOW + 3);
  release(w, w->alice, LOW + 3);
  w->answer[LOW + 3] = PERR_IN_USE;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
}

static void another_tunnels_port_rests_for_a_day(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  release(w, w->alice, LOW);
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 1);
  release(w, w->bob, LOW + 1);
  w->now += DAY - 1;
  assert_int_equal(ask(w, w->bob, "c", 0), LOW + 2);
  w->now += 1;
  assert_int_equal(ask(w, w->bob, "d", 0), LOW);
  // Its former tunnel does not get it while it is taken, nor within a day afterwards.
  release(w, w->bob, LOW);
  assert_int_not_equal(ask(w, w->alice, "a", 0), LOW);
}

static void full_range_gives_the_longest_unused(void **state) {
  struct world *w = *state;
  static const uint16_t order[] = {3, 1, 4, 0, 5, 9, 2, 6, 8, 7};
  char tunnel[8];
  for (unsigned i = 0; i < 10; i++) {
    snprintf(tunnel, sizeof tunnel, "t%u", i);
    assert_int_equal(ask(w, w->alice, tunnel, LOW + order[i]), LOW + order[i]);
    w->now++;
    release(w, w->alice, LOW + order[i]);
  }
  w->answer[LOW + 3] = PERR_IN_USE;
  w->answer[LOW + 1] = PERR_DENIED;
  assert_int_equal(ask(w, w->bob, "x", 0), LOW + 4);
  assert_int_equal(ask(w, w->bob, "y", 0), LOW + 0);
  core_store_bind(&w->db, w->bob, "tcp/20005");
  assert_int_equal(ask(w, w->bob, "z", 0), LOW + 9);
}

static void exhausted_range_is_a_limit(void **state) {
  struct world *w = *state;
  char tunnel[8];
  for (unsigned i = 0; i < 10; i++) {
    snprintf(tunnel, sizeof tunnel, "t%u", i);
    (void)ask(w, w->alice, tunnel, 0);
  }
  refused(w, w->bob, "x", 0, MOVABLE, PERR_LIMIT, "no tcp port is left in 20000-20009");
  refused(w, w->bob, "x", LOW + 3, MOVABLE, PERR_LIMIT, "no tcp port is left in 20000-20009");
  w->limits.ports[w->limits.nports++] = (struct store_range){30000, 30001};
  w->kind = STORE_UDP;
  refused(w, w->bob, "x", 0, MOVABLE, PERR_LIMIT, "no udp port is left in 20000-20009 and the user's own port ranges");
}

static void any_port_is_never_a_bound_one(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/20000");
  core_store_bind(&w->db, w->bob, "tcp/20001");
  core_store_bind(&w->db, w->bob, "udp/20002");
  core_store_bind(&w->db, w->bob, "host/app.example.com");
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 2);
  // Not even one's own that the tunnel had last.
  assert_int_equal(ask(w, w->alice, "b", LOW), LOW);
  release(w, w->alice, LOW);
  assert_int_equal(ask(w, w->alice, "b", 0), LOW + 3);
}

// ---- asked for a bound port ----

static void bound_port_is_exactly_that(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/443");
  w->limits.ports[w->limits.nports++] = (struct store_range){LOW, LOW};
  assert_int_equal(ask(w, w->alice, "a", 443), 443); // outside both ranges
  w->session = 7;
  refused(w, w->alice, "second/a", 443, MOVABLE, PERR_IN_USE, "tcp/443 is held by another tunnel");
  refused(w, w->alice, "b", 443, MOVABLE, PERR_IN_USE, "tcp/443 is held by another tunnel");
  assert_int_equal(w->tries[443], 1);
}

static void bound_port_is_never_moved(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/20003");
  w->answer[LOW + 3] = PERR_IN_USE;
  refused(w, w->alice, "a", LOW + 3, MOVABLE, PERR_IN_USE, "tcp/20003 is in use by another program");
  w->answer[LOW + 3] = PERR_DENIED;
  refused(w, w->alice, "a", LOW + 3, MOVABLE, PERR_DENIED, "tcp/20003 is not permitted to the gateway's process");
  ports_reserve(w->ports, LOW + 3);
  refused(w, w->alice, "a", LOW + 3, MOVABLE, PERR_IN_USE, "tcp/20003 is a port of the gateway itself");
}

static void bound_port_held_by_another_user_is_in_use(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->bob, "b", LOW + 3), LOW + 3);
  core_store_bind(&w->db, w->alice, "tcp/20003");
  refused(w, w->alice, "a", LOW + 3, MOVABLE, PERR_IN_USE, "tcp/20003 is held by another tunnel");
  release(w, w->bob, LOW + 3);
  assert_int_equal(ask(w, w->alice, "a", LOW + 3), LOW + 3);
}

// ---- asked for another port ----

static void wanted_port_is_given_when_free(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", LOW + 5), LOW + 5);
  release(w, w->alice, LOW + 5);
  assert_int_equal(ask(w, w->bob, "b", LOW + 5), LOW + 5); // freed by a closing session: at once
}

static void wanted_port_moves_up_and_wraps_once(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->bob, "tcp/20008");
  w->answer[LOW + 9] = PERR_IN_USE;
  w->answer[LOW + 0] = PERR_DENIED;
  ports_reserve(w->ports, LOW + 1);
  assert_int_equal(ask(w, w->bob, "b", LOW + 7), LOW + 7);
  assert_int_equal(ask(w, w->alice, "a", LOW + 7), LOW + 2);
  assert_int_equal(w->tries[LOW + 8], 0);
  assert_int_equal(w->tries[LOW + 1], 0);
  assert_int_equal(w->tries[LOW + 9], 1);
  assert_int_equal(ask(w, w->alice, "a2", LOW + 8), LOW + 3);
}

static void wanted_port_outside_the_range_starts_at_its_start(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 80), LOW);
  assert_int_equal(ask(w, w->alice, "b", 50000), LOW + 1);
  assert_int_equal(ask(w, w->alice, "c", HIGH + 1), LOW + 2);
}

static void wanted_port_keeps_to_the_users_ranges(void **state) {
  struct world *w = *state;
  w->limits.ports[w->limits.nports++] = (struct store_range){LOW + 6, LOW + 7};
  w->limits.ports[w->limits.nports++] = (struct store_range){HIGH, HIGH + 100};
  assert_int_equal(ask(w, w->alice, "a", LOW + 2), LOW + 6);
  assert_int_equal(ask(w, w->alice, "b", HIGH + 5), LOW + 7);
  assert_int_equal(ask(w, w->alice, "c", LOW + 7), HIGH);
  refused(w, w->alice, "d", LOW + 7, MOVABLE, PERR_LIMIT,
          "no tcp port is left in 20000-20009 and the user's own port ranges");
}

// A port bound to the user is given only when it is asked for by its number.
static void search_passes_over_own_bound_ports(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/20005");
  assert_int_equal(ask(w, w->bob, "b", LOW + 4), LOW + 4);
  assert_int_equal(ask(w, w->alice, "a", LOW + 4), LOW + 6);
}

static void strict_port_is_refused_with_its_reason(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->bob, "tcp/20001");
  refused(w, w->alice, "a", LOW + 1, STRICT, PERR_DENIED, "tcp/20001 is bound to another user");
  refused(w, w->alice, "a", 80, STRICT, PERR_DENIED, "tcp/80 is outside the gateway's port range");
  assert_int_equal(ask(w, w->bob, "b", LOW + 2), LOW + 2);
  refused(w, w->alice, "a", LOW + 2, STRICT, PERR_IN_USE, "tcp/20002 is held by another tunnel");
  w->answer[LOW + 3] = PERR_IN_USE;
  refused(w, w->alice, "a", LOW + 3, STRICT, PERR_IN_USE, "tcp/20003 is in use by another program");
  w->answer[LOW + 4] = PERR_DENIED;
  refused(w, w->alice, "a", LOW + 4, STRICT, PERR_DENIED, "tcp/20004 is not permitted to the gateway's process");
  ports_reserve(w->ports, LOW + 5);
  refused(w, w->alice, "a", LOW + 5, STRICT, PERR_IN_USE, "tcp/20005 is a port of the gateway itself");
  w->limits.ports[w->limits.nports++] = (struct store_range){LOW, LOW + 5};
  refused(w, w->alice, "a", LOW + 6, STRICT, PERR_DENIED, "tcp/20006 is outside the user's own port ranges");
  uint16_t got;
  must(ask_code(w, w->alice, "a", LOW, STRICT, &got));
  assert_int_equal(got, LOW);
}

static void other_errors_end_the_search(void **state) {
  struct world *w = *state;
  w->answer[LOW] = PERR_IO;
  char why[128];
  snprintf(why, sizeof why, "tcp/20000 %s", perr_str(PERR_IO));
  refused(w, w->alice, "a", 0, MOVABLE, PERR_IO, why);
  refused(w, w->alice, "a", LOW, MOVABLE, PERR_IO, why);
  assert_int_equal(w->tries[LOW + 1], 0);
  w->answer[LOW] = 0;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW); // nothing was held meanwhile
}

// ---- many ----

static void large_ranges_are_searched_at_once(void **state) {
  struct world *w = *state;
  ports_set_range(w->ports, 30000, 39999);
  for (unsigned port = 30000; port < 39999; port++) w->answer[port] = PERR_IN_USE;
  assert_int_equal(ask(w, w->alice, "a", 0), 39999);
  refused(w, w->bob, "b", 0, MOVABLE, PERR_LIMIT, "no tcp port is left in 30000-39999");
  w->answer[35000] = 0;
  assert_int_equal(ask(w, w->bob, "b", 35001), 35000);
}

static void whole_space_can_be_the_range(void **state) {
  struct world *w = *state;
  ports_set_range(w->ports, 1, 65535);
  for (unsigned port = 1; port < 65535; port++) w->answer[port] = PERR_DENIED;
  assert_int_equal(ask(w, w->alice, "a", 0), 65535);
  refused(w, w->bob, "b", 65535, MOVABLE, PERR_LIMIT, "no tcp port is left in 1-65535");
  release(w, w->alice, 65535);
  w->answer[1] = 0;
  assert_int_equal(ask(w, w->bob, "b", 0), 1);
  w->answer[1] = PERR_IN_USE;
  assert_int_equal(ask(w, w->bob, "c", 0), 65535);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(any_port_is_the_first_of_the_range),
      TEST(any_port_is_the_one_the_tunnel_had),
      TEST(last_port_must_be_free_and_allowed),
      TEST(earlier_port_of_the_tunnel_comes_next),
      TEST(another_tunnels_port_rests_for_a_day),
      TEST(full_range_gives_the_longest_unused),
      TEST(exhausted_range_is_a_limit),
      TEST(any_port_is_never_a_bound_one),
      TEST(bound_port_is_exactly_that),
      TEST(bound_port_is_never_moved),
      TEST(bound_port_held_by_another_user_is_in_use),
      TEST(wanted_port_is_given_when_free),
      TEST(wanted_port_moves_up_and_wraps_once),
      TEST(wanted_port_outside_the_range_starts_at_its_start),
      TEST(wanted_port_keeps_to_the_users_ranges),
      TEST(search_passes_over_own_bound_ports),
      TEST(strict_port_is_refused_with_its_reason),
      TEST(other_errors_end_the_search),
      TEST(large_ranges_are_searched_at_once),
      TEST(whole_space_can_be_the_range),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
