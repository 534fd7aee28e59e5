// password: scrypt over a user's password. Called by posternctl, which sets one, and by whoever runs the web login's
// checks on threads of their own. Owns nothing; any thread that may block.
#include "postern/core/password.h"
#include "postern/base/log.h"
#include <openssl/evp.h>
#include <string.h>

enum {
  COST_N = 1 << 15,
  COST_R = 8,
  COST_P = 1,
  COST_MOST = COST_N * COST_R * COST_P, // of a record's n * r * p
  MEMORY_MOST = 64 << 20,               // the library's own bound is just below what COST_N needs
};

bool password_valid(const char *text) {
  size_t len = strnlen(text, PASSWORD_TEXT);
  if (len == 0 || len > PASSWORD_MAX_LEN) return false;
  for (size_t i = 0; i < len; i++)
    if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) return false;
  return true;
}

// A broken record must cost neither gigabytes nor minutes.
static bool cost_ok(const struct store_password *p) {
  if (p->n < 2 || (p->n & (p->n - 1)) != 0 || p->r == 0 || p->p == 0) return false;
  return p->n <= COST_MOST && p->r <= COST_MOST / p->n && p->p <= COST_MOST / p->n / p->r;
}

static int derive(const char *text, const struct store_password *p, uint8_t out[SHA256_LEN]) {
  if (!cost_ok(p)) return PERR_CORRUPT;
  int ok = EVP_PBE_scrypt(text, strlen(text), p->salt, sizeof p->salt, p->n, p->r, p->p, MEMORY_MOST, out, SHA256_LEN);
  return ok == 1 ? 0 : PERR_NOMEM;
}

int password_make(const char *text, struct store_password *out) {
  if (!password_valid(text)) return PERR_INVALID;
  *out = (struct store_password){.n = COST_N, .r = COST_R, .p = COST_P};
  crypto_random(out->salt, sizeof out->salt);
  return derive(text, out, out->hash);
}

bool password_check(const char *text, const struct store_password *p) {
  uint8_t hash[SHA256_LEN];
  int rc = derive(text, p, hash);
  if (rc < 0) {
    log_line(LOG_ERROR, "password.fail", "cannot check a password: %s", perr_str(rc));
    return false;
  }
  bool same = crypto_equal(hash, p->hash, sizeof hash);
  crypto_wipe(hash, sizeof hash);
  return same;
}

void password_check_nobody(const char *text) {
  static const struct store_password nobody = {.n = COST_N, .r = COST_R, .p = COST_P};
  (void)password_check(text, &nobody);
}
