// door: see door.h. Everything below runs on the handshake thread but for start, stop and the posting of a new
// configuration.
#include "postern/gateway/door.h"
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/core/auth.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session_trunk.h"
#include "postern/gateway/worker.h"
#include "postern/net/listener.h"
#include "postern/trunk/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

// HANDSHAKE → HELLO → GONE (handed over, refused or closed).
enum caller_state { CALLER_HANDSHAKE, CALLER_HELLO, CALLER_GONE };

struct caller {
  struct door *door;
  struct conn *conn;
  struct addr peer;
  enum caller_state state;
  uint64_t since_ms;
  struct link_greeting *greeting; // once TLS is up
  TAILQ_ENTRY(caller) all;
};

struct door {
  struct gateway *gateway;
  struct loop *loop;
  struct config *config;
  struct tls *tls;
  struct listener *listeners[CONFIG_MAX_LISTEN];
  unsigned nlisteners;
  TAILQ_HEAD(, caller) callers; // the oldest first: the deadline is the same for all
  unsigned ncallers;
  struct loop_timer *deadline;
};

// ---- the end of a caller ----

static void caller_forget(struct caller *c) {
  c->state = CALLER_GONE;
  TAILQ_REMOVE(&c->door->callers, c, all);
  c->door->ncallers--;
  if (c->greeting) crypto_wipe(c->greeting, sizeof *c->greeting);
  free(c->greeting);
  c->greeting = NULL;
  loop_reap(c->door->loop, c, free);
}

static void caller_close(struct caller *c, enum conn_end how) {
  struct conn *conn = c->conn;
  if (c->state == CALLER_GONE) return;
  caller_forget(c);
  conn_close(conn, how);
}

static void note_failure(struct caller *c, const char *reason, const char *user, const char *detail) {
  char peer[ADDR_TEXT];
  log_event(LOG_WARN, "auth.fail", detail, LF_STR("peer", addr_format(&c->peer, peer)), LF_STR("reason", reason),
            LF_STR("user", user));
  audit_failure(c->door->gateway->audit, &c->peer, reason, user);
}

// Says why, then closes.
static void refuse(struct caller *c, const char *reason, const char *message, int64_t until) {
  struct control m = {.type = CONTROL_END, .end = {.until = until}};
  snprintf(m.end.reason, sizeof m.end.reason, "%s", reason);
  snprintf(m.end.message, sizeof m.end.message, "%s", message);
  (void)link_greeting_write(c->conn, &m);
  caller_close(c, CONN_LINGER);
}

// ---- the credential ----

static const char *explain(enum auth_result r) {
  switch (r) {
  case AUTH_UNKNOWN_TOKEN: return "the token is not known here";
  case AUTH_REVOKED: return "the token was revoked";
  case AUTH_EXPIRED: return "the token has expired";
  case AUTH_BANNED: return "the user is banned";
  case AUTH_LIMIT: return "the user has as many sessions as allowed";
  case AUTH_CERTIFICATE: return "the client certificate is not for this user, or has ended";
  case AUTH_INSTANCE_BUSY: return "several runs of this user and instance displace each other";
  default: return "the gateway cannot check credentials now";
  }
}

static void refuse_auth(struct caller *c, enum auth_result r, const char *user, int64_t until) {
  note_failure(c, auth_reason(r), user[0] ? user : NULL, explain(r));
  refuse(c, auth_reason(r), explain(r), until);
}

static int touch_token(struct store_txn *t, const void *arg) {
  const struct store_token *k = arg;
  return store_token_touch(t, k->id, k->last_used, k->last_peer);
}

static void note_use(struct caller *c, const struct identity *who, int64_t now) {
  struct store_token *k = calloc(1, sizeof *k);
  if (!k) return;
  snprintf(k->id, sizeof k->id, "%s", who->token_id);
  k->last_used = now;
  addr_format(&c->peer, k->last_peer);
  if (writer_post(c->door->gateway->writer, touch_token, NULL, k, WRITER_LAZY)) free(k);
}

static enum auth_result check_credential(struct caller *c, const struct control_hello *h, struct identity *who,
                                         int64_t *until) {
  char name[NAME_TEXT] = "";
  const char *client_name = NULL;
  int64_t not_after = 0, now = clock_wall_s();
  if (c->door->config->client_ca) {
    tls_peer_name(conn_ssl(c->conn), name, sizeof name, &not_after);
    if (now > not_after) return AUTH_CERTIFICATE; // checked again here, for a resumed session skips the chain
    client_name = name;
  }
  enum auth_result r = auth_token(c->door->gateway->store, h->token, client_name, now, who, until);
  who->certificate_ends = not_after;
  return r;
}

