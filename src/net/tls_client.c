// tls_client: client contexts: whom to trust, what to ask for, the session to resume. The agent's, on its one thread.
#include "postern/net/tls_internal.h"
#include "postern/net/tls_verify.h"
#include <openssl/x509v3.h>
#include <string.h>

// ---- the expected name ----

static int set_name(struct tls *t, const char *text, struct err_text *e) {
  struct addr ip;
  X509_VERIFY_PARAM *param = SSL_CTX_get0_param(t->ctx);
  size_t len = strlen(text);
  bool ok;
  t->name_is_ip = addr_from_ip(&ip, text, 0) == 0;
  if (t->name_is_ip) {
    char plain[ADDR_TEXT];
    addr_format_ip(&ip, plain);
    memcpy(t->server_name, plain, strlen(plain) + 1);
    ok = X509_VERIFY_PARAM_set1_ip_asc(param, plain) == 1;
  } else {
    if (len && text[len - 1] == '.') len--; // certificates and SNI write names without the root's dot
    if (len == 0 || len >= sizeof t->server_name)
      return err_set(e, PERR_INVALID, "server name \"%s\": not a name", text);
    memcpy(t->server_name, text, len);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    ok = X509_VERIFY_PARAM_set1_host(param, t->server_name, len) == 1;
  }
  return ok ? 0 : err_set(e, PERR_INVALID, "server name \"%s\": %s", text, tls_library_error());
}

// ---- trust ----

static int set_trust(struct tls *t, const struct tls_client_options *o, struct err_text *e) {
  if (o->npins > TLS_MAX_PINS) return err_set(e, PERR_LIMIT, "more than %d pins", TLS_MAX_PINS);
  t->npins = o->npins;
  memcpy(t->pins, o->pins, sizeof t->pins);
  t->has_ca = o->ca != NULL;
  if (o->ca) {
    int rc = tls_verify_trust(t, "CA", o->ca, NULL, e);
    if (rc) return rc;
  } else if (o->npins == 0 && SSL_CTX_set_default_verify_paths(t->ctx) != 1) {
    return err_set(e, PERR_TLS, "the system's trust store: %s", tls_library_error());
  }
  tls_verify_use(t);
  return 0;
}

static int set_alpn(struct tls *t, const char *name, struct err_text *e) {
  const char *const names[] = {name, NULL};
  if (!name) return 0;
  int rc = tls_encode_alpn(names, &t->alpn, &t->alpn_len);
  if (!rc && SSL_CTX_set_alpn_protos(t->ctx, t->alpn, t->alpn_len) != 0) rc = PERR_NOMEM; // 0 is its success
  return rc ? err_set(e, rc, "ALPN: %s", perr_str(rc)) : 0;
}

// ---- sessions ----

// Keeps a copy: OpenSSL marks the session of a connection that ends without close_notify, as a lost link does, as not
// resumable.
static int on_session(SSL *ssl, SSL_SESSION *session) {
  struct tls *t = tls_of(ssl);
  SSL_SESSION *copy = SSL_SESSION_dup(session);
  if (copy) {
    SSL_SESSION_free(t->session);
    t->session = copy;
  }
  return 0;
}

void tls_prepare(struct tls *t, SSL *ssl) {
  if (!t->client) return;
  if (!t->name_is_ip) SSL_set_tlsext_host_name(ssl, t->server_name);
  SSL_SESSION *copy = t->session ? SSL_SESSION_dup(t->session) : NULL;
  const X509 *peer = copy ? SSL_SESSION_get0_peer(copy) : NULL;
  // A resumption shows no certificate, so one that has expired since it was judged must be shown anew.
  if (peer && X509_cmp_current_time(X509_get0_notAfter(peer)) > 0) SSL_set_session(ssl, copy);
  SSL_SESSION_free(copy);
}

int tls_client_new(struct tls **out, const struct tls_client_options *o, struct err_text *e) {
  struct tls *t;
  int rc = tls_new(&t, true, TLS_1_2, e);
  if (rc) return rc;
  SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(t->ctx, on_session);
  rc = set_name(t, o->server_name, e);
  if (!rc) rc = set_trust(t, o, e);
  if (!rc && !o->certificate != !o->key) rc = err_set(e, PERR_INVALID, "a certificate and its key go together");
  if (!rc && o->certificate) rc = tls_use_identity(t, o->certificate, o->key, e);
  if (!rc) rc = set_alpn(t, o->alpn, e);
  if (rc)
    tls_unref(t);
  else
    *out = t;
  return rc;
}
