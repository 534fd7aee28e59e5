// core_registry_test: where a login goes, and who is left afterwards.
#include "postern/core/registry.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NOW = 1000000 };

struct login {
  struct identity who;
  uint8_t run[RUN_ID_LEN];
  struct registry_place place;
};

static struct login make_login(uint32_t user, uint32_t run) {
  struct login l = {.who = {.user = user, .limits = {.instances = LIMIT_INSTANCES}}};
  snprintf(l.who.user_name, sizeof l.who.user_name, "user%u", user);
  memcpy(l.run, &run, sizeof run);
  return l;
}

// Not yet at its worker.
static enum registry_verdict set_out(struct registry *r, struct login *l, const char *instance, int64_t now) {
  struct registry_login login = {.who = &l->who, .instance = instance, .run = l->run, .protocol = "trunk", .now = now};
  if (addr_from_ip(&login.peer, "192.0.2.1", (uint16_t)(l->run[0] + 1)) != 0) abort();
  return registry_enter(r, &login, &l->place);
}

static void arrive(struct registry *r, const struct login *l) {
  char reason[NAME_TEXT];
  int64_t until;
  assert_true(registry_arrive(r, l->place.id, reason, &until));
}

static enum registry_verdict enter(struct registry *r, struct login *l, const char *instance, int64_t now) {
  enum registry_verdict v = set_out(r, l, instance, now);
  arrive(r, l);
  return v;
}

// As `enter`, by a protocol in which whoever is taken over stays away.
static enum registry_verdict enter_yielding(struct registry *r, struct login *l, int64_t now) {
  struct registry_login login = {
      .who = &l->who, .instance = "default", .run = l->run, .protocol = "nsp", .now = now, .yields = true};
  enum registry_verdict v = registry_enter(r, &login, &l->place);
  arrive(r, l);
  return v;
}

static void only_so_many_are_on_their_way(void **state) {
  struct registry *r = registry_new(1);
  struct login l[REGISTRY_ARRIVING + 1], other = make_login(2, 1);
  for (uint32_t i = 0; i < REGISTRY_ARRIVING; i++) {
    l[i] = make_login(1, i);
    assert_int_equal(set_out(r, &l[i], "default", 1), i ? REGISTRY_TAKEOVER : REGISTRY_NEW);
    assert_int_equal(l[i].place.entry->displaced.id, i ? l[i - 1].place.id : 0);
  }
  l[REGISTRY_ARRIVING] = make_login(1, REGISTRY_ARRIVING);
  assert_int_equal(set_out(r, &l[REGISTRY_ARRIVING], "default", 1), REGISTRY_BUSY);
  assert_int_equal(set_out(r, &other, "default", 1), REGISTRY_NEW);
  arrive(r, &l[0]);
  arrive(r, &l[0]); // counts once
  registry_leave(r, l[1].place.entry);
  for (uint32_t i = 0; i < 2; i++) {
    struct login more = make_login(1, 100 + i);
    assert_int_equal(set_out(r, &more, "default", 1), REGISTRY_TAKEOVER);
    l[i ? 1 : REGISTRY_ARRIVING] = more;
  }
  struct login last = make_login(1, 200);
  assert_int_equal(set_out(r, &last, "default", 1), REGISTRY_BUSY);
  for (uint32_t i = 0; i <= REGISTRY_ARRIVING; i++) registry_leave(r, l[i].place.entry);
  registry_leave(r, other.place.entry);
  registry_free(r);
}

static void what_is_doomed_on_its_way_is_told_on_arrival(void **state) {
  struct registry *r = registry_new(1);
  struct login l = make_login(1, 1), there = make_login(2, 1);
  char reason[NAME_TEXT] = "";
  int64_t until = 0;
  assert_int_equal(set_out(r, &l, "default", 1), REGISTRY_NEW);
  assert_int_equal(enter(r, &there, "default", 1), REGISTRY_NEW);
  registry_doom(r, l.place.id, "banned", 77);
  registry_doom(r, there.place.id, "banned", 77); // its worker has it, and is told
  registry_doom(r, 12345, "banned", 77);
  assert_false(registry_arrive(r, l.place.id, reason, &until));
  assert_string_equal(reason, "banned");
  assert_int_equal(until, 77);
  arrive(r, &there);
  registry_leave(r, l.place.entry);
  registry_leave(r, there.place.entry);
  registry_free(r);
}

