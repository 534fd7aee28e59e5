// tls_files: reads PEM files. Called when a TLS context is made; owns nothing.
#include "postern/net/tls_files.h"
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEM_FILE_MAX = 1024 * 1024 }; // the CAs of a whole system fit

struct content {
  char *data; // heap
  size_t len;
};

static void content_free(struct content *c) {
  if (c->data) crypto_wipe(c->data, c->len);
  free(c->data);
}

static int system_error(struct err_text *e, const char *what, const char *file) {
  int code = errno == ENOENT ? PERR_NOTFOUND : errno == EACCES ? PERR_DENIED : PERR_IO;
  return err_set(e, code, "%s %s: %s", what, file, strerror(errno));
}

static int read_file(const char *what, const char *file, struct content *c, struct err_text *e) {
  FILE *f = fopen(file, "re");
  if (!f) return system_error(e, what, file);
  int rc = 0;
  setbuf(f, NULL); // no copy of a key stays behind
  c->data = malloc(PEM_FILE_MAX + 1);
  if (!c->data)
    rc = err_set(e, PERR_NOMEM, "%s %s: out of memory", what, file);
  else if ((c->len = fread(c->data, 1, PEM_FILE_MAX + 1, f)) > PEM_FILE_MAX)
    rc = err_set(e, PERR_LIMIT, "%s %s: more than %d bytes", what, file, PEM_FILE_MAX);
  else if (ferror(f))
    rc = system_error(e, what, file);
  fclose(f);
  if (rc) content_free(c);
  return rc;
}

static int no_passphrase(char *buf, int size, int writing, void *asked) {
  if (asked) *(bool *)asked = true;
  return -1;
}

static int parse_certificates(const char *what, const char *file, BIO *b, STACK_OF(X509) * list, struct err_text *e) {
  X509 *x;
  ERR_clear_error();
  while ((x = PEM_read_bio_X509(b, NULL, no_passphrase, NULL))) {
    if (sk_X509_push(list, x)) continue;
    X509_free(x);
    return err_set(e, PERR_NOMEM, "%s %s: out of memory", what, file);
  }
  unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  if (ERR_GET_LIB(error) != ERR_LIB_PEM || ERR_GET_REASON(error) != PEM_R_NO_START_LINE)
    return err_set(e, PERR_INVALID, "%s %s: certificate %d of the file is damaged", what, file, sk_X509_num(list) + 1);
  if (sk_X509_num(list) == 0) return err_set(e, PERR_INVALID, "%s %s: holds no certificate in PEM form", what, file);
  return 0;
}

int tls_files_certificates(const char *what, const char *file, STACK_OF(X509) * *out, uint8_t hash[SHA256_LEN],
                           struct err_text *e) {
  struct content c = {0};
  int rc = read_file(what, file, &c, e);
  if (rc) return rc;
  if (hash) crypto_sha256(c.data, c.len, hash);
  BIO *b = BIO_new_mem_buf(c.data, (int)c.len);
  STACK_OF(X509) *list = sk_X509_new_null();
  rc = b && list ? parse_certificates(what, file, b, list, e)
                 : err_set(e, PERR_NOMEM, "%s %s: out of memory", what, file);
  BIO_free(b);
  content_free(&c);
  if (rc)
    sk_X509_pop_free(list, X509_free);
  else
    *out = list;
  return rc;
}

int tls_files_key(const char *file, EVP_PKEY **out, struct err_text *e) {
  struct content c = {0};
  int rc = read_file("key", file, &c, e);
  if (rc) return rc;
  bool encrypted = false;
  BIO *b = BIO_new_mem_buf(c.data, (int)c.len);
  EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_passphrase, &encrypted) : NULL;
  BIO_free(b);
  content_free(&c);
  ERR_clear_error();
  if (encrypted) return err_set(e, PERR_INVALID, "key %s: encrypted; a key without a passphrase is needed", file);
  if (!key) return err_set(e, PERR_INVALID, "key %s: holds no private key in PEM form", file);
  *out = key;
  return 0;
}
