// credential: who a caller is, whether he is allowed, and which session becomes his. See door_internal.h.
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/door_internal.h"
#include "postern/gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>

void caller_note_failure(struct caller *c, const char *reason, const char *user, const char *detail) {
  char peer[ADDR_TEXT];
  log_event(LOG_WARN, "auth.fail", detail, LF_STR("peer", addr_format(&c->peer, peer)), LF_STR("reason", reason),
            LF_STR("user", user));
  audit_failure(c->door->gateway->audit, &c->peer, reason, user);
}

const char *caller_explain(enum auth_result r) {
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

static bool asks_for_certificate(const struct caller *c) { return c->door->config->client_ca && !c->port->plaintext; }

const char *caller_certificate(struct caller *c, char name[NAME_TEXT]) {
  int64_t not_after = 0;
  name[0] = '\0';
  if (asks_for_certificate(c)) tls_peer_name(conn_ssl(c->conn), name, NAME_TEXT, &not_after);
  return name;
}

enum auth_result caller_check(struct caller *c, const char *token, struct identity *who, int64_t *until) {
  char name[NAME_TEXT] = "";
  int64_t not_after = 0, now = clock_wall_s();
  struct store *store = c->door->gateway->store;
  bool certificate = asks_for_certificate(c);
  *who = (struct identity){0};
  *until = 0;
  if (certificate) {
    tls_peer_name(conn_ssl(c->conn), name, sizeof name, &not_after);
    if (now > not_after) return AUTH_CERTIFICATE; // checked again here, for a resumed session skips the chain
  }
  if (!token && !certificate) return AUTH_UNKNOWN_TOKEN;
  enum auth_result r = token ? auth_token(store, token, certificate ? name : NULL, now, who, until)
                             : auth_user(store, name, now, who, until);
  if (r == AUTH_OK && who->anonymous && !c->door->config->anonymous) r = AUTH_UNKNOWN_TOKEN;
  who->certificate_ends = not_after;
  return r;
}

static int touch_token(struct store_txn *t, const void *arg) {
  const struct store_token *k = arg;
  return store_token_touch(t, k->id, k->last_used, k->last_peer);
}

static void note_use(struct caller *c, const struct identity *who, int64_t now) {
  if (!who->token_id[0]) return;
  struct store_token *k = calloc(1, sizeof *k);
  if (!k) return;
  snprintf(k->id, sizeof k->id, "%s", who->token_id);
  k->last_used = now;
  addr_format(&c->peer, k->last_peer);
  if (writer_post(c->door->gateway->writer, touch_token, NULL, k, WRITER_LAZY)) free(k);
}

// The registry says where to. A ban that came between the check and this is seen by the second check: a later one
// finds the session in the registry.
enum auth_result caller_enter(struct caller *c, struct arrival *a, const struct registry_login *login, int64_t *until) {
  struct gateway *g = c->door->gateway;
  struct registry_place p = {0};
  *until = 0;
  a->verdict = registry_enter(g->registry, login, &p);
  if (a->verdict == REGISTRY_LIMIT) return AUTH_LIMIT;
  if (a->verdict == REGISTRY_BUSY) {
    *until = p.until;
    return AUTH_INSTANCE_BUSY;
  }
  enum auth_result again = auth_recheck(g->store, &a->who, clock_wall_s(), until);
  if (again != AUTH_OK) {
    if (p.entry) registry_leave(g->registry, p.entry);
    return again;
  }
  a->conn = c->conn;
  a->peer = c->peer;
  a->worker = g->workers[p.worker];
  a->entry = p.entry;
  a->session = p.id;
  a->older = p.older;
  a->older_peer = p.older_peer;
  a->older_linked = p.older_linked;
  note_use(c, &a->who, login->now);
  return AUTH_OK;
}

void caller_hand_over(struct caller *c, struct arrival *a) {
  caller_forget(c);
  conn_detach(a->conn);
  worker_adopt(a->worker, a);
}