// ---- handing over ----

static struct trunk_arrival *make_arrival(struct caller *c, const struct control_hello *h, const struct identity *who) {
  struct trunk_arrival *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  a->base.adopt = trunk_session_adopt;
  a->base.conn = c->conn;
  a->base.who = *who;
  a->base.peer = c->peer;
  a->previous = h->previous;
  return a;
}

// The registry says where to. A ban that came between the check and this is seen by the second check: a later one
// finds the session in the registry.
static void place(struct caller *c, const struct control_hello *h, struct arrival *a) {
  struct gateway *g = c->door->gateway;
  struct registry_login login = {.who = &a->who,
                                 .instance = h->instance,
                                 .run = h->run,
                                 .protocol = "trunk",
                                 .peer = c->peer,
                                 .now = clock_wall_s()};
  struct registry_place p = {0};
  a->verdict = registry_enter(g->registry, &login, &p);
  if (a->verdict == REGISTRY_LIMIT || a->verdict == REGISTRY_BUSY) {
    refuse_auth(c, a->verdict == REGISTRY_LIMIT ? AUTH_LIMIT : AUTH_INSTANCE_BUSY, a->who.user_name, p.until);
    free(a);
    return;
  }
  int64_t until = 0;
  enum auth_result again = auth_recheck(g->store, &a->who, clock_wall_s(), &until);
  if (again != AUTH_OK) {
    if (p.entry) registry_leave(g->registry, p.entry);
    refuse_auth(c, again, a->who.user_name, until);
    free(a);
    return;
  }
  a->entry = p.entry;
  a->session = p.id;
  a->older = p.older;
  a->older_peer = p.older_peer;
  a->older_linked = p.older_linked;
  note_use(c, &a->who, login.now);
  caller_forget(c);
  conn_detach(a->conn);
  worker_adopt(g->workers[p.worker], a);
}

static void on_hello(struct caller *c, const struct control_hello *h) {
  struct identity who = {0};
  int64_t until = 0;
  if (h->version < CONTROL_VERSION) {
    note_failure(c, "malformed", NULL, "the agent speaks an unknown version of the protocol");
    refuse(c, "version", "this gateway speaks version 1", 0);
    return;
  }
  enum auth_result r = check_credential(c, h, &who, &until);
  if (r != AUTH_OK) {
    refuse_auth(c, r, who.user_name, until);
    return;
  }
  struct trunk_arrival *a = make_arrival(c, h, &who);
  if (a) place(c, h, &a->base);
  else refuse(c, "unavailable", "out of memory", 0);
}

// ---- the conn's events ----

static void on_readable(void *ctx, struct conn *conn) {
  struct caller *c = ctx;
  struct control m;
  struct err_text e;
  if (c->state != CALLER_HELLO) return;
  int code = link_greeting_read(c->greeting, conn, &m, &e);
  if (code == PERR_AGAIN) return;
  if (code == 0 && m.type == CONTROL_HELLO) {
    on_hello(c, &m.hello);
  } else if (code == 0 || code == PERR_PROTOCOL) {
    const char *what = code ? e.s : "the first message is not a hello";
    note_failure(c, "malformed", NULL, what);
    refuse(c, "protocol", what, 0);
  } else {
    caller_close(c, CONN_CLOSE); // left without a word
  }
  crypto_wipe(&m, sizeof m);
}

static void on_handshake(void *ctx, struct conn *conn, int result) {
  struct caller *c = ctx;
  if (result) {
    const char *text = conn_tls_error(conn);
    bool certificate = c->door->config->client_ca && strstr(text, "certificate");
    if (result == PERR_TLS) note_failure(c, certificate ? "certificate" : "handshake", NULL, text);
    caller_close(c, CONN_LINGER); // the alert goes out first
    return;
  }
  c->greeting = calloc(1, sizeof *c->greeting);
  c->state = CALLER_HELLO;
  if (!c->greeting) caller_close(c, CONN_CLOSE);
}

static void on_abort(void *ctx, struct conn *conn) { caller_close(ctx, CONN_CLOSE); }

static const struct conn_ops caller_conn_ops = {
    .on_handshake = on_handshake, .on_readable = on_readable, .on_abort = on_abort};

// ---- accepting ----

