// session: attempts, links and the waits between them, for agent. Owns the attempt under way and every link. Loop
// thread.
//
//              ┌────────── wait ◄── failed ──┐
//     start ──►attempt ─────────────────────►┘
//              │ ▲ ▲      welcome
//              ▼ │ └─ lost ──┐
//             current ───────┘
//              │ goaway: the link drains beside a new attempt
//              ▼
//             draining (any number)
#include "postern/agent/session.h"
#include "postern/agent/attempt.h"
#include "postern/agent/backoff.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/trunk/link.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  RETRY_LOW_MS = 500,
  RETRY_HIGH_MS = 30000,
  TIMER_EARLY_MS = 1000,         // the loop's timers are coarse: one may come so much before the wall clock's time
  RETRY_UNTIL_MAX_S = 24 * 3600, // a clock that is wrong must not put the agent to sleep for years
  STOP_MS = 1000,                // for the gateway to answer our end by closing
  REASON_TEXT = 512,
};

struct held_link {
  struct session *session;
  struct link *link;
  uint64_t born_ms;
  unsigned epoch;  // of the session that it belongs to
  int64_t until_s; // the gateway's end: not before this wall second; 0: not said
  bool drained;
  struct held_link *next;
};

struct session {
  struct loop *loop;
  struct resolver *resolver;
  const struct agent_config *cfg;
  const struct session_ops *ops;
  void *ctx;
  uint8_t run[CONTROL_RUN_LEN];
  struct budget budget;
  _Atomic uint64_t *dropped;
  struct attempt *attempt;
  struct loop_timer *timer; // the wait for the next attempt; when stopping, for the gateway
  bool waiting;             // for the next attempt
  int64_t until_s;          // … which the gateway wants not before this wall second; 0: not said
  struct backoff backoff;
  struct held_link *links;   // all of them
  struct held_link *current; // the newest, while new streams may come on it; or NULL
  unsigned epoch;            // counts the sessions that the gateway made for this run; 0: none yet
  bool stopping, over;
};

static const struct attempt_ops attempt_ops;
static const struct link_ops link_ops;

// ---- attempts ----

// What is left of the time that the gateway asked for; 0 or less: nothing.
static int64_t until_left_ms(const struct session *s) {
  if (!s->until_s) return 0;
  if (s->until_s - clock_wall_s() > RETRY_UNTIL_MAX_S) return (int64_t)RETRY_UNTIL_MAX_S * 1000;
  return s->until_s * 1000 - clock_wall_ms();
}

static void schedule(struct session *s, const char *reason, int64_t until_s) {
  uint32_t random;
  crypto_random(&random, sizeof random);
  s->until_s = until_s;
  int64_t wait_ms = backoff_next(&s->backoff, random), left_ms = until_left_ms(s);
  if (left_ms > wait_ms) wait_ms = left_ms;
  char msg[REASON_TEXT + 64];
  snprintf(msg, sizeof msg, "%s; next try in %.1f s", reason, (double)wait_ms / 1000);
  log_event(LOG_WARN, "agent.retry", msg, LF_STR("server", s->cfg->server), LF_STR("reason", reason),
            LF_DBL("seconds", (double)wait_ms / 1000));
  s->waiting = true;
  loop_timer_set(s->timer, (uint64_t)wait_ms);
}

static enum control_previous previous_of(const struct session *s) {
  if (s->links) return CONTROL_PREVIOUS_DRAINING;
  return s->epoch ? CONTROL_PREVIOUS_LOST : CONTROL_PREVIOUS_NONE;
}

