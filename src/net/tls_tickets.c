// tls_tickets: seals session tickets with keys of our own, so that a reload does not lose the sessions. Called by
// OpenSSL during handshakes, on any thread; the ring's lock guards the keys.
#include "postern/net/tls_tickets.h"
#include "postern/base/clock.h"
#include "postern/net/tls_internal.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ticket_ring {
  pthread_mutex_t lock; // guards the keys
  struct ticket_key current, previous;
  bool has_previous;
  atomic_uint refs;
};

// ---- the ring ----

static void draw_key(struct ticket_key *k, uint64_t now_ms) {
  crypto_random(k->name, sizeof k->name);
  crypto_random(k->aes, sizeof k->aes);
  crypto_random(k->mac, sizeof k->mac);
  k->made_ms = now_ms;
}

struct ticket_ring *ticket_ring_new(uint64_t now_ms) {
  struct ticket_ring *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  pthread_mutex_init(&r->lock, NULL);
  atomic_init(&r->refs, 1);
  draw_key(&r->current, now_ms);
  return r;
}

struct ticket_ring *ticket_ring_ref(struct ticket_ring *r) {
  atomic_fetch_add(&r->refs, 1);
  return r;
}

void ticket_ring_unref(struct ticket_ring *r) {
  if (!r || atomic_fetch_sub(&r->refs, 1) != 1) return;
  pthread_mutex_destroy(&r->lock);
  crypto_wipe(r, sizeof *r);
  free(r);
}

// A key seals for one day and opens for two. With the lock held.
static void rotate(struct ticket_ring *r, uint64_t now_ms) {
  if (now_ms - r->current.made_ms >= TICKET_DAY_MS) {
    r->previous = r->current;
    r->has_previous = true;
    draw_key(&r->current, now_ms);
  }
  if (r->has_previous && now_ms - r->previous.made_ms >= 2 * (uint64_t)TICKET_DAY_MS) {
    crypto_wipe(&r->previous, sizeof r->previous);
    r->has_previous = false;
  }
}

void ticket_ring_current(struct ticket_ring *r, uint64_t now_ms, struct ticket_key *out) {
  pthread_mutex_lock(&r->lock);
  rotate(r, now_ms);
  *out = r->current;
  pthread_mutex_unlock(&r->lock);
}

enum ticket_use ticket_ring_find(struct ticket_ring *r, const uint8_t name[TICKET_NAME_LEN], uint64_t now_ms,
                                 struct ticket_key *out) {
  enum ticket_use use = TICKET_UNKNOWN;
  pthread_mutex_lock(&r->lock);
  rotate(r, now_ms);
  if (memcmp(name, r->current.name, TICKET_NAME_LEN) == 0) {
    use = TICKET_GOOD;
    *out = r->current;
  } else if (r->has_previous && memcmp(name, r->previous.name, TICKET_NAME_LEN) == 0) {
    use = TICKET_RENEW;
    *out = r->previous;
  }
  pthread_mutex_unlock(&r->lock);
  return use;
}

// ---- OpenSSL's callbacks ----

static bool ready_ciphers(struct ticket_key *k, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                          int seal) {
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->mac, sizeof k->mac),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end(),
  };
  return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, k->aes, iv, seal) == 1 &&
         EVP_MAC_CTX_set_params(mac, params) == 1;
}

// Answers as OpenSSL wants: -1 it failed, 0 no such key, 1 good, 2 good and a new ticket is due.
static int on_ticket_key(SSL *ssl, unsigned char name[TICKET_NAME_LEN], unsigned char iv[EVP_MAX_IV_LENGTH],
                         EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal) {
  struct ticket_ring *ring = tls_of(ssl)->ring;
  struct ticket_key k;
  int answer = 1;
  if (seal) {
    ticket_ring_current(ring, clock_mono_ms(), &k);
    memcpy(name, k.name, sizeof k.name);
    crypto_random(iv, EVP_MAX_IV_LENGTH);
  } else {
    enum ticket_use use = ticket_ring_find(ring, name, clock_mono_ms(), &k);
    if (use == TICKET_UNKNOWN) return 0;
    // In TLS 1.3 clients use a ticket once (RFC 8446, C.4): without a new one every other connection would be a full
    // handshake, and of another lineage.
    if (use == TICKET_RENEW || SSL_version(ssl) >= TLS1_3_VERSION) answer = 2;
  }
  if (!ready_ciphers(&k, iv, cipher, mac, seal)) answer = -1;
  crypto_wipe(&k, sizeof k);
  return answer;
}

// Answers 1, or 0 where it fails.
static int on_new_ticket(SSL *ssl, void *arg) {
  return tls_lineage_seal(ssl) ? 1 : 0;
}

// A resumption sends no certificate: one that has ended since makes it a full handshake, which judges the new one. So
// does a ticket without a lineage, which is none of ours.
static SSL_TICKET_RETURN on_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_len,
                                   SSL_TICKET_STATUS status, void *arg) {
  if (status == SSL_TICKET_EMPTY || status == SSL_TICKET_NO_DECRYPT) return SSL_TICKET_RETURN_IGNORE_RENEW;
  if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) return SSL_TICKET_RETURN_ABORT;
  if (!tls_lineage_sealed(session)) return SSL_TICKET_RETURN_IGNORE_RENEW;
  const X509 *peer = SSL_SESSION_get0_peer(session);
  if (peer && X509_cmp_current_time(X509_get0_notAfter(peer)) < 0) return SSL_TICKET_RETURN_IGNORE_RENEW;
  return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

int tls_tickets_use(struct tls *t) {
  static const unsigned char context[] = "postern";
  SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
  bool ok = SSL_CTX_set_num_tickets(t->ctx, 1) == 1 && SSL_CTX_set_max_early_data(t->ctx, 0) == 1 &&
            SSL_CTX_set_session_id_context(t->ctx, context, sizeof context - 1) == 1 &&
            SSL_CTX_set_tlsext_ticket_key_evp_cb(t->ctx, on_ticket_key) == 1 &&
            SSL_CTX_set_session_ticket_cb(t->ctx, on_new_ticket, on_ticket, NULL) == 1;
  return ok ? 0 : PERR_TLS;
}
