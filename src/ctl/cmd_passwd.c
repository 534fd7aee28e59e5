// cmd_passwd: sets the password of a user for the web login. Called through the command table.
#include "postern/ctl/cmd_passwd.h"
#include "postern/core/password.h"
#include "postern/ctl/prompt.h"
#include "postern/ctl/view.h"
#include <stdio.h>

// Before anybody is asked for a password that could not be kept. No transaction is held while one is typed.
static int check_user(struct ctl *c, const char *name, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, name, &u, e);
  if (rc == 0 && u.anonymous) rc = err_set(e, PERR_DENIED, "'%s' is an anonymous user and can have no password", name);
  return ctl_end(t, rc, e);
}

static int make_password(struct store_password *p, struct err_text *e) {
  char text[PASSWORD_TEXT];
  int rc = prompt_password(text, e);
  if (rc == 0) {
    rc = password_make(text, p);
    if (rc < 0) err_set(e, rc, "cannot make the password: %s", perr_str(rc));
  }
  crypto_wipe(text, sizeof text);
  return rc;
}

static int keep_password(struct ctl *c, const char *name, const struct store_password *p, json_t **data,
                         struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, name, &u, e);
  if (rc == 0) rc = store_password_set(t, u.id, p);
  if (rc == 0) rc = ctl_audit(c, t, "user.passwd", u.name, "%s", "");
  if (rc == 0) *data = view_user(t, &u);
  return ctl_end(t, rc, e);
}

int cmd_passwd(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_password p;
  int rc = check_user(c, a->words[0], e);
  if (rc == 0) rc = make_password(&p, e);
  return rc < 0 ? rc : keep_password(c, a->words[0], &p, data, e);
}

void cmd_passwd_print(const json_t *data) {
  printf("%s has a new password\n", json_string_value(json_object_get(data, "name")));
}
