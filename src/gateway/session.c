// session: links, liveness and end of an authenticated agent. See session.h; its tunnels are in tunnels.c.
#include "postern/gateway/session.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>

static const char *peer_text(const struct session *s, char out[ADDR_TEXT]) { return addr_format(&s->entry->peer, out); }

// ---- control messages ----

void session_send(struct session *s, const struct control *c) {
  struct link *k = s->links[0];
  if (s->closed || !k) return; // between two links: the agent asks again after its next welcome
  if (link_send(k, c) == PERR_LIMIT) link_close(k, "congested: too many control frames wait", STREAM_LINK_LOST, false);
}

// The newest link takes no visitors any more: until the next one is there they wait in the kernel's queue.
static void update_away(struct session *s) {
  relay_set_away(&s->relay, !s->links[0] || link_draining(s->links[0]));
}

static void on_goaway(struct session *s, struct link *k, const struct control_goaway *g) {
  log_event(LOG_INFO, "link.goaway", "the agent is about to bring a new link",
            LF_STR("user", s->entry->who.user_name), LF_INT("session", s->id), LF_STR("reason", g->reason),
            LF_INT("seconds", g->deadline_s));
  link_drain(k);
  link_set_deadline(k, (uint64_t)g->deadline_s * 1000);
  update_away(s);
}

// The log's and the audit's words are the gateway's: an agent cannot say of itself that it was banned.
static const char *own_word(const char *reason) {
  return strcmp(reason, "protocol") == 0 ? "complaint" : "stop";
}

static void on_control(void *ctx, struct link *k, const struct control *c) {
  struct session *s = ctx;
  switch (c->type) {
  case CONTROL_TUNNEL_OPEN: tunnels_on_open(s, &c->tunnel_open); return;
  case CONTROL_TUNNEL_CLOSE: tunnels_on_close(s, c->tunnel_close.tunnel); return;
  case CONTROL_GOAWAY: on_goaway(s, k, &c->goaway); return;
  case CONTROL_END: session_close(s, own_word(c->end.reason), c->end.message[0] ? c->end.message : NULL, 0); return;
  default: {
    // Well-formed, but not an agent's to say.
    struct control end = {.type = CONTROL_END, .end = {.reason = "protocol"}};
    snprintf(end.end.message, sizeof end.end.message, "a control message that only a gateway sends");
    (void)link_send(k, &end);
    link_close(k, "protocol: a control message that only a gateway sends", STREAM_LINK_LOST, true);
  }
  }
}

// ---- links ----

static void on_lingered(void *ctx) {
  struct session *s = ctx;
  session_close(s, s->lost_reason, NULL, 0);
}

// The last link is gone: wait for the run to come back, but never beyond the time in which a dead peer must be found.
static void linger(struct session *s, const struct link *gone) {
  uint64_t now = loop_now_ms(s->worker->loop), dead = (uint64_t)s->worker->config->dead_s * 1000;
  uint64_t silent = now - link_last_heard(gone);
  uint64_t wait = silent >= dead ? 0 : dead - silent;
  atomic_store(&s->entry->linked, false);
  loop_timer_set(s->linger, wait < SESSION_LINGER_MS ? wait : SESSION_LINGER_MS);
}

static void on_link_close(void *ctx, struct link *k, const char *reason, bool protocol_error) {
  struct session *s = ctx;
  char peer[ADDR_TEXT];
  for (unsigned i = 0; i < SESSION_LINKS; i++) {
    if (s->links[i] != k) continue;
    for (; i + 1 < SESSION_LINKS; i++) s->links[i] = s->links[i + 1];
    s->links[SESSION_LINKS - 1] = NULL;
  }
  if (s->closed) return;
  log_event(protocol_error ? LOG_WARN : LOG_INFO, "link.close", reason, LF_STR("user", s->entry->who.user_name),
            LF_INT("session", s->id), LF_STR("peer", addr_format(link_peer(k), peer)));
  if (protocol_error) {
    session_close(s, "protocol", reason, 0);
    return;
  }
  update_away(s);
  if (s->links[0]) return;
  snprintf(s->lost_reason, sizeof s->lost_reason, "%s", reason);
  linger(s, k);
}

static void on_drained(void *ctx, struct link *k) { link_close(k, "drained", STREAM_LINK_LOST, true); }

static const struct link_ops session_link_ops = {
    .on_control = on_control, .on_close = on_link_close, .on_drained = on_drained};

static struct stream *open_stream(void *ctx, uint32_t tunnel, const struct addr *visitor) {
  struct session *s = ctx;
  struct frame_open open = {.tunnel = tunnel, .visitor = *visitor};
  return s->links[0] ? link_open_stream(s->links[0], &open) : NULL;
}

static int say_welcome(struct session *s, struct conn *c, bool resumed) {
  const struct config *cfg = s->worker->config;
  struct control m = {.type = CONTROL_WELCOME,
                      .welcome = {.version = CONTROL_VERSION,
                                  .session = s->id,
                                  .resumed = resumed,
                                  .heartbeat_s = cfg->heartbeat_s,
                                  .dead_s = cfg->dead_s,
                                  .dial_s = cfg->dial_s,
                                  .stall_s = cfg->stall_s}};
  snprintf(m.welcome.software, sizeof m.welcome.software, "posternd/%s", POSTERN_VERSION);
  snprintf(m.welcome.user, sizeof m.welcome.user, "%s", s->entry->who.user_name);
  return link_greeting_write(c, &m);
}

