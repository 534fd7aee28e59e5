// tls_internal: what the modules of net share about TLS contexts. For net alone; the others see tls.h.
#ifndef POSTERN_NET_TLS_INTERNAL_H
#define POSTERN_NET_TLS_INTERNAL_H

#include "postern/base/addr.h"
#include "postern/net/tls.h"
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stddef.h>

struct ticket_ring;

enum { TLS_TEXT = 256 }; // enough for tls_verify_text, NUL included

// Lives as long as its SSL_CTX, whose ex_data it is: an SSL object that outlives the last handle still finds it from
// its callbacks. The handles (tls_ref, tls_unref) together hold one reference to the SSL_CTX.
struct tls {
  SSL_CTX *ctx;
  atomic_uint handles;
  bool client;
  // of a server
  uint8_t *alpn; // protocol names as on the wire, in order of preference; NULL: none
  unsigned alpn_len;
  uint8_t client_ca_hash[SHA256_LEN]; // of the file's content; zero: none asked for
  struct ticket_ring *ring;           // counted
  // of a client; `session` changes, so a client context belongs to one thread
  char server_name[HOST_TEXT];
  bool name_is_ip;
  bool has_ca;
  unsigned npins;
  uint8_t pins[TLS_MAX_PINS][SHA256_LEN];
  SSL_SESSION *session; // the latest that can be resumed, or NULL
};

// ---- for conn ----

struct ssl_ctx_st *tls_ctx(const struct tls *t);
bool tls_is_client(const struct tls *t);
// Readies an SSL object that was just made from tls_ctx: of a client the SNI, the expected name (which the context
// brings along), the session to resume; nothing of a server.
void tls_prepare(struct tls *t, SSL *ssl);
// Why this side refused the peer in the handshake, one line; "" where it did not. Returns `out`.
const char *tls_verify_text(SSL *ssl, char *out, size_t cap);

// ---- for the TLS modules ----

// A context with everything that servers and clients have in common. One handle.
PERR_MUST_CHECK int tls_new(struct tls **out, bool client, enum tls_version min_version, struct err_text *e);
struct tls *tls_of(const SSL *ssl);
// Certificate chain and private key of this side, checked against each other. An expired one is a logged warning.
PERR_MUST_CHECK int tls_use_identity(struct tls *t, const char *certificate, const char *key, struct err_text *e);
// Protocol names in the wire's form; heap, caller frees. PERR_INVALID: a name is empty or too long, or there is none.
PERR_MUST_CHECK int tls_encode_alpn(const char *const *names, uint8_t **out, unsigned *len);
// Keeps the text for tls_verify_text.
void tls_set_text(SSL *ssl, const char *text);
// SHA-256 of the certificate's public key (SubjectPublicKeyInfo). False for want of memory.
bool tls_pin_of(const X509 *x, uint8_t pin[SHA256_LEN]);
// Puts the connection's lineage into the session that a ticket is about to be made of. False for want of memory.
bool tls_lineage_seal(SSL *ssl);
// The lineage in the session of a ticket that was opened, or NULL.
const uint8_t *tls_lineage_sealed(SSL_SESSION *session);
int64_t tls_wall_time(const ASN1_TIME *t); // seconds since 1970; 0 where it cannot be read
// What OpenSSL's error queue says first, and empties it.
const char *tls_library_error(void);

#endif
