// web_login: LoginFromClient. Called by web_api.c on the handshake thread.
//
// A login by password: the helper thread checks the password (the same work for whoever has none), the store thread
// makes the token; between them and at the end it is back here. An anonymous one begins at the store. A login is owned
// by whoever it is at, finds its connection by id, and is wiped when it ends. URL, password and token are never logged.
//
// Ten wrong logins in a minute close the door to an address and to a user name. What was under way when the tenth ended
// is refused too, right or wrong: nobody learns more from sending a hundred guesses at once.
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/core/anonymous.h"
#include "postern/core/auth.h"
#include "postern/core/login.h"
#include "postern/core/password.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/web_internal.h"
#include "postern/wire/nsp_web.h"

#include <stdio.h>

// What the store thread made. A job that is run twice makes it twice, and the second is what holds.
struct made {
  struct registry *registry;
  uint32_t user;
  char name[NAME_TEXT];
  char token[TOKEN_TEXT];
};

struct login {
  struct hasher_job job; // the first member
  struct web_letter letter;
  struct gateway *gateway;
  uint64_t conn;
  struct addr peer;
  char key[TRIES_KEY_TEXT]; // of the peer
  bool plaintext;
  uint32_t user;        // 0: nobody has the name, or anonymous
  char name[NAME_TEXT]; // of that user; "" for nobody
  char asked[TRIES_KEY_TEXT]; // the name that was asked for
  struct nsp_web_login said;
  bool has_password;
  struct store_password password;
  bool right;
  struct made *made; // that below, for the store's job, to which the rest is const
  struct made result;
  int code; // of the store's job
};

static const char wrong_text[] = "error: wrong user name or password.";
static const char limit_text[] = "error: too many wrong logins; try again in a minute.";
static const char busy_text[] = "error: the gateway is busy; try again.";

// ---- what is noted ----

static void note_failure(const struct login *l, struct web *w, const char *reason, const char *msg) {
  char peer[ADDR_TEXT];
  const char *user = l->name[0] ? l->name : NULL; // never what is only said to be a name: it may be a password
  log_event(LOG_WARN, "auth.fail", msg, LF_STR("peer", addr_format(&l->peer, peer)), LF_STR("reason", reason),
            LF_STR("user", user));
  audit_failure(w->gateway->audit, &l->peer, reason, user);
}

static void note_success(const struct login *l) {
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "web.login", "logged in", LF_STR("user", l->result.name),
            LF_STR("peer", addr_format(&l->peer, peer)), LF_STR("over", l->plaintext ? "plaintext" : "tls"));
}

// ---- the end of a login ----

static void login_free(struct login *l) {
  crypto_wipe(l, sizeof *l);
  free(l);
}

// Refuses, if the client is still there.
static void refuse(struct login *l, struct web *w, const char *reason, const char *msg, const char *text) {
  struct web_conn *c = web_find(w, l->conn);
  if (reason) note_failure(l, w, reason, msg);
  if (c) web_answer_error(c, text);
  login_free(l);
}

static struct login *login_of(struct web_letter *letter) {
  return (struct login *)((char *)letter - offsetof(struct login, letter));
}

// To another thread, which answers with the letter.
static void send_on(struct login *l, struct web *w, void (*open)(struct web *w, struct web_letter *letter)) {
  l->letter.open = open;
  web_letter_address(&l->letter, w->mail);
}

// The other thread has too much to do.
static void take_back(struct login *l, struct web *w) {
  struct web_conn *c = web_find(w, l->conn);
  web_letter_cancel(&l->letter); // which frees the login
  if (c) web_answer_error(c, busy_text);
}

static void wipe_string(json_t *s) {
  // The value is jansson's memory, in which it stays for whoever gets it next.
  char *text = (char *)(uintptr_t)json_string_value(s);
  if (text) crypto_wipe(text, json_string_length(s));
}

static void grant(struct login *l, struct web *w) {
  struct web_conn *c = web_find(w, l->conn);
  if (c) {
    char id[16];
    snprintf(id, sizeof id, "%u", l->result.user);
    json_t *token = json_string(l->result.token);
    note_success(l);
    web_answer(c, json_pack("{s:O, s:s, s:s}", "Token", token, "Version", "Postern " POSTERN_VERSION, "Userid", id));
    wipe_string(token);
    json_decref(token);
  }
  login_free(l);
}

// ---- the token (store thread) ----

struct seek {
  const char *token_id;
  bool found;
};

static void compare_token(void *ctx, const struct registry_view *v) {
  struct seek *s = ctx;
  s->found |= strcmp(v->who.token_id, s->token_id) == 0;
}

static bool is_live(void *ctx, const char *token_id) {
  const struct made *m = ctx;
  struct seek s = {token_id, false};
  int code = registry_each(m->registry, m->user, compare_token, &s);
  return code || s.found;
}

static int make_token(struct store_txn *t, const void *arg) {
  const struct login *l = arg;
  struct made *m = l->made;
  int64_t now = clock_wall_s();
  m->user = l->user;
  snprintf(m->name, sizeof m->name, "%s", l->name);
  if (l->user == 0) {
    struct store_user u;
    int code = anonymous_add(t, now, &u);
    if (code) return code;
    m->user = u.id;
    memcpy(m->name, u.name, sizeof m->name);
  }
  return login_token_make(t, m->user, now, is_live, m, m->token);
}

