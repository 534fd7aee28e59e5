// tls_fixture: certificates made on the spot and handshakes in memory, for the tests of net's TLS modules.
#ifndef TESTS_UNIT_TLS_FIXTURE_H
#define TESTS_UNIT_TLS_FIXTURE_H

#include "postern/net/tls_internal.h"
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { HOUR = 60 * 60, FX_PATH = 128 };

// ---- certificates ----

struct fx_cert {
  X509 *x;
  EVP_PKEY *key;
};

struct fx_spec {
  const char *cn, *san;         // san as OpenSSL writes it: "DNS:a.example.com,IP:192.0.2.1"; NULL: none
  const struct fx_cert *issuer; // NULL: self-signed
  bool ca;
  long from_s, to_s;        // from now; both 0: an hour ago to in an hour
  const struct fx_cert *as; // with that one's key; NULL: with a new key
};

static inline void fx_extension(X509 *x, X509 *issuer, int nid, const char *value) {
  X509V3_CTX ctx;
  X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
  X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
  assert_non_null(ext);
  assert_int_equal(X509_add_ext(x, ext, -1), 1);
  X509_EXTENSION_free(ext);
}

static inline struct fx_cert fx_make(struct fx_spec s) {
  static long serial = 1;
  struct fx_cert c = {.x = X509_new(), .key = s.as ? s.as->key : EVP_EC_gen("P-256")};
  assert_non_null(c.key);
  if (s.as) EVP_PKEY_up_ref(c.key);
  X509_NAME *subject = X509_get_subject_name(c.x);
  if (s.cn) X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)s.cn, -1, -1, 0);
  X509_set_version(c.x, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(c.x), serial++);
  X509_gmtime_adj(X509_getm_notBefore(c.x), s.from_s || s.to_s ? s.from_s : -HOUR);
  X509_gmtime_adj(X509_getm_notAfter(c.x), s.from_s || s.to_s ? s.to_s : HOUR);
  X509_set_pubkey(c.x, c.key);
  X509 *issuer = s.issuer ? s.issuer->x : c.x;
  X509_set_issuer_name(c.x, X509_get_subject_name(issuer));
  fx_extension(c.x, issuer, NID_basic_constraints, s.ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
  fx_extension(c.x, issuer, NID_subject_key_identifier, "hash");
  if (s.issuer) fx_extension(c.x, issuer, NID_authority_key_identifier, "keyid:always");
  if (s.san) fx_extension(c.x, issuer, NID_subject_alt_name, s.san);
  assert_true(X509_sign(c.x, s.issuer ? s.issuer->key : c.key, EVP_sha256()) > 0);
  return c;
}

static inline void fx_drop(struct fx_cert *c) {
  X509_free(c->x);
  EVP_PKEY_free(c->key);
}

static inline void fx_pin(const struct fx_cert *c, uint8_t out[SHA256_LEN]) {
  unsigned char *der = NULL;
  int n = i2d_PUBKEY(c->key, &der);
  assert_true(n > 0);
  assert_int_equal(EVP_Digest(der, (size_t)n, out, NULL, EVP_sha256(), NULL), 1);
  OPENSSL_free(der);
}

// ---- files ----

static inline const char *fx_folder(void) {
  static char folder[] = "/tmp/postern-tls-XXXXXX";
  static bool made;
  if (!made) assert_non_null(mkdtemp(folder));
  made = true;
  return folder;
}

struct fx_path {
  char s[FX_PATH];
};

static inline struct fx_path fx_path(const char *name) {
  struct fx_path p;
  snprintf(p.s, sizeof p.s, "%s/%s", fx_folder(), name);
  return p;
}

static inline void fx_write_text(const char *name, const char *text) {
  FILE *f = fopen(fx_path(name).s, "w");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

// NAME.crt with the certificate and up to two more of the chain (NULL: none), NAME.key with its key.
static inline void fx_write(const char *name, const struct fx_cert *c, const struct fx_cert *second,
                            const struct fx_cert *third) {
  char file[64];
  snprintf(file, sizeof file, "%s.crt", name);
  FILE *f = fopen(fx_path(file).s, "w");
  assert_non_null(f);
  PEM_write_X509(f, c->x);
  if (second) PEM_write_X509(f, second->x);
  if (third) PEM_write_X509(f, third->x);
  assert_int_equal(fclose(f), 0);
  snprintf(file, sizeof file, "%s.key", name);
  f = fopen(fx_path(file).s, "w");
  assert_non_null(f);
  PEM_write_PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL);
  assert_int_equal(fclose(f), 0);
}

static inline int fx_remove_folder(void **state) {
  char command[FX_PATH + 16];
  snprintf(command, sizeof command, "rm -rf -- %s", fx_folder());
  return system(command);
}

// ---- contexts ----

static const char *const fx_alpn[] = {"postern/1", NULL};

