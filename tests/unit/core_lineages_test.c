// core_lineages_test: what is linked, what gives way when there is too much of it, and what an ended session leaves.
#include "postern/core/lineages.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct name {
  uint8_t b[LINEAGE_LEN];
};

static struct name name(uint32_t n) {
  struct name x = {{0}};
  memcpy(x.b + LINEAGE_LEN - sizeof n, &n, sizeof n);
  return x;
}

static void link_to(struct lineages *l, uint32_t lineage, uint64_t session) {
  lineages_link(l, name(lineage).b, session);
}

static bool linked(struct lineages *l, uint32_t lineage, uint64_t session) {
  return lineages_linked(l, name(lineage).b, session);
}

static unsigned count(struct lineages *l, uint32_t lineage) {
  uint64_t out[2 * LINEAGES_SESSIONS];
  return lineages_sessions(l, name(lineage).b, out, 2 * LINEAGES_SESSIONS);
}

static void only_what_was_linked_is(void **state) {
  struct lineages *l = lineages_new();
  assert_false(linked(l, 1, 10));
  link_to(l, 1, 10);
  link_to(l, 1, 10);
  link_to(l, 2, 20);
  assert_true(linked(l, 1, 10));
  assert_true(linked(l, 2, 20));
  assert_false(linked(l, 1, 20));
  assert_false(linked(l, 2, 10));
  assert_false(linked(l, 3, 10));
  assert_int_equal(count(l, 1), 1);
  lineages_free(l);
  lineages_free(NULL);
}

static void lineage_lists_its_sessions_by_use(void **state) {
  struct lineages *l = lineages_new();
  uint64_t out[4] = {0};
  for (uint64_t s = 1; s <= 3; s++) link_to(l, 7, s);
  assert_int_equal(lineages_sessions(l, name(7).b, out, 4), 3);
  assert_true(out[0] == 3 && out[1] == 2 && out[2] == 1);
  assert_true(linked(l, 7, 2));
  link_to(l, 7, 1);
  assert_int_equal(lineages_sessions(l, name(7).b, out, 2), 2);
  assert_true(out[0] == 1 && out[1] == 2 && out[2] == 1);
  assert_int_equal(lineages_sessions(l, name(8).b, out, 4), 0);
  assert_int_equal(lineages_sessions(l, name(7).b, out, 0), 0);
  lineages_free(l);
}

static void session_keeps_the_most_recently_used(void **state) {
  struct lineages *l = lineages_new();
  link_to(l, 1, 2); // of another session: stays
  for (uint32_t i = 0; i < LINEAGES_PER_SESSION; i++) link_to(l, i, 1);
  assert_true(linked(l, 0, 1)); // a hit
  link_to(l, 1, 1);             // linked again
  link_to(l, 100, 1);
  assert_false(linked(l, 2, 1));
  assert_int_equal(count(l, 2), 0);
  assert_true(linked(l, 0, 1) && linked(l, 1, 1) && linked(l, 3, 1) && linked(l, 100, 1));
  for (uint32_t i = 200; i < 200 + LINEAGES_PER_SESSION - 1; i++) link_to(l, i, 1);
  assert_true(linked(l, 100, 1)); // the last one left of before
  assert_false(linked(l, 0, 1) || linked(l, 1, 1) || linked(l, 3, 1) || linked(l, 31, 1));
  assert_true(linked(l, 1, 2));
  lineages_free(l);
}

static void lineage_keeps_so_many_sessions(void **state) {
  struct lineages *l = lineages_new();
  for (uint64_t s = 1; s <= LINEAGES_SESSIONS; s++) link_to(l, 1, s);
  assert_int_equal(count(l, 1), LINEAGES_SESSIONS);
  assert_true(linked(l, 1, 1));
  link_to(l, 2, 2);
  link_to(l, 1, 1000);
  assert_int_equal(count(l, 1), LINEAGES_SESSIONS);
  assert_false(linked(l, 1, 2));
  assert_true(linked(l, 2, 2));
  assert_true(linked(l, 1, 1) && linked(l, 1, 3) && linked(l, 1, 1000));
  lineages_free(l);
}

static void ended_session_leaves_nothing(void **state) {
  struct lineages *l = lineages_new();
  for (uint32_t i = 0; i < 5; i++) {
    link_to(l, i, 1);
    link_to(l, i, 2);
  }
  lineages_forget(l, 1);
  lineages_forget(l, 1);
  lineages_forget(l, 3);
  for (uint32_t i = 0; i < 5; i++) {
    assert_false(linked(l, i, 1));
    assert_true(linked(l, i, 2));
    assert_int_equal(count(l, i), 1);
  }
  lineages_forget(l, 2);
  assert_int_equal(count(l, 0), 0);
  link_to(l, 0, 4);
  assert_true(linked(l, 0, 4));
  lineages_free(l);
}

// Every one of many sessions with as many lineages as it may have, and some of everybody's.
static void many_come_and_go(void **state) {
  struct lineages *l = lineages_new();
  for (uint64_t s = 1; s <= 2000; s++) {
    for (uint32_t i = 0; i < 40; i++) link_to(l, (uint32_t)(i % 4 == 0 ? i : s * 100 + i), s);
    if (s > 500) lineages_forget(l, s - 500);
  }
  assert_int_equal(count(l, 0), 0); // pushed out by 32 later ones of each
  assert_int_equal(count(l, 36), LINEAGES_SESSIONS);
  assert_true(linked(l, 2000 * 100 + 39, 2000));
  assert_false(linked(l, 1500 * 100 + 39, 1500));
  lineages_free(l);
}

struct crowd {
  struct lineages *l;
  uint32_t number;
};

// cmocka's assertions are for the test's own thread.
static void *come_and_go(void *arg) {
  const struct crowd *c = arg;
  uint64_t out[8];
  for (uint32_t i = 0; i < 500; i++) {
    uint64_t own = (uint64_t)c->number << 32 | i;
    link_to(c->l, i % 7, own);
    link_to(c->l, i % 5, 1);
    (void)linked(c->l, (i + c->number) % 5, 1);
    (void)lineages_sessions(c->l, name(i % 7).b, out, 8);
    if (!linked(c->l, i % 7, own)) abort();
    lineages_forget(c->l, own);
  }
  return NULL;
}

static void threads_share_it(void **state) {
  struct lineages *l = lineages_new();
  struct crowd crowd[4];
  pthread_t thread[4];
  for (uint32_t i = 0; i < 4; i++) {
    crowd[i] = (struct crowd){l, i + 1};
    assert_int_equal(pthread_create(&thread[i], NULL, come_and_go, &crowd[i]), 0);
  }
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  assert_true(linked(l, 0, 1));
  assert_int_equal(count(l, 0), 1);
  lineages_free(l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(only_what_was_linked_is),
      cmocka_unit_test(lineage_lists_its_sessions_by_use),
      cmocka_unit_test(session_keeps_the_most_recently_used),
      cmocka_unit_test(lineage_keeps_so_many_sessions),
      cmocka_unit_test(ended_session_leaves_nothing),
      cmocka_unit_test(many_come_and_go),
      cmocka_unit_test(threads_share_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
