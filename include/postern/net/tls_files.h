// tls_files: certificates and keys from PEM files, with errors that name the file. For net's TLS modules alone.
#ifndef POSTERN_NET_TLS_FILES_H
#define POSTERN_NET_TLS_FILES_H

#include "postern/base/crypto.h"
#include "postern/base/err.h"
#include <openssl/evp.h>
#include <openssl/x509.h>

// All certificates of a file, at least one, in its order; caller frees. `hash` (may be NULL) is the SHA-256 of the
// file's content. `what` names the file's role in the error: "certificate", "CA".
PERR_MUST_CHECK int tls_files_certificates(const char *what, const char *file, STACK_OF(X509) * *out,
                                           uint8_t hash[SHA256_LEN], struct err_text *e);
// The private key of a file that is not encrypted; caller frees.
PERR_MUST_CHECK int tls_files_key(const char *file, EVP_PKEY **out, struct err_text *e);

#endif
