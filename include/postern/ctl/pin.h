// pin: the public key by which an enrolled agent knows its gateway.
#ifndef POSTERN_CTL_PIN_H
#define POSTERN_CTL_PIN_H

#include "postern/base/crypto.h"

// SHA-256 of a SubjectPublicKeyInfo in the PEM file `certificate` (the leaf first, as the gateway sends it): of the
// topmost CA certificate in the file that issued the leaf, directly or through others in it; else of the leaf.
PERR_MUST_CHECK int pin_of_chain(const char *certificate, uint8_t pin[SHA256_LEN], struct err_text *e);

#endif