static void begin_attempt(struct session *s) {
  struct control_hello hello = {
      .version = CONTROL_VERSION, .features = CONTROL_FEATURES, .software = "postern/" POSTERN_VERSION};
  struct err_text e = {""};
  s->waiting = false;
  if (agent_config_token(s->cfg, hello.token, &e) < 0) {
    schedule(s, e.s, 0);
    return;
  }
  snprintf(hello.instance, sizeof hello.instance, "%s", s->cfg->instance);
  memcpy(hello.run, s->run, sizeof hello.run);
  hello.previous = previous_of(s);
  s->attempt = attempt_start(s->loop, s->resolver, s->cfg->host, s->cfg->port, s->cfg->tls, &hello, &attempt_ops, s);
  crypto_wipe(&hello, sizeof hello);
  if (!s->attempt) schedule(s, perr_str(PERR_NOMEM), 0);
}

static void on_timer(void *ctx) {
  struct session *s = ctx;
  int64_t left_ms = until_left_ms(s);
  if (s->stopping)
    session_abandon(s); // the gateway did not answer our end
  else if (left_ms > 0 && left_ms <= TIMER_EARLY_MS)
    loop_timer_set(s->timer, (uint64_t)left_ms);
  else
    begin_attempt(s);
}

// Wherever a link or an attempt has ended: goes on when nothing else does.
static void carry_on(struct session *s, const char *reason, int64_t until_s) {
  if (s->over || s->stopping || s->current || s->attempt || s->waiting) return;
  schedule(s, reason, until_s);
}

static void session_over(struct session *s, int status) {
  if (s->over) return;
  s->over = true;
  s->ops->on_over(s->ctx, status);
}

// ---- what an end means ----

static const struct verdict {
  const char *reason, *text;
  int status;       // 0: worth another try
  bool until_mends; // … when the gateway said until when
} verdicts[] = {
    {"unknown_token", "the gateway does not know this token", SESSION_REFUSED, false},
    {"revoked", "the token has been revoked", SESSION_REFUSED, false},
    {"expired", "the token has expired", SESSION_REFUSED, false},
    {"removed", "the user has been removed", SESSION_REFUSED, false},
    {"banned", "the user is banned", SESSION_REFUSED, true},
    {"takeover", "another run of this user and instance has taken over", SESSION_TAKEN_OVER, false},
};

static const struct verdict *find_verdict(const struct control_end *end) {
  for (size_t i = 0; i < sizeof verdicts / sizeof verdicts[0]; i++) {
    const struct verdict *v = &verdicts[i];
    if (strcmp(v->reason, end->reason) == 0) return v->until_mends && end->until ? NULL : v;
  }
  return NULL;
}

static void log_verdict(struct session *s, const struct verdict *v, const struct control_end *end) {
  log_event(LOG_ERROR, "agent.end", v->text, LF_STR("server", s->cfg->server), LF_STR("reason", end->reason),
            LF_STR("message", end->message[0] ? end->message : NULL));
}

static void end_reason(const struct control_end *end, char out[REASON_TEXT]) {
  snprintf(out, REASON_TEXT, end->message[0] ? "%s: %s" : "%s", end->reason, end->message);
}

// ---- links ----

static void held_free(void *obj) {
  free(obj);
}

static void on_link_closed(void *ctx, struct link *k, const char *reason, bool protocol_error) {
  struct held_link *h = ctx;
  struct session *s = h->session;
  struct held_link **at = &s->links;
  while (*at != h) at = &(*at)->next;
  *at = h->next;
  if (s->current == h) {
    s->current = NULL;
    backoff_lived(&s->backoff, loop_now_ms(s->loop) - h->born_ms);
  }
  log_event(protocol_error ? LOG_WARN : LOG_DEBUG, "link.close", "a link has ended", LF_STR("reason", reason));
  loop_reap(s->loop, h, held_free);
  if (s->stopping && !s->links)
    session_over(s, 0);
  else
    carry_on(s, reason, h->until_s);
}

// With another link there, what a drained one still does is keep a descriptor.
static void close_drained(struct session *s) {
  struct held_link *h = s->links;
  while (h) {
    struct held_link *next = h->next;
    if (h->drained) link_close(h->link, "drained", STREAM_LINK_LOST, true);
    h = next;
  }
}

static void on_drained(void *ctx, struct link *k) {
  struct held_link *h = ctx;
  h->drained = true;
  if (h->session->current) close_drained(h->session);
}

