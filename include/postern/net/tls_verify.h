// tls_verify: judges the peer's certificate chain: trusted CAs, pins, name and date. For net's TLS modules alone.
#ifndef POSTERN_NET_TLS_VERIFY_H
#define POSTERN_NET_TLS_VERIFY_H

#include "postern/base/err.h"

struct tls;

// Makes the context verify every peer; one without a certificate is refused. Of a client, its pins and has_ca decide
// with the trust store of the context. What is wrong with a refused one is kept for tls_verify_text.
void tls_verify_use(struct tls *t);
// Adds the certificates of a PEM file to the trust store of the context; `hash` as in tls_files.h.
PERR_MUST_CHECK int tls_verify_trust(struct tls *t, const char *what, const char *file, unsigned char *hash,
                                     struct err_text *e);

#endif
