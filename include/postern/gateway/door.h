// door: the control port. Accepts, does TLS and the hello on a thread of its own, checks the credential, and hands the
// finished connection to a worker, so that strangers' handshakes never stall a tenant.
#ifndef POSTERN_GATEWAY_DOOR_H
#define POSTERN_GATEWAY_DOOR_H

#include "postern/core/config.h"
#include "postern/net/tls.h"

struct door;
struct gateway;

enum { DOOR_MAX_CALLERS = 16384 };

// Binds `control.listen` and starts the thread. An address that is written down and cannot be had is an error.
PERR_MUST_CHECK int door_start(struct door **out, struct gateway *g, struct err_text *e);
// Joins the thread, closes everything, frees. NULL is fine.
void door_stop(struct door *d);
// After a reload; takes references of its own. Any thread.
void door_set_config(struct door *d, struct config *c, struct tls *t);

#endif
