// tunnels: the state of each offered tunnel at the gateway, for agent. Owns the tunnels until their visitors are gone.
// Loop thread.
#include "postern/agent/tunnels.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_LOW_MS = 1000, ASK_HIGH_MS = 60000 };

struct tunnels {
  struct loop *loop;
  struct resolver *resolver;
  tunnels_send_fn send;
  void *ctx;
  struct tunnel *list;
  uint32_t last_number;
  char server[HOST_TEXT];
  char user[NAME_TEXT]; // of the latest welcome
  uint64_t session;
  bool welcomed, udp; // the gateway of the latest welcome carries UDP
};

// ---- log ----

static void log_tunnel(const struct tunnel *t, enum log_level level, const char *event, const char *msg,
                       const char *reason) {
  char target[TARGET_TEXT];
  const struct log_field fields[] = {LF_STR("user", t->owner->user), LF_INT("session", t->owner->session),
                                     LF_STR("tunnel", t->spec.name), LF_STR("protocol", spec_protocol(&t->spec)),
                                     LF_INT("port", t->port),        LF_STR("host", NULL), // neither kind has one
                                     LF_STR("target", spec_target(&t->spec, target)), LF_STR("reason", reason)};
  unsigned n = sizeof fields / sizeof fields[0];
  if (log_enabled(level)) log_fields(level, event, msg, fields, reason ? n : n - 1);
}

static void log_open(const struct tunnel *t) {
  char target[TARGET_TEXT], msg[NAME_TEXT + HOST_TEXT + TARGET_TEXT + 32];
  const char *host = t->owner->server;
  snprintf(msg, sizeof msg, strchr(host, ':') ? "%s: [%s]:%u -> %s" : "%s: %s:%u -> %s", t->spec.name, host, t->port,
           spec_target(&t->spec, target));
  log_tunnel(t, LOG_INFO, "tunnel.open", msg, NULL);
}

static void log_refuse(const struct tunnel *t, const struct control_tunnel_refused *r) {
  char msg[NAME_TEXT + CONTROL_TEXT + NAME_TEXT + 32];
  snprintf(msg, sizeof msg, "%s is refused: %s", t->spec.name, r->message[0] ? r->message : r->reason);
  log_event(LOG_WARN, "tunnel.refuse", msg, LF_STR("user", t->owner->user), LF_STR("tunnel", t->spec.name),
            LF_STR("reason", r->reason), LF_STR("message", r->message[0] ? r->message : NULL));
}

// ---- states ----

static void tunnel_move(struct tunnel *t, enum tunnel_state to) {
  assert(t->state != TUNNEL_CLOSING);
  t->state = to;
  if (to != TUNNEL_WANTED) loop_timer_clear(t->retry);
}

// A gateway that has not named the feature would take the question for a violation.
static bool unsupported(struct tunnel *t) {
  if (t->spec.protocol != CONTROL_UDP || !t->owner->welcomed || t->owner->udp) return false;
  const struct control_tunnel_refused r = {.reason = "unsupported", .message = "this gateway does not carry UDP"};
  log_refuse(t, &r);
  return true;
}

// Without a link nothing is said; it will be on the next one.
static void ask(struct tunnel *t) {
  if (unsupported(t)) return;
  struct control c = {.type = CONTROL_TUNNEL_OPEN,
                      .tunnel_open = {.tunnel = t->number,
                                      .protocol = t->spec.protocol,
                                      .port = t->spec.port,
                                      .strict_port = t->spec.strict_port,
                                      .idle_s = t->spec.idle_s}};
  memcpy(c.tunnel_open.name, t->spec.name, sizeof c.tunnel_open.name);
  memcpy(c.tunnel_open.description, t->spec.description, sizeof c.tunnel_open.description);
  loop_timer_clear(t->retry);
  if (t->owner->send(t->owner->ctx, &c) == 0 && t->state == TUNNEL_WANTED) tunnel_move(t, TUNNEL_ASKED);
}