static void on_accept(void *ctx, struct listener *ln, int fd, const struct addr *peer) {
  struct door *d = ctx;
  struct caller *c = calloc(1, sizeof *c);
  struct conn *conn = c ? conn_new(d->loop, fd, &caller_conn_ops, c) : NULL;
  if (!conn) {
    if (!c) close(fd);
    free(c);
    return;
  }
  conn_set_peer(conn, peer);
  c->door = d;
  c->conn = conn;
  c->peer = *peer;
  c->since_ms = loop_now_ms(d->loop);
  TAILQ_INSERT_TAIL(&d->callers, c, all);
  // Under a flood the one that has waited longest gives way: it had its chance.
  if (++d->ncallers > DOOR_MAX_CALLERS) caller_close(TAILQ_FIRST(&d->callers), CONN_CLOSE);
  if (conn_start_tls(conn, d->tls)) caller_close(c, CONN_CLOSE);
}

static void on_deadline(void *ctx) {
  struct door *d = ctx;
  uint64_t now = loop_now_ms(d->loop), limit = (uint64_t)d->config->handshake_s * 1000;
  struct caller *c;
  while ((c = TAILQ_FIRST(&d->callers)) && now - c->since_ms >= limit) {
    note_failure(c, "handshake", NULL, c->state == CALLER_HELLO ? "no hello in time" : "no TLS handshake in time");
    caller_close(c, CONN_CLOSE);
  }
  loop_timer_set(d->deadline, 250);
}

// ---- configuration ----

struct new_config {
  struct door *door;
  struct config *config;
  struct tls *tls;
};

static void take_config(void *arg) {
  struct new_config *n = arg;
  config_unref(n->door->config);
  tls_unref(n->door->tls);
  n->door->config = n->config;
  n->door->tls = n->tls;
  free(n);
}

void door_set_config(struct door *d, struct config *c, struct tls *t) {
  struct new_config *n = malloc(sizeof *n);
  if (!n) abort();
  *n = (struct new_config){d, config_ref(c), tls_ref(t)};
  loop_post(d->loop, take_config, n);
}

// ---- life ----

static int open_one(struct door *d, const struct addr *a, bool written, struct err_text *e) {
  char text[ADDR_TEXT], ip[ADDR_TEXT];
  int fd, code = listener_bind(a, &fd);
  addr_format(a, text);
  if (code == PERR_NOTFOUND && !written) {
    log_event(LOG_WARN, "gateway.skip", "this machine lacks the address family", LF_STR("what", "control"),
              LF_STR("address", text));
    return 0;
  }
  if (code) return err_set(e, code, "cannot listen on %s: %s", text, listener_why(code));
  struct listener *ln = listener_new(d->loop, fd, false, on_accept, d);
  if (!ln) return err_set(e, PERR_NOMEM, "out of memory");
  d->listeners[d->nlisteners++] = ln;
  ports_reserve(d->gateway->ports, addr_port(listener_addr(ln)));
  log_event(LOG_INFO, "gateway.listen", "listening", LF_STR("what", "control"),
            LF_STR("address", addr_format_ip(listener_addr(ln), ip)), LF_INT("port", addr_port(listener_addr(ln))));
  return 0;
}

static int open_all(struct door *d, struct err_text *e) {
  const struct config_listen *l = &d->config->control;
  for (unsigned i = 0; i < l->count; i++) {
    int code = open_one(d, &l->addr[i], l->written, e);
    if (code) return code;
  }
  return d->nlisteners ? 0 : err_set(e, PERR_NOTFOUND, "this machine has none of the addresses");
}

static void door_free(struct door *d) {
  while (d->nlisteners) listener_close(d->listeners[--d->nlisteners]);
  while (!TAILQ_EMPTY(&d->callers)) caller_close(TAILQ_FIRST(&d->callers), CONN_CLOSE);
  loop_timer_free(d->deadline);
  if (d->loop) loop_free(d->loop);
  config_unref(d->config);
  tls_unref(d->tls);
  free(d);
}

int door_start(struct door **out, struct gateway *g, struct err_text *e) {
  struct door *d = calloc(1, sizeof *d);
  if (!d) return err_set(e, PERR_NOMEM, "out of memory");
  TAILQ_INIT(&d->callers);
  d->gateway = g;
  d->config = config_ref(g->config);
  d->tls = tls_ref(g->tls);
  d->loop = loop_new("handshake");
  if (d->loop) d->deadline = loop_timer_new(d->loop, on_deadline, d);
  int code = d->deadline ? open_all(d, e) : err_set(e, PERR_NOMEM, "out of memory");
  if (code == 0) {
    loop_timer_set(d->deadline, 250);
    code = loop_start_thread(d->loop);
    if (code) err_set(e, code, "cannot start the handshake thread");
  }
  if (code) {
    door_free(d);
    return code;
  }
  *out = d;
  return 0;
}

void door_stop(struct door *d) {
  if (!d) return;
  loop_stop(d->loop);
  loop_join(d->loop);
  door_free(d);
}
