// resources: the names of ports and hosts, as text for people and as keys of bounds and claims. Pure functions.
#include "postern/store/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_MAX = 253, LABEL_MAX = 63, PORT_DIGITS = 5 };

static int parse_port(const char *text, uint16_t *out) {
  size_t len = strspn(text, "0123456789");
  if (len == 0 || len > PORT_DIGITS || text[len] || text[0] == '0') return PERR_INVALID;
  unsigned long port = strtoul(text, NULL, 10);
  if (port > UINT16_MAX) return PERR_INVALID;
  *out = (uint16_t)port;
  return 0;
}

static bool is_label(const char *p, size_t len) {
  if (len == 0 || len > LABEL_MAX || p[0] == '-' || p[len - 1] == '-') return false;
  return strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-_") >= len;
}

// Labels between dots; the first may be a lone '*'.
static bool is_host(const char *host) {
  if (strcmp(host, "*") == 0) return true;
  if (strncmp(host, "*.", 2) == 0) host += 2;
  for (;;) {
    size_t len = strcspn(host, ".");
    if (!is_label(host, len)) return false;
    if (host[len] == '\0') return true;
    host += len + 1;
  }
}

static int parse_host(const char *text, char out[HOST_TEXT]) {
  size_t len = strnlen(text, HOST_TEXT);
  if (len > 1 && len < HOST_TEXT && text[len - 1] == '.') len--;
  if (len == 0 || len > HOST_MAX) return PERR_INVALID;
  for (size_t i = 0; i < len; i++) out[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
  out[len] = '\0';
  return is_host(out) ? 0 : PERR_INVALID;
}

int store_resource_parse(const char *text, struct store_resource *out) {
  *out = (struct store_resource){.kind = STORE_TCP};
  if (strncmp(text, "tcp/", 4) == 0) return parse_port(text + 4, &out->port);
  out->kind = STORE_UDP;
  if (strncmp(text, "udp/", 4) == 0) return parse_port(text + 4, &out->port);
  out->kind = STORE_HOST;
  if (strncmp(text, "host/", 5) == 0) return parse_host(text + 5, out->host);
  return PERR_INVALID;
}

const char *store_resource_format(const struct store_resource *r, char out[HOST_TEXT + 8]) {
  if (r->kind == STORE_HOST)
    snprintf(out, HOST_TEXT + 8, "host/%s", r->host);
  else
    snprintf(out, HOST_TEXT + 8, "%s/%u", r->kind == STORE_UDP ? "udp" : "tcp", r->port);
  return out;
}

int store_resource_key(const struct store_resource *r, struct store_key *k) {
  uint8_t kind = (uint8_t)r->kind;
  store_key_append(k, &kind, 1);
  if (r->kind == STORE_HOST) {
    size_t len = strnlen(r->host, sizeof r->host);
    if (len == 0 || len > HOST_MAX) return PERR_INVALID;
    store_key_append(k, r->host, len);
    return 0;
  }
  if (r->port == 0 || (r->kind != STORE_TCP && r->kind != STORE_UDP)) return PERR_INVALID;
  uint8_t port[2];
  struct wr w = wr_init(port, sizeof port);
  wr_u16(&w, r->port);
  store_key_append(k, port, sizeof port);
  return 0;
}

int store_resource_read(struct rd *key, struct store_resource *out) {
  *out = (struct store_resource){.kind = (enum store_kind)rd_u8(key)};
  if (out->kind == STORE_HOST) {
    size_t len = key->left;
    if (len == 0 || len > HOST_MAX) return PERR_CORRUPT;
    memcpy(out->host, rd_bytes(key, len), len);
  } else {
    if (out->kind != STORE_TCP && out->kind != STORE_UDP) return PERR_CORRUPT;
    out->port = rd_u16(key);
  }
  return rd_done(key) ? 0 : PERR_CORRUPT;
}
