// enrol: reads an enrolment line, for config. Owns nothing; errors name a part of the line and never repeat it.
#include "postern/agent/enrol.h"
#include "postern/agent/pin.h"
#include <string.h>

static const char scheme[] = "postern://";

static int malformed(struct err_text *e, const char *what) {
  return err_set(e, PERR_INVALID, "not an enrolment line (postern://HOST:PORT#pin=PIN&token=TOKEN): %s", what);
}

// Copies `len` bytes of text into `out`; false where they do not fit.
static bool take(char *out, size_t cap, const char *text, size_t len) {
  if (len >= cap) return false;
  memcpy(out, text, len);
  out[len] = '\0';
  return true;
}

static int parse_server(const char *text, size_t len, struct enrolment *out, struct err_text *e) {
  char host[HOST_TEXT];
  uint16_t port;
  if (!take(out->server, sizeof out->server, text, len) || hostport_split(out->server, host, &port))
    return malformed(e, "the server is not HOST:PORT");
  return 0;
}

static int parse_pin(const char *text, size_t len, struct enrolment *out, struct err_text *e) {
  char pin[4 * SHA256_LEN];
  if (!take(pin, sizeof pin, text, len) || pin_parse(pin, out->pin))
    return malformed(e, "the pin is not a SHA-256 in base64 or hex");
  return 0;
}

static int parse_token(const char *text, size_t len, struct enrolment *out, struct err_text *e) {
  if (len == 0) return malformed(e, "the token is empty");
  if (!take(out->token, sizeof out->token, text, len)) return malformed(e, "the token is too long");
  return 0;
}

static const struct part {
  const char *key;
  int (*parse)(const char *text, size_t len, struct enrolment *out, struct err_text *e);
} parts[] = {{"pin=", parse_pin}, {"token=", parse_token}};

enum { PARTS = sizeof parts / sizeof parts[0], ALL_PARTS = (1 << PARTS) - 1 };

static int parse_part(const char *text, size_t len, unsigned *seen, struct enrolment *out, struct err_text *e) {
  for (unsigned i = 0; i < PARTS; i++) {
    size_t key = strlen(parts[i].key);
    if (len < key || memcmp(text, parts[i].key, key) != 0) continue;
    if (*seen & 1u << i) return malformed(e, "a part comes twice");
    *seen |= 1u << i;
    return parts[i].parse(text + key, len - key, out, e);
  }
  return malformed(e, "it has a part other than pin and token");
}

int enrol_parse(const char *line, struct enrolment *out, struct err_text *e) {
  *out = (struct enrolment){0};
  if (strncmp(line, scheme, strlen(scheme)) != 0) return malformed(e, "it does not begin with postern://");
  const char *server = line + strlen(scheme), *at = strchr(server, '#');
  if (!at) return malformed(e, "it has no #");
  int rc = parse_server(server, (size_t)(at - server), out, e);
  unsigned seen = 0;
  while (rc == 0 && *at) {
    const char *part = at + 1;
    at = strchrnul(part, '&');
    rc = parse_part(part, (size_t)(at - part), &seen, out, e);
  }
  if (rc == 0 && seen != ALL_PARTS) rc = malformed(e, "the pin or the token is missing");
  if (rc < 0) crypto_wipe(out, sizeof *out);
  return rc;
}
