// spec: reads and checks the tunnels of a configuration, for config. Owns nothing. Main thread.
#include "postern/agent/spec.h"
#include "postern/base/opt.h"
#include "postern/base/text.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the parts ----

int spec_set_name(struct tunnel_spec *s, const char *text, struct err_text *e) {
  if (!name_valid(text))
    return err_set(e, PERR_INVALID, "\"%.80s\" is not 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
                   text);
  memcpy(s->name, text, strlen(text) + 1);
  return 0;
}

int spec_set_target(struct tunnel_spec *s, const char *text, struct err_text *e) {
  uint64_t port;
  if (decimal_parse(text, strlen(text), UINT16_MAX, &port) == 0 && port > 0) {
    memcpy(s->host, "127.0.0.1", sizeof "127.0.0.1");
    s->target_port = (uint16_t)port;
    return 0;
  }
  if (hostport_split(text, s->host, &s->target_port))
    return err_set(e, PERR_INVALID, "\"%.80s\" is neither HOST:PORT nor a port of 127.0.0.1", text);
  return 0;
}

int spec_set_port(struct tunnel_spec *s, const char *text, struct err_text *e) {
  uint64_t port;
  if (decimal_parse(text, strlen(text), UINT16_MAX, &port))
    return err_set(e, PERR_INVALID, "\"%.80s\" is not a port, 0 to 65535", text);
  s->port = (uint16_t)port;
  return 0;
}

static const char *const protocols[] = {[CONTROL_TCP] = "tcp", [CONTROL_UDP] = "udp"};

int spec_set_protocol(struct tunnel_spec *s, const char *text, struct err_text *e) {
  for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++) {
    if (strcmp(text, protocols[i]) != 0) continue;
    s->protocol = (enum control_protocol)i;
    return 0;
  }
  return err_set(e, PERR_INVALID, "\"%.64s\" is not known (tcp, udp)", text);
}

static int set_description(struct tunnel_spec *s, const char *text, struct err_text *e) {
  size_t len = strlen(text);
  if (len >= sizeof s->description) return err_set(e, PERR_INVALID, "more than %zu bytes", sizeof s->description - 1);
  memcpy(s->description, text, len + 1);
  return 0;
}

static int set_idle(struct tunnel_spec *s, int64_t seconds, struct err_text *e) {
  if (seconds && s->protocol != CONTROL_UDP) return err_set(e, PERR_INVALID, "only for udp");
  s->idle_s = seconds;
  return 0;
}

// A port of 127.0.0.1 may be written as a number.
static int set_target(struct tunnel_spec *s, const json_t *v, struct err_text *e) {
  char text[24];
  if (json_is_string(v)) return spec_set_target(s, json_string_value(v), e);
  if (!json_is_integer(v)) return err_set(e, PERR_INVALID, "expected \"HOST:PORT\" or a port of 127.0.0.1");
  snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
  return spec_set_target(s, text, e);
}

// ---- one of the list ----

struct raw {
  char *name, *protocol, *description;
  json_t *target;
  int64_t port, idle_s;
  bool strict_port;
};

#define AT(field) offsetof(struct raw, field)

static const struct opt options[] = {
    {.path = "name", .type = OPT_STRING, .offset = AT(name), .help = "unique among this agent's tunnels"},
    {.path = "protocol", .type = OPT_STRING, .offset = AT(protocol), .help = "tcp, udp"},
    {.path = "target", .type = OPT_JSON, .offset = AT(target), .help = "HOST:PORT, or a port of 127.0.0.1"},
    {.path = "port", .type = OPT_INT, .offset = AT(port), .max = 65535, .preset = "0", .help = "public port; 0: any"},
    {.path = "strict_port",
     .type = OPT_BOOL,
     .offset = AT(strict_port),
     .preset = "false",
     .help = "that port or none"},
    {.path = "description", .type = OPT_STRING, .offset = AT(description), .preset = "\"\"", .help = "for people"},
    {.path = "idle_seconds",
     .type = OPT_INT,
     .offset = AT(idle_s),
     .max = CONTROL_IDLE_MAX_S,
     .preset = "0",
     .help = "until a silent UDP flow ends; 0: as the gateway has it"},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

static int check_keys(json_t *object, size_t at, struct err_text *e) {
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    bool known = false;
    for (size_t i = 0; i < OPTIONS; i++) known = known || strcmp(options[i].path, key) == 0;
    if (!known) return err_set(e, PERR_INVALID, "unknown key tunnels[%zu].%.64s", at, key);
  }
  return 0;
}

