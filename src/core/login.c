// login: the tokens of logins by password. Called by the web login's job on the store thread, inside its transaction.
// Owns nothing.
#include "postern/core/login.h"
#include <stdio.h>
#include <string.h>

// While the user's tokens are looked through.
struct sweep {
  struct store_txn *t;
  int64_t now;
  login_live_fn live;
  void *ctx;
  struct store_token kept[LOGIN_TOKENS]; // the newest so far, newest first
  unsigned n;
};

// Of tokens made before tokens were numbered the clock has to tell.
static bool is_newer(const struct store_token *a, const struct store_token *b) {
  return a->seq != b->seq ? a->seq > b->seq : a->created > b->created;
}

// False when the store failed.
static bool drop(struct sweep *s, const struct store_token *k) {
  return s->live(s->ctx, k->id) || store_token_remove(s->t, k->id) == 0;
}

// Gives the token its place among the newest; what has none then goes.
static bool keep_newest(struct sweep *s, const struct store_token *k) {
  unsigned at = s->n;
  while (at > 0 && is_newer(k, &s->kept[at - 1])) at--;
  if (at == LOGIN_TOKENS) return drop(s, k);
  if (s->n == LOGIN_TOKENS && !drop(s, &s->kept[--s->n])) return false;
  memmove(&s->kept[at + 1], &s->kept[at], (s->n - at) * sizeof s->kept[0]);
  s->kept[at] = *k;
  s->n++;
  return true;
}

static bool look_at(void *ctx, const struct store_token *k) {
  struct sweep *s = ctx;
  if (strcmp(k->label, LOGIN_LABEL) != 0) return true;
  if (k->expires != 0 && s->now >= k->expires) return drop(s, k);
  return k->revoked != 0 || keep_newest(s, k);
}

int login_token_make(struct store_txn *t, uint32_t user, int64_t now, login_live_fn live, void *ctx,
                     char out[TOKEN_TEXT]) {
  struct store_token k = {.user = user, .label = LOGIN_LABEL, .created = now, .expires = now + LOGIN_TOKEN_S};
  int rc = token_add(t, &k, out);
  if (rc < 0) return rc;
  struct sweep s = {.t = t, .now = now, .live = live, .ctx = ctx};
  return store_token_each(t, user, look_at, &s);
}