static void one_heartbeat_is_on_its_way(void **state) {
  struct registry *r = registry_new(1);
  struct login l = make_login(1, 1);
  assert_int_equal(enter(r, &l, "default", 1), REGISTRY_NEW);
  assert_true(registry_beat(r, l.place.id));
  assert_false(registry_beat(r, l.place.id));
  registry_beat_taken(r, l.place.entry);
  assert_true(registry_beat(r, l.place.id));
  assert_false(registry_beat(r, 12345));
  registry_leave(r, l.place.entry);
  registry_free(r);
}

static void link_up(struct login *l) {
  atomic_store(&l->place.entry->linked, true);
}

static void new_sessions_go_to_the_least_loaded_worker(void **state) {
  struct registry *r = registry_new(3);
  struct login l[4];
  for (uint32_t i = 0; i < 3; i++) {
    l[i] = make_login(i + 1, i);
    assert_int_equal(enter(r, &l[i], "default", NOW), REGISTRY_NEW);
    assert_int_equal(l[i].place.worker, i);
    assert_int_equal(l[i].place.entry->worker, i);
    assert_int_equal(l[i].place.id, i + 1);
  }
  registry_leave(r, l[1].place.entry);
  l[3] = make_login(9, 9);
  assert_int_equal(enter(r, &l[3], "default", NOW), REGISTRY_NEW);
  assert_int_equal(l[3].place.worker, 1);
  assert_int_equal(registry_count(r), 3);
  registry_leave(r, l[0].place.entry);
  registry_leave(r, l[2].place.entry);
  registry_leave(r, l[3].place.entry);
  assert_int_equal(registry_count(r), 0);
  registry_free(r);
}

static void same_run_resumes(void **state) {
  struct registry *r = registry_new(2);
  struct login first = make_login(1, 7), again = make_login(1, 7);
  assert_int_equal(enter(r, &first, "default", NOW), REGISTRY_NEW);
  link_up(&first);
  assert_int_equal(enter(r, &again, "default", NOW), REGISTRY_RESUME);
  assert_null(again.place.entry);
  assert_int_equal(again.place.id, first.place.id);
  assert_int_equal(again.place.worker, first.place.worker);
  assert_int_equal(registry_count(r), 1);
  registry_leave(r, first.place.entry);
  registry_free(r);
}

static void other_run_takes_over_on_the_same_worker(void **state) {
  struct registry *r = registry_new(4);
  struct login filler = make_login(2, 1), older = make_login(1, 5), newer = make_login(1, 6);
  assert_int_equal(enter(r, &filler, "default", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &older, "default", NOW), REGISTRY_NEW);
  link_up(&older);
  assert_int_equal(enter(r, &newer, "default", NOW), REGISTRY_TAKEOVER);
  assert_int_equal(newer.place.older, older.place.id);
  assert_true(newer.place.older_linked);
  assert_int_equal(addr_port(&newer.place.older_peer), 6);
  assert_int_equal(newer.place.worker, older.place.worker);
  assert_true(registry_is_current(r, newer.place.entry));
  assert_false(registry_is_current(r, older.place.entry));
  // The older one's end must not touch its successor.
  registry_leave(r, older.place.entry);
  assert_true(registry_is_current(r, newer.place.entry));
  struct login back = make_login(1, 6);
  assert_int_equal(enter(r, &back, "default", NOW), REGISTRY_RESUME);
  registry_leave(r, newer.place.entry);
  registry_leave(r, filler.place.entry);
  registry_free(r);
}

