// session_trunk: links, liveness and control messages of a trunk session. See session_trunk.h.
#include "postern/gateway/session_trunk.h"
#include "postern/base/log.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session.h"
#include "postern/trunk/link.h"

#include <stdio.h>
#include <stdlib.h>

enum { LINKS = 2 };

struct trunk_session {
  struct session base; // first
  struct link *links[LINKS]; // the newest first; NULL: none
  struct loop_timer *linger;
  char lost_reason[128]; // of the last link that went
};

static struct trunk_session *trunk_of(struct session *s) { return (struct trunk_session *)s; }

static const char *user_of(const struct trunk_session *t) { return t->base.entry->who.user_name; }

// ---- control messages ----

// On the newest link; closes it when it is hopelessly congested.
static void send_control(struct trunk_session *t, const struct control *c) {
  struct link *k = t->links[0];
  if (t->base.closed || !k) return; // between two links: the agent asks again after its next welcome
  if (link_send(k, c) == PERR_LIMIT) link_close(k, "congested: too many control frames wait", STREAM_LINK_LOST, false);
}

static void tunnel_opened(struct session *s, uint32_t tunnel, uint16_t port, int64_t idle_s) {
  struct control c = {.type = CONTROL_TUNNEL_OPENED,
                      .tunnel_opened = {.tunnel = tunnel, .port = port, .idle_s = idle_s}};
  send_control(trunk_of(s), &c);
}

static void tunnel_closed(struct session *s, uint32_t tunnel, const char *reason) {
  struct control c = {.type = CONTROL_TUNNEL_CLOSED, .tunnel_closed = {.tunnel = tunnel}};
  snprintf(c.tunnel_closed.reason, sizeof c.tunnel_closed.reason, "%s", reason);
  send_control(trunk_of(s), &c);
}

static void tunnel_refused(struct session *s, uint32_t tunnel, const char *reason, const char *message) {
  struct control c = {.type = CONTROL_TUNNEL_REFUSED, .tunnel_refused = {.tunnel = tunnel}};
  snprintf(c.tunnel_refused.reason, sizeof c.tunnel_refused.reason, "%s", reason);
  snprintf(c.tunnel_refused.message, sizeof c.tunnel_refused.message, "%s", message);
  send_control(trunk_of(s), &c);
}

// The newest link takes no visitors any more: until the next one is there they wait in the kernel's queue.
static void update_away(struct trunk_session *t) {
  relay_set_away(&t->base.relay, !t->links[0] || link_draining(t->links[0]));
}

static void on_goaway(struct trunk_session *t, struct link *k, const struct control_goaway *g) {
  log_event(LOG_INFO, "link.goaway", "the agent is about to bring a new link", LF_STR("user", user_of(t)),
            LF_INT("session", t->base.id), LF_STR("reason", g->reason), LF_INT("seconds", g->deadline_s));
  link_drain(k);
  link_set_deadline(k, (uint64_t)g->deadline_s * 1000);
  update_away(t);
}

// The log's and the audit's words are the gateway's: an agent cannot say of itself that it was banned.
static const char *own_word(const char *reason) {
  return strcmp(reason, "protocol") == 0 ? "complaint" : "stop";
}

