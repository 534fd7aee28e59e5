// Two links and many streams that do whatever comes to a generator's mind: open, send, end, reset, stop reading, go on.
// Whatever crosses on the way, neither link may take the other for a peer that breaks the protocol, every byte arrives
// where both sides live, and the accounts add up at each step.
#include "trunk_fixture.h"

enum { SEEDS = 15, STEPS = 250, OPEN_MOST = 60 };

static uint32_t random_state;

static uint32_t draw(uint32_t below) {
  random_state = random_state * 1664525 + 1013904223;
  return (random_state >> 8) % below;
}

// window == granted + buffered + owed, nothing is in a list that it has no business in, and the sums are right.
static void check(const struct link_side *l) {
  size_t buffered = 0;
  unsigned live = 0;
  struct tstream *s;
  if (!l->link) fail_msg("closed: %s", l->why);
  TAILQ_FOREACH(s, &l->link->all, all) {
    assert_int_equal(s->window, s->granted + s->buffered + s->owed);
    assert_true(s->window <= WINDOW_MAX);
    assert_true(s->credit <= WINDOW_MAX);
    assert_int_equal(s->in_stalled, s->buffered > 0);
    assert_false(s->over);
    if (s->in_ready) assert_true(s->credit > 0 && !s->fin_sent && !s->wire_over);
    if (s->id && !s->wire_over) assert_ptr_equal(l->link->slots.at[s->id & 0xffff].item, s);
    live += !s->wire_over;
    buffered += s->buffered;
  }
  assert_int_equal(link_streams(l->link), live);
  assert_int_equal(atomic_load(&l->budget.used), buffered);
}

static struct stream_side *any_side(struct link_side *l) {
  struct stream_side *e = l->nsides ? l->sides[draw(l->nsides)] : NULL;
  return e && e->stream ? e : NULL;
}

static unsigned living(const struct link_side *l) {
  unsigned n = 0;
  for (unsigned i = 0; i < l->nsides; i++) n += l->sides[i]->stream != NULL;
  return n;
}

static void act(void) {
  struct link_side *l = draw(2) ? &gateway : &agent;
  struct stream_side *e = any_side(l);
  switch (draw(10)) {
  case 0:
  case 1:
    if (living(&gateway) < OPEN_MOST && living(&agent) < OPEN_MOST) {
      e = gateway_open();
      e->slow = draw(3) == 0;
      e->to_send = draw(3) ? draw(3000) : draw(600000);
      e->end_sends = draw(3) == 0;
    }
    return;
  case 2:
  case 3:
    if (e && !e->end_sends) side_send(e, draw(2) ? draw(100) : draw(500000), draw(4) == 0);
    return;
  case 4:
    if (e) side_abort(e, (enum stream_reason)(1 + draw(11)));
    return;
  case 5:
  case 6:
    if (e && e->held) side_take(e, 1 + draw((uint32_t)e->held));
    return;
  case 7:
    if (e) e->slow = !e->slow;
    return;
  case 8:
    agent.sides_slow = draw(2);
    agent.sides_opened = draw(2);
    agent.refuses = draw(6) == 0 ? STREAM_NO_TUNNEL : STREAM_OK;
    return;
  default: nx_advance(draw(40)); return;
  }
}

static void finish(struct link_side *l) {
  for (unsigned i = 0; i < l->nsides; i++) {
    struct stream_side *e = l->sides[i];
    e->slow = false;
    if (e->stream && e->held) side_take(e, e->held);
    if (e->stream && !e->end_sends) side_send(e, 0, true);
  }
}

static void run(void) {
  struct conn *conns[2];
  int buffer = draw(2) ? 4096 : 0;
  trunk_conns(conns, buffer);
  link_side_start(&gateway, LINK_GATEWAY, conns[0]);
  link_side_start(&agent, LINK_AGENT, conns[1]);
  if (draw(2)) atomic_store(&agent.budget.bound, 600 * 1024);
  for (int i = 0; i < STEPS; i++) {
    act();
    for (uint32_t n = draw(3); n; n--) nx_peek(loop);
    check(&gateway);
    check(&agent);
  }
  agent.refuses = STREAM_OK;
  agent.sides_slow = false;
  nx_await("the last stream to end");
  while (link_streams(gateway.link) || link_streams(agent.link)) {
    finish(&gateway);
    finish(&agent);
    nx_pass(loop, 100);
    check(&gateway);
    check(&agent);
  }
  alarm(0);
  assert_int_equal(living(&gateway) + living(&agent), 0);
}

static void test_anything_goes(void **state) {
  for (uint32_t seed = 1; seed <= SEEDS; seed++) {
    random_state = seed;
    run();
    trunk_tear_down(state);
    trunk_set_up(state);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_anything_goes, trunk_set_up, trunk_tear_down),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