static void on_goaway(struct held_link *h, const struct control_goaway *g) {
  struct session *s = h->session;
  log_event(LOG_INFO, "link.goaway", "the gateway asks for a new link", LF_STR("server", s->cfg->server),
            LF_STR("reason", g->reason), LF_INT("seconds", g->deadline_s));
  link_set_deadline(h->link, (uint64_t)g->deadline_s * 1000);
  link_drain(h->link);
  if (s->current == h) s->current = NULL;
  if (!s->current && !s->attempt && !s->waiting && !s->stopping) begin_attempt(s);
}

static void on_link_end(struct held_link *h, const struct control_end *end) {
  struct session *s = h->session;
  const struct verdict *v = s->stopping ? NULL : find_verdict(end);
  char reason[REASON_TEXT];
  end_reason(end, reason);
  h->until_s = end->until;
  if (v) {
    log_verdict(s, v, end);
    session_over(s, v->status);
  }
  link_close(h->link, reason, STREAM_SESSION_ENDED, false);
}

static void on_control(void *ctx, struct link *k, const struct control *c) {
  struct held_link *h = ctx;
  struct session *s = h->session;
  switch (c->type) {
  case CONTROL_END: on_link_end(h, &c->end); return;
  case CONTROL_GOAWAY: on_goaway(h, &c->goaway); return;
  case CONTROL_TUNNEL_OPENED:
  case CONTROL_TUNNEL_REFUSED:
  case CONTROL_TUNNEL_CLOSED:
    if (h->epoch == s->epoch) s->ops->on_tunnel(s->ctx, c);
    return;
  default: break;
  }
  struct control end = {.type = CONTROL_END, .end = {.reason = "protocol", .message = "a message that agents send"}};
  (void)link_send(k, &end);
  link_close(k, "protocol: a message that agents send", STREAM_LINK_LOST, true);
}

static enum stream_reason on_open(void *ctx, struct link *k, struct stream *st, const struct frame_open *open) {
  struct held_link *h = ctx;
  struct session *s = h->session;
  if (s->over || s->stopping) return STREAM_SESSION_ENDED;
  if (h->epoch != s->epoch) return STREAM_NO_TUNNEL;
  return s->ops->on_open(s->ctx, st, open);
}

static enum stream_reason on_flow(void *ctx, struct link *k, struct flow *f, const struct frame_open *open) {
  struct held_link *h = ctx;
  struct session *s = h->session;
  if (s->over || s->stopping) return STREAM_SESSION_ENDED;
  if (h->epoch != s->epoch) return STREAM_NO_TUNNEL;
  return s->ops->on_flow(s->ctx, f, open);
}

static const struct link_ops link_ops = {.on_control = on_control,
                                         .on_open = on_open,
                                         .on_flow = on_flow,
                                         .on_close = on_link_closed,
                                         .on_drained = on_drained};

// ---- what became of an attempt ----

// Takes `c`. NULL for want of memory.
static struct held_link *hold_link(struct session *s, struct conn *c, const struct control_welcome *w) {
  struct held_link *h = calloc(1, sizeof *h);
  if (!h) {
    conn_close(c, CONN_CLOSE);
    return NULL;
  }
  const struct link_settings settings = {.heartbeat_s = w->heartbeat_s,
                                         .dead_s = w->dead_s,
                                         .stall_s = w->stall_s,
                                         .udp = w->features & CONTROL_FEATURE_UDP,
                                         .dropped = s->dropped};
  h->session = s;
  h->born_ms = loop_now_ms(s->loop);
  h->link = link_new(s->loop, c, LINK_AGENT, &settings, &s->budget, &link_ops, h);
  if (!h->link) {
    free(h);
    return NULL;
  }
  h->next = s->links;
  s->links = h;
  return h;
}

