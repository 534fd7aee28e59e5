// auth: from a token or a name to an identity, and whether an identity that was let in may stay. Called by the
// handshake thread at each login and by whoever applies an outside change to live sessions. Owns nothing; one read
// transaction a call.
#include "postern/core/auth.h"
#include "postern/base/log.h"
#include "postern/core/token.h"
#include <string.h>

enum { TOKEN_TEXT_MAX = 4096, ENROL_S = 24 * 3600 };

const char *auth_reason(enum auth_result r) {
  switch (r) {
  case AUTH_OK: return "ok";
  case AUTH_UNKNOWN_TOKEN: return "unknown_token";
  case AUTH_REVOKED: return "revoked";
  case AUTH_EXPIRED: return "expired";
  case AUTH_BANNED: return "banned";
  case AUTH_MALFORMED: return "malformed";
  case AUTH_LIMIT: return "limit";
  case AUTH_CERTIFICATE: return "certificate";
  case AUTH_HANDSHAKE: return "handshake";
  case AUTH_INSTANCE_BUSY: return "instance_busy";
  case AUTH_STORE: return "unavailable";
  }
  return "unknown";
}

// What a failed look-up of a record that everybody admitted must have means.
static enum auth_result missing(int code) {
  return code == PERR_NOTFOUND ? AUTH_UNKNOWN_TOKEN : AUTH_STORE;
}

// An id that nobody has is compared too, so that its answer takes as long as that for a wrong secret.
static enum auth_result find_token(struct store_txn *t, const char *id, const uint8_t hash[SHA256_LEN],
                                   struct store_token *k) {
  memset(k, 0, sizeof *k);
  int rc = store_token_get(t, id, k);
  if (rc < 0 && rc != PERR_NOTFOUND) return AUTH_STORE;
  bool same = crypto_equal(k->hash, hash, SHA256_LEN);
  return rc == 0 && same ? AUTH_OK : AUTH_UNKNOWN_TOKEN;
}

static enum auth_result token_alive(const struct store_token *k, int64_t now) {
  if (k->revoked != 0) return AUTH_REVOKED;
  if (k->expires != 0 && now >= k->expires) return AUTH_EXPIRED;
  return AUTH_OK;
}

static enum auth_result not_banned(struct store_txn *t, uint32_t user, int64_t now, int64_t *until) {
  struct store_ban ban;
  int rc = store_ban_get(t, user, &ban);
  if (rc == PERR_NOTFOUND) return AUTH_OK;
  if (rc < 0) return AUTH_STORE;
  if (ban.until != 0 && now >= ban.until) return AUTH_OK;
  *until = ban.until;
  return AUTH_BANNED;
}

static enum auth_result read_limits(struct store_txn *t, uint32_t user, struct limits *out) {
  struct store_limits own;
  if (store_limits_get(t, user, &own) < 0) return AUTH_STORE;
  limits_from_store(out, &own);
  return AUTH_OK;
}

// What is asked of every user, however it is known; only then `out` gets its id.
static enum auth_result admit(struct store_txn *t, const struct store_user *user, int64_t now, struct identity *out,
                              int64_t *until) {
  enum auth_result r = not_banned(t, user->id, now, until);
  if (r == AUTH_OK) r = read_limits(t, user->id, &out->limits);
  if (r != AUTH_OK) return r;
  out->user = user->id;
  out->anonymous = user->anonymous;
  return AUTH_OK;
}

// The certificate stands before the ban: who cannot show it learns nothing about the user.
static enum auth_result identify(struct store_txn *t, const struct store_token *k, const char *client_name, int64_t now,
                                 struct identity *out, int64_t *until) {
  struct store_user user;
  int rc = store_user_get(t, k->user, &user);
  if (rc < 0) return missing(rc);
  memcpy(out->user_name, user.name, sizeof out->user_name);
  enum auth_result r = token_alive(k, now);
  if (r != AUTH_OK) return r;
  if (k->enrol && k->last_used == 0 && now - k->created >= ENROL_S) return AUTH_EXPIRED;
  if (client_name != NULL && strcmp(client_name, user.name) != 0) return AUTH_CERTIFICATE;
  r = admit(t, &user, now, out, until);
  if (r != AUTH_OK) return r;
  memcpy(out->token_id, k->id, sizeof out->token_id);
  out->expires = k->expires;
  return AUTH_OK;
}

