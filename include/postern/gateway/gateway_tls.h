// gateway_tls: the TLS contexts of the gateway's own ports, made from the configuration at start and reload. Main thread.
#ifndef POSTERN_GATEWAY_GATEWAY_TLS_H
#define POSTERN_GATEWAY_GATEWAY_TLS_H

#include "postern/core/config.h"
#include "postern/net/tls.h"

// Control and reverse share their ticket keys, so that a TLS session of the one resumes at the other. The web port asks
// nobody for a certificate, and so has tickets of its own.
struct gateway_tls {
  struct tls *control, *reverse, *web; // counted
};

// `file` is named in errors. `previous` (may be NULL) hands its ticket keys on. A reference to each for the caller.
PERR_MUST_CHECK int gateway_tls_make(struct gateway_tls *out, const struct config *c, const char *file,
                                     const struct gateway_tls *previous, struct err_text *e);
struct gateway_tls gateway_tls_ref(const struct gateway_tls *t);
void gateway_tls_unref(struct gateway_tls *t);
// Logs each key of the control port that is no longer in the chain: those that pinned it will not come back by
// themselves.
void gateway_tls_warn_of_pins(const struct gateway_tls *was, const struct gateway_tls *is);

#endif
