// unix_addr: see the header. Called by the gateway's admin interface and by posternctl; owns nothing. Any thread.
#include "postern/base/unix_addr.h"
#include <stdio.h>
#include <string.h>

int unix_addr_in(struct sockaddr_un *out, int dir, const char *name) {
  memset(out, 0, sizeof *out);
  out->sun_family = AF_UNIX;
  int n = snprintf(out->sun_path, sizeof out->sun_path, "/proc/self/fd/%d/%s", dir, name);
  return n < 0 || (size_t)n >= sizeof out->sun_path ? PERR_LIMIT : 0;
}
