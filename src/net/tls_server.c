// tls_server: server contexts: certificate, client CA, ALPN, tickets. Made on the main thread at start and reload; the
// callbacks run on whatever thread does a handshake.
#include "postern/base/clock.h"
#include "postern/net/tls_internal.h"
#include "postern/net/tls_tickets.h"
#include "postern/net/tls_verify.h"
#include <string.h>

// ---- ALPN ----

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *offered,
                   unsigned offered_len, void *arg) {
  const struct tls *t = arg;
  unsigned char *chosen;
  if (SSL_select_next_proto(&chosen, out_len, t->alpn, t->alpn_len, offered, offered_len) != OPENSSL_NPN_NEGOTIATED) {
    tls_set_text(ssl, "the client offers no application protocol (ALPN) that is spoken here");
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

// on_alpn is not asked about a client that offers nothing.
static int on_client_hello(SSL *ssl, int *alert, void *arg) {
  const unsigned char *data;
  size_t len;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &len) == 1)
    return SSL_CLIENT_HELLO_SUCCESS;
  tls_set_text(ssl, "the client names no application protocol (ALPN)");
  *alert = SSL_AD_NO_APPLICATION_PROTOCOL;
  return SSL_CLIENT_HELLO_ERROR;
}

static int use_alpn(struct tls *t, const struct tls_server_options *o, struct err_text *e) {
  if (!o->alpn) return 0;
  int rc = tls_encode_alpn(o->alpn, &t->alpn, &t->alpn_len);
  if (rc) return err_set(e, rc, "ALPN: %s", perr_str(rc));
  SSL_CTX_set_alpn_select_cb(t->ctx, on_alpn, t);
  if (!o->alpn_optional) SSL_CTX_set_client_hello_cb(t->ctx, on_client_hello, NULL);
  return 0;
}

// ---- client certificates, tickets ----

static int use_client_ca(struct tls *t, const char *file, struct err_text *e) {
  if (!file) return 0;
  int rc = tls_verify_trust(t, "client_ca", file, t->client_ca_hash, e);
  if (rc) return rc;
  tls_verify_use(t);
  return 0;
}

// A session stands for a client certificate that was judged by the CA of its time; under another one it is void.
static int use_tickets(struct tls *t, const struct tls *previous, struct err_text *e) {
  bool same_ca = previous && memcmp(previous->client_ca_hash, t->client_ca_hash, sizeof t->client_ca_hash) == 0;
  t->ring = same_ca ? ticket_ring_ref(previous->ring) : ticket_ring_new(clock_mono_ms());
  int rc = t->ring ? tls_tickets_use(t) : PERR_NOMEM;
  return rc ? err_set(e, rc, "session tickets: %s", perr_str(rc)) : 0;
}

int tls_server_new(struct tls **out, const struct tls_server_options *o, const struct tls *previous,
                   struct err_text *e) {
  struct tls *t;
  int rc = tls_new(&t, false, o->min_version, e);
  if (rc) return rc;
  rc = tls_use_identity(t, o->certificate, o->key, e);
  if (!rc) rc = use_alpn(t, o, e);
  if (!rc) rc = use_client_ca(t, o->client_ca, e);
  if (!rc) rc = use_tickets(t, previous, e);
  if (rc)
    tls_unref(t);
  else
    *out = t;
  return rc;
}
