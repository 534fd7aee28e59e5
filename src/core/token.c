// token: makes and reads the text of a token. Called by whoever gives out tokens (posternctl, login) and by auth. Owns
// nothing, any thread.
#include "postern/core/token.h"
#include <string.h>

static const char prefix[] = "pst_";

enum { PREFIX_LEN = 4, ID_LEN = STORE_TOKEN_ID_TEXT - 1, SECRET_LEN = 32, SECRET_AT = PREFIX_LEN + ID_LEN + 1 };

_Static_assert(SECRET_AT + BASE64_LEN(SECRET_LEN) == TOKEN_LEN, "the parts of a token fill its length");

void token_generate(char text[TOKEN_TEXT], char id[STORE_TOKEN_ID_TEXT], uint8_t hash[SHA256_LEN]) {
  uint8_t id_bytes[ID_LEN / 2], secret[SECRET_LEN];
  crypto_random(id_bytes, sizeof id_bytes);
  crypto_random(secret, sizeof secret);
  hex_encode(id_bytes, sizeof id_bytes, id);
  memcpy(text, prefix, PREFIX_LEN);
  memcpy(text + PREFIX_LEN, id, ID_LEN);
  text[SECRET_AT - 1] = '_';
  base64_encode(secret, sizeof secret, text + SECRET_AT);
  crypto_sha256(text, TOKEN_LEN, hash);
  crypto_wipe(secret, sizeof secret);
}

// One spelling only: lower-case hex and the URL alphabet, as token_generate writes them.
int token_parse(const char *text, char id[STORE_TOKEN_ID_TEXT], uint8_t hash[SHA256_LEN]) {
  static const char hex_digits[] = "0123456789abcdef";
  static const char secret_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  if (strnlen(text, TOKEN_TEXT) != TOKEN_LEN || memcmp(text, prefix, PREFIX_LEN) != 0) return PERR_INVALID;
  if (strspn(text + PREFIX_LEN, hex_digits) != ID_LEN || text[SECRET_AT - 1] != '_') return PERR_INVALID;
  if (strspn(text + SECRET_AT, secret_digits) != BASE64_LEN(SECRET_LEN)) return PERR_INVALID;
  memcpy(id, text + PREFIX_LEN, ID_LEN);
  id[ID_LEN] = '\0';
  crypto_sha256(text, TOKEN_LEN, hash);
  return 0;
}

int token_add(struct store_txn *t, struct store_token *k, char text[TOKEN_TEXT]) {
  struct store_token other;
  int rc;
  do {
    token_generate(text, k->id, k->hash);
    rc = store_token_get(t, k->id, &other);
  } while (rc == 0);
  return rc == PERR_NOTFOUND ? store_token_add(t, k) : rc;
}
