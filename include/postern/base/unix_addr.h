// unix_addr: the address of a Unix socket, also where its path is too long for a sockaddr_un.
#ifndef POSTERN_BASE_UNIX_ADDR_H
#define POSTERN_BASE_UNIX_ADDR_H

#include "postern/base/err.h"
#include <sys/socket.h>
#include <sys/un.h>

// Names the socket `name` in the folder that the descriptor `dir` stands for, whatever the length of the folder's own
// path. The address is good for bind and connect while `dir` stays open. PERR_LIMIT: the name is too long.
PERR_MUST_CHECK int unix_addr_in(struct sockaddr_un *out, int dir, const char *name);

#endif
