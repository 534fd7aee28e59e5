// door_nsp: the requests of NSP clients on the control port. See door_internal.h; docs/nsp.md says how each of them is
// authenticated, and why.
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/core/anonymous.h"
#include "postern/gateway/door_nsp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct talk {
  struct nsp_request_parser parser;
  struct nsp_arrival *arrival; // from the head on, where the credential is good and the apps are not too many
  enum auth_result verdict;
  bool anonymous;      // no credential, and none is needed
  struct identity who; // whom the credential says
  unsigned refused;    // the place of the first app that cannot be served, from 1; 0: none
  const char *why;     // … and why, static text
};

static struct talk *talk_of(struct caller *c) { return c->talk; }

const struct nsp_dialect *nsp_caller_dialect(const struct caller *c) {
  return nsp_dialect_at((size_t)c->door->config->nsp_dialect);
}

// ---- proof ----

struct nsp_proof nsp_caller_proof(struct caller *c) {
  struct nsp_proof p = {0};
  _Static_assert((int)LINEAGE_LEN == (int)TLS_LINEAGE_LEN, "the same bytes");
  p.there = !c->port->plaintext && tls_lineage(conn_ssl(c->conn), p.lineage) == 0;
  return p;
}

bool nsp_caller_proves(struct caller *c, const struct registry_view *v) {
  char name[NAME_TEXT];
  if (strcmp(caller_certificate(c, name), v->who.user_name) == 0) return true;
  struct nsp_proof p = nsp_caller_proof(c);
  return p.there && lineages_linked(c->door->gateway->lineages, p.lineage, v->id);
}

bool nsp_caller_owns_anonymous(struct caller *c, const struct registry_view *v) {
  if (!v->who.anonymous || !c->door->config->anonymous) return false;
  if (nsp_caller_proves(c, v)) return true;
  bool nothing_better = v->plaintext && !v->who.token_id[0];
  return nothing_better && c->port->plaintext && addr_equal_ip(&c->peer, &v->peer);
}

bool nsp_caller_displaced(struct caller *c, const struct registry_view *v, const char *token_id) {
  struct lineages *l = c->door->gateway->lineages;
  struct nsp_proof p = nsp_caller_proof(c);
  if (!v->displaced.id) return false;
  if (p.there && lineages_linked(l, p.lineage, v->id)) return false;
  if (p.there && lineages_linked(l, p.lineage, v->displaced.id)) return true;
  return token_id[0] && strcmp(token_id, v->who.token_id) != 0 && strcmp(token_id, v->displaced.token_id) == 0;
}

bool nsp_caller_session(struct caller *c, uint32_t user, struct registry_view *v) {
  return registry_find(c->door->gateway->registry, user, NSP_INSTANCE, v) && strcmp(v->protocol, "nsp") == 0;
}

void nsp_caller_ignore(struct caller *c, enum nsp_ignored what) {
  atomic_fetch_add_explicit(&c->door->gateway->nsp_ignored[what], 1, memory_order_relaxed);
  caller_close(c, CONN_LINGER);
}

void nsp_caller_say(struct caller *c, uint8_t byte) {
  size_t n;
  if (conn_write(c->conn, &byte, sizeof byte, &n) == 0) (void)!conn_flush(c->conn);
}

static struct worker *worker_of(struct caller *c, const struct registry_view *v) {
  return c->door->gateway->workers[v->worker];
}

// ---- operations without a token ----

// Proof, or the registering address: enough for what does no harm.
static bool may_hint(struct caller *c, uint16_t client, struct registry_view *v) {
  if (!nsp_caller_session(c, client, v)) return false;
  return nsp_caller_proves(c, v) || addr_equal_ip(&c->peer, &v->peer);
}

static void on_heartbeat(struct caller *c, uint16_t client) {
  struct registry_view v;
  if (!may_hint(c, client, &v) || nsp_caller_displaced(c, &v, "")) {
    nsp_caller_ignore(c, NSP_IGNORED_HEARTBEAT);
    return;
  }
  // One on its way says as much as a hundred would.
  if (registry_beat(c->door->gateway->registry, v.id)) nsp_session_post_heartbeat(worker_of(c, &v), v.id);
  nsp_caller_say(c, NSP_ACK);
  caller_close(c, CONN_LINGER);
}

// A hint and no more: the session looks whether its connections are gone.
static void on_close(struct caller *c, uint16_t client) {
  struct registry_view v;
  if (!may_hint(c, client, &v)) {
    nsp_caller_ignore(c, NSP_IGNORED_CLOSE);
    return;
  }
  nsp_session_post_check(worker_of(c, &v), v.id);
  caller_close(c, CONN_LINGER);
}

