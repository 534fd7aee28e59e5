// core_ports_held_test: ports that change hands, survive a restart or are lost.
#include "core_ports_world.h"
#include <pthread.h>

static void restart(struct world *w) {
  core_store_close(&w->db);
  ports_free(w->ports);
  core_store_open(&w->db);
  open_ports(w);
}

// ---- holding ----

static void port_changes_hands_to_the_newer_session(void **state) {
  struct world *w = *state;
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", LOW + 3), LOW + 3);
  w->session = 2;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 3);
  assert_int_equal(w->tries[LOW + 3], 2);
  w->session = 1; // the older one can neither free it nor take it back
  release(w, w->alice, LOW + 3);
  assert_int_equal(ask(w, w->bob, "b", LOW + 3), LOW + 4);
  refused(w, w->alice, "a", LOW + 3, STRICT, PERR_IN_USE, "tcp/20003 is held by another tunnel");
  w->session = 2;
  release(w, w->alice, LOW + 3);
  w->session = 3;
  assert_int_equal(ask(w, w->bob, "c", LOW + 3), LOW + 3);
}

static void bound_port_changes_hands_too(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/22");
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", 22), 22);
  w->session = 2;
  assert_int_equal(ask(w, w->alice, "a", 22), 22);
}

static void takeover_moves_every_port(void **state) {
  struct world *w = *state;
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", LOW), LOW);
  assert_int_equal(ask(w, w->alice, "b", LOW + 1), LOW + 1);
  w->kind = STORE_UDP;
  assert_int_equal(ask(w, w->alice, "c", LOW + 2), LOW + 2);
  w->session = 9;
  assert_int_equal(ask(w, w->bob, "d", LOW + 3), LOW + 3);
  ports_move(w->ports, 1, 2);
  w->session = 1;
  release(w, w->alice, LOW + 2);
  w->kind = STORE_TCP;
  release(w, w->alice, LOW);
  release(w, w->alice, LOW + 1);
  w->session = 3;
  assert_int_equal(ask(w, w->bob, "e", LOW), LOW + 2);
  w->session = 2;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  release(w, w->alice, LOW + 1);
  w->session = 3;
  assert_int_equal(ask(w, w->bob, "f", LOW + 1), LOW + 1);
  w->kind = STORE_UDP;
  assert_int_equal(ask(w, w->bob, "g", LOW + 2), LOW + 4);
}

// ---- the store ----

static void restart_gives_every_tunnel_its_port(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 1);
  w->kind = STORE_UDP;
  assert_int_equal(ask(w, w->bob, "b", LOW + 5), LOW + 5);
  restart(w); // without a release, as after a crash
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 5);
  w->kind = STORE_TCP;
  assert_int_equal(ask(w, w->bob, "new", 0), LOW + 2);
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 1);
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
}

static void release_notes_the_time(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  w->now += DAY;
  release(w, w->alice, LOW);
  restart(w);
  w->now += DAY - 1;
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 1);
}

static void refresh_keeps_held_ports_young(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  assert_int_equal(ask(w, w->alice, "b", 0), LOW + 1);
  release(w, w->alice, LOW + 1);
  w->now += DAY;
  ports_refresh_claims(w->ports, w->now);
  restart(w);
  w->now += 1;
  assert_int_equal(ask(w, w->bob, "c", 0), LOW + 1);
  assert_int_equal(ask(w, w->bob, "d", 0), LOW + 2);
}

static void refresh_writes_thousands(void **state) {
  struct world *w = *state;
  ports_set_range(w->ports, 30000, 39999);
  char tunnel[16];
  for (unsigned i = 0; i < 1000; i++) {
    snprintf(tunnel, sizeof tunnel, "t%u", i);
    assert_int_equal(ask(w, w->alice, tunnel, 0), 30000 + i);
  }
  w->now += DAY;
  ports_refresh_claims(w->ports, w->now);
  restart(w);
  ports_set_range(w->ports, 30000, 39999);
  assert_int_equal(ask(w, w->bob, "b", 0), 31000);
  assert_int_equal(ask(w, w->alice, "t999", 0), 30999);
}

// A tunnel that asked for another port: its older session lets go of the old port after the new one is taken.
static void last_port_is_the_one_taken_last(void **state) {
  struct world *w = *state;
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", LOW + 3), LOW + 3);
  w->session = 2;
  assert_int_equal(ask(w, w->alice, "a", LOW + 1), LOW + 1);
  w->now += 20;
  w->session = 1;
  release(w, w->alice, LOW + 3);
  restart(w);
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 1);
  release(w, w->alice, LOW + 1);
  assert_int_equal(ask(w, w->alice, "a", LOW + 8), LOW + 8); // within the same second
  restart(w);
  assert_int_equal(ask(w, w->alice, "a", 0), LOW + 8);
}

enum { CHURN_TUNNELS = 40, CHURN_ROUNDS = 4000 };

