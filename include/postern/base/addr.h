// addr: socket addresses and the texts that name them.
#ifndef POSTERN_BASE_ADDR_H
#define POSTERN_BASE_ADDR_H

#include "postern/base/err.h"
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct addr {
  union {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
  };
  socklen_t len; // 0: unset
};

enum {
  ADDR_TEXT = 64,   // enough for addr_format, NUL included
  HOST_TEXT = 256,  // a host name (253 at most), NUL included
};

// "192.0.2.1:80", "[2001:db8::1]:80". No names.
PERR_MUST_CHECK int addr_parse(struct addr *a, const char *text);
// An IP address without port ("192.0.2.1", "2001:db8::1", "[::]") and a port.
PERR_MUST_CHECK int addr_from_ip(struct addr *a, const char *ip, uint16_t port);
// Copies a sockaddr that the system gave; an IPv4-mapped IPv6 address becomes IPv4.
void addr_from_sockaddr(struct addr *a, const struct sockaddr *sa, socklen_t len);
// "IP:PORT" as addr_parse reads it; "unix" for other families. Returns `out`.
const char *addr_format(const struct addr *a, char out[ADDR_TEXT]);
// The IP alone, without brackets.
const char *addr_format_ip(const struct addr *a, char out[ADDR_TEXT]);
uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);
bool addr_is_loopback(const struct addr *a);
bool addr_equal_ip(const struct addr *a, const struct addr *b);

// Splits "HOST:PORT" (HOST may be a bracketed IPv6 address; brackets are removed). PORT is 1..65535.
// PERR_INVALID where either part is missing or malformed.
PERR_MUST_CHECK int hostport_split(const char *text, char host[HOST_TEXT], uint16_t *port);

#endif