// The request names a transfer and nobody: it can be one of the sessions that the peer has proven to be.
static void on_disconnect(struct caller *c, const uint8_t transfer[NSP_TRANSFER_ID]) {
  struct gateway *g = c->door->gateway;
  struct nsp_proof p = nsp_caller_proof(c);
  uint64_t sessions[LINEAGES_SESSIONS];
  struct registry_view v;
  unsigned n = p.there ? lineages_sessions(g->lineages, p.lineage, sessions, LINEAGES_SESSIONS) : 0;
  for (unsigned i = 0; i < n; i++)
    if (registry_get(g->registry, sessions[i], &v)) nsp_session_post_disconnect(worker_of(c, &v), v.id, transfer);
  if (n) caller_close(c, CONN_LINGER);
  else nsp_caller_ignore(c, NSP_IGNORED_DISCONNECT);
}

// ---- refusing a request for apps ----

static enum nsp_error error_of(enum auth_result r) {
  switch (r) {
  case AUTH_BANNED: return NSP_ERROR_BANNED;
  case AUTH_UNKNOWN_TOKEN:
  case AUTH_REVOKED:
  case AUTH_EXPIRED:
  case AUTH_MALFORMED:
  case AUTH_CERTIFICATE: return NSP_ERROR_AUTH;
  default: return NSP_ERROR_OTHER; // for now: the client keeps its token and comes again
  }
}

// Exactly one byte, and only now: bytes that nobody read would make the kernel reset the connection.
static void refuse(struct caller *c, enum nsp_error error) {
  nsp_caller_say(c, (uint8_t)error);
  caller_close(c, CONN_LINGER);
}

void nsp_caller_refuse_auth(struct caller *c, enum auth_result r, const char *user) {
  caller_note_failure(c, auth_reason(r), user[0] ? user : NULL, caller_explain(r));
  refuse(c, error_of(r));
}

static void refuse_app(struct caller *c, const char *user, unsigned number, const char *reason, const char *message) {
  char name[NAME_TEXT];
  snprintf(name, sizeof name, "app-%u", number);
  log_event(LOG_WARN, "tunnel.refuse", message, LF_STR("user", user), LF_STR("tunnel", name), LF_STR("reason", reason));
  refuse(c, NSP_ERROR_OTHER);
}

// What this gateway does not carry, or the dialect cannot; NULL: nothing of that.
static const char *unsupported(const struct nsp_dialect *d, const struct nsp_app *app) {
  const char *why = nsp_app_refusal(d, app);
  if (why) return why;
  if (app->protocol == NSP_HTTP) return "HTTP apps are not served by this version";
  if (app->protocol == NSP_UDP) return "UDP apps are not served by this version";
  return app->compress ? "compressed apps are not served by this version" : NULL;
}

static unsigned most_apps(const struct talk *t) {
  return t->anonymous ? ANONYMOUS_TUNNELS : t->who.limits.tunnels;
}

// Before the registry is asked, or a user made: a request that cannot be served displaces nobody. `there` are the apps
// that the session has already. True: refused.
static bool refuse_apps(struct caller *c, unsigned there) {
  const struct talk *t = talk_of(c);
  const char *user = t->anonymous ? NULL : t->who.user_name;
  unsigned most = most_apps(t);
  if (there + t->parser.request.count > most) {
    refuse_app(c, user, most + 1, "limit", "the user's limit of tunnels is reached");
  } else if (t->refused) {
    refuse_app(c, user, t->refused, "unsupported", t->why);
  } else {
    return false;
  }
  return true;
}

// ---- granting it ----

static void enter(struct caller *c) {
  struct talk *t = talk_of(c);
  struct nsp_arrival *a = t->arrival;
  uint8_t run[RUN_ID_LEN]; // drawn for each login: a client is never continued, always replaced
  crypto_random(run, sizeof run);
  struct registry_login login = {.who = &a->base.who,
                                 .instance = NSP_INSTANCE,
                                 .run = run,
                                 .protocol = "nsp",
                                 .peer = c->peer,
                                 .plaintext = c->port->plaintext,
                                 .now = clock_wall_s(),
                                 .yields = t->parser.dialect->force_close};
  int64_t until;
  enum auth_result r = caller_enter(c, &a->base, &login, &until);
  if (r != AUTH_OK) {
    nsp_caller_refuse_auth(c, r, a->base.who.user_name);
    return;
  }
  t->arrival = NULL;
  caller_hand_over(c, &a->base);
}

// Dialects in which a client that lives may ask for more.
static bool adds(struct caller *c, const struct identity *who, struct registry_view *v) {
  const struct nsp_request_parser *p = &talk_of(c)->parser;
  return p->dialect->adds_apps && p->request.op == NSP_OP_NEW_APPS && p->request.client_id == who->user &&
         nsp_caller_session(c, who->user, v);
}

static void hand_to(struct caller *c, const struct registry_view *v) {
  struct talk *t = talk_of(c);
  struct nsp_arrival *a = t->arrival;
  a->adds = true;
  a->base.conn = c->conn;
  a->base.session = v->id;
  a->base.worker = worker_of(c, v);
  t->arrival = NULL;
  caller_hand_over(c, &a->base);
}

void nsp_caller_grant(struct caller *c, const struct identity *who) {
  struct registry_view v;
  talk_of(c)->arrival->base.who = *who;
  if (!adds(c, who, &v)) enter(c);
  else if (!refuse_apps(c, v.tunnels)) hand_to(c, &v);
}