static int blame(int rc, const char *key, struct err_text *e) {
  if (rc < 0) err_prefix(e, "%s", key);
  return rc;
}

static int set_parts(struct tunnel_spec *s, const struct raw *raw, struct err_text *e) {
  s->port = (uint16_t)raw->port;
  s->strict_port = raw->strict_port;
  int rc = blame(spec_set_name(s, raw->name, e), "name", e);
  if (rc == 0) rc = blame(spec_set_protocol(s, raw->protocol, e), "protocol", e);
  if (rc == 0) rc = blame(set_target(s, raw->target, e), "target", e);
  if (rc == 0) rc = blame(set_description(s, raw->description, e), "description", e);
  if (rc == 0) rc = blame(set_idle(s, raw->idle_s, e), "idle_seconds", e);
  return rc;
}

static int read_one(struct tunnel_spec *s, json_t *object, size_t at, struct err_text *e) {
  struct err_text inner = {""};
  struct raw raw = {0};
  if (!json_is_object(object)) return err_set(e, PERR_INVALID, "tunnels[%zu]: expected an object", at);
  int rc = check_keys(object, at, e);
  if (rc < 0) return rc;
  rc = opt_load(options, OPTIONS, object, &raw, &inner);
  if (rc == 0) rc = set_parts(s, &raw, &inner);
  opt_free(options, OPTIONS, &raw);
  return rc < 0 ? err_set(e, rc, "tunnels[%zu].%s", at, inner.s) : 0;
}

static int check_unique(const struct tunnel_spec *specs, size_t at, struct err_text *e) {
  for (size_t i = 0; i < at; i++)
    if (strcmp(specs[i].name, specs[at].name) == 0)
      return err_set(e, PERR_INVALID, "tunnels[%zu].name: \"%s\" is the name of tunnels[%zu] too", at, specs[at].name,
                     i);
  return 0;
}

int spec_read_list(const json_t *list, struct tunnel_spec **out, size_t *n, struct err_text *e) {
  if (!json_is_array(list)) return err_set(e, PERR_INVALID, "tunnels: expected a list");
  size_t count = json_array_size(list);
  if (count > SPEC_MAX) return err_set(e, PERR_INVALID, "tunnels: more than %d", SPEC_MAX);
  struct tunnel_spec *specs = calloc(count ? count : 1, sizeof *specs);
  int rc = specs ? 0 : err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  for (size_t i = 0; i < count && rc == 0; i++) {
    rc = read_one(&specs[i], json_array_get(list, i), i, e);
    if (rc == 0) rc = check_unique(specs, i, e);
  }
  if (rc < 0) {
    free(specs);
    return rc;
  }
  *out = specs;
  *n = count;
  return 0;
}

// ---- texts ----

const char *spec_protocol(const struct tunnel_spec *s) {
  return protocols[s->protocol];
}

const char *spec_target(const struct tunnel_spec *s, char out[TARGET_TEXT]) {
  snprintf(out, TARGET_TEXT, strchr(s->host, ':') ? "[%s]:%u" : "%s:%u", s->host, s->target_port);
  return out;
}

bool spec_equal(const struct tunnel_spec *a, const struct tunnel_spec *b) {
  return strcmp(a->name, b->name) == 0 && a->protocol == b->protocol && strcmp(a->host, b->host) == 0 &&
         a->target_port == b->target_port && a->port == b->port && a->strict_port == b->strict_port &&
         a->idle_s == b->idle_s && strcmp(a->description, b->description) == 0;
}