// Tunnels that push each other off the ports: each comes back to its last port exactly while nobody else had it since.
static void churn_keeps_the_last_ports_right(void **state) {
  struct world *w = *state;
  int owner[10], last[CHURN_TUNNELS];
  memset(owner, -1, sizeof owner);
  memset(last, -1, sizeof last);
  uint32_t random = 12345;
  for (unsigned round = 0; round < CHURN_ROUNDS; round++) {
    random = random * 1664525 + 1013904223;
    int tunnel = (int)(random >> 8) % CHURN_TUNNELS, want = (int)(random >> 20) % 20;
    char name[16];
    snprintf(name, sizeof name, "t%d", tunnel);
    uint16_t port = ask(w, w->alice, name, want < 10 ? (uint16_t)(LOW + want) : 0);
    int at = port - LOW;
    if (want < 10) assert_int_equal(at, want);
    if (want >= 10 && last[tunnel] >= 0 && owner[last[tunnel]] == tunnel) assert_int_equal(at, last[tunnel]);
    owner[at] = tunnel;
    last[tunnel] = at;
    release(w, w->alice, port);
    w->now += random >> 30;
  }
}

static void removed_user_leaves_no_claim(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  assert_int_equal(ask(w, w->alice, "b", 0), LOW + 1);
  release(w, w->alice, LOW);
  assert_int_equal(ask(w, w->bob, "a", LOW + 5), LOW + 5);
  release(w, w->bob, LOW + 5);
  core_store_remove_user(&w->db, w->alice);
  ports_forget_user(w->ports, w->alice);
  assert_int_equal(ask(w, w->bob, "a", 0), LOW + 5);       // nobody else's are forgotten
  assert_int_equal(ask(w, w->bob, "b", LOW + 1), LOW + 2); // still held
  release(w, w->alice, LOW + 1);
  assert_int_equal(ask(w, w->bob, "c", 0), LOW);
  assert_int_equal(ask(w, w->bob, "d", 0), LOW + 1);
}

// Another tunnel of the session that took over gets a waiting port by its number, and by nothing else.
static void waiting_port_goes_to_who_asks_for_it(void **state) {
  struct world *w = *state;
  w->session = 1;
  assert_int_equal(ask(w, w->alice, "a", LOW), LOW);
  assert_int_equal(ask(w, w->alice, "b", LOW + 1), LOW + 1);
  w->session = 2;
  ports_move(w->ports, 1, 2);
  assert_int_equal(ask(w, w->alice, "new", 0), LOW + 2);
  w->session = 3;
  assert_int_equal(ask(w, w->bob, "b", LOW), LOW + 3);
  w->session = 2;
  assert_int_equal(ask(w, w->alice, "renamed", LOW), LOW);
  assert_int_equal(ask(w, w->alice, "c", LOW), LOW + 4); // asked for: it waits no more
  assert_int_equal(ask(w, w->alice, "b", 0), LOW + 1);
}

// The store forgets at removal; what the dying session writes afterwards must not come back.
static void removed_user_leaves_no_claim_on_disk(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  core_store_remove_user(&w->db, w->alice);
  release(w, w->alice, LOW);
  restart(w);
  assert_int_equal(ask(w, w->bob, "b", 0), LOW);
}

static void removed_user_does_not_stop_the_others_refresh(void **state) {
  struct world *w = *state;
  assert_int_equal(ask(w, w->alice, "a", 0), LOW);
  assert_int_equal(ask(w, w->bob, "b", 0), LOW + 1);
  core_store_remove_user(&w->db, w->alice);
  w->now += DAY;
  ports_refresh_claims(w->ports, w->now);
  restart(w);
  assert_int_equal(ask(w, w->bob, "c", 0), LOW);
  assert_int_equal(ask(w, w->bob, "d", 0), LOW + 2);
}

// ---- what is lost ----

struct lost {
  struct world *w;
  unsigned n;
  uint64_t session;
  enum store_kind kind;
  uint16_t port;
};

static void on_lost(void *ctx, uint64_t session, enum store_kind kind, uint16_t port) {
  struct lost *l = ctx;
  l->n++;
  l->session = session;
  l->kind = kind;
  l->port = port;
  ports_release(l->w->ports, kind, port, session, l->w->now); // the lock is not held
}

static struct lost find_lost(struct world *w) {
  struct lost l = {.w = w};
  must(ports_each_lost(w->ports, on_lost, &l));
  return l;
}

static void binding_to_another_loses_the_port(void **state) {
  struct world *w = *state;
  w->session = 5;
  assert_int_equal(ask(w, w->alice, "a", LOW + 4), LOW + 4);
  assert_int_equal(ask(w, w->alice, "b", LOW + 5), LOW + 5);
  w->kind = STORE_UDP;
  assert_int_equal(ask(w, w->alice, "c", LOW + 4), LOW + 4);
  assert_int_equal(find_lost(w).n, 0);
  core_store_bind(&w->db, w->alice, "tcp/20005");
  assert_int_equal(find_lost(w).n, 0);
  core_store_bind(&w->db, w->bob, "udp/20004");
  struct lost l = find_lost(w);
  assert_int_equal(l.n, 1);
  assert_int_equal(l.session, 5);
  assert_int_equal(l.kind, STORE_UDP);
  assert_int_equal(l.port, LOW + 4);
  assert_int_equal(find_lost(w).n, 0);
  w->session = 6;
  assert_int_equal(ask(w, w->bob, "d", LOW + 4), LOW + 4);
}