static void instances_and_users_are_apart(void **state) {
  struct registry *r = registry_new(1);
  struct login a = make_login(1, 1), b = make_login(1, 2), c = make_login(2, 3);
  assert_int_equal(enter(r, &a, "one", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &b, "two", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &c, "one", NOW), REGISTRY_NEW);
  assert_true(registry_is_current(r, a.place.entry));
  registry_leave(r, a.place.entry);
  registry_leave(r, b.place.entry);
  registry_leave(r, c.place.entry);
  registry_free(r);
}

static void limit_counts_distinct_instances(void **state) {
  struct registry *r = registry_new(1);
  struct login l[5];
  for (uint32_t i = 0; i < 5; i++) {
    l[i] = make_login(1, i);
    l[i].who.limits.instances = 2;
  }
  assert_int_equal(enter(r, &l[0], "one", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &l[1], "two", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &l[2], "three", NOW), REGISTRY_LIMIT);
  assert_null(l[2].place.entry);
  assert_int_equal(enter(r, &l[3], "one", NOW), REGISTRY_TAKEOVER); // needs no room
  assert_int_equal(enter(r, &l[2], "three", NOW), REGISTRY_LIMIT);
  registry_leave(r, l[0].place.entry); // was taken over: makes no room either
  assert_int_equal(enter(r, &l[2], "three", NOW), REGISTRY_LIMIT);
  registry_leave(r, l[3].place.entry);
  assert_int_equal(enter(r, &l[2], "three", NOW), REGISTRY_NEW);
  registry_leave(r, l[1].place.entry);
  registry_leave(r, l[2].place.entry);
  l[4].who.limits.instances = 0;
  assert_int_equal(enter(r, &l[4], "one", NOW), REGISTRY_LIMIT);
  registry_free(r);
}

// Takes over from *current and lets the older session leave.
static enum registry_verdict fight(struct registry *r, struct login *current, uint32_t run, int64_t now,
                                   int64_t *until) {
  struct login next = make_login(1, run);
  enum registry_verdict v = enter(r, &next, "default", now);
  *until = next.place.until;
  if (v != REGISTRY_TAKEOVER) return v;
  registry_leave(r, current->place.entry);
  *current = next;
  link_up(current);
  return v;
}

static void sixth_takeover_in_a_minute_is_refused_for_a_minute(void **state) {
  struct registry *r = registry_new(1);
  struct login current = make_login(1, 100);
  int64_t until;
  assert_int_equal(enter(r, &current, "default", NOW), REGISTRY_NEW);
  link_up(&current);
  for (uint32_t i = 0; i < 5; i++) assert_int_equal(fight(r, &current, i, NOW + i, &until), REGISTRY_TAKEOVER);
  uint64_t holder = current.place.id;
  assert_int_equal(fight(r, &current, 50, NOW + 5, &until), REGISTRY_BUSY);
  assert_int_equal(until, NOW + 4 + 60);
  assert_int_equal(fight(r, &current, 51, NOW + 63, &until), REGISTRY_BUSY);
  assert_int_equal(current.place.id, holder);
  assert_int_equal(registry_count(r), 1);
  // The holder itself may come back meanwhile.
  struct login again = make_login(1, 4);
  assert_int_equal(enter(r, &again, "default", NOW + 30), REGISTRY_RESUME);
  // After that counting starts anew.
  for (uint32_t i = 0; i < 5; i++) assert_int_equal(fight(r, &current, 60 + i, NOW + 64, &until), REGISTRY_TAKEOVER);
  assert_int_equal(fight(r, &current, 70, NOW + 64, &until), REGISTRY_BUSY);
  registry_leave(r, current.place.entry);
  registry_free(r);
}

