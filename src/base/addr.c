// addr: socket addresses and their texts. Any thread; owns nothing. An address has one form here: IPv4 written as
// IPv6 (::ffff:192.0.2.1) becomes IPv4 wherever it comes from, so that bans and comparisons cannot be dodged.
#include "postern/base/addr.h"
#include "postern/base/text.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { HOST_MAX = HOST_TEXT - 3, LABEL_MAX = 63 };

static void set_in(struct addr *a, struct in_addr ip, in_port_t port) {
  memset(a, 0, sizeof *a);
  a->in.sin_family = AF_INET;
  a->in.sin_addr = ip;
  a->in.sin_port = port;
  a->len = sizeof a->in;
}

static void set_in6(struct addr *a, const struct sockaddr_in6 *in6) {
  if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
    struct in_addr ip;
    memcpy(&ip, in6->sin6_addr.s6_addr + 12, sizeof ip);
    set_in(a, ip, in6->sin6_port);
    return;
  }
  struct sockaddr_in6 copy = *in6; // may lie inside *a
  memset(a, 0, sizeof *a);
  a->in6 = copy;
  a->len = sizeof a->in6;
}

static int parse_ip6(struct addr *a, const char *text, size_t len, uint16_t port) {
  char ip[INET6_ADDRSTRLEN];
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (len >= sizeof ip) return PERR_INVALID;
  memcpy(ip, text, len);
  ip[len] = '\0';
  if (inet_pton(AF_INET6, ip, &in6.sin6_addr) != 1) return PERR_INVALID;
  set_in6(a, &in6);
  return 0;
}

int addr_from_ip(struct addr *a, const char *ip, uint16_t port) {
  struct in_addr in;
  size_t len = strlen(ip);
  if (inet_pton(AF_INET, ip, &in) == 1) {
    set_in(a, in, htons(port));
    return 0;
  }
  if (len > 2 && ip[0] == '[' && ip[len - 1] == ']') return parse_ip6(a, ip + 1, len - 2, port);
  return parse_ip6(a, ip, len, port);
}

// The host part of "HOST:PORT" without brackets. *bracketed tells whether it had some.
static int split(const char *text, char host[HOST_TEXT], bool *bracketed, uint16_t *port) {
  const char *colon = strrchr(text, ':');
  uint64_t number;
  if (!colon || decimal_parse(colon + 1, strlen(colon + 1), UINT16_MAX, &number)) return PERR_INVALID;
  size_t len = (size_t)(colon - text);
  *bracketed = len > 2 && text[0] == '[' && text[len - 1] == ']';
  if (*bracketed) {
    text++;
    len -= 2;
  }
  if (len == 0 || len > HOST_MAX) return PERR_INVALID;
  memcpy(host, text, len);
  host[len] = '\0';
  *port = (uint16_t)number;
  return 0;
}

int addr_parse(struct addr *a, const char *text) {
  char host[HOST_TEXT];
  bool bracketed;
  uint16_t port;
  struct in_addr ip;
  if (split(text, host, &bracketed, &port)) return PERR_INVALID;
  if (bracketed) return parse_ip6(a, host, strlen(host), port);
  if (inet_pton(AF_INET, host, &ip) != 1) return PERR_INVALID;
  set_in(a, ip, htons(port));
  return 0;
}

// Letters, digits, hyphens and underscores in labels of 1 to 63, a dot at the end allowed.
static bool host_name_valid(const char *host) {
  size_t label = 0;
  for (const char *p = host; *p; p++) {
    if (*p == '.') {
      if (label == 0) return false;
      label = 0;
      continue;
    }
    bool alnum = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');
    if (!(alnum || *p == '-' || *p == '_') || ++label > LABEL_MAX) return false;
  }
  return true;
}

int hostport_split(const char *text, char host[HOST_TEXT], uint16_t *port) {
  bool bracketed;
  struct addr ip6;
  uint16_t number;
  char name[HOST_TEXT];
  if (split(text, name, &bracketed, &number) || number == 0) return PERR_INVALID;
  if (bracketed ? parse_ip6(&ip6, name, strlen(name), number) != 0 : !host_name_valid(name)) return PERR_INVALID;
  memcpy(host, name, sizeof name);
  *port = number;
  return 0;
}

void addr_from_sockaddr(struct addr *a, const struct sockaddr *sa, socklen_t len) {
  struct addr in = {0};
  memcpy(&in.in6, sa, len < sizeof in.in6 ? len : sizeof in.in6);
  if (len >= sizeof in.in && in.sa.sa_family == AF_INET) {
    set_in(a, in.in.sin_addr, in.in.sin_port);
  } else if (len >= sizeof in.in6 && in.sa.sa_family == AF_INET6) {
    set_in6(a, &in.in6);
  } else {
    bool known = in.sa.sa_family == AF_INET || in.sa.sa_family == AF_INET6; // and too short to be one
    memset(a, 0, sizeof *a);
    if (len < sizeof a->sa.sa_family || known) return;
    a->sa.sa_family = in.sa.sa_family;
    a->len = sizeof a->sa.sa_family;
  }
}

const char *addr_format_ip(const struct addr *a, char out[ADDR_TEXT]) {
  const char *text = NULL;
  if (a->len && a->sa.sa_family == AF_INET) text = inet_ntop(AF_INET, &a->in.sin_addr, out, ADDR_TEXT);
  if (a->len && a->sa.sa_family == AF_INET6) text = inet_ntop(AF_INET6, &a->in6.sin6_addr, out, ADDR_TEXT);
  if (!text) memcpy(out, a->len ? "unix" : "-", a->len ? sizeof "unix" : sizeof "-");
  return out;
}

const char *addr_format(const struct addr *a, char out[ADDR_TEXT]) {
  char ip[ADDR_TEXT];
  addr_format_ip(a, ip);
  bool is_ip = a->len && (a->sa.sa_family == AF_INET || a->sa.sa_family == AF_INET6);
  if (!is_ip)
    memcpy(out, ip, sizeof ip);
  else
    snprintf(out, ADDR_TEXT, a->sa.sa_family == AF_INET6 ? "[%.45s]:%u" : "%.15s:%u", ip, addr_port(a));
  return out;
}

uint16_t addr_port(const struct addr *a) {
  if (a->len && a->sa.sa_family == AF_INET) return ntohs(a->in.sin_port);
  if (a->len && a->sa.sa_family == AF_INET6) return ntohs(a->in6.sin6_port);
  return 0;
}

void addr_set_port(struct addr *a, uint16_t port) {
  if (a->len && a->sa.sa_family == AF_INET) a->in.sin_port = htons(port);
  if (a->len && a->sa.sa_family == AF_INET6) a->in6.sin6_port = htons(port);
}

bool addr_is_loopback(const struct addr *a) {
  if (a->len && a->sa.sa_family == AF_INET) return ntohl(a->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  return a->len && a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

bool addr_equal_ip(const struct addr *a, const struct addr *b) {
  if (!a->len || !b->len || a->sa.sa_family != b->sa.sa_family) return false;
  if (a->sa.sa_family == AF_INET) return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
  return a->sa.sa_family == AF_INET6 && IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
}
