// Look-ups: addresses, names, failures, cancelling, and ends while something is under way. A getaddrinfo of its own
// stands before the system's and knows the names under "test"; no network is needed.
#include "postern/net/resolver.h"
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

// ---- the names under "test" ----

// "gate.test" is looked up for as long as the test likes.
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool inside, open;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void gate_set(bool *what, bool value) {
  pthread_mutex_lock(&gate.lock);
  *what = value;
  pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}

static void gate_await(const bool *what) {
  pthread_mutex_lock(&gate.lock);
  while (!*what) pthread_cond_wait(&gate.changed, &gate.lock);
  pthread_mutex_unlock(&gate.lock);
}

static void gate_close(void) {
  gate_set(&gate.inside, false);
  gate_set(&gate.open, false);
}

typedef int (*getaddrinfo_fn)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int real(const char *node, const struct addrinfo *hints, struct addrinfo **res) {
  getaddrinfo_fn next;
  *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
  return next(node, NULL, hints, res);
}

// The first twice, then others up to 192.0.2.20.
static int many(const struct addrinfo *hints, struct addrinfo **res) {
  for (int i = 20; i >= 0; i--) {
    char ip[32];
    struct addrinfo *one;
    snprintf(ip, sizeof ip, "192.0.2.%d", i ? i : 1);
    int rc = real(ip, hints, &one);
    if (rc) return rc;
    one->ai_next = *res;
    *res = one;
  }
  return 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res) {
  *res = NULL;
  if (strcmp(node, "none.test") == 0) return EAI_NONAME;
  if (strcmp(node, "empty.test") == 0) return 0;
  if (strcmp(node, "many.test") == 0) return many(hints, res);
  if (strcmp(node, "system.test") == 0) {
    errno = EMFILE;
    return EAI_SYSTEM;
  }
  if (strcmp(node, "gate.test") != 0) return real(node, hints, res);
  gate_set(&gate.inside, true);
  gate_await(&gate.open);
  return real("192.0.2.1", hints, res);
}

// ---- asking ----

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

static void test_many_addresses(void **state) {
  struct got g = ask(*state, "many.test", 80);
  assert_int_equal(g.n, RESOLVE_MAX);
  assert_addr(&g.addrs[0], "192.0.2.1:80");
  assert_addr(&g.addrs[1], "192.0.2.2:80"); // the duplicate is left out
  assert_addr(&g.addrs[15], "192.0.2.16:80");
}

static void assert_fails(struct fixture *f, const char *host, const char *error) {
  struct got g = ask(f, host, 80);
  assert_int_equal(g.n, 0);
  if (!strstr(g.error, error)) fail_msg("\"%s\" does not say \"%s\"", g.error, error);
}

static void test_failures(void **state) {
  char name[HOST_TEXT + 1];
  assert_fails(*state, "none.test", "none.test: Name or service not known");
  assert_fails(*state, "system.test", "system.test: Too many open files");
  assert_fails(*state, "empty.test", "empty.test: no address");
  assert_fails(*state, "not..a..name", "not..a..name: "); // no resolver asks the network for it
  memset(name, 'a', HOST_TEXT);
  name[HOST_TEXT] = '\0';
  assert_fails(*state, name, "aaa...: the name is too long");
}

// What is cancelled never answers; others do.
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

// The helper is at the one and has not begun the other when they are cancelled.
static void test_cancel_under_way(void **state) {
  struct fixture *f = *state;
  struct got dropped = {.loop = f->loop}, kept = {.loop = f->loop};
  gate_close();
  uint64_t id = resolver_ask(f->resolver, "gate.test", 1, on_resolved, &dropped);
  gate_await(&gate.inside);
  uint64_t queued = resolver_ask(f->resolver, "localhost", 1, on_resolved, &dropped);
  resolver_cancel(f->resolver, id);
  resolver_cancel(f->resolver, queued);
  assert_true(resolver_ask(f->resolver, "localhost", 2, on_resolved, &kept) != 0);
  gate_set(&gate.open, true);
  loop_run(f->loop);
  assert_int_equal(kept.calls, 1);
  assert_int_equal(dropped.calls, 0);
}

// A look-up that takes long holds up no address.
static void test_address_while_busy(void **state) {
  struct fixture *f = *state;
  struct got slow = {.loop = f->loop};
  gate_close();
  assert_true(resolver_ask(f->resolver, "gate.test", 1, on_resolved, &slow) != 0);
  gate_await(&gate.inside);
  assert_int_equal(ask(f, "192.0.2.7", 80).n, 1);
  assert_int_equal(slow.calls, 0);
  gate_set(&gate.open, true);
  loop_run(f->loop);
  assert_int_equal(slow.calls, 1);
  assert_addr(&slow.addrs[0], "192.0.2.1:1");
}

static void on_stop(void *arg) {
  loop_stop(arg);
}

// Whatever is under way when the resolver goes is dropped, and nothing is leaked: one look-up that the helper is at and
// whose answer arrives afterwards, names in the queue, addresses that wait for the end of the batch.
static void test_free_with_pending(void **state) {
  struct loop *l = loop_new("test");
  struct resolver *r = resolver_new(l);
  struct got g = {.loop = l};
  gate_close();
  assert_true(resolver_ask(r, "gate.test", 1, on_resolved, &g) != 0);
  assert_true(resolver_ask(r, "localhost", 1, on_resolved, &g) != 0);
  assert_true(resolver_ask(r, "127.0.0.1", 1, on_resolved, &g) != 0);
  gate_await(&gate.inside);
  gate_set(&gate.open, true);
  resolver_free(r);
  assert_int_equal(loop_post(l, on_stop, l), 0);
  loop_run(l);
  assert_int_equal(g.calls, 0);
  loop_free(l);
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
      cmocka_unit_test_setup_teardown(test_many_addresses, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_cancel_under_way, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_address_while_busy, set_up, tear_down),
      cmocka_unit_test(test_free_with_pending),
      cmocka_unit_test_setup_teardown(test_ask_in_the_answer, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