static void yielding_takeovers_are_no_fight(void **state) {
  struct registry *r = registry_new(1);
  struct login current = make_login(1, 100);
  int64_t until;
  assert_int_equal(enter_yielding(r, &current, NOW), REGISTRY_NEW);
  link_up(&current);
  for (uint32_t i = 0; i < 4; i++) assert_int_equal(fight(r, &current, i, NOW, &until), REGISTRY_TAKEOVER);
  for (uint32_t i = 0; i < 20; i++) { // count nothing towards the fifth
    struct login next = make_login(1, 10 + i);
    assert_int_equal(enter_yielding(r, &next, NOW), REGISTRY_TAKEOVER);
    assert_true(next.place.older_linked);
    assert_int_equal(next.place.older, current.place.id);
    registry_leave(r, current.place.entry);
    current = next;
    link_up(&current);
  }
  assert_int_equal(fight(r, &current, 50, NOW, &until), REGISTRY_TAKEOVER);
  assert_int_equal(fight(r, &current, 51, NOW, &until), REGISTRY_BUSY);
  struct login next = make_login(1, 60); // and are not refused for the others' fight
  assert_int_equal(enter_yielding(r, &next, NOW), REGISTRY_TAKEOVER);
  registry_leave(r, current.place.entry);
  link_up(&next);
  assert_int_equal(fight(r, &next, 61, NOW, &until), REGISTRY_BUSY); // which goes on
  registry_leave(r, next.place.entry);
  registry_free(r);
}

static void slow_takeovers_are_no_fight(void **state) {
  struct registry *r = registry_new(1);
  struct login current = make_login(1, 200);
  int64_t until;
  assert_int_equal(enter(r, &current, "default", NOW), REGISTRY_NEW);
  link_up(&current);
  for (uint32_t i = 0; i < 40; i++) assert_int_equal(fight(r, &current, i, NOW + i * 15, &until), REGISTRY_TAKEOVER);
  registry_leave(r, current.place.entry);
  registry_free(r);
}

static void session_without_a_link_is_no_fight(void **state) {
  struct registry *r = registry_new(1);
  struct login current = make_login(1, 200);
  int64_t until;
  assert_int_equal(enter(r, &current, "default", NOW), REGISTRY_NEW);
  for (uint32_t i = 0; i < 20; i++) {
    atomic_store(&current.place.entry->linked, false);
    assert_int_equal(fight(r, &current, i, NOW, &until), REGISTRY_TAKEOVER);
  }
  for (uint32_t i = 20; i < 25; i++) assert_int_equal(fight(r, &current, i, NOW, &until), REGISTRY_TAKEOVER);
  assert_int_equal(fight(r, &current, 30, NOW, &until), REGISTRY_BUSY);
  atomic_store(&current.place.entry->linked, false);
  assert_int_equal(fight(r, &current, 31, NOW, &until), REGISTRY_TAKEOVER);
  registry_leave(r, current.place.entry);
  registry_free(r);
}

static void clock_set_back_refuses_nobody_for_long(void **state) {
  struct registry *r = registry_new(1);
  struct login current = make_login(1, 200);
  int64_t until;
  assert_int_equal(enter(r, &current, "default", NOW), REGISTRY_NEW);
  link_up(&current);
  for (uint32_t i = 0; i < 5; i++) assert_int_equal(fight(r, &current, i, NOW, &until), REGISTRY_TAKEOVER);
  assert_int_equal(fight(r, &current, 9, NOW, &until), REGISTRY_BUSY);
  for (uint32_t i = 10; i < 15; i++) {
    assert_int_equal(fight(r, &current, i, NOW - 86400 * (int64_t)i, &until), REGISTRY_TAKEOVER);
  }
  assert_int_equal(fight(r, &current, 20, NOW - 86400 * 14, &until), REGISTRY_TAKEOVER);
  registry_leave(r, current.place.entry);
  registry_free(r);
}

