// pin: the texts of a pinned public key, its SHA-256.
#ifndef POSTERN_AGENT_PIN_H
#define POSTERN_AGENT_PIN_H

#include "postern/base/crypto.h"
#include "postern/base/err.h"
#include <stdint.h>

// 64 hex digits, colons between bytes allowed, or base64 in either alphabet.
PERR_MUST_CHECK int pin_parse(const char *text, uint8_t pin[SHA256_LEN]);

#endif
