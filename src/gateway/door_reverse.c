// door_reverse: the opening of a reverse connection: a token that holds now, then the ids, of its own user alone. See
// door_nsp.h; docs/nsp.md, "Reverse connections".
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/gateway/door_nsp.h"

#include <stdlib.h>

struct talk {
  struct nsp_reverse_parser parser;
  struct identity who; // once the token was judged; nobody when `anonymous`
  bool judged, anonymous;
};

static void refuse(struct caller *c, const char *reason, const char *user, const char *detail) {
  caller_note_failure(c, reason, user && user[0] ? user : NULL, detail);
  nsp_caller_ignore(c, NSP_IGNORED_REVERSE);
}

// False: refused.
static bool judge(struct caller *c) {
  struct talk *t = c->talk;
  enum auth_result r = nsp_caller_check(c, nsp_reverse_token(&t->parser), &t->who, &t->anonymous);
  t->judged = true;
  if (r == AUTH_OK) return true;
  if (t->parser.state == NSP_REVERSE_IDS) nsp_caller_say(c, NSP_AUTH_FAILED);
  refuse(c, auth_reason(r), t->who.user_name, caller_explain(r));
  return false;
}

// A client may take its time between the token and the ids.
static bool judge_again(struct caller *c) {
  struct talk *t = c->talk;
  int64_t until;
  if (t->anonymous) return true; // the session that is named is judged by whoever has changed something
  enum auth_result r = auth_recheck(c->door->gateway->store, &t->who, clock_wall_s(), &until);
  if (r != AUTH_OK) refuse(c, auth_reason(r), t->who.user_name, caller_explain(r));
  return r == AUTH_OK;
}

// The live session that the ids name, when they are the caller's to name.
static bool find_session(struct caller *c, struct registry_view *v) {
  const struct talk *t = c->talk;
  if (!t->anonymous && t->parser.client_id != t->who.user) {
    refuse(c, "unknown_token", t->who.user_name, "the reverse connection names another user's client");
    return false;
  }
  bool live = nsp_caller_session(c, t->parser.client_id, v);
  if (live && t->anonymous && !nsp_caller_owns_anonymous(c, v)) {
    refuse(c, "unknown_token", NULL, "the reverse connection names a client that it does not prove to be");
    return false;
  }
  if (!live) nsp_caller_ignore(c, NSP_IGNORED_REVERSE); // its end tells the client to log in again
  return live;
}

// A client that had no idle connection when it was displaced hears of it now, before it shares its successor's visitors.
static void tell_to_stop(struct caller *c) {
  uint8_t message[NSP_CONTROL_MAX];
  size_t n, len = nsp_put_force_close(nsp_caller_dialect(c), message);
  if (len && conn_write(c->conn, message, len, &n) == 0) (void)!conn_flush(c->conn);
  nsp_caller_ignore(c, NSP_IGNORED_REVERSE);
}

static void on_ids(struct caller *c) {
  struct talk *t = c->talk;
  struct registry_view v;
  if (!(t->judged ? judge_again(c) : judge(c))) return;
  if (!find_session(c, &v)) return;
  if (nsp_caller_displaced(c, &v, t->who.token_id)) {
    tell_to_stop(c);
    return;
  }
  struct nsp_reverse_arrival *a = calloc(1, sizeof *a);
  if (!a) {
    caller_close(c, CONN_CLOSE);
    return;
  }
  a->base.adopt = nsp_session_adopt_reverse;
  a->base.conn = c->conn;
  a->base.peer = c->peer;
  a->base.session = v.id;
  a->base.worker = c->door->gateway->workers[v.worker];
  a->proof = nsp_caller_proof(c);
  a->app = t->parser.app_id;
  caller_hand_over(c, &a->base);
}

// False: the caller is done with.
static bool feed(struct caller *c, const uint8_t *data, size_t len) {
  struct talk *t = c->talk;
  size_t used;
  int code = nsp_reverse_feed(&t->parser, data, len, &used); // takes all: no more was read than is needed
  if (code == PERR_AGAIN) return true;
  if (code == PERR_PROTOCOL) {
    refuse(c, "malformed", NULL, t->parser.why);
    return false;
  }
  if (t->parser.state == NSP_REVERSE_DONE) {
    on_ids(c);
    return false;
  }
  if (!judge(c)) return false;
  nsp_caller_say(c, NSP_AUTH_OK);
  return true;
}

static void on_readable(struct caller *c) {
  struct talk *t = c->talk;
  uint8_t *buf = loop_scratch(c->door->loop);
  size_t n;
  int code;
  do code = conn_read(c->conn, buf, t->parser.need, &n);
  while (code == 0 && feed(c, buf, n));
  if (code && code != PERR_AGAIN) nsp_caller_ignore(c, NSP_IGNORED_REVERSE); // left before it had said all
}

static int begin(struct caller *c) {
  struct talk *t = calloc(1, sizeof *t);
  if (!t) return PERR_NOMEM;
  nsp_reverse_init(&t->parser, nsp_caller_dialect(c));
  c->talk = t;
  return 0;
}

static void free_talk(void *talk) {
  crypto_wipe(talk, sizeof(struct talk));
  free(talk);
}

const struct caller_ops reverse_caller_ops = {
    .awaited = "no opening in time", .begin = begin, .on_readable = on_readable, .free = free_talk};
