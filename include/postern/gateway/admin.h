// admin: the Unix socket through which posternctl speaks to a running gateway. Main thread only.
//
// docs/admin.md has the protocol: one JSON object in one line each way, then the gateway closes. The socket lies in the
// database folder with mode 0600, and a peer must be its owner or root (SO_PEERCRED).
#ifndef POSTERN_GATEWAY_ADMIN_H
#define POSTERN_GATEWAY_ADMIN_H

#include "postern/base/err.h"
#include <jansson.h>

struct admin;
struct loop;

// Handles one request: returns 0 and sets *data (a new reference, or NULL for nothing), or an error code with its line
// in `e`. `request` is borrowed. Must not block.
typedef int (*admin_handler)(void *ctx, const json_t *request, json_t **data, struct err_text *e);

struct admin_command {
  const char *name; // "session.list"
  admin_handler handler;
};

// Opens the socket (replacing a stale one; another live gateway on it is an error: PERR_IN_USE). Borrows the table.
PERR_MUST_CHECK int admin_open(struct admin **out, struct loop *loop, const char *path, const struct admin_command *table,
                               size_t n, void *ctx, struct err_text *e);
// Closes and removes the socket. NULL is fine.
void admin_close(struct admin *a);

#endif