static void find_and_get_know_the_current_one_alone(void **state) {
  struct registry *r = registry_new(2);
  struct registry_view v = {.id = 0};
  struct login older = make_login(1, 1), other = make_login(2, 2), newer = make_login(1, 3);
  assert_false(registry_find(r, 1, "one", &v));
  assert_int_equal(enter(r, &older, "one", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &other, "two", NOW), REGISTRY_NEW);
  link_up(&older);
  assert_false(registry_find(r, 1, "two", &v));
  assert_false(registry_find(r, 3, "one", &v));
  assert_true(registry_find(r, 1, "one", &v));
  assert_int_equal(v.id, older.place.id);
  assert_int_equal(v.worker, older.place.worker);
  assert_int_equal(v.who.user, 1);
  assert_string_equal(v.instance, "one");
  assert_int_equal(addr_port(&v.peer), 2);
  assert_true(v.linked);
  assert_true(registry_get(r, other.place.id, &v));
  assert_int_equal(v.who.user, 2);
  assert_false(registry_get(r, 99, &v));
  assert_int_equal(enter(r, &newer, "one", NOW), REGISTRY_TAKEOVER);
  assert_true(registry_find(r, 1, "one", &v));
  assert_int_equal(v.id, newer.place.id);
  assert_true(registry_get(r, newer.place.id, &v));
  assert_false(registry_get(r, older.place.id, &v)); // still closing
  registry_leave(r, newer.place.entry);
  assert_false(registry_find(r, 1, "one", &v));
  assert_false(registry_get(r, newer.place.id, &v));
  registry_leave(r, older.place.entry);
  registry_leave(r, other.place.entry);
  registry_free(r);
}

struct seen {
  unsigned n;
  struct registry_view last;
  struct registry *r;
};

static void see(void *ctx, const struct registry_view *v) {
  struct seen *s = ctx;
  assert_true(v->id > s->last.id);
  s->last = *v;
  s->n++;
  assert_true(registry_count(s->r) > 0); // the lock is not held
}

static void each_shows_copies_in_order_of_ids(void **state) {
  struct registry *r = registry_new(2);
  struct login l[6];
  for (uint32_t i = 0; i < 6; i++) {
    char instance[NAME_TEXT];
    snprintf(instance, sizeof instance, "i%u", i);
    l[i] = make_login(1 + i % 2, i);
    assert_int_equal(enter(r, &l[i], instance, NOW + i), REGISTRY_NEW);
  }
  atomic_store(&l[5].place.entry->bytes_in, 11);
  atomic_store(&l[5].place.entry->tunnels, 3);
  struct addr peer;
  assert_int_equal(addr_parse(&peer, "198.51.100.7:99"), 0);
  registry_set_peer(r, l[5].place.entry, &peer);
  struct identity who = l[5].who;
  strcpy(who.token_id, "0123456789ab");
  registry_set_who(r, l[5].place.entry, &who);
  struct seen s = {.r = r};
  assert_int_equal(registry_each(r, 2, see, &s), 0);
  assert_int_equal(s.n, 3);
  assert_int_equal(s.last.id, l[5].place.id);
  assert_int_equal(s.last.bytes_in, 11);
  assert_int_equal(s.last.tunnels, 3);
  assert_int_equal(s.last.since, NOW + 5);
  assert_int_equal(addr_port(&s.last.peer), 99);
  assert_string_equal(s.last.who.token_id, "0123456789ab");
  assert_int_equal(s.last.rank, 3);
  assert_string_equal(s.last.instance, "i5");
  assert_string_equal(s.last.protocol, "trunk");
  struct seen all = {.r = r};
  assert_int_equal(registry_each(r, 0, see, &all), 0);
  assert_int_equal(all.n, 6);
  for (uint32_t i = 0; i < 6; i++) registry_leave(r, l[i].place.entry);
  struct seen none = {.r = r};
  assert_int_equal(registry_each(r, 0, see, &none), 0);
  assert_int_equal(none.n, 0);
  registry_free(r);
}

static void note_rank(void *ctx, const struct registry_view *v) {
  uint32_t *ranks = ctx;
  ranks[v->id] = v->rank;
}

