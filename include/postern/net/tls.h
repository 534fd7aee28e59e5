// tls: TLS contexts. A context is immutable and counted: a reload makes a new one, and connections keep theirs.
#ifndef POSTERN_NET_TLS_H
#define POSTERN_NET_TLS_H

#include "postern/base/crypto.h"
#include "postern/base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct tls;
struct ssl_st;

enum tls_version { TLS_1_2, TLS_1_3 };

struct tls_server_options {
  const char *certificate, *key; // PEM files; the certificate with its chain
  const char *client_ca;         // PEM file; NULL: no client certificate is asked for
  enum tls_version min_version;
  const char *const *alpn; // NULL-terminated, in order of preference
  bool alpn_optional;      // a client without ALPN is let in; one that offers only unknown names never is
};

// A server context: TLS 1.2 or 1.3 up, AES-128-GCM first, X25519 first, no renegotiation, no compression, resumption by
// tickets alone. `previous` (may be NULL) hands its ticket keys on, unless the client CA changed. What is wrong with a
// file is said as "certificate FILE: …", "key FILE: …" or "client_ca FILE: …".
PERR_MUST_CHECK int tls_server_new(struct tls **out, const struct tls_server_options *o, const struct tls *previous,
                                   struct err_text *e);

enum { TLS_MAX_PINS = 8 };

struct tls_client_options {
  const char *server_name; // the name or IP address that the certificate must be for; also the SNI
  const char *ca;          // PEM file; NULL: pins alone, or the system's trust store where there are none
  uint8_t pins[TLS_MAX_PINS][SHA256_LEN]; // SHA-256 of a SubjectPublicKeyInfo
  unsigned npins;
  const char *certificate, *key; // the client's own; NULL: none
  const char *alpn;
};

// A client context that always verifies (contract: "The agent always verifies the gateway"). Remembers the last
// session ticket for resumption.
PERR_MUST_CHECK int tls_client_new(struct tls **out, const struct tls_client_options *o, struct err_text *e);

struct tls *tls_ref(struct tls *t);
void tls_unref(struct tls *t); // NULL is fine

// The common name of the peer's verified certificate, "" where it sent none; *not_after is its end (wall seconds).
void tls_peer_name(struct ssl_st *ssl, char *out, size_t cap, int64_t *not_after);

enum { TLS_LINEAGE_LEN = 16 };

// The lineage of a server's connection, for after the handshake: random bytes drawn at the full handshake that it comes
// from, and carried over by its tickets through every resumption. Who has it has the secrets of that first connection,
// so what was proven over one connection holds for all of its lineage. The peer cannot read or choose it. PERR_NOMEM:
// it cannot be kept.
PERR_MUST_CHECK int tls_lineage(struct ssl_st *ssl, uint8_t out[TLS_LINEAGE_LEN]);

// SHA-256 of the public keys of a server context's chain, leaf first: what agents may have pinned.
unsigned tls_server_pins(const struct tls *t, uint8_t pins[TLS_MAX_PINS][SHA256_LEN]);

#endif