static void say_close(struct tunnel *t) {
  const struct control c = {.type = CONTROL_TUNNEL_CLOSE, .tunnel_close = {.tunnel = t->number}};
  (void)t->owner->send(t->owner->ctx, &c); // on the next link otherwise
}

static void on_retry(void *ctx) {
  struct tunnel *t = ctx;
  if (t->state == TUNNEL_WANTED) ask(t);
}

static void ask_later(struct tunnel *t) {
  uint32_t random;
  crypto_random(&random, sizeof random);
  tunnel_move(t, TUNNEL_WANTED);
  loop_timer_set(t->retry, backoff_next(&t->backoff, random));
}

// ---- life ----

struct tunnel *tunnel_ref(struct tunnel *t) {
  t->refs++;
  return t;
}

static void tunnel_free(void *obj) {
  free(obj);
}

void tunnel_unref(struct tunnel *t) {
  if (--t->refs) return;
  target_fini(&t->target);
  loop_reap(t->target.loop, t, tunnel_free);
}

static int tunnel_add(struct tunnels *ts, const struct tunnel_spec *spec) {
  struct tunnel *t = calloc(1, sizeof *t);
  if (!t) return PERR_NOMEM;
  t->retry = loop_timer_new(ts->loop, on_retry, t);
  if (!t->retry) {
    free(t);
    return PERR_NOMEM;
  }
  t->owner = ts;
  t->refs = 1;
  t->number = ++ts->last_number;
  t->state = TUNNEL_WANTED;
  t->spec = *spec;
  target_init(&t->target, ts->loop, ts->resolver, spec->host, spec->target_port);
  backoff_init(&t->backoff, ASK_LOW_MS, ASK_HIGH_MS);
  struct tunnel **at = &ts->list; // at the end: asked for in the order of the configuration
  while (*at) at = &(*at)->next;
  *at = t;
  ask(t);
  return 0;
}

// Off the list; its visitors may keep it.
static void tunnel_drop(struct tunnel *t) {
  struct tunnel **at = &t->owner->list;
  while (*at != t) at = &(*at)->next;
  *at = t->next;
  t->owner = NULL;
  loop_timer_free(t->retry);
  t->retry = NULL;
  tunnel_unref(t);
}

static void tunnel_withdraw(struct tunnel *t) {
  bool known = t->state != TUNNEL_WANTED; // the gateway has it, or may have
  if (t->port) log_tunnel(t, LOG_INFO, "tunnel.close", t->spec.name, "removed");
  if (!known) {
    tunnel_drop(t);
    return;
  }
  tunnel_move(t, TUNNEL_CLOSING);
  say_close(t);
}

struct tunnels *tunnels_new(struct loop *l, struct resolver *r, tunnels_send_fn send, void *ctx) {
  struct tunnels *ts = calloc(1, sizeof *ts);
  if (ts) *ts = (struct tunnels){.loop = l, .resolver = r, .send = send, .ctx = ctx};
  return ts;
}

void tunnels_free(struct tunnels *ts) {
  if (!ts) return;
  while (ts->list) tunnel_drop(ts->list);
  free(ts);
}

// ---- what is offered ----

static bool wanted(const struct tunnel *t, const struct tunnel_spec *specs, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (spec_equal(&t->spec, &specs[i])) return true;
  return false;
}

static bool offered(const struct tunnels *ts, const struct tunnel_spec *spec) {
  for (const struct tunnel *t = ts->list; t; t = t->next)
    if (t->state != TUNNEL_CLOSING && strcmp(t->spec.name, spec->name) == 0) return true;
  return false;
}

// Everything is closed before anything is opened, so that tunnels may swap ports.
int tunnels_apply(struct tunnels *ts, const struct tunnel_spec *specs, size_t n) {
  int changes = 0, rc = 0;
  struct tunnel *next;
  for (struct tunnel *t = ts->list; t; t = next) {
    next = t->next;
    if (t->state == TUNNEL_CLOSING || wanted(t, specs, n)) continue;
    tunnel_withdraw(t);
    changes++;
  }
  for (size_t i = 0; i < n && rc == 0; i++) {
    if (offered(ts, &specs[i])) continue;
    rc = tunnel_add(ts, &specs[i]);
    changes++;
  }
  return rc < 0 ? rc : changes;
}