static inline struct tls *fx_server(const char *name, const char *client_ca, const struct tls *previous) {
  char crt[64], key[64];
  snprintf(crt, sizeof crt, "%s.crt", name);
  snprintf(key, sizeof key, "%s.key", name);
  struct fx_path crt_path = fx_path(crt), key_path = fx_path(key), ca_path = fx_path(client_ca ? client_ca : "");
  const struct tls_server_options o = {
      .certificate = crt_path.s,
      .key = key_path.s,
      .client_ca = client_ca ? ca_path.s : NULL,
      .alpn = fx_alpn,
  };
  struct tls *t = NULL;
  struct err_text e = {{0}};
  if (tls_server_new(&t, &o, previous, &e)) fail_msg("%s", e.s);
  return t;
}

// Takes what is set in `o`; the ca is a file name in the folder.
static inline struct tls *fx_client(struct tls_client_options o) {
  struct fx_path ca = fx_path(o.ca ? o.ca : ""), crt = fx_path(o.certificate ? o.certificate : ""),
                 key = fx_path(o.key ? o.key : "");
  struct tls *t = NULL;
  struct err_text e = {{0}};
  if (o.ca) o.ca = ca.s;
  if (o.certificate) o.certificate = crt.s;
  if (o.key) o.key = key.s;
  if (!o.alpn) o.alpn = fx_alpn[0];
  if (tls_client_new(&t, &o, &e)) fail_msg("%s", e.s);
  return t;
}

// ---- handshakes ----

// How a handshake ended. The texts are what each side would log: tls_verify_text, else OpenSSL's reason.
struct fx_end {
  bool ok, resumed;
  int version;
  char client[TLS_TEXT], server[TLS_TEXT], cipher[64], alpn[32], sni[HOST_TEXT], peer[65];
  int64_t peer_not_after;
};

static inline bool fx_step(SSL *ssl, char text[TLS_TEXT], bool *failed) {
  if (*failed) return false;
  ERR_clear_error();
  int ret = SSL_do_handshake(ssl);
  if (ret == 1) return true;
  int code = SSL_get_error(ssl, ret);
  if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) return false;
  *failed = true;
  if (!tls_verify_text(ssl, text, TLS_TEXT)[0]) {
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    snprintf(text, TLS_TEXT, "%s", reason ? reason : "?");
  }
  ERR_clear_error();
  return false;
}

static inline void fx_connect(SSL *client, SSL *server) {
  BIO *a, *b;
  assert_int_equal(BIO_new_bio_pair(&a, 128 * 1024, &b, 128 * 1024), 1);
  SSL_set_bio(client, a, a);
  SSL_set_bio(server, b, b);
  SSL_set_connect_state(client);
  SSL_set_accept_state(server);
}

static inline void fx_note(struct fx_end *end, SSL *client, SSL *server) {
  const unsigned char *alpn;
  unsigned len;
  char byte = 0;
  // In TLS 1.3 the server judges the client, and its ticket arrives, after the client's side is done.
  assert_int_equal(SSL_write(server, "x", 1), 1);
  end->ok = SSL_read(client, &byte, 1) == 1 && byte == 'x';
  end->resumed = SSL_session_reused(client);
  end->version = SSL_version(client);
  snprintf(end->cipher, sizeof end->cipher, "%s", SSL_get_cipher_name(client));
  SSL_get0_alpn_selected(client, &alpn, &len);
  assert_true(len < sizeof end->alpn);
  if (len) memcpy(end->alpn, alpn, len);
  const char *sni = SSL_get_servername(server, TLSEXT_NAMETYPE_host_name);
  snprintf(end->sni, sizeof end->sni, "%s", sni ? sni : "");
  tls_peer_name(server, end->peer, sizeof end->peer, &end->peer_not_after);
}

// Takes both. The connection is dropped without close_notify, as a lost link is.
static inline struct fx_end fx_shake(SSL *client, SSL *server) {
  struct fx_end end = {.ok = false};
  bool client_done = false, server_done = false, client_failed = false, server_failed = false;
  fx_connect(client, server);
  for (int i = 0; i < 16; i++) {
    client_done = fx_step(client, end.client, &client_failed);
    server_done = fx_step(server, end.server, &server_failed);
  }
  if (client_done && server_done) {
    fx_note(&end, client, server);
  } else if (client_done) {
    char byte; // the server's alert
    ERR_clear_error();
    assert_true(SSL_read(client, &byte, 1) <= 0);
    snprintf(end.client, sizeof end.client, "%s", ERR_reason_error_string(ERR_peek_last_error()));
  }
  SSL_free(client);
  SSL_free(server);
  ERR_clear_error();
  return end;
}

static inline SSL *fx_ssl(struct tls *t) {
  SSL *ssl = SSL_new(tls_ctx(t));
  assert_non_null(ssl);
  tls_prepare(t, ssl);
  return ssl;
}

// `max_version` 0: the highest.
static inline struct fx_end fx_handshake(struct tls *client, struct tls *server, int max_version) {
  SSL *c = fx_ssl(client);
  if (max_version) SSL_set_max_proto_version(c, max_version);
  return fx_shake(c, fx_ssl(server));
}

static inline void fx_assert_text(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}

#endif