static void on_welcome(void *ctx, struct conn *c, const struct control_welcome *w) {
  struct session *s = ctx;
  s->attempt = NULL;
  struct held_link *h = hold_link(s, c, w);
  if (!h) {
    carry_on(s, perr_str(PERR_NOMEM), 0);
    return;
  }
  if (!w->resumed || s->epoch == 0) s->epoch++;
  h->epoch = s->epoch;
  s->current = h;
  char peer[ADDR_TEXT], msg[HOST_TEXT + NAME_TEXT + 64];
  snprintf(msg, sizeof msg, "%s %s as %s", w->resumed ? "reconnected to" : "connected to", s->cfg->server, w->user);
  log_event(LOG_INFO, "agent.connected", msg, LF_STR("server", s->cfg->server), LF_STR("user", w->user),
            LF_INT("session", w->session), LF_STR("peer", addr_format(link_peer(h->link), peer)));
  close_drained(s);
  s->ops->on_welcome(s->ctx, w);
}

static void on_end(void *ctx, const struct control_end *end) {
  struct session *s = ctx;
  const struct verdict *v = find_verdict(end);
  char reason[REASON_TEXT];
  s->attempt = NULL;
  if (v) {
    log_verdict(s, v, end);
    session_over(s, v->status);
    return;
  }
  end_reason(end, reason);
  carry_on(s, reason, end->until);
}

static void on_failed(void *ctx, const char *reason) {
  struct session *s = ctx;
  s->attempt = NULL;
  carry_on(s, reason, 0);
}

static const struct attempt_ops attempt_ops = {.on_welcome = on_welcome, .on_end = on_end, .on_failed = on_failed};

// ---- for agent ----

int session_send(struct session *s, const struct control *c) {
  if (!s->current) return PERR_CLOSED;
  int rc = link_send(s->current->link, c);
  if (rc == PERR_LIMIT) link_close(s->current->link, "congested: control messages wait", STREAM_LINK_LOST, false);
  return rc;
}

void session_configure(struct session *s, const struct agent_config *cfg) {
  bool changed = !agent_config_same_gateway(s->cfg, cfg);
  s->cfg = cfg;
  if (!changed || !s->waiting) return;
  backoff_reset(&s->backoff);
  s->until_s = 0;
  loop_timer_set(s->timer, 0);
}

void session_start(struct session *s) {
  begin_attempt(s);
}

static void cease_trying(struct session *s) {
  attempt_cancel(s->attempt);
  s->attempt = NULL;
  s->waiting = false;
  loop_timer_clear(s->timer);
}

void session_stop(struct session *s) {
  if (s->stopping || s->over) return;
  s->stopping = true;
  cease_trying(s);
  const struct control end = {.type = CONTROL_END, .end = {.reason = "stop"}};
  for (struct held_link *h = s->links; h; h = h->next) (void)link_send(h->link, &end);
  if (s->links)
    loop_timer_set(s->timer, STOP_MS);
  else
    session_over(s, 0);
}

void session_abandon(struct session *s) {
  s->stopping = true;
  cease_trying(s);
  while (s->links) link_close(s->links->link, "the agent stops", STREAM_SESSION_ENDED, false);
  session_over(s, 0);
}

struct session *session_new(struct loop *l, const struct agent_config *cfg, _Atomic uint64_t *dropped,
                            const struct session_ops *ops, void *ctx) {
  struct session *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  *s = (struct session){.loop = l, .cfg = cfg, .dropped = dropped, .ops = ops, .ctx = ctx};
  crypto_random(s->run, sizeof s->run);
  budget_init(&s->budget, BUDGET_SESSION, NULL);
  backoff_init(&s->backoff, RETRY_LOW_MS, RETRY_HIGH_MS);
  s->timer = loop_timer_new(l, on_timer, s);
  s->resolver = resolver_new(l);
  if (s->timer && s->resolver) return s;
  session_free(s);
  return NULL;
}

void session_free(struct session *s) {
  if (!s) return;
  loop_timer_free(s->timer);
  if (s->resolver) resolver_free(s->resolver);
  free(s);
}
