// door: every port that agents call at: control, reverse and web, each in TLS, and without it where the configuration
// says so. Accepts, does TLS and reads what the caller has to say on a thread of its own, checks the credential, and
// hands the finished connection to a worker, so that strangers' handshakes never stall a tenant.
#ifndef POSTERN_GATEWAY_DOOR_H
#define POSTERN_GATEWAY_DOOR_H

#include "postern/core/config.h"
#include "postern/gateway/gateway_tls.h"

struct door;
struct gateway;

enum { DOOR_MAX_CALLERS = 16384 };

// PERR_NOMEM, PERR_LIMIT.
PERR_MUST_CHECK int door_new(struct door **out, struct gateway *g);
// Binds the listeners and starts the thread. An address that is written down and cannot be had is an error.
PERR_MUST_CHECK int door_start(struct door *d, struct err_text *e);
// Joins the thread and closes every connection. Answers that others owe it may still be posted until door_free.
void door_stop(struct door *d);
void door_free(struct door *d); // NULL is fine
// After a reload; takes references of its own. Any thread.
void door_set_config(struct door *d, struct config *c, const struct gateway_tls *t);

#endif
