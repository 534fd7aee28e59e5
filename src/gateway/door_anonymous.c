// door_anonymous: NSP clients without a credential, where the configuration lets them in: each gets a user of its own.
// See door_nsp.h; the user is made on the store thread, and the answer comes back by the caller's id.
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/gateway/anonymous.h"
#include "postern/gateway/door_nsp.h"
#include "postern/gateway/tries.h"

#include <stdlib.h>

struct making {
  struct door *door;
  uint64_t caller;
  int64_t now;
  int result;
  struct store_user *user; // behind this struct
};

static void grant(struct caller *c, const char *name) {
  struct identity who;
  int64_t until;
  enum auth_result r = auth_user(c->door->gateway->store, name, clock_wall_s(), &who, &until);
  if (r == AUTH_OK) nsp_caller_grant(c, &who);
  else nsp_caller_refuse_auth(c, r, who.user_name);
}

static void on_made(void *arg) { // the handshake thread
  struct making *m = arg;
  struct caller *c = caller_find(m->door, m->caller);
  if (c && m->result == 0) grant(c, m->user->name);
  else if (c) nsp_caller_refuse_auth(c, m->result == PERR_LIMIT ? AUTH_LIMIT : AUTH_STORE, "");
  free(m);
}

static int make(struct store_txn *t, const void *arg) { // the store thread
  const struct making *m = arg;
  return anonymous_add(t, m->now, m->user);
}

static void made(void *arg, int result) { // the store thread
  struct making *m = arg;
  m->result = result;
  if (loop_post(m->door->loop, on_made, m)) free(m); // the deadline closes the caller
}

static void make_user(struct caller *c) {
  struct door *d = c->door;
  char key[TRIES_KEY_TEXT];
  uint64_t now = loop_now_ms(d->loop);
  tries_addr_key(&c->peer, key);
  if (tries_spent(d->anonymous, key, now)) {
    nsp_caller_refuse_auth(c, AUTH_LIMIT, "");
    return;
  }
  tries_note(d->anonymous, key, now);
  struct making *m = calloc(1, sizeof *m + sizeof *m->user);
  if (m) *m = (struct making){.door = d, .caller = c->id, .now = clock_wall_s(), .user = (struct store_user *)(m + 1)};
  if (m && writer_post(d->gateway->writer, make, made, m, WRITER_SOON) == 0) return;
  free(m);
  nsp_caller_refuse_auth(c, AUTH_STORE, "");
}

void nsp_anonymous_grant(struct caller *c, const struct nsp_request *q) {
  struct registry_view v;
  bool own = q->client_id && nsp_caller_session(c, q->client_id, &v) && nsp_caller_owns_anonymous(c, &v);
  if (own) grant(c, v.who.user_name);
  else make_user(c);
}
