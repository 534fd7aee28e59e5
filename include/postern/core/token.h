// token: the credential of a user: "pst_", an id of 12 hex digits, "_", a 256-bit random secret in base64url.
// The store keeps the id in the clear and the SHA-256 of the whole text.
#ifndef POSTERN_CORE_TOKEN_H
#define POSTERN_CORE_TOKEN_H

#include "postern/base/crypto.h"
#include "postern/store/store.h"

enum { TOKEN_LEN = 4 + 12 + 1 + 43, TOKEN_TEXT = TOKEN_LEN + 1 };

void token_generate(char text[TOKEN_TEXT], char id[STORE_TOKEN_ID_TEXT], uint8_t hash[SHA256_LEN]);
// PERR_INVALID when the text has not the form of a token.
PERR_MUST_CHECK int token_parse(const char *text, char id[STORE_TOKEN_ID_TEXT], uint8_t hash[SHA256_LEN]);
// Adds a new token with an id that is free and the other fields of `k`; fills k->id and k->hash. `text` is the token.
PERR_MUST_CHECK int token_add(struct store_txn *t, struct store_token *k, char text[TOKEN_TEXT]);

#endif
