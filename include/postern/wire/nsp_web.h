// nsp_web: what an NSP client puts into its HTTP requests: the login's query, and the cookie with its token. Pure
// functions over bytes. Lenient where the clients are sloppy: they paste names and passwords into the URL as they are.
#ifndef POSTERN_WIRE_NSP_WEB_H
#define POSTERN_WIRE_NSP_WEB_H

#include "postern/base/err.h"
#include <stddef.h>

enum {
  NSP_WEB_USER_TEXT = 256,     // NUL included
  NSP_WEB_PASSWORD_TEXT = 1024, // NUL included
};

struct nsp_web_login {
  char user[NSP_WEB_USER_TEXT];
  char password[NSP_WEB_PASSWORD_TEXT]; // a secret: wipe it
};

// "username=U&userpwd=P": U ends at the first "&userpwd=", P is all that follows it, whatever characters it has. Or
// "userpwd=P&username=U": there U begins behind the last "&username=". "%XX" is decoded where it is one, '+' stays '+'.
// PERR_INVALID: neither of the two, a NUL, or too long for the struct, which is wiped then.
PERR_MUST_CHECK int nsp_web_login_parse(const char *query, size_t len, struct nsp_web_login *out);

// The value of the cookie NSPTK among those of a Cookie field, without quotes around it; it may have '=' in it. At most
// `cap` - 1 bytes. PERR_NOTFOUND: there is none, it is empty or does not fit.
PERR_MUST_CHECK int nsp_web_cookie_token(const char *cookie, size_t len, char *out, size_t cap);

#endif