// ---- reading a request ----

static void on_app(void *ctx, unsigned index, const struct nsp_app *app) {
  struct talk *t = ctx;
  struct nsp_wanted *w = &t->arrival->apps[index];
  w->port = app->port;
  memcpy(w->description, app->description, sizeof w->description);
  const char *why = t->refused ? NULL : unsupported(t->parser.dialect, app);
  if (!why) return;
  t->refused = index + 1;
  t->why = why;
}

static int make_arrival(struct caller *c) {
  struct talk *t = talk_of(c);
  unsigned count = t->parser.request.count;
  if (count > most_apps(t)) return 0; // to be refused, when it was read
  struct nsp_arrival *a = calloc(1, sizeof *a + count * sizeof a->apps[0]);
  if (!a) return PERR_NOMEM;
  a->base.adopt = nsp_session_adopt;
  a->count = count;
  a->proof = nsp_caller_proof(c);
  t->arrival = a;
  t->parser.on_app = on_app;
  t->parser.ctx = t;
  return 0;
}

enum auth_result nsp_caller_check(struct caller *c, const char *token, struct identity *who, bool *anonymous) {
  const struct nsp_dialect *d = nsp_caller_dialect(c);
  bool certified = !d->token && c->door->config->client_ca && !c->port->plaintext;
  int64_t until;
  *anonymous = false;
  *who = (struct identity){0};
  if (d->token && strcmp(token, "notoken") != 0) return caller_check(c, token, who, &until);
  if (certified) return caller_check(c, NULL, who, &until);
  *anonymous = c->door->config->anonymous;
  return *anonymous ? AUTH_OK : AUTH_UNKNOWN_TOKEN;
}

// The credential is judged before anything is kept of the apps, whose number a stranger chose.
static int on_head(struct caller *c) {
  struct talk *t = talk_of(c);
  if (t->parser.request.op != NSP_OP_NEW_APPS && t->parser.request.op != NSP_OP_RECONNECT) return 0;
  t->verdict = nsp_caller_check(c, nsp_request_token(&t->parser), &t->who, &t->anonymous);
  return t->verdict == AUTH_OK ? make_arrival(c) : 0;
}

static void on_app_request(struct caller *c) {
  struct talk *t = talk_of(c);
  if (t->verdict != AUTH_OK) nsp_caller_refuse_auth(c, t->verdict, t->who.user_name);
  else if (refuse_apps(c, 0)) return;
  else if (t->anonymous) nsp_anonymous_grant(c, &t->parser.request);
  else nsp_caller_grant(c, &t->who);
}

static void on_request(struct caller *c) {
  const struct nsp_request *q = &talk_of(c)->parser.request;
  switch (q->op) {
  case NSP_OP_HEARTBEAT: on_heartbeat(c, q->client_id); return;
  case NSP_OP_CLOSE: on_close(c, q->client_id); return;
  case NSP_OP_DISCONNECT: on_disconnect(c, q->transfer_id); return;
  case NSP_OP_NEW_APPS:
  case NSP_OP_RECONNECT: on_app_request(c); return;
  }
}

// False: the caller is done with, or waits for more.
static bool feed(struct caller *c, const uint8_t *data, size_t len) {
  struct talk *t = talk_of(c);
  size_t used = 0, once;
  while (used < len) {
    enum nsp_request_state was = t->parser.state;
    int code = nsp_request_feed(&t->parser, data + used, len - used, &once);
    used += once;
    if (code == PERR_PROTOCOL) {
      caller_note_failure(c, "malformed", NULL, t->parser.why);
      nsp_caller_ignore(c, NSP_IGNORED_REQUEST);
      return false;
    }
    if (was == NSP_REQUEST_HEAD && code == 0 && on_head(c)) {
      caller_close(c, CONN_CLOSE);
      return false;
    }
    if (t->parser.state == NSP_REQUEST_DONE) {
      on_request(c);
      return false;
    }
  }
  return true;
}

static void on_readable(struct caller *c) {
  struct talk *t = talk_of(c);
  uint8_t *buf = loop_scratch(c->door->loop);
  size_t n;
  int code;
  if (t->parser.state == NSP_REQUEST_DONE) return; // waits for its user to be made
  do code = conn_read(c->conn, buf, LOOP_SCRATCH, &n);
  while (code == 0 && feed(c, buf, n));
  if (code && code != PERR_AGAIN) nsp_caller_ignore(c, NSP_IGNORED_REQUEST); // left before it had said all
}

static int begin(struct caller *c) {
  struct talk *t = calloc(1, sizeof *t);
  if (!t) return PERR_NOMEM;
  nsp_request_init(&t->parser, nsp_caller_dialect(c));
  c->talk = t;
  return 0;
}

static void free_talk(void *talk) {
  struct talk *t = talk;
  free(t->arrival);
  crypto_wipe(t, sizeof *t);
  free(t);
}

const struct caller_ops nsp_caller_ops = {
    .awaited = "no request in time", .begin = begin, .on_readable = on_readable, .free = free_talk};
