// cmd_token: credentials. Called through the command table. A secret is printed when it is made and never again.
#include "postern/ctl/cmd_token.h"
#include "postern/base/clock.h"
#include "postern/core/token.h"
#include "postern/ctl/output.h"
#include "postern/ctl/pin.h"
#include "postern/ctl/view.h"
#include <stdio.h>
#include <string.h>

static int parse_new(const struct args *a, struct store_token *k, struct err_text *e) {
  const char *expires = args_option(a, "--expires"), *label = args_option(a, "--label");
  int64_t seconds = 0;
  *k = (struct store_token){.created = clock_wall_s(), .enrol = args_option(a, "--enrol") != NULL};
  if (expires && duration_parse(expires, &seconds) < 0)
    return err_set(e, PERR_INVALID, "--expires: '%s' is no time; write 12h or 30d", expires);
  if (expires) k->expires = k->created + seconds;
  int rc = output_check("--label", label, sizeof k->label, e);
  if (rc == 0) snprintf(k->label, sizeof k->label, "%s", label ? label : "");
  return rc;
}

// What stands before the token in an enrolment line; nothing without --enrol.
static int format_enrolment(const struct ctl *c, const char *server, char *out, size_t cap, struct err_text *e) {
  char host[HOST_TEXT], pin_text[BASE64_LEN(SHA256_LEN) + 1];
  uint16_t port;
  uint8_t pin[SHA256_LEN];
  out[0] = '\0';
  if (!server) return 0;
  if (hostport_split(server, host, &port) < 0 || strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                              "0123456789.-_:") != strlen(host))
    return err_set(e, PERR_INVALID, "--enrol: '%s' is not HOST:PORT", server);
  if (!c->config)
    return err_set(e, PERR_INVALID, "--enrol needs the gateway's configuration (-c) to find its certificate");
  int rc = pin_of_chain(c->config->certificate, pin, e);
  if (rc < 0) return rc;
  base64_encode(pin, sizeof pin, pin_text);
  snprintf(out, cap, strchr(host, ':') ? "postern://[%s]:%u#pin=%s&token=" : "postern://%s:%u#pin=%s&token=", host,
           port, pin_text);
  return 0;
}

int cmd_token_create(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  struct store_token k;
  char text[TOKEN_TEXT], enrolment[HOST_TEXT + 128];
  int rc = parse_new(a, &k, e);
  if (rc == 0) rc = format_enrolment(c, args_option(a, "--enrol"), enrolment, sizeof enrolment, e);
  if (rc == 0) rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  if (rc == 0) {
    k.user = u.id;
    rc = token_add(t, &k, text);
  }
  if (rc == 0) rc = ctl_audit(c, t, "token.create", u.name, "%s%s%s", k.id, k.label[0] ? ": " : "", k.label);
  rc = ctl_end(t, rc, e);
  if (rc == 0) {
    *data = view_token(&k);
    json_object_set_new(*data, "token", json_string(text));
    json_object_set_new(*data, "enrolment", enrolment[0] ? json_sprintf("%s%s", enrolment, text) : json_null());
  }
  crypto_wipe(text, sizeof text);
  return rc;
}

static bool collect_token(void *ctx, const struct store_token *k) {
  return json_array_append_new(ctx, view_token(k)) == 0;
}

int cmd_token_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_read(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  *data = json_array();
  if (rc == 0) rc = store_token_each(t, u.id, collect_token, *data);
  return ctl_end(t, rc, e);
}

int cmd_token_revoke(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  const char *id = a->words[0];
  if (strncmp(id, "pst_", 4) == 0)
    return err_set(e, PERR_INVALID, "'token revoke' needs the token's id (see 'token list'), not the token");
  struct store_txn *t;
  struct store_user u = {.name = ""};
  struct store_token k;
  int rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = strlen(id) < sizeof k.id ? store_token_get(t, id, &k) : PERR_NOTFOUND;
  if (rc == PERR_NOTFOUND) err_set(e, rc, "there is no token '%s'", id);
  if (rc == 0) rc = store_user_get(t, k.user, &u);
  if (rc == 0) rc = store_token_revoke(t, id, clock_wall_s());
  if (rc == 0) rc = ctl_audit(c, t, "token.revoke", u.name, "%s", id);
  if (rc == 0) rc = store_token_get(t, id, &k);
  if (rc == 0) *data = view_token(&k);
  return ctl_end(t, rc, e);
}

// ---- for people ----

void cmd_token_print_new(const json_t *data) {
  const char *line = json_string_value(json_object_get(data, "enrolment"));
  printf("%s\n", line ? line : json_string_value(json_object_get(data, "token")));
}

void cmd_token_print_list(const json_t *data) {
  static const struct output_column columns[] = {
      {"ID", "id"},           {"LABEL", "label"},         {"CREATED", "created"},     {"EXPIRES", "expires"},
      {"REVOKED", "revoked"}, {"LAST USED", "last_used"}, {"LAST PEER", "last_peer"},
  };
  output_table(data, columns, sizeof columns / sizeof columns[0]);
}

void cmd_token_print_revoked(const json_t *data) {
  printf("%s is revoked\n", json_string_value(json_object_get(data, "id")));
}
