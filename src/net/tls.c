// tls: the life of a TLS context and what server and client contexts have in common. Contexts are made on the main
// thread (the agent's only one) and used on all; a struct tls and its SSL_CTX are one object (see tls_internal.h).
#include "postern/net/tls.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/net/tls_files.h"
#include "postern/net/tls_internal.h"
#include "postern/net/tls_tickets.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { READ_BUFFER = 64 * 1024, ALPN_NAME_MAX = 255, ALPN_MAX = 4096 };

#define SUITES_1_3 "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
#define SUITES_1_2                                                                                                     \
  "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"                           \
  "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
// P-384 comes last and is there for certificates with such keys: TLS 1.2 takes a key on a listed curve only.
#define GROUPS "X25519:P-256:P-384"

// ---- places for our data in OpenSSL's objects ----

static int ctx_index = -1, text_index = -1;
static pthread_once_t indices_once = PTHREAD_ONCE_INIT;

static void free_tls(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl, void *argp) {
  struct tls *t = ptr;
  if (!t) return;
  ticket_ring_unref(t->ring);
  SSL_SESSION_free(t->session);
  free(t->alpn);
  free(t);
}

static void free_text(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl, void *argp) {
  free(ptr);
}

static void make_indices(void) {
  ctx_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_tls);
  text_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_text);
}

struct tls *tls_of(const SSL *ssl) {
  return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ctx_index);
}

void tls_set_text(SSL *ssl, const char *text) {
  free(SSL_get_ex_data(ssl, text_index));
  char *copy = strdup(text);
  if (!SSL_set_ex_data(ssl, text_index, copy)) free(copy);
}

const char *tls_verify_text(SSL *ssl, char *out, size_t cap) {
  const char *text = SSL_get_ex_data(ssl, text_index);
  long error = SSL_get_verify_result(ssl);
  if (!text) text = error == X509_V_OK ? "" : X509_verify_cert_error_string(error);
  snprintf(out, cap, "%s", text);
  return out;
}

const char *tls_library_error(void) {
  unsigned long error = ERR_peek_error();
  const char *reason = error ? ERR_reason_error_string(error) : NULL;
  ERR_clear_error();
  return reason ? reason : "out of memory";
}

// ---- life ----

static bool set_common(SSL_CTX *ctx, enum tls_version min_version) {
  char groups[] = GROUPS; // OpenSSL's macro casts a const away
  SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(ctx, 1);
  SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER);
  return SSL_CTX_set_min_proto_version(ctx, min_version == TLS_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 &&
         SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 && SSL_CTX_set_ciphersuites(ctx, SUITES_1_3) == 1 &&
         SSL_CTX_set_cipher_list(ctx, SUITES_1_2) == 1 && SSL_CTX_set1_groups_list(ctx, groups) == 1;
}

int tls_new(struct tls **out, bool client, enum tls_version min_version, struct err_text *e) {
  pthread_once(&indices_once, make_indices);
  struct tls *t = calloc(1, sizeof *t);
  SSL_CTX *ctx = SSL_CTX_new(client ? TLS_client_method() : TLS_server_method());
  if (!t || !ctx || ctx_index < 0 || text_index < 0 || !SSL_CTX_set_ex_data(ctx, ctx_index, t)) {
    SSL_CTX_free(ctx);
    free(t);
    return err_set(e, PERR_NOMEM, "TLS: %s", tls_library_error());
  }
  t->ctx = ctx;
  t->client = client;
  atomic_init(&t->handles, 1);
  if (!set_common(ctx, min_version)) {
    tls_unref(t);
    return err_set(e, PERR_TLS, "TLS: %s", tls_library_error());
  }
  *out = t;
  return 0;
}

struct tls *tls_ref(struct tls *t) {
  atomic_fetch_add(&t->handles, 1);
  return t;
}

void tls_unref(struct tls *t) {
  if (t && atomic_fetch_sub(&t->handles, 1) == 1) SSL_CTX_free(t->ctx);
}

struct ssl_ctx_st *tls_ctx(const struct tls *t) {
  return t->ctx;
}

bool tls_is_client(const struct tls *t) {
  return t->client;
}

// ---- certificates ----

