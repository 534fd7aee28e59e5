// core_ports_world: two users, a real store and a scripted try_port, for the tests of the port allocator.
#ifndef POSTERN_TESTS_UNIT_CORE_PORTS_WORLD_H
#define POSTERN_TESTS_UNIT_CORE_PORTS_WORLD_H

#include "core_store.h"
#include "postern/core/ports.h"
#include <semaphore.h>
#include <stdatomic.h>

enum { NOW = 1000000, DAY = PORTS_CLAIM_S, LOW = 20000, HIGH = 20009 };

struct world {
  struct core_store db;
  struct ports *ports;
  uint32_t alice, bob;
  struct limits limits;
  enum store_kind kind;
  int64_t now;
  uint64_t session;  // of the next request
  int answer[65536]; // of try_port
  unsigned tries[65536];
  struct err_text e; // of the last request
  sem_t claimed;
  _Atomic int claim_result;
};

static inline void open_ports(struct world *w) {
  must(ports_new(&w->ports, w->db.store, w->db.writer, &w->e));
  ports_set_range(w->ports, LOW, HIGH);
}

static inline int setup(void **state) {
  struct world *w = calloc(1, sizeof *w);
  core_store_new(&w->db);
  w->alice = core_store_user(&w->db, "alice");
  w->bob = core_store_user(&w->db, "bob");
  w->kind = STORE_TCP;
  w->now = NOW;
  assert_int_equal(sem_init(&w->claimed, 0, 0), 0);
  open_ports(w);
  *state = w;
  return 0;
}

static inline int teardown(void **state) {
  struct world *w = *state;
  core_store_free(&w->db); // the writer first: it may still call `claimed`
  ports_free(w->ports);
  sem_destroy(&w->claimed);
  free(w);
  return 0;
}

static inline int try_port(void *ctx, uint16_t port) {
  struct world *w = ctx;
  w->tries[port]++;
  return w->answer[port];
}

static inline void on_claimed(void *arg, int result) {
  struct world *w = arg;
  atomic_store(&w->claim_result, result);
  sem_post(&w->claimed);
}

enum { MOVABLE = false, STRICT = true };

// The code of a request of tunnel "instance/tunnel"; the port in *got.
static inline int ask_code(struct world *w, uint32_t user, const char *tunnel, uint16_t want, bool strict,
                           uint16_t *got) {
  struct ports_request q = {.kind = w->kind,
                            .owner = {.user = user, .session = w->session != 0 ? w->session : user * 100},
                            .limits = &w->limits,
                            .want = want,
                            .strict = strict,
                            .try_port = try_port,
                            .ctx = w,
                            .now = w->now,
                            .claimed = on_claimed,
                            .claimed_arg = w};
  const char *slash = strchr(tunnel, '/');
  snprintf(q.owner.instance, sizeof q.owner.instance, "%.*s", slash ? (int)(slash - tunnel) : 7,
           slash ? tunnel : "default");
  snprintf(q.owner.tunnel, sizeof q.owner.tunnel, "%s", slash ? slash + 1 : tunnel);
  w->e.s[0] = '\0';
  int rc = ports_acquire(w->ports, &q, got, &w->e);
  if (rc != 0) return rc;
  assert_int_equal(sem_wait(&w->claimed), 0);
  assert_int_equal(atomic_load(&w->claim_result), 0);
  return 0;
}

static inline uint16_t ask(struct world *w, uint32_t user, const char *tunnel, uint16_t want) {
  uint16_t got = 0;
  int rc = ask_code(w, user, tunnel, want, MOVABLE, &got);
  if (rc != 0) fail_msg("%s", w->e.s);
  return got;
}

static inline void refused(struct world *w, uint32_t user, const char *tunnel, uint16_t want, bool strict, int code,
                           const char *why) {
  uint16_t got = 0;
  assert_int_equal(ask_code(w, user, tunnel, want, strict, &got), code);
  assert_string_equal(w->e.s, why);
  assert_int_equal(got, 0);
}

static inline void release(struct world *w, uint32_t user, uint16_t port) {
  ports_release(w->ports, w->kind, port, w->session != 0 ? w->session : user * 100, w->now);
}

#endif
