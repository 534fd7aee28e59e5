// text: names that users give, decimal numbers, and files that hold a secret.
#ifndef POSTERN_BASE_TEXT_H
#define POSTERN_BASE_TEXT_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NAME_MAX_LEN = 64, NAME_TEXT = 65 };

// 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit: users, instances, tunnels.
bool name_valid(const char *name);

// `len` digits and nothing else, without leading zeros, 0 to max. PERR_INVALID otherwise.
PERR_MUST_CHECK int decimal_parse(const char *text, size_t len, uint64_t max, uint64_t *value);

// Reads a small file that holds one secret line (a token); surrounding white space is removed. A file of more than
// `cap` - 1 bytes, an unreadable or an empty one is an error. Sets *loose when others can read it. `what` names the
// file's role in the error.
PERR_MUST_CHECK int secret_read(const char *file, const char *what, char *out, size_t cap, bool *loose,
                                struct err_text *e);
// True when group or others may read the file.
bool file_is_loose(const char *file);

#endif