void tunnels_set_server(struct tunnels *ts, const char *host) {
  snprintf(ts->server, sizeof ts->server, "%s", host);
}

// ---- what the gateway says ----

// A new session knows nothing of what the one before had.
static void begin_anew(struct tunnels *ts) {
  struct tunnel *next;
  for (struct tunnel *t = ts->list; t; t = next) {
    next = t->next;
    t->port = 0;
    if (t->state == TUNNEL_CLOSING)
      tunnel_drop(t);
    else
      tunnel_move(t, TUNNEL_WANTED);
  }
}

void tunnels_welcome(struct tunnels *ts, const struct control_welcome *w) {
  memcpy(ts->user, w->user, sizeof ts->user);
  ts->session = w->session;
  ts->welcomed = true;
  ts->udp = w->features & CONTROL_FEATURE_UDP;
  if (!w->resumed) begin_anew(ts);
  for (struct tunnel *t = ts->list; t; t = t->next)
    if (t->state == TUNNEL_CLOSING) say_close(t);
  for (struct tunnel *t = ts->list; t; t = t->next)
    if (t->state != TUNNEL_CLOSING) ask(t);
}

static void on_opened(struct tunnel *t, const struct control_tunnel_opened *o) {
  if (t->state == TUNNEL_CLOSING) return;
  if (t->state != TUNNEL_OPEN) t->opened_ms = loop_now_ms(t->owner->loop);
  tunnel_move(t, TUNNEL_OPEN);
  t->idle_s = o->idle_s;
  if (t->port == o->port) return;
  t->port = o->port;
  log_open(t);
}

static void on_refused(struct tunnel *t, const struct control_tunnel_refused *r) {
  if (t->state == TUNNEL_CLOSING) {
    tunnel_drop(t); // it is not there: what closing was to bring about
    return;
  }
  t->port = 0;
  log_refuse(t, r);
  ask_later(t);
}

static void on_closed(struct tunnel *t, const struct control_tunnel_closed *c) {
  if (t->state == TUNNEL_CLOSING) {
    tunnel_drop(t);
    return;
  }
  char msg[NAME_TEXT + 32];
  snprintf(msg, sizeof msg, "%s is closed by the gateway", t->spec.name);
  log_tunnel(t, LOG_WARN, "tunnel.close", msg, c->reason);
  if (t->state == TUNNEL_OPEN) backoff_lived(&t->backoff, loop_now_ms(t->owner->loop) - t->opened_ms);
  t->port = 0;
  ask_later(t);
}

static uint32_t number_of(const struct control *c) {
  switch (c->type) {
  case CONTROL_TUNNEL_OPENED: return c->tunnel_opened.tunnel;
  case CONTROL_TUNNEL_REFUSED: return c->tunnel_refused.tunnel;
  default: return c->tunnel_closed.tunnel;
  }
}

void tunnels_control(struct tunnels *ts, const struct control *c) {
  struct tunnel *t = tunnels_find(ts, number_of(c));
  if (!t) return; // withdrawn while the answer was on its way
  switch (c->type) {
  case CONTROL_TUNNEL_OPENED: on_opened(t, &c->tunnel_opened); break;
  case CONTROL_TUNNEL_REFUSED: on_refused(t, &c->tunnel_refused); break;
  case CONTROL_TUNNEL_CLOSED: on_closed(t, &c->tunnel_closed); break;
  default: break;
  }
}

struct tunnel *tunnels_find(struct tunnels *ts, uint32_t number) {
  struct tunnel *t = ts->list;
  while (t && t->number != number) t = t->next;
  return t;
}

const char *tunnels_user(const struct tunnels *ts) {
  return ts->user;
}
