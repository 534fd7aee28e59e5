// admin_line: encodes and decodes the lines of the admin protocol. Called by gateway/admin.c and ctl/client.c; owns
// nothing. Any thread.
#include "postern/wire/admin_line.h"
#include <stdlib.h>
#include <string.h>

static json_t *parse_object(const char *line, size_t len, struct err_text *e) {
  json_error_t je;
  json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
  if (!root) {
    err_set(e, PERR_PROTOCOL, "not a line of JSON: %s", je.text);
    return NULL;
  }
  if (json_is_object(root)) return root;
  json_decref(root);
  err_set(e, PERR_PROTOCOL, "not a JSON object");
  return NULL;
}

int admin_request_parse(const char *line, size_t len, json_t **out, struct err_text *e) {
  json_t *root = parse_object(line, len, e);
  if (!root) return PERR_PROTOCOL;
  if (!json_is_string(json_object_get(root, "command"))) {
    json_decref(root);
    return err_set(e, PERR_PROTOCOL, "\"command\" must be a string");
  }
  *out = root;
  return 0;
}

const char *admin_request_command(const json_t *request) {
  return json_string_value(json_object_get(request, "command"));
}

// One compact line; steals `root`, which may be NULL when building it failed.
static char *dump_line(json_t *root) {
  char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
  json_decref(root);
  if (!text) return NULL;
  size_t len = strlen(text);
  char *line = realloc(text, len + 2);
  if (!line) {
    free(text);
    return NULL;
  }
  memcpy(line + len, "\n", 2);
  return line;
}

char *admin_request_format(json_t *request) {
  return dump_line(json_incref(request));
}

char *admin_reply_ok(json_t *data) {
  return dump_line(json_pack("{s:b, s:o}", "ok", 1, "data", data ? json_incref(data) : json_null()));
}

char *admin_reply_error(const char *text) {
  json_t *error = json_string(text);
  if (!error) error = json_string("an error whose text is not UTF-8");
  return dump_line(json_pack("{s:b, s:o}", "ok", 0, "error", error));
}

int admin_reply_parse(const char *line, size_t len, json_t **data, struct err_text *e) {
  json_t *root = parse_object(line, len, e);
  if (!root) return PERR_PROTOCOL;
  const json_t *ok = json_object_get(root, "ok");
  json_t *value = json_object_get(root, "data");
  const char *error = json_string_value(json_object_get(root, "error"));
  int rc;
  if (json_is_true(ok) && value) {
    *data = json_incref(value);
    rc = 0;
  } else if (json_is_false(ok) && error) {
    rc = err_set(e, PERR_DENIED, "%s", error);
  } else {
    rc = err_set(e, PERR_PROTOCOL, "neither a result nor an error");
  }
  json_decref(root);
  return rc;
}