// Ends the read; a failure of the store is the operator's to hear of, for the peer can do nothing about it.
static enum auth_result finish(struct store_txn *t, enum auth_result r) {
  if (r == AUTH_STORE) {
    struct err_text e = {""};
    int code = store_error(t, &e);
    log_line(LOG_ERROR, "store.error", "cannot check a credential: %s", e.s[0] != '\0' ? e.s : perr_str(code));
  }
  store_abort(t);
  return r;
}

static struct store_txn *begin(struct store *s) {
  struct store_txn *t = store_begin(s, STORE_READ);
  if (t == NULL) log_line(LOG_ERROR, "store.error", "cannot check a credential: %s", perr_str(PERR_NOMEM));
  return t;
}

enum auth_result auth_token(struct store *s, const char *token, const char *client_name, int64_t now,
                            struct identity *out, int64_t *until) {
  char id[STORE_TOKEN_ID_TEXT];
  uint8_t hash[SHA256_LEN];
  memset(out, 0, sizeof *out);
  *until = 0;
  if (strnlen(token, TOKEN_TEXT_MAX + 1) > TOKEN_TEXT_MAX) return AUTH_MALFORMED;
  if (token_parse(token, id, hash) < 0) return AUTH_UNKNOWN_TOKEN;
  struct store_txn *t = begin(s);
  if (t == NULL) return AUTH_STORE;
  struct store_token k;
  enum auth_result r = find_token(t, id, hash, &k);
  if (r == AUTH_OK) r = identify(t, &k, client_name, now, out, until);
  return finish(t, r);
}

static enum auth_result identify_user(struct store_txn *t, const char *name, int64_t now, struct identity *out,
                                      int64_t *until) {
  struct store_user user;
  int rc = store_user_find(t, name, &user);
  if (rc < 0) return missing(rc);
  memcpy(out->user_name, user.name, sizeof out->user_name);
  return admit(t, &user, now, out, until);
}

enum auth_result auth_user(struct store *s, const char *name, int64_t now, struct identity *out, int64_t *until) {
  memset(out, 0, sizeof *out);
  *until = 0;
  struct store_txn *t = begin(s);
  if (t == NULL) return AUTH_STORE;
  return finish(t, identify_user(t, name, now, out, until));
}

// The token of the session, where it has one.
static enum auth_result recheck_token(struct store_txn *t, const char *token_id, int64_t now, int64_t *expires) {
  *expires = 0;
  if (token_id[0] == '\0') return AUTH_OK;
  struct store_token k;
  int rc = store_token_get(t, token_id, &k);
  if (rc < 0) return missing(rc);
  *expires = k.expires;
  return token_alive(&k, now);
}

static enum auth_result recheck(struct store_txn *t, struct identity *id, int64_t now, int64_t *until) {
  struct store_user user;
  int rc = store_user_get(t, id->user, &user);
  if (rc < 0) return missing(rc);
  int64_t expires;
  enum auth_result r = recheck_token(t, id->token_id, now, &expires);
  if (r == AUTH_OK) r = not_banned(t, id->user, now, until);
  if (r != AUTH_OK) return r;
  id->expires = expires;
  r = auth_lapsed(id, now);
  return r == AUTH_OK ? read_limits(t, id->user, &id->limits) : r;
}

enum auth_result auth_recheck(struct store *s, struct identity *id, int64_t now, int64_t *until) {
  *until = 0;
  struct store_txn *t = begin(s);
  if (t == NULL) return AUTH_STORE;
  return finish(t, recheck(t, id, now, until));
}

enum auth_result auth_lapsed(const struct identity *id, int64_t now) {
  if (id->expires != 0 && now >= id->expires) return AUTH_EXPIRED;
  if (id->certificate_ends != 0 && now > id->certificate_ends) return AUTH_CERTIFICATE;
  return AUTH_OK;
}
