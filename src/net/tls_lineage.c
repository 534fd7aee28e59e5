// tls_lineage: what connections of one client have in common, by a random value that only its tickets carry on. Called
// by OpenSSL through tls_tickets.c and by whoever wants to know; the value belongs to the SSL object and its thread.
#include "postern/net/tls_internal.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static int lineage_index = -1;
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

static void free_lineage(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl, void *argp) {
  free(ptr);
}

static void make_index(void) {
  lineage_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_lineage);
}

const uint8_t *tls_lineage_sealed(SSL_SESSION *session) {
  void *data = NULL;
  size_t len = 0;
  if (SSL_SESSION_get0_ticket_appdata(session, &data, &len) != 1 || len != TLS_LINEAGE_LEN) return NULL;
  return data;
}

// Asked for only once it is settled whether the session is a resumed one: what a ticket held counts for nothing before,
// as OpenSSL may turn down a ticket that was opened well, and nobody has shown then that it is its owner. NULL for want
// of memory.
static const uint8_t *lineage_of(SSL *ssl) {
  pthread_once(&index_once, make_index);
  uint8_t *own = SSL_get_ex_data(ssl, lineage_index);
  if (own) return own;
  const uint8_t *inherited = SSL_session_reused(ssl) ? tls_lineage_sealed(SSL_get0_session(ssl)) : NULL;
  own = malloc(TLS_LINEAGE_LEN);
  if (!own) return NULL;
  if (inherited)
    memcpy(own, inherited, TLS_LINEAGE_LEN);
  else
    crypto_random(own, TLS_LINEAGE_LEN);
  if (SSL_set_ex_data(ssl, lineage_index, own)) return own;
  free(own);
  return NULL;
}

bool tls_lineage_seal(SSL *ssl) {
  const uint8_t *lineage = lineage_of(ssl);
  return lineage && SSL_SESSION_set1_ticket_appdata(SSL_get0_session(ssl), lineage, TLS_LINEAGE_LEN) == 1;
}

int tls_lineage(struct ssl_st *ssl, uint8_t out[TLS_LINEAGE_LEN]) {
  const uint8_t *lineage = lineage_of(ssl);
  if (!lineage) return PERR_NOMEM;
  memcpy(out, lineage, TLS_LINEAGE_LEN);
  return 0;
}
