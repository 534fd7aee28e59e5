// session: the life of an authenticated agent, whatever it speaks. See session.h; its tunnels are in tunnels.c.
#include "postern/gateway/session.h"
#include "postern/base/log.h"
#include "postern/core/lineages.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/gateway.h"

#include <stdio.h>

static const char *peer_text(const struct session *s, char out[ADDR_TEXT]) { return addr_format(&s->entry->peer, out); }

static void on_park_end(void *ctx) { tunnels_unpark_all(ctx); }

static void session_free(void *arg) {
  struct session *s = arg;
  loop_timer_free(s->park);
  s->ops->free(s);
}

static void take_over(struct session *s, const struct arrival *a) {
  struct session *older = worker_find(s->worker, a->older);
  char new_peer[ADDR_TEXT], old_peer[ADDR_TEXT];
  addr_format(&a->peer, new_peer);
  addr_format(&a->older_peer, old_peer);
  log_event(a->older_linked ? LOG_WARN : LOG_INFO, "session.takeover", "another run of the same user and instance takes over",
            LF_STR("user", s->entry->who.user_name), LF_STR("instance", s->entry->instance), LF_INT("session", s->id),
            LF_STR("peer", new_peer), LF_INT("older_session", a->older), LF_STR("older_peer", old_peer));
  if (!older) return;
  tunnels_park(older, s);
  loop_timer_set(s->park, SESSION_PARK_MS);
  char message[CONTROL_TEXT];
  snprintf(message, sizeof message, "another run of this user and instance logged in from %s", new_peer);
  session_close(older, "takeover", message, 0);
}

static void note(const struct session *s, const char *action, const char *detail) {
  char peer[ADDR_TEXT];
  audit_note(s->worker->gateway->audit, peer_text(s, peer), action, s->entry->who.user_name, detail);
}

int session_init(struct session *s, struct worker *w, const struct arrival *a, const struct session_ops *ops) {
  s->park = loop_timer_new(w->loop, on_park_end, s);
  if (!s->park) return PERR_NOMEM;
  if (relay_init(&s->relay, w->loop, a->entry, &a->entry->who.limits, &ops->source, s)) {
    loop_timer_free(s->park);
    return PERR_NOMEM;
  }
  s->ops = ops;
  s->worker = w;
  s->entry = a->entry;
  s->id = a->entry->id;
  s->displaced = a->older;
  s->since_ms = loop_now_ms(w->loop);
  LIST_INIT(&s->tunnels);
  LIST_INIT(&s->parked);
  budget_init(&s->budget, BUDGET_SESSION, &w->gateway->budget);
  HASH_ADD(hh, w->sessions, id, sizeof s->id, s);
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "session.open", "agent connected", LF_STR("user", s->entry->who.user_name), LF_INT("session", s->id),
            LF_STR("peer", peer_text(s, peer)), LF_STR("protocol", s->entry->protocol),
            LF_STR("instance", s->entry->instance));
  note(s, "session.open", s->entry->instance);
  if (a->verdict == REGISTRY_TAKEOVER) take_over(s, a);
  return 0;
}

// The successor goes by the lineages of whom it displaced, until it ends itself.
static void forget_lineages(const struct session *s, const char *reason) {
  struct lineages *l = s->worker->gateway->lineages;
  if (strcmp(reason, "takeover") != 0) lineages_forget(l, s->id);
  if (s->displaced) lineages_forget(l, s->displaced);
}

void session_close(struct session *s, const char *reason, const char *message, int64_t until) {
  if (s->closed) return;
  s->closed = true;
  char why[128], peer[ADDR_TEXT];
  snprintf(why, sizeof why, "%s", reason); // may lie in a message that goes with its connection
  s->ops->end(s, why, message, until);
  tunnels_close_all(s);
  tunnels_unpark_all(s);
  struct worker *w = s->worker;
  log_event(LOG_INFO, "session.close", message ? message : "session ended", LF_STR("user", s->entry->who.user_name),
            LF_INT("session", s->id), LF_STR("peer", peer_text(s, peer)), LF_STR("protocol", s->entry->protocol),
            LF_STR("reason", why), LF_DBL("seconds", (double)(loop_now_ms(w->loop) - s->since_ms) / 1000));
  note(s, "session.close", why);
  forget_lineages(s, why);
  HASH_DEL(w->sessions, s);
  relay_fini(&s->relay); // its clock reads the entry
  registry_leave(w->gateway->registry, s->entry);
  s->entry = NULL;
  loop_timer_clear(s->park);
  loop_reap(w->loop, s, session_free);
}

void session_set_identity(struct session *s, const struct identity *who) {
  registry_set_who(s->worker->gateway->registry, s->entry, who);
  relay_set_limits(&s->relay, &who->limits);
  tunnels_trim(s, who->limits.tunnels);
}
