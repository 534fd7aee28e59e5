// relay: see relay.h.
#include "postern/relay/relay.h"
#include "postern/base/log.h"
#include "postern/core/registry.h"

#include <string.h>

enum {
  TICK_MS = 250,
  DROPS_LOG_MS = 10000,
  // Flows that are logged one by one. The others of a flood are counted.
  FLOW_LINES_PER_S = 10,
  FLOW_LINES_BURST = 1000,
};

void relay_update(struct relay *r) {
  struct relay_tunnel *t;
  LIST_FOREACH(t, &r->tunnels, of_relay) t->ops->update(t);
}

void relay_set_limits(struct relay *r, const struct limits *limits) {
  r->max_visitors = limits->visitors;
  r->max_dials = limits->dials;
  relay_update(r);
}

void relay_set_away(struct relay *r, bool away) {
  r->away = away;
  relay_update(r);
}

void relay_add(struct relay *r, struct relay_tunnel *t) {
  t->relay = r;
  LIST_INSERT_HEAD(&r->tunnels, t, of_relay);
}

// ---- datagrams that were dropped ----

void relay_count_drops(struct relay *r, enum relay_drop why, uint64_t n) {
  r->drops[why] += n;
  atomic_fetch_add_explicit(&r->entry->dropped, n, memory_order_relaxed);
}

// Those that neither a limit nor a socket has dropped the link has. True: there is something to say later.
static bool log_drops(struct relay *r) {
  uint64_t all = atomic_load_explicit(&r->entry->dropped, memory_order_relaxed), now = loop_now_ms(r->loop);
  if (all == r->all_drops_logged) return false;
  if (r->drops_logged_ms && now - r->drops_logged_ms < DROPS_LOG_MS) return true;
  uint64_t count = all - r->all_drops_logged, limit = r->drops[RELAY_DROP_LIMIT] - r->drops_logged[RELAY_DROP_LIMIT],
           socket = r->drops[RELAY_DROP_SOCKET] - r->drops_logged[RELAY_DROP_SOCKET];
  log_event(LOG_WARN, "datagram.drop", "datagrams were dropped", LF_STR("user", r->entry->who.user_name),
            LF_INT("session", r->entry->id), LF_INT("count", count), LF_INT("congested", count - limit - socket),
            LF_INT("limit", limit), LF_INT("socket", socket));
  r->all_drops_logged = all;
  memcpy(r->drops_logged, r->drops, sizeof r->drops_logged);
  r->drops_logged_ms = now;
  return false;
}

static bool log_flood(struct relay *r) {
  if (r->flows_unlogged && bucket_take(&r->flow_lines, 1, loop_now_ms(r->loop))) {
    log_event(LOG_WARN, "visitor.flood", "flows that were not logged one by one",
              LF_STR("user", r->entry->who.user_name), LF_INT("session", r->entry->id),
              LF_INT("count", r->flows_unlogged));
    r->flows_unlogged = 0;
  }
  return r->flows_unlogged;
}

// ---- the clock ----

void relay_want_tick(struct relay *r) {
  if (r->ticking) return;
  r->ticking = true;
  loop_timer_set(r->tick, TICK_MS);
}

static void on_tick(void *ctx) {
  struct relay *r = ctx;
  struct relay_tunnel *t;
  bool again = false;
  r->ticking = false;
  LIST_FOREACH(t, &r->tunnels, of_relay) if (t->ops->tick) again |= t->ops->tick(t);
  again |= log_drops(r);
  again |= log_flood(r);
  if (again) relay_want_tick(r);
}

// ---- life ----

int relay_init(struct relay *r, struct loop *l, struct registry_entry *entry, const struct limits *limits,
               const struct relay_source *source, void *ctx) {
  *r = (struct relay){.loop = l, .entry = entry, .source = source, .ctx = ctx};
  r->tick = loop_timer_new(l, on_tick, r);
  if (!r->tick) return PERR_NOMEM;
  r->totals = (struct pump_totals){.pulled = &entry->bytes_in, .pushed = &entry->bytes_out};
  bucket_init(&r->flow_lines, FLOW_LINES_PER_S, FLOW_LINES_BURST, loop_now_ms(l));
  LIST_INIT(&r->tunnels);
  relay_set_limits(r, limits);
  return 0;
}

void relay_fini(struct relay *r) { loop_timer_free(r->tick); }
