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

#endif