static void add_link(struct session *s, struct link *k) {
  if (s->links[SESSION_LINKS - 1]) link_close(s->links[SESSION_LINKS - 1], "displaced by a newer link", STREAM_LINK_LOST, true);
  for (unsigned i = SESSION_LINKS - 1; i > 0; i--) s->links[i] = s->links[i - 1];
  s->links[0] = k;
  loop_timer_clear(s->linger);
  atomic_store(&s->entry->linked, true);
}

// Takes the arrival's conn. False: it could not be made a link.
static bool make_link(struct session *s, struct arrival *a, bool resumed) {
  const struct config *cfg = s->worker->config;
  struct link_settings settings = {
      .heartbeat_s = cfg->heartbeat_s, .dead_s = cfg->dead_s, .stall_s = cfg->stall_s, .dial_s = cfg->dial_s};
  if (say_welcome(s, a->conn, resumed)) {
    conn_close(a->conn, CONN_CLOSE);
    return false;
  }
  struct link *k = link_new(s->worker->loop, a->conn, LINK_GATEWAY, &settings, &s->budget, &session_link_ops, s);
  if (k) add_link(s, k);
  return k;
}

void session_resume(struct session *s, struct arrival *a) {
  if (a->previous != CONTROL_PREVIOUS_DRAINING)
    while (s->links[0]) link_close(s->links[0], "replaced by a new link of the same run", STREAM_LINK_LOST, false);
  else if (s->links[0])
    link_drain(s->links[0]);
  registry_set_peer(s->worker->gateway->registry, s->entry, &a->peer);
  session_set_identity(s, &a->who);
  bool made = make_link(s, a, true);
  update_away(s);
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "session.resume", made ? "a new link of the same run" : "the new link failed",
            LF_STR("user", s->entry->who.user_name), LF_INT("session", s->id), LF_STR("peer", peer_text(s, peer)));
}

// ---- life ----

static void on_park_end(void *ctx) { tunnels_unpark_all(ctx); }

static void session_free(void *arg) {
  struct session *s = arg;
  loop_timer_free(s->linger);
  loop_timer_free(s->park);
  free(s);
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

struct session *session_new(struct worker *w, struct arrival *a) {
  struct session *s = calloc(1, sizeof *s);
  struct loop_timer *linger_timer = s ? loop_timer_new(w->loop, on_lingered, s) : NULL;
  struct loop_timer *park_timer = s ? loop_timer_new(w->loop, on_park_end, s) : NULL;
  if (!linger_timer || !park_timer) {
    loop_timer_free(linger_timer);
    loop_timer_free(park_timer);
    free(s);
    registry_leave(w->gateway->registry, a->entry);
    conn_close(a->conn, CONN_CLOSE);
    return NULL;
  }
  s->worker = w;
  s->entry = a->entry;
  s->id = a->entry->id;
  s->linger = linger_timer;
  s->park = park_timer;
  s->since_ms = loop_now_ms(w->loop);
  LIST_INIT(&s->tunnels);
  LIST_INIT(&s->parked);
  budget_init(&s->budget, LINK_SESSION_BUFFER, &w->gateway->budget);
  relay_init(&s->relay, w->loop, s->entry, &s->entry->who.limits, open_stream, s);
  HASH_ADD(hh, w->sessions, id, sizeof s->id, s);
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "session.open", "agent connected", LF_STR("user", s->entry->who.user_name), LF_INT("session", s->id),
            LF_STR("peer", peer_text(s, peer)), LF_STR("protocol", s->entry->protocol),
            LF_STR("instance", s->entry->instance));
  note(s, "session.open", s->entry->instance);
  if (a->verdict == REGISTRY_TAKEOVER) take_over(s, a);
  if (!make_link(s, a, false)) session_close(s, "lost: connection reset", NULL, 0);
  return s;
}

static void say_end(struct session *s, const char *reason, const char *message, int64_t until) {
  struct control c = {.type = CONTROL_END, .end = {.until = until}};
  snprintf(c.end.reason, sizeof c.end.reason, "%s", reason);
  snprintf(c.end.message, sizeof c.end.message, "%s", message ? message : "");
  for (unsigned i = 0; i < SESSION_LINKS && s->links[i]; i++) (void)link_send(s->links[i], &c);
}

void session_close(struct session *s, const char *reason, const char *message, int64_t until) {
  if (s->closed) return;
  char why[128], peer[ADDR_TEXT];
  snprintf(why, sizeof why, "%s", reason); // may lie in a message that goes with its link
  say_end(s, why, message, until);
  s->closed = true;
  while (s->links[0]) link_close(s->links[0], why, STREAM_SESSION_ENDED, true);
  tunnels_close_all(s);
  tunnels_unpark_all(s);
  struct worker *w = s->worker;
  log_event(LOG_INFO, "session.close", message ? message : "session ended", LF_STR("user", s->entry->who.user_name),
            LF_INT("session", s->id), LF_STR("peer", peer_text(s, peer)), LF_STR("protocol", s->entry->protocol),
            LF_STR("reason", why), LF_DBL("seconds", (double)(loop_now_ms(w->loop) - s->since_ms) / 1000));
  note(s, "session.close", why);
  HASH_DEL(w->sessions, s);
  registry_leave(w->gateway->registry, s->entry);
  s->entry = NULL;
  loop_timer_clear(s->linger);
  loop_timer_clear(s->park);
  loop_reap(w->loop, s, session_free);
}

void session_set_identity(struct session *s, const struct identity *who) {
  registry_set_who(s->worker->gateway->registry, s->entry, who);
  relay_set_limits(&s->relay, &who->limits);
  tunnels_trim(s, who->limits.tunnels);
}
