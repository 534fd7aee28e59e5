// target: the look-ups of a tunnel's target and their short memory, for tunnels and visitor. Loop thread.
#include "postern/agent/target.h"
#include "postern/base/log.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- sets of addresses ----

static struct addr_set *addr_set_new(const struct addr *addrs, unsigned n) {
  struct addr_set *s = malloc(sizeof *s + n * sizeof *addrs);
  if (!s) return NULL;
  *s = (struct addr_set){.refs = 1, .n = n};
  memcpy(s->addrs, addrs, n * sizeof *addrs);
  return s;
}

struct addr_set *addr_set_ref(struct addr_set *s) {
  s->refs++;
  return s;
}

void addr_set_unref(struct addr_set *s) {
  if (s && --s->refs == 0) free(s);
}

const struct addr *addr_set_at(const struct addr_set *s, unsigned i) {
  return &s->addrs[i % s->n];
}

void addr_set_prefer(struct addr_set *s, unsigned i) {
  s->first = i % s->n;
}

// ---- look-ups ----

void target_init(struct target *t, struct loop *l, struct resolver *r, const char *host, uint16_t port) {
  *t = (struct target){.loop = l, .resolver = r, .port = port};
  snprintf(t->host, sizeof t->host, "%s", host);
  if (addr_from_ip(&t->literal, host, port) < 0) t->literal.len = 0;
}

void target_fini(struct target *t) {
  assert(!t->waiting);
  resolver_cancel(t->resolver, t->look_up);
  addr_set_unref(t->known);
}

const struct addr *target_literal(const struct target *t) {
  return t->literal.len ? &t->literal : NULL;
}

static void remember(struct target *t, const struct addr *addrs, unsigned n) {
  addr_set_unref(t->known);
  t->known = n ? addr_set_new(addrs, n) : NULL;
  t->known_until_ms = loop_now_ms(t->loop) + TARGET_KNOWN_MS;
}

// Only those who wait now: a callback may ask again.
static void answer_all(struct target *t) {
  struct target_wait *list = t->waiting, *w;
  struct addr_set *set = t->known ? addr_set_ref(t->known) : NULL;
  t->waiting = NULL;
  if (list) list->prev = &list;
  while ((w = list)) {
    target_forget(w);
    w->fn(w, set ? addr_set_ref(set) : NULL);
  }
  addr_set_unref(set);
}

static void on_resolved(void *ctx, const struct addr *addrs, unsigned n, const char *error) {
  struct target *t = ctx;
  t->look_up = 0;
  if (n == 0) {
    log_event(LOG_WARN, "target.unknown", "the name of a target cannot be resolved", LF_STR("host", t->host),
              LF_STR("reason", error));
  }
  remember(t, addrs, n);
  answer_all(t);
}

// Where a look-up cannot begin for want of memory, whoever waits is ended by his own time limit.
struct addr_set *target_look_up(struct target *t, struct target_wait *w) {
  if (t->known && loop_now_ms(t->loop) < t->known_until_ms) return addr_set_ref(t->known);
  if (!t->look_up) t->look_up = resolver_ask(t->resolver, t->host, t->port, on_resolved, t);
  w->next = t->waiting;
  w->prev = &t->waiting;
  if (w->next) w->next->prev = &w->next;
  t->waiting = w;
  return NULL;
}

void target_forget(struct target_wait *w) {
  if (!w->prev) return;
  *w->prev = w->next;
  if (w->next) w->next->prev = w->prev;
  w->prev = NULL;
}