static void on_made(void *arg, int code) {
  struct login *l = arg;
  l->code = code;
  web_letter_send(&l->letter);
}

static void open_made(struct web *w, struct web_letter *letter) {
  struct login *l = login_of(letter);
  if (!w) login_free(l);
  else if (l->code == 0) grant(l, w);
  else if (l->code == PERR_LIMIT)
    refuse(l, w, "limit", "no anonymous user is left", "error: there are too many anonymous users.");
  else if (l->code == PERR_NOTFOUND) refuse(l, w, "unknown_token", "the user was removed meanwhile", wrong_text);
  else refuse(l, w, NULL, NULL, busy_text);
}

static void ask_for_token(struct login *l, struct web *w) {
  send_on(l, w, open_made);
  if (writer_post(w->gateway->writer, make_token, on_made, l, WRITER_SOON)) take_back(l, w);
}

// ---- the password ----

static bool is_spent(const struct login *l, const struct web *w) {
  uint64_t now = loop_now_ms(w->loop);
  return tries_spent(w->wrong_by_address, l->key, now) || tries_spent(w->wrong_by_user, l->asked, now);
}

static void note_wrong(const struct login *l, struct web *w) {
  uint64_t now = loop_now_ms(w->loop);
  tries_note(w->wrong_by_address, l->key, now);
  tries_note(w->wrong_by_user, l->asked, now);
}

// Helper thread.
static void check_password(struct hasher_job *j) {
  struct login *l = (struct login *)j;
  if (l->has_password) l->right = password_check(l->said.password, &l->password);
  else password_check_nobody(l->said.password);
  crypto_wipe(&l->said, sizeof l->said);
}

static void on_checked(struct hasher_job *j) { web_letter_send(&((struct login *)j)->letter); }
static void on_dropped(struct hasher_job *j) { web_letter_cancel(&((struct login *)j)->letter); }

static void let_in(struct login *l, struct web *w) {
  struct identity who = {0};
  int64_t until = 0;
  enum auth_result r = auth_user(w->gateway->store, l->name, clock_wall_s(), &who, &until);
  if (r == AUTH_BANNED) refuse(l, w, "banned", "the user is banned", "Error: User has banned.");
  else if (r == AUTH_STORE) refuse(l, w, NULL, NULL, busy_text);
  else ask_for_token(l, w); // of a user that was removed meanwhile the store will say so
}

static void open_checked(struct web *w, struct web_letter *letter) {
  struct login *l = login_of(letter);
  if (!w) {
    login_free(l);
  } else if (is_spent(l, w)) {
    refuse(l, w, "limit", "too many wrong logins", limit_text);
  } else if (!l->right) {
    note_wrong(l, w);
    refuse(l, w, "unknown_token", "wrong user name or password", wrong_text);
  } else {
    let_in(l, w);
  }
}

// Whose password it would be. A store that cannot be read is an error.
static int find_user(struct login *l) {
  struct store_user u;
  struct store_txn *t = store_begin(l->gateway->store, STORE_READ);
  if (!t) return PERR_NOMEM;
  int code = store_user_find(t, l->said.user, &u);
  if (code == 0) {
    l->user = u.id;
    memcpy(l->name, u.name, sizeof l->name);
    code = store_password_get(t, u.id, &l->password);
    l->has_password = code == 0;
  }
  store_abort(t);
  return code == PERR_NOTFOUND || code == PERR_INVALID ? 0 : code;
}

static void by_password(struct login *l, struct web *w) {
  snprintf(l->asked, sizeof l->asked, "%s", l->said.user);
  l->job = (struct hasher_job){.run = check_password, .done = on_checked, .drop = on_dropped};
  int code = find_user(l);
  if (code) {
    refuse(l, w, NULL, NULL, busy_text);
    return;
  }
  if (is_spent(l, w)) {
    refuse(l, w, "limit", "too many wrong logins", limit_text);
    return;
  }
  send_on(l, w, open_checked);
  if (hasher_post(w->hasher, &l->job)) take_back(l, w);
}

// ---- anonymous ----

static void by_nobody(struct login *l, struct web *w) {
  uint64_t now = loop_now_ms(w->loop);
  if (!w->config->anonymous) {
    refuse(l, w, "unknown_token", "a login without user name, and anonymous is off",
           "error: a user name and a password are needed here.");
  } else if (tries_spent(w->anonymous_by_address, l->key, now)) {
    refuse(l, w, "limit", "too many anonymous users from this address",
           "error: too many anonymous logins; try again in a minute.");
  } else {
    tries_note(w->anonymous_by_address, l->key, now);
    ask_for_token(l, w);
  }
}

// ---- the call ----

void web_login(struct web_conn *c, struct http_slice query) {
  struct web *w = c->web;
  struct login *l = calloc(1, sizeof *l);
  if (!l) {
    web_answer_error(c, busy_text);
    return;
  }
  l->gateway = w->gateway;
  l->conn = c->id;
  l->peer = c->peer;
  memcpy(l->key, c->key, sizeof l->key);
  l->plaintext = c->plaintext;
  l->made = &l->result;
  l->result.registry = w->gateway->registry;
  web_wait(c);
  if (nsp_web_login_parse(query.p, query.len, &l->said))
    refuse(l, w, "malformed", "a login without user name and password", "error: username and userpwd are needed.");
  else if (!l->said.user[0] && !l->said.password[0]) by_nobody(l, w);
  else by_password(l, w);
}
