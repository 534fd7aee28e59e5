// crypto: random bytes, digests, comparison in constant time, text encodings. Wraps OpenSSL's libcrypto.
#ifndef POSTERN_BASE_CRYPTO_H
#define POSTERN_BASE_CRYPTO_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_LEN = 32 };

// Fills `out` from the system's generator; aborts the process when there is none, for nothing is safe then.
void crypto_random(void *out, size_t len);
void crypto_sha256(const void *data, size_t len, uint8_t out[SHA256_LEN]);
// Constant time in `len`.
bool crypto_equal(const void *a, const void *b, size_t len);
// Overwrites a secret so that the compiler keeps it.
void crypto_wipe(void *data, size_t len);

// Lower-case hex; `out` holds 2*len + 1 bytes.
void hex_encode(const void *data, size_t len, char *out);
// Exactly 2*len hex digits of either case. PERR_INVALID otherwise.
PERR_MUST_CHECK int hex_decode(const char *text, void *out, size_t len);
// base64url without padding (RFC 4648, section 5); `out` holds BASE64_LEN(len) + 1 bytes.
#define BASE64_LEN(n) (((n) * 4 + 2) / 3)
void base64_encode(const void *data, size_t len, char *out);
// Text of exactly BASE64_LEN(len) characters, in base64url or standard alphabet, padding allowed after it.
PERR_MUST_CHECK int base64_decode(const char *text, void *out, size_t len);

#endif
