// cmd_gateway: what the running gateway is asked. Called through the command table.
#include "postern/ctl/cmd_gateway.h"
#include "postern/ctl/client.h"
#include "postern/ctl/output.h"
#include <stdio.h>
#include <string.h>

// Steals the request.
static int ask(const struct ctl *c, json_t *request, json_t **data, struct err_text *e) {
  if (!request) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  int rc = client_ask(c->dir, request, data, e);
  json_decref(request);
  return rc;
}

int cmd_session_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  return ask(c, json_pack("{s:s}", "command", "session.list"), data, e);
}

int cmd_session_kick(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  char user[NAME_TEXT];
  const char *slash = strchr(a->words[0], '/'), *instance = slash ? slash + 1 : NULL;
  size_t len = slash ? (size_t)(slash - a->words[0]) : strlen(a->words[0]);
  snprintf(user, sizeof user, "%.*s", (int)len, a->words[0]);
  if (len >= sizeof user || !name_valid(user) || (instance && !name_valid(instance)))
    return err_set(e, PERR_INVALID, "'%s' is not NAME or NAME/INSTANCE", a->words[0]);
  int rc =
      ask(c, json_pack("{s:s, s:s, s:s*}", "command", "session.kick", "user", user, "instance", instance), data, e);
  if (rc == 0 && json_integer_value(json_object_get(*data, "kicked")) == 0)
    return err_set(e, PERR_NOTFOUND, "there is no session of '%s'", a->words[0]);
  return rc;
}

int cmd_status(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  return ask(c, json_pack("{s:s}", "command", "status"), data, e);
}

int cmd_reload(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  return ask(c, json_pack("{s:s}", "command", "reload"), data, e);
}

// ---- for people ----

void cmd_session_print_list(const json_t *data) {
  static const struct output_column columns[] = {
      {"ID", "id"},       {"USER", "user"},     {"INSTANCE", "instance"}, {"PROTOCOL", "protocol"},
      {"PEER", "peer"},   {"SINCE", "since"},   {"TUNNELS", "tunnels"},   {"VISITORS", "visitors"},
      {"IN", "bytes_in"}, {"OUT", "bytes_out"}, {"FLOWS", "flows"},       {"DROPPED", "datagrams_dropped"},
  };
  output_table(data, columns, sizeof columns / sizeof columns[0]);
}

void cmd_session_print_kicked(const json_t *data) {
  json_int_t n = json_integer_value(json_object_get(data, "kicked"));
  printf("%" JSON_INTEGER_FORMAT " %s closed\n", n, n == 1 ? "session" : "sessions");
}

void cmd_reload_print(const json_t *data) {
  printf("the configuration is reloaded\n");
}
