// login: the tokens that a login by password gives out. Inside a write transaction, on the store thread.
#ifndef POSTERN_CORE_LOGIN_H
#define POSTERN_CORE_LOGIN_H

#include "postern/core/token.h"

#define LOGIN_LABEL "login"

enum {
  LOGIN_TOKENS = 5, // of a user, besides those that live sessions use
  LOGIN_TOKEN_S = 30 * 24 * 3600,
};

// Whether a live session uses the token.
typedef bool (*login_live_fn)(void *ctx, const char *token_id);

// Makes a token of the user, labelled LOGIN_LABEL, that ends after 30 days; `out` is its text. Of the tokens with that
// label the newest five stay, this one among them; the others and those that have expired are removed, but never one
// that is `live`. A revoked one takes nobody's place and stays until it expires, so that its use is answered so.
// Run again after its transaction was undone it makes another token. PERR_NOTFOUND: no such user.
PERR_MUST_CHECK int login_token_make(struct store_txn *t, uint32_t user, int64_t now, login_live_fn live, void *ctx,
                                     char out[TOKEN_TEXT]);

#endif