static void unbinding_loses_a_port_outside_the_ranges(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/443");
  core_store_bind(&w->db, w->alice, "tcp/20004");
  assert_int_equal(ask(w, w->alice, "a", 443), 443);
  assert_int_equal(ask(w, w->alice, "b", LOW + 4), LOW + 4);
  core_store_unbind(&w->db, w->alice, "tcp/20004");
  assert_int_equal(find_lost(w).n, 0);
  core_store_unbind(&w->db, w->alice, "tcp/443");
  struct lost l = find_lost(w);
  assert_int_equal(l.n, 1);
  assert_int_equal(l.port, 443);
}

static void narrower_ranges_lose_ports(void **state) {
  struct world *w = *state;
  core_store_bind(&w->db, w->alice, "tcp/20009");
  assert_int_equal(ask(w, w->alice, "a", LOW + 1), LOW + 1);
  assert_int_equal(ask(w, w->alice, "b", LOW + 2), LOW + 2);
  assert_int_equal(ask(w, w->alice, "c", LOW + 9), LOW + 9);
  assert_int_equal(ask(w, w->bob, "d", LOW + 3), LOW + 3);
  struct store_limits own = {.tunnels = -1, .connections = -1, .instances = -1, .nports = 1};
  own.ports[0] = (struct store_range){LOW + 2, LOW + 2};
  struct store_txn *t = core_store_begin(&w->db);
  must(store_limits_put(t, w->alice, &own));
  core_store_commit(t);
  struct lost l = find_lost(w);
  assert_int_equal(l.n, 1);
  assert_int_equal(l.port, LOW + 1);
  ports_set_range(w->ports, LOW, LOW + 2);
  l = find_lost(w);
  assert_int_equal(l.n, 1);
  assert_int_equal(l.port, LOW + 3);
  assert_int_equal(l.session, w->bob * 100);
}

// ---- threads ----

static int always(void *ctx, uint16_t port) {
  (void)ctx, (void)port;
  return 0;
}

struct rush {
  struct world *w;
  uint64_t session;
  atomic_uint *holders; // per port
};

// cmocka's assertions are for the test's own thread.
static void *take_and_let_go(void *arg) {
  struct rush *rush = arg;
  struct limits limits = {0};
  for (unsigned i = 0; i < 200; i++) {
    struct ports_request q = {.kind = STORE_TCP,
                              .owner = {.user = rush->w->alice, .session = rush->session},
                              .limits = &limits,
                              .try_port = always,
                              .now = NOW};
    snprintf(q.owner.tunnel, sizeof q.owner.tunnel, "t%u", (unsigned)rush->session);
    q.want = i % 2 == 0 ? 0 : LOW;
    uint16_t got = 0;
    struct err_text e;
    if (ports_acquire(rush->w->ports, &q, &got, &e) != 0) abort();
    if (atomic_fetch_add(&rush->holders[got], 1) != 0) abort();
    atomic_fetch_sub(&rush->holders[got], 1);
    ports_release(rush->w->ports, STORE_TCP, got, rush->session, NOW);
  }
  return NULL;
}

static void threads_never_share_a_port(void **state) {
  struct world *w = *state;
  atomic_uint *holders = calloc(65536, sizeof *holders);
  struct rush rush[4];
  pthread_t thread[4];
  for (unsigned i = 0; i < 4; i++) {
    rush[i] = (struct rush){w, i + 1, holders};
    assert_int_equal(pthread_create(&thread[i], NULL, take_and_let_go, &rush[i]), 0);
  }
  for (unsigned i = 0; i < 20; i++) {
    struct lost l = find_lost(w);
    assert_int_equal(l.n, 0);
    ports_refresh_claims(w->ports, NOW);
  }
  for (unsigned i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  free(holders);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(port_changes_hands_to_the_newer_session),
      TEST(bound_port_changes_hands_too),
      TEST(takeover_moves_every_port),
      TEST(restart_gives_every_tunnel_its_port),
      TEST(release_notes_the_time),
      TEST(refresh_keeps_held_ports_young),
      TEST(refresh_writes_thousands),
      TEST(last_port_is_the_one_taken_last),
      TEST(churn_keeps_the_last_ports_right),
      TEST(waiting_port_goes_to_who_asks_for_it),
      TEST(removed_user_leaves_no_claim),
      TEST(removed_user_leaves_no_claim_on_disk),
      TEST(removed_user_does_not_stop_the_others_refresh),
      TEST(binding_to_another_loses_the_port),
      TEST(unbinding_loses_a_port_outside_the_ranges),
      TEST(narrower_ranges_lose_ports),
      TEST(threads_never_share_a_port),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
