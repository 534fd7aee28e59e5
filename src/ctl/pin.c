// pin: reads the gateway's certificate file and finds the key to pin. Called by cmd_token; owns nothing.
#include "postern/ctl/pin.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

enum { PIN_MAX_CHAIN = 16 };

struct chain {
  X509 *certs[PIN_MAX_CHAIN];
  unsigned count;
};

static void free_chain(struct chain *ch) {
  for (unsigned i = 0; i < ch->count; i++) X509_free(ch->certs[i]);
}

static int read_chain(const char *file, struct chain *ch, struct err_text *e) {
  FILE *f = fopen(file, "re");
  if (!f) return err_set(e, PERR_IO, "cannot read the certificate %s: %s", file, strerror(errno));
  while (ch->count < PIN_MAX_CHAIN) {
    X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
    if (!x) break;
    ch->certs[ch->count++] = x;
  }
  fclose(f);
  unsigned long why = ERR_peek_last_error();
  bool clean = ERR_GET_REASON(why) == PEM_R_NO_START_LINE || ch->count == PIN_MAX_CHAIN;
  ERR_clear_error();
  if (ch->count == 0) return err_set(e, PERR_CORRUPT, "%s holds no certificate in PEM format", file);
  return clean ? 0 : err_set(e, PERR_CORRUPT, "%s: certificate %u in it cannot be read", file, ch->count + 1);
}

static bool issued(X509 *ca, X509 *cert) {
  return X509_check_ca(ca) == 1 && X509_check_issued(ca, cert) == X509_V_OK &&
         X509_verify(cert, X509_get0_pubkey(ca)) == 1;
}

// The topmost CA above the leaf, or the leaf. Each step uses a certificate up, so that a circle ends.
static X509 *find_top(const struct chain *ch) {
  X509 *top = ch->certs[0];
  bool used[PIN_MAX_CHAIN] = {true};
  for (unsigned i = 1; i < ch->count; i++) {
    if (used[i] || !issued(ch->certs[i], top)) continue;
    used[i] = true;
    top = ch->certs[i];
    i = 0;
  }
  ERR_clear_error();
  return top;
}

int pin_of_chain(const char *certificate, uint8_t pin[SHA256_LEN], struct err_text *e) {
  struct chain ch = {.count = 0};
  int rc = read_chain(certificate, &ch, e);
  if (rc == 0) {
    unsigned char *der = NULL;
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(find_top(&ch)), &der);
    if (len > 0)
      crypto_sha256(der, (size_t)len, pin);
    else
      rc = err_set(e, PERR_CORRUPT, "%s: its public key cannot be read", certificate);
    OPENSSL_free(der);
  }
  free_chain(&ch);
  return rc;
}
