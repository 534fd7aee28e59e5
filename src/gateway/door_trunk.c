// door_trunk: an agent's hello on the control port. See door_internal.h; docs/protocol.md, "Greeting".
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/gateway/door_internal.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session_trunk.h"
#include "postern/trunk/link.h"

#include <stdio.h>
#include <stdlib.h>

// Says why, then closes.
static void refuse(struct caller *c, const char *reason, const char *message, int64_t until) {
  struct control m = {.type = CONTROL_END, .end = {.until = until}};
  snprintf(m.end.reason, sizeof m.end.reason, "%s", reason);
  snprintf(m.end.message, sizeof m.end.message, "%s", message);
  (void)link_greeting_write(c->conn, &m);
  caller_close(c, CONN_LINGER);
}

static void refuse_auth(struct caller *c, enum auth_result r, const char *user, int64_t until) {
  caller_note_failure(c, auth_reason(r), user[0] ? user : NULL, caller_explain(r));
  refuse(c, auth_reason(r), caller_explain(r), until);
}

static void enter(struct caller *c, const struct control_hello *h, const struct identity *who) {
  struct trunk_arrival *a = calloc(1, sizeof *a);
  if (!a) {
    refuse(c, "unavailable", "out of memory", 0);
    return;
  }
  a->base.adopt = trunk_session_adopt;
  a->base.who = *who;
  a->previous = h->previous;
  a->features = h->features;
  struct registry_login login = {.who = &a->base.who,
                                 .instance = h->instance,
                                 .run = h->run,
                                 .protocol = "trunk",
                                 .peer = c->peer,
                                 .now = clock_wall_s()};
  int64_t until;
  enum auth_result r = caller_enter(c, &a->base, &login, &until);
  if (r == AUTH_OK) {
    caller_hand_over(c, &a->base);
    return;
  }
  free(a);
  refuse_auth(c, r, who->user_name, until);
}

static void on_hello(struct caller *c, const struct control_hello *h) {
  struct identity who;
  int64_t until;
  if (h->version < CONTROL_VERSION) {
    caller_note_failure(c, "malformed", NULL, "the agent speaks an unknown version of the protocol");
    refuse(c, "version", "this gateway speaks version 1", 0);
    return;
  }
  enum auth_result r = caller_check(c, h->token, &who, &until);
  if (r == AUTH_OK) enter(c, h, &who);
  else refuse_auth(c, r, who.user_name, until);
}

static void on_readable(struct caller *c) {
  struct control m;
  struct err_text e;
  int code = link_greeting_read(c->talk, c->conn, &m, &e);
  if (code == PERR_AGAIN) return;
  if (code == 0 && m.type == CONTROL_HELLO) {
    on_hello(c, &m.hello);
  } else if (code == 0 || code == PERR_PROTOCOL) {
    const char *what = code ? e.s : "the first message is not a hello";
    caller_note_failure(c, "malformed", NULL, what);
    refuse(c, "protocol", what, 0);
  } else {
    caller_close(c, CONN_CLOSE); // left without a word
  }
  crypto_wipe(&m, sizeof m);
}

static int begin(struct caller *c) {
  c->talk = calloc(1, sizeof(struct link_greeting));
  return c->talk ? 0 : PERR_NOMEM;
}

static void free_greeting(void *talk) {
  crypto_wipe(talk, sizeof(struct link_greeting));
  free(talk);
}

const struct caller_ops trunk_caller_ops = {
    .awaited = "no hello in time", .begin = begin, .on_readable = on_readable, .free = free_greeting};