static void rank_counts_the_instances_by_age(void **state) {
  struct registry *r = registry_new(2);
  struct login one = make_login(1, 1), other = make_login(2, 2), two = make_login(1, 3), newer = make_login(1, 4);
  assert_int_equal(enter(r, &one, "one", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &other, "one", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &two, "two", NOW), REGISTRY_NEW);
  assert_int_equal(enter(r, &newer, "one", NOW), REGISTRY_TAKEOVER); // and the older one is still closing
  uint32_t ranks[5] = {9, 9, 9, 9, 9};
  for (int i = 0; i < 2; i++) {
    assert_int_equal(registry_each(r, 0, note_rank, ranks), 0);
    assert_int_equal(ranks[one.place.id], 0);
    assert_int_equal(ranks[other.place.id], 1);
    assert_int_equal(ranks[two.place.id], 1);
    assert_int_equal(ranks[newer.place.id], 2);
  }
  registry_leave(r, one.place.entry);
  registry_leave(r, other.place.entry);
  registry_leave(r, two.place.entry);
  registry_leave(r, newer.place.entry);
  registry_free(r);
}

static void thousand_takeovers_leave_the_right_one(void **state) {
  struct registry *r = registry_new(2);
  struct login current = make_login(1, 0);
  int64_t until;
  assert_int_equal(enter(r, &current, "default", NOW), REGISTRY_NEW);
  link_up(&current);
  for (uint32_t i = 1; i <= 1000; i++) {
    assert_int_equal(fight(r, &current, i, NOW + i * 20, &until), REGISTRY_TAKEOVER);
  }
  assert_int_equal(registry_count(r), 1);
  struct seen s = {.r = r};
  assert_int_equal(registry_each(r, 1, see, &s), 0);
  assert_int_equal(s.last.id, current.place.id);
  registry_leave(r, current.place.entry);
  registry_free(r);
}

struct crowd {
  struct registry *r;
  uint32_t number;
};

static void count_one(void *ctx, const struct registry_view *v) {
  unsigned *n = ctx;
  *n += v->id != 0;
}

// cmocka's assertions are for the test's own thread.
static void *come_and_go(void *arg) {
  struct crowd *c = arg;
  for (uint32_t i = 0; i < 500; i++) {
    struct login l = make_login(1 + i % 3, c->number << 16 | i);
    enum registry_verdict v = enter(c->r, &l, "default", NOW);
    if (v != REGISTRY_NEW && v != REGISTRY_TAKEOVER) continue;
    (void)registry_is_current(c->r, l.place.entry);
    unsigned n = 0;
    if (registry_each(c->r, 0, count_one, &n) != 0 || n == 0) abort();
    registry_leave(c->r, l.place.entry);
  }
  return NULL;
}

static void threads_share_the_registry(void **state) {
  struct registry *r = registry_new(2);
  struct crowd crowd[4];
  pthread_t thread[4];
  for (uint32_t i = 0; i < 4; i++) {
    crowd[i] = (struct crowd){r, i};
    assert_int_equal(pthread_create(&thread[i], NULL, come_and_go, &crowd[i]), 0);
  }
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  assert_int_equal(registry_count(r), 0);
  registry_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(new_sessions_go_to_the_least_loaded_worker),
      cmocka_unit_test(same_run_resumes),
      cmocka_unit_test(other_run_takes_over_on_the_same_worker),
      cmocka_unit_test(instances_and_users_are_apart),
      cmocka_unit_test(limit_counts_distinct_instances),
      cmocka_unit_test(sixth_takeover_in_a_minute_is_refused_for_a_minute),
      cmocka_unit_test(yielding_takeovers_are_no_fight),
      cmocka_unit_test(slow_takeovers_are_no_fight),
      cmocka_unit_test(session_without_a_link_is_no_fight),
      cmocka_unit_test(clock_set_back_refuses_nobody_for_long),
      cmocka_unit_test(find_and_get_know_the_current_one_alone),
      cmocka_unit_test(each_shows_copies_in_order_of_ids),
      cmocka_unit_test(rank_counts_the_instances_by_age),
      cmocka_unit_test(thousand_takeovers_leave_the_right_one),
      cmocka_unit_test(only_so_many_are_on_their_way),
      cmocka_unit_test(what_is_doomed_on_its_way_is_told_on_arrival),
      cmocka_unit_test(one_heartbeat_is_on_its_way),
      cmocka_unit_test(threads_share_the_registry),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
