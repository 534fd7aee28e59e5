// The login's query and the cookie, from the same bytes: texts stay within their caps and are ended, and a login that
// was read can be written in such a way that it is read the same again.
#include "postern/wire/nsp_web.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const char *text, char *out) {
  for (; *text; text++) out += sprintf(out, "%%%02x", (unsigned)(unsigned char)*text);
  *out = '\0';
}

static void check_again(const struct nsp_web_login *l) {
  static char user[3 * NSP_WEB_USER_TEXT], password[3 * NSP_WEB_PASSWORD_TEXT], query[sizeof user + sizeof password + 32];
  struct nsp_web_login again;
  encode(l->user, user);
  encode(l->password, password);
  for (int order = 0; order < 2; order++) {
    int n = order ? snprintf(query, sizeof query, "userpwd=%s&username=%s", password, user)
                  : snprintf(query, sizeof query, "username=%s&userpwd=%s", user, password);
    if (nsp_web_login_parse(query, (size_t)n, &again)) abort();
    if (strcmp(again.user, l->user) != 0 || strcmp(again.password, l->password) != 0) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct nsp_web_login login;
  const char *text = (const char *)data;
  if (nsp_web_login_parse(text, size, &login) == 0) {
    if (strlen(login.user) >= sizeof login.user || strlen(login.password) >= sizeof login.password) abort();
    check_again(&login);
  }
  char token[64];
  if (nsp_web_cookie_token(text, size, token, sizeof token) == 0) {
    size_t len = strlen(token);
    if (len == 0 || len >= sizeof token || strchr(token, ';')) abort();
  }
  return 0;
}
