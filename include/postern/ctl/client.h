// client: one request to the running gateway over its Unix socket (docs/admin.md).
#ifndef POSTERN_CTL_CLIENT_H
#define POSTERN_CTL_CLIENT_H

#include "postern/base/err.h"
#include <jansson.h>

// Sends the request (borrowed) to the gateway on the database folder `dir` and waits for its answer, 15 s at most.
// *data is a new reference. PERR_NOTFOUND: no gateway is running there.
PERR_MUST_CHECK int client_ask(const char *dir, json_t *request, json_t **data, struct err_text *e);

#endif
