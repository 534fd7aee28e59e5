// nsp_tls: the client side of TLS for the NSP benchmark: one context, the newest session, connections on their way.
#ifndef BENCH_NSP_TLS_H
#define BENCH_NSP_TLS_H
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

// Never returns without success. `version` is TLS1_2_VERSION or TLS1_3_VERSION, the only one that is offered.
SSL_CTX *tls_context(const char *ca_file, int version);

// A connection to 127.0.0.1:port which will resume by the newest ticket, its socket not connected yet; NULL with errno.
SSL *tls_dial(SSL_CTX *ctx, uint16_t port);

// Says goodbye without waiting for an answer, and closes.
void tls_hang_up(SSL *ssl);

// What a call of OpenSSL that returned `ret` <= 0 means: true when there is nothing now. Otherwise *end tells whether
// the peer ended in order; if not, `text` is why.
bool tls_is_waiting(SSL *ssl, int ret, bool *end, const char **text);

#endif
