// Look-ups: addresses, names, failures, cancelling, and ends while something is under way. Needs no network.
#include "postern/net/resolver.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

// One answer, as it came.
struct got {
  struct loop *loop; // stopped on arrival
  unsigned calls, n;
  struct addr addrs[RESOLVE_MAX];
  char error[512];
};

static void on_resolved(void *ctx, const struct addr *addrs, unsigned n, const char *error) {
  struct got *g = ctx;
  g->calls++;
  g->n = n;
  memcpy(g->addrs, addrs, n * sizeof *addrs);
  if (n)
    assert_null(error);
  else
    snprintf(g->error, sizeof g->error, "%s", error);
  loop_stop(g->loop);
}

struct fixture {
  struct loop *loop;
  struct resolver *resolver;
};

static int set_up(void **state) {
  static struct fixture f;
  f.loop = loop_new("test");
  f.resolver = f.loop ? resolver_new(f.loop) : NULL;
  *state = &f;
  return f.resolver ? 0 : -1;
}

static int tear_down(void **state) {
  struct fixture *f = *state;
  resolver_free(f->resolver);
  loop_free(f->loop);
  return 0;
}

static struct got ask(struct fixture *f, const char *host, uint16_t port) {
  struct got g = {.loop = f->loop};
  assert_true(resolver_ask(f->resolver, host, port, on_resolved, &g) != 0);
  assert_int_equal(g.calls, 0); // never from within
  loop_run(f->loop);
  assert_int_equal(g.calls, 1);
  return g;
}

static void assert_addr(const struct addr *a, const char *expected) {
  char text[ADDR_TEXT];
  assert_string_equal(addr_format(a, text), expected);
}

static void test_addresses(void **state) {
  struct got g = ask(*state, "192.0.2.7", 80);
  assert_int_equal(g.n, 1);
  assert_addr(&g.addrs[0], "192.0.2.7:80");
  g = ask(*state, "2001:db8::7", 7841);
  assert_int_equal(g.n, 1);
  assert_addr(&g.addrs[0], "[2001:db8::7]:7841");
  g = ask(*state, "[::1]", 1);
  assert_addr(&g.addrs[0], "[::1]:1");
}

static void test_name(void **state) {
  struct got g = ask(*state, "localhost", 7841);
  assert_true(g.n >= 1);
  for (unsigned i = 0; i < g.n; i++) {
    assert_true(addr_is_loopback(&g.addrs[i]));
    assert_int_equal(addr_port(&g.addrs[i]), 7841);
    for (unsigned k = 0; k < i; k++) assert_false(addr_equal_ip(&g.addrs[i], &g.addrs[k]));
  }
}

static void test_failures(void **state) {
  struct got g = ask(*state, "not..a..name", 80); // no resolver asks the network for it
  assert_int_equal(g.n, 0);
  assert_non_null(strstr(g.error, "not..a..name: "));
  char name[HOST_TEXT + 1];
  memset(name, 'a', HOST_TEXT);
  name[HOST_TEXT] = '\0';
  g = ask(*state, name, 80);
  assert_int_equal(g.n, 0);
  assert_non_null(strstr(g.error, "the name is too long"));
}

// What is cancelled, begun or not, never answers; others do.
static void test_cancel(void **state) {
  struct fixture *f = *state;
  struct got dropped = {.loop = f->loop}, kept = {.loop = f->loop};
  static const char *const hosts[] = {"127.0.0.1", "localhost", "localhost", "127.0.0.1", "localhost"};
  enum { N = sizeof hosts / sizeof *hosts };
  uint64_t ids[N];
  for (size_t i = 0; i < N; i++) ids[i] = resolver_ask(f->resolver, hosts[i], 1, on_resolved, &dropped);
  assert_true(resolver_ask(f->resolver, "localhost", 2, on_resolved, &kept) != 0);
  for (size_t i = 0; i < N; i++) resolver_cancel(f->resolver, ids[i]);
  loop_run(f->loop);
  assert_int_equal(kept.calls, 1);
  assert_int_equal(dropped.calls, 0);
  resolver_cancel(f->resolver, ids[0]);
  resolver_cancel(f->resolver, 0);
  resolver_cancel(f->resolver, UINT64_MAX);
}

static void on_stop(void *arg) {
  loop_stop(arg);
}

// Answers that are on their way when the resolver goes are dropped, and nothing is leaked.
static void test_free_with_pending(void **state) {
  for (int round = 0; round < 20; round++) {
    struct loop *l = loop_new("test");
    struct resolver *r = resolver_new(l);
    struct got g = {.loop = l};
    for (int i = 0; i < 4; i++) {
      assert_true(resolver_ask(r, "localhost", 1, on_resolved, &g) != 0);
      assert_true(resolver_ask(r, "127.0.0.1", 1, on_resolved, &g) != 0);
    }
    resolver_free(r);
    assert_int_equal(loop_post(l, on_stop, l), 0);
    loop_run(l);
    assert_int_equal(g.calls, 0);
    loop_free(l);
  }
  resolver_free(NULL);
}

struct chain {
  struct resolver *resolver;
  struct got got;
  unsigned left;
};

static void on_link(void *ctx, const struct addr *addrs, unsigned n, const char *error) {
  struct chain *c = ctx;
  assert_true(n > 0);
  const char *host = c->left % 2 ? "localhost" : "127.0.0.1";
  if (c->left-- > 0)
    assert_true(resolver_ask(c->resolver, host, 1, on_link, c) != 0);
  else
    on_resolved(&c->got, addrs, n, error);
}

static void test_ask_in_the_answer(void **state) {
  struct fixture *f = *state;
  struct chain c = {.resolver = f->resolver, .got = {.loop = f->loop}, .left = 10};
  assert_true(resolver_ask(f->resolver, "127.0.0.1", 1, on_link, &c) != 0);
  loop_run(f->loop);
  assert_int_equal(c.got.calls, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_addresses, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_name, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
      cmocka_unit_test(test_free_with_pending),
      cmocka_unit_test_setup_teardown(test_ask_in_the_answer, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