static void on_control(void *ctx, struct link *k, const struct control *c) {
  struct trunk_session *t = ctx;
  switch (c->type) {
  case CONTROL_TUNNEL_OPEN: tunnels_on_open(&t->base, &c->tunnel_open); return;
  case CONTROL_TUNNEL_CLOSE: tunnels_on_close(&t->base, c->tunnel_close.tunnel); return;
  case CONTROL_GOAWAY: on_goaway(t, k, &c->goaway); return;
  case CONTROL_END:
    session_close(&t->base, own_word(c->end.reason), c->end.message[0] ? c->end.message : NULL, 0);
    return;
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
  struct trunk_session *t = ctx;
  session_close(&t->base, t->lost_reason, NULL, 0);
}

// The last link is gone: wait for the run to come back, but never beyond the time in which a dead peer must be found.
static void linger(struct trunk_session *t, const struct link *gone) {
  struct worker *w = t->base.worker;
  uint64_t now = loop_now_ms(w->loop), dead = (uint64_t)w->config->dead_s * 1000;
  uint64_t silent = now - link_last_heard(gone);
  uint64_t wait = silent >= dead ? 0 : dead - silent;
  atomic_store(&t->base.entry->linked, false);
  loop_timer_set(t->linger, wait < TRUNK_LINGER_MS ? wait : TRUNK_LINGER_MS);
}

static void on_link_close(void *ctx, struct link *k, const char *reason, bool protocol_error) {
  struct trunk_session *t = ctx;
  char peer[ADDR_TEXT];
  for (unsigned i = 0; i < LINKS; i++) {
    if (t->links[i] != k) continue;
    for (; i + 1 < LINKS; i++) t->links[i] = t->links[i + 1];
    t->links[LINKS - 1] = NULL;
  }
  if (t->base.closed) return;
  log_event(protocol_error ? LOG_WARN : LOG_INFO, "link.close", reason, LF_STR("user", user_of(t)),
            LF_INT("session", t->base.id), LF_STR("peer", addr_format(link_peer(k), peer)));
  if (protocol_error) {
    session_close(&t->base, "protocol", reason, 0);
    return;
  }
  update_away(t);
  if (t->links[0]) return;
  snprintf(t->lost_reason, sizeof t->lost_reason, "%s", reason);
  linger(t, k);
}

static void on_drained(void *ctx, struct link *k) { link_close(k, "drained", STREAM_LINK_LOST, true); }

static const struct link_ops session_link_ops = {
    .on_control = on_control, .on_close = on_link_close, .on_drained = on_drained};

static struct stream *open_stream(void *ctx, uint32_t tunnel, const struct addr *visitor) {
  struct trunk_session *t = ctx;
  struct frame_open open = {.tunnel = tunnel, .visitor = *visitor};
  return t->links[0] ? link_open_stream(t->links[0], &open) : NULL;
}

static struct flow *open_flow(void *ctx, uint32_t tunnel, const struct addr *visitor) {
  struct trunk_session *t = ctx;
  struct frame_open open = {.tunnel = tunnel, .visitor = *visitor};
  return t->links[0] ? link_open_flow(t->links[0], &open) : NULL;
}

static int say_welcome(struct trunk_session *t, struct conn *c, uint32_t features, bool resumed) {
  const struct config *cfg = t->base.worker->config;
  struct control m = {.type = CONTROL_WELCOME,
                      .welcome = {.version = CONTROL_VERSION,
                                  .features = features,
                                  .session = t->base.id,
                                  .resumed = resumed,
                                  .heartbeat_s = cfg->heartbeat_s,
                                  .dead_s = cfg->dead_s,
                                  .dial_s = cfg->dial_s,
                                  .stall_s = cfg->stall_s}};
  snprintf(m.welcome.software, sizeof m.welcome.software, "posternd/%s", POSTERN_VERSION);
  snprintf(m.welcome.user, sizeof m.welcome.user, "%s", user_of(t));
  return link_greeting_write(c, &m);
}

static void add_link(struct trunk_session *t, struct link *k) {
  if (t->links[LINKS - 1]) link_close(t->links[LINKS - 1], "displaced by a newer link", STREAM_LINK_LOST, true);
  for (unsigned i = LINKS - 1; i > 0; i--) t->links[i] = t->links[i - 1];
  t->links[0] = k;
  loop_timer_clear(t->linger);
  atomic_store(&t->base.entry->linked, true);
}

// Takes the arrival's conn. False: it could not be made a link.
static bool make_link(struct trunk_session *t, struct arrival *a, bool resumed) {
  struct worker *w = t->base.worker;
  const struct config *cfg = w->config;
  uint32_t features = ((struct trunk_arrival *)a)->features & CONTROL_FEATURES;
  struct link_settings settings = {.heartbeat_s = cfg->heartbeat_s,
                                   .dead_s = cfg->dead_s,
                                   .stall_s = cfg->stall_s,
                                   .dial_s = cfg->dial_s,
                                   .udp = features & CONTROL_FEATURE_UDP,
                                   .dropped = &t->base.entry->dropped};
  if (say_welcome(t, a->conn, features, resumed)) {
    conn_close(a->conn, CONN_CLOSE);
    return false;
  }
  struct link *k = link_new(w->loop, a->conn, LINK_GATEWAY, &settings, &t->base.budget, &session_link_ops, t);
  if (k) add_link(t, k);
  if (k) t->base.udp = settings.udp;
  return k;
}

// ---- the end ----

static void say_end(struct trunk_session *t, const char *reason, const char *message, int64_t until) {
  struct control c = {.type = CONTROL_END, .end = {.until = until}};
  snprintf(c.end.reason, sizeof c.end.reason, "%s", reason);
  snprintf(c.end.message, sizeof c.end.message, "%s", message ? message : "");
  for (unsigned i = 0; i < LINKS && t->links[i]; i++) (void)link_send(t->links[i], &c);
}

static void end(struct session *s, const char *reason, const char *message, int64_t until) {
  struct trunk_session *t = trunk_of(s);
  say_end(t, reason, message, until);
  while (t->links[0]) link_close(t->links[0], reason, STREAM_SESSION_ENDED, true);
  loop_timer_clear(t->linger);
}

static void trunk_free(void *session) {
  struct trunk_session *t = session;
  loop_timer_free(t->linger);
  free(t);
}

static const struct session_ops trunk_session_ops = {.source = {.open_stream = open_stream, .open_flow = open_flow},
                                                     .tunnel_opened = tunnel_opened,
                                                     .tunnel_refused = tunnel_refused,
                                                     .tunnel_closed = tunnel_closed,
                                                     .end = end,
                                                     .free = trunk_free};

// ---- arrivals ----

static void resume(struct trunk_session *t, struct arrival *a) {
  if (((struct trunk_arrival *)a)->previous != CONTROL_PREVIOUS_DRAINING)
    while (t->links[0]) link_close(t->links[0], "replaced by a new link of the same run", STREAM_LINK_LOST, false);
  else if (t->links[0])
    link_drain(t->links[0]);
  registry_set_peer(t->base.worker->gateway->registry, t->base.entry, &a->peer);
  session_set_identity(&t->base, &a->who);
  bool made = make_link(t, a, true);
  update_away(t);
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "session.resume", made ? "a new link of the same run" : "the new link failed",
            LF_STR("user", user_of(t)), LF_INT("session", t->base.id), LF_STR("peer", addr_format(&a->peer, peer)));
}

static void start(struct worker *w, struct arrival *a) {
  struct trunk_session *t = calloc(1, sizeof *t);
  if (t) t->linger = loop_timer_new(w->loop, on_lingered, t);
  if (!t || !t->linger || session_init(&t->base, w, a, &trunk_session_ops)) {
    if (t) trunk_free(t);
    registry_leave(w->gateway->registry, a->entry);
    conn_close(a->conn, CONN_CLOSE);
    return;
  }
  if (!make_link(t, a, false)) session_close(&t->base, "lost: connection reset", NULL, 0);
}

static void refuse(struct arrival *a, const char *reason) {
  struct control c = {.type = CONTROL_END};
  snprintf(c.end.reason, sizeof c.end.reason, "%s", reason);
  (void)link_greeting_write(a->conn, &c);
  conn_close(a->conn, CONN_LINGER);
}

void trunk_session_adopt(struct worker *w, struct arrival *a) {
  if (a->verdict != REGISTRY_RESUME) {
    start(w, a);
    return;
  }
  struct session *s = worker_find(w, a->session);
  if (s) resume(trunk_of(s), a); // a run resumes by its number, which only an agent of this protocol has
  else refuse(a, "unavailable"); // it ended just now: the agent tries again and gets a new one
}