int64_t tls_wall_time(const ASN1_TIME *t) {
  struct tm tm;
  return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void warn_of_dates(const X509 *x, const char *file) {
  char text[CLOCK_TEXT];
  if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
    log_line(LOG_WARN, "tls.certificate", "certificate %s: expired on %s", file,
             clock_format_s(tls_wall_time(X509_get0_notAfter(x)), text));
  else if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
    log_line(LOG_WARN, "tls.certificate", "certificate %s: not valid before %s", file,
             clock_format_s(tls_wall_time(X509_get0_notBefore(x)), text));
}

static int use_chain(SSL_CTX *ctx, const STACK_OF(X509) * chain, EVP_PKEY *key, const char *certificate,
                     const char *key_file, struct err_text *e) {
  X509 *leaf = sk_X509_value(chain, 0);
  if (X509_check_private_key(leaf, key) != 1) {
    ERR_clear_error();
    return err_set(e, PERR_INVALID, "key %s: not the key of the first certificate in %s", key_file, certificate);
  }
  bool ok = SSL_CTX_use_certificate(ctx, leaf) == 1;
  for (int i = 1; ok && i < sk_X509_num(chain); i++) ok = SSL_CTX_add1_chain_cert(ctx, sk_X509_value(chain, i)) == 1;
  if (!ok) return err_set(e, PERR_INVALID, "certificate %s: %s", certificate, tls_library_error());
  if (SSL_CTX_use_PrivateKey(ctx, key) != 1)
    return err_set(e, PERR_INVALID, "key %s: %s", key_file, tls_library_error());
  warn_of_dates(leaf, certificate);
  return 0;
}

int tls_use_identity(struct tls *t, const char *certificate, const char *key, struct err_text *e) {
  STACK_OF(X509) * chain;
  EVP_PKEY *pkey;
  int rc = tls_files_certificates("certificate", certificate, &chain, NULL, e);
  if (rc) return rc;
  rc = tls_files_key(key, &pkey, e);
  if (!rc) {
    rc = use_chain(t->ctx, chain, pkey, certificate, key, e);
    EVP_PKEY_free(pkey);
  }
  sk_X509_pop_free(chain, X509_free);
  return rc;
}

bool tls_pin_of(const X509 *x, uint8_t pin[SHA256_LEN]) {
  unsigned char *der = NULL;
  int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der);
  if (len <= 0) return false;
  crypto_sha256(der, (size_t)len, pin);
  OPENSSL_free(der);
  return true;
}

unsigned tls_server_pins(const struct tls *t, uint8_t pins[TLS_MAX_PINS][SHA256_LEN]) {
  STACK_OF(X509) *chain = NULL;
  const X509 *leaf = SSL_CTX_get0_certificate(t->ctx);
  unsigned n = 0;
  if (leaf && tls_pin_of(leaf, pins[n])) n++;
  SSL_CTX_get0_chain_certs(t->ctx, &chain);
  for (int i = 0; i < sk_X509_num(chain) && n < TLS_MAX_PINS; i++)
    if (tls_pin_of(sk_X509_value(chain, i), pins[n])) n++;
  return n;
}

// The name decides who the peer is, so one that is cut, hides bytes behind a NUL or is one of several is none.
static void common_name(const X509 *x, char *out, size_t cap) {
  const X509_NAME *subject = X509_get_subject_name(x);
  unsigned char *utf8 = NULL;
  int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) return;
  int len = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  if (len > 0 && (size_t)len < cap && !memchr(utf8, '\0', (size_t)len)) {
    memcpy(out, utf8, (size_t)len);
    out[len] = '\0';
  }
  OPENSSL_free(utf8);
}

void tls_peer_name(struct ssl_st *ssl, char *out, size_t cap, int64_t *not_after) {
  const X509 *x = SSL_get0_peer_certificate(ssl);
  out[0] = '\0';
  *not_after = 0;
  if (!x || !(SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER) || SSL_get_verify_result(ssl) != X509_V_OK) return;
  common_name(x, out, cap);
  *not_after = tls_wall_time(X509_get0_notAfter(x));
}

int tls_encode_alpn(const char *const *names, uint8_t **out, unsigned *len) {
  uint8_t wire[ALPN_MAX];
  size_t used = 0;
  for (; *names; names++) {
    size_t n = strlen(*names);
    if (n == 0 || n > ALPN_NAME_MAX || n + 1 > sizeof wire - used) return PERR_INVALID;
    wire[used++] = (uint8_t)n;
    memcpy(wire + used, *names, n);
    used += n;
  }
  if (used == 0) return PERR_INVALID;
  *out = malloc(used);
  if (!*out) return PERR_NOMEM;
  memcpy(*out, wire, used);
  *len = (unsigned)used;
  return 0;
}
