// What NSP clients put into URLs and cookies: names and passwords pasted as they are, in either order, and the token.
#include "postern/wire/nsp_web.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct nsp_web_login login;

// From a buffer that ends with the text.
static int parse_bytes(const char *text, size_t len) {
  char *copy = malloc(len ? len : 1);
  assert_non_null(copy);
  memcpy(copy, text, len);
  int rc = nsp_web_login_parse(copy, len, &login);
  free(copy);
  return rc;
}

static void assert_login(const char *query, const char *user, const char *password) {
  assert_int_equal(parse_bytes(query, strlen(query)), 0);
  assert_string_equal(login.user, user);
  assert_string_equal(login.password, password);
}

static void pasted_as_they_are(void **state) {
  assert_login("username=admin&userpwd=admin", "admin", "admin");
  assert_login("username=a&userpwd=b&c#d+e?f/g=h", "a", "b&c#d+e?f/g=h");
  assert_login("username=a%20b&userpwd=a%20b&c=1+d#%C3%A9A/?", "a b", "a b&c=1+d#\xc3\xa9" "A/?");
  assert_login("username=a&userpwd=&userpwd=b", "a", "&userpwd=b");
  assert_login("username=a&userpwd=username=b&username=c", "a", "username=b&username=c");
  assert_login("username=a&b=c&userpwd=d", "a&b=c", "d");
  assert_login("UserName=a&UserPwd=b", "a", "b");
  assert_login("username=&userpwd=", "", "");
}

static void in_the_other_order(void **state) {
  assert_login("userpwd=b&username=a", "a", "b");
  assert_login("userpwd=b&username=c&username=a", "a", "b&username=c");
  assert_login("userpwd=&username=", "", "");
}

static void what_is_no_escape_stays(void **state) {
  assert_login("username=%61&userpwd=%4a%4B%25", "a", "JK%");
  assert_login("username=a&userpwd=100%", "a", "100%");
  assert_login("username=a&userpwd=%4", "a", "%4");
  assert_login("username=a&userpwd=%4g%G4%%41", "a", "%4g%G4%A");
  assert_login("username=%&userpwd=41", "%", "41"); // an escape does not reach across the key
}

static void what_is_no_login(void **state) {
  static const char *const bad[] = {"", "username=a", "userpwd=a", "user=a&userpwd=b", "x=y&username=a&userpwd=b",
                                    "username=a;userpwd=b", "username=a&userpwd", "username=a%00&userpwd=b",
                                    "username=a&userpwd=b%00"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (parse_bytes(bad[i], strlen(bad[i])) != PERR_INVALID) fail_msg("taken: %s", bad[i]);
  assert_int_equal(parse_bytes("username=a\0&userpwd=b", 21), PERR_INVALID);
}

static void too_long_is_refused_and_leaves_nothing(void **state) {
  static char query[4096];
  struct nsp_web_login empty = {.user = ""};
  for (int over = 0; over < 2; over++) {
    int n = sprintf(query, "username=%0*d&userpwd=x", NSP_WEB_USER_TEXT - 1 + over, 0);
    assert_int_equal(parse_bytes(query, (size_t)n), over ? PERR_INVALID : 0);
    n = sprintf(query, "username=x&userpwd=%0*d", NSP_WEB_PASSWORD_TEXT - 1 + over, 0);
    assert_int_equal(parse_bytes(query, (size_t)n), over ? PERR_INVALID : 0);
  }
  assert_memory_equal(&login, &empty, sizeof empty);
}

static void assert_cookie(const char *cookie, const char *token) {
  char out[16] = "none";
  int rc = nsp_web_cookie_token(cookie, strlen(cookie), out, sizeof out);
  assert_int_equal(rc, token ? 0 : PERR_NOTFOUND);
  assert_string_equal(out, token ? token : "none");
}

static void the_token_among_cookies(void **state) {
  assert_cookie("NSPTK=k/z54D+=", "k/z54D+=");
  assert_cookie("NSPTK=pst_a-b_c", "pst_a-b_c");
  assert_cookie("a=b; NSPTK=c; NSPTK=d", "c");
  assert_cookie("a=b;NSPTK=c", "c");
  assert_cookie(" ;; nsptk=\"c\" ; d", "c");
  assert_cookie("xNSPTK=c; NSPTKx=d", NULL);
  assert_cookie("a=NSPTK=c", NULL);
  assert_cookie("NSPTK", NULL);
  assert_cookie("NSPTK=", NULL);
  assert_cookie("NSPTK=\"\"", NULL);
  assert_cookie("", NULL);
  assert_cookie("NSPTK=123456789012345", "123456789012345");
  assert_cookie("NSPTK=1234567890123456", NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pasted_as_they_are),      cmocka_unit_test(in_the_other_order),
      cmocka_unit_test(what_is_no_escape_stays), cmocka_unit_test(what_is_no_login),
      cmocka_unit_test(too_long_is_refused_and_leaves_nothing),
      cmocka_unit_test(the_token_among_cookies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
