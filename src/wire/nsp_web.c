// nsp_web: see nsp_web.h. Called for the web port's requests on the handshake thread; any thread, owns nothing.
#include "postern/wire/nsp_web.h"
#include "postern/base/crypto.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

struct part {
  const char *p;
  size_t len;
};

// ---- finding ----

static bool begins_with(struct part s, const char *text) {
  size_t n = strlen(text);
  return s.len >= n && strncasecmp(s.p, text, n) == 0;
}

static struct part after(struct part s, size_t n) { return (struct part){s.p + n, s.len - n}; }

// Cuts `s` at the first or the last `mark`. False: it is not there.
static bool cut(struct part s, const char *mark, bool last, struct part *before, struct part *behind) {
  bool found = false;
  for (size_t i = 0; i < s.len && !(found && !last); i++) {
    if (!begins_with(after(s, i), mark)) continue;
    *before = (struct part){s.p, i};
    *behind = after(s, i + strlen(mark));
    found = true;
  }
  return found;
}

// ---- decoding ----

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// As text of at most cap - 1 bytes; "%XX" that is none stays as it is.
static int decode(struct part s, char *out, size_t cap) {
  size_t n = 0;
  while (s.len) {
    char c = s.p[0];
    size_t used = 1;
    int high = s.len > 2 && c == '%' ? hex_value(s.p[1]) : -1, low = high >= 0 ? hex_value(s.p[2]) : -1;
    if (low >= 0) {
      c = (char)(high << 4 | low);
      used = 3;
    }
    if (c == '\0' || n + 1 >= cap) return PERR_INVALID;
    out[n++] = c;
    s = after(s, used);
  }
  out[n] = '\0';
  return 0;
}

// ---- the two things ----

int nsp_web_login_parse(const char *query, size_t len, struct nsp_web_login *out) {
  static const char user_key[] = "username=", password_key[] = "userpwd=";
  struct part q = {query, len}, user = {0}, password = {0};
  bool found = false;
  if (begins_with(q, user_key))
    found = cut(after(q, strlen(user_key)), "&userpwd=", false, &user, &password);
  else if (begins_with(q, password_key))
    found = cut(after(q, strlen(password_key)), "&username=", true, &password, &user);
  int code = found ? decode(user, out->user, sizeof out->user) : PERR_INVALID;
  if (code == 0) code = decode(password, out->password, sizeof out->password);
  if (code) crypto_wipe(out, sizeof *out);
  return code;
}

static struct part trim(struct part s, const char *drop) {
  while (s.len && s.p[0] && strchr(drop, s.p[0])) s = after(s, 1);
  while (s.len && s.p[s.len - 1] && strchr(drop, s.p[s.len - 1])) s.len--;
  return s;
}

int nsp_web_cookie_token(const char *cookie, size_t len, char *out, size_t cap) {
  struct part rest = {cookie, len};
  while (rest.len) {
    const char *semicolon = memchr(rest.p, ';', rest.len);
    size_t n = semicolon ? (size_t)(semicolon - rest.p) : rest.len;
    struct part one = trim((struct part){rest.p, n}, " \t");
    rest = after(rest, semicolon ? n + 1 : n);
    if (!begins_with(one, "NSPTK=")) continue;
    one = trim(after(one, strlen("NSPTK=")), " \t\"");
    if (one.len == 0 || one.len >= cap || memchr(one.p, '\0', one.len)) return PERR_NOTFOUND;
    memcpy(out, one.p, one.len);
    out[one.len] = '\0';
    return 0;
  }
  return PERR_NOTFOUND;
}
