// password: what the store keeps instead of a user's password, and whether a text is that password: scrypt.
//
// password_make and both checks take about 100 ms of one processor and 32 MiB: on a thread that may block, never on a
// loop's.
#ifndef POSTERN_CORE_PASSWORD_H
#define POSTERN_CORE_PASSWORD_H

#include "postern/store/store.h"

enum { PASSWORD_MAX_LEN = 512, PASSWORD_TEXT = PASSWORD_MAX_LEN + 1 };

// 1 to 512 bytes without control characters.
bool password_valid(const char *text);
// With a new random salt. PERR_INVALID (password_valid), PERR_NOMEM.
PERR_MUST_CHECK int password_make(const char *text, struct store_password *out);
// False also for a record whose cost is out of bounds, and for want of memory; both are logged.
bool password_check(const char *text, const struct store_password *p);
// Takes as long as password_check, for a user that does not exist or has no password: the time tells nobody which.
void password_check_nobody(const char *text);

#endif
