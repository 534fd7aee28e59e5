// prompt: a password from standard input: one line of a pipe or file, or typed unseen on a terminal.
#ifndef POSTERN_CTL_PROMPT_H
#define POSTERN_CTL_PROMPT_H

#include "postern/core/password.h"

// On a terminal asks on stderr, twice. PERR_INVALID: no line, or one that password_valid refuses; PERR_DENIED: the two
// that were typed differ; PERR_IO. `out` holds a secret: the caller wipes it, also after an error.
PERR_MUST_CHECK int prompt_password(char out[PASSWORD_TEXT], struct err_text *e);

#endif
