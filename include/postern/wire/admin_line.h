// admin_line: the two lines of the admin protocol (docs/admin.md): a request {"command":NAME, …} and a reply
// {"ok":true,"data":…} or {"ok":false,"error":"…"}. Pure functions over text; used by the gateway and posternctl.
#ifndef POSTERN_WIRE_ADMIN_LINE_H
#define POSTERN_WIRE_ADMIN_LINE_H

#include "postern/base/err.h"
#include <jansson.h>
#include <stddef.h>

#define ADMIN_SOCKET "postern.sock" // in the database folder

enum {
  ADMIN_REQUEST_MAX = 64 * 1024,     // bytes of a request, its newline included
  ADMIN_REPLY_MAX = 64 * 1024 * 1024 // bytes of a reply that posternctl reads
};

// Parses one request line (without its newline; `len` bytes). *out is a new reference to an object whose "command" is
// a string. PERR_PROTOCOL with a line in `e` otherwise.
PERR_MUST_CHECK int admin_request_parse(const char *line, size_t len, json_t **out, struct err_text *e);
// The command of a parsed request; borrowed from it.
const char *admin_request_command(const json_t *request);

// These return a line with its newline, heap, caller frees; NULL for want of memory.
char *admin_request_format(json_t *request); // borrows
char *admin_reply_ok(json_t *data);          // borrows; NULL is null
char *admin_reply_error(const char *text);

// Parses one reply line. 0 and *data (a new reference), PERR_DENIED with the gateway's line in `e`, or PERR_PROTOCOL.
PERR_MUST_CHECK int admin_reply_parse(const char *line, size_t len, json_t **data, struct err_text *e);

#endif
