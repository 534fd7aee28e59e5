// enrol: the enrolment line that posternctl prints, `postern://HOST:PORT#pin=PIN&token=TOKEN`: all that an agent needs.
#ifndef POSTERN_AGENT_ENROL_H
#define POSTERN_AGENT_ENROL_H

#include "postern/base/addr.h"
#include "postern/base/crypto.h"
#include "postern/base/err.h"
#include "postern/wire/control.h"
#include <stdint.h>

enum { ENROL_TEXT = 8192 }; // room for a whole line, NUL included

struct enrolment {
  char server[HOST_TEXT + 8]; // "HOST:PORT"
  uint8_t pin[SHA256_LEN];
  char token[CONTROL_TOKEN_TEXT];
};

// PERR_INVALID: `e` says which part is wrong and never shows the token. `out` holds a secret: wipe it when done.
PERR_MUST_CHECK int enrol_parse(const char *line, struct enrolment *out, struct err_text *e);

#endif
