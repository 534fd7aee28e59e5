// config: builds the agent's configuration from agent.json or from the command line. Called by main at start and by
// agent at a reload; a loaded configuration is never changed. Main thread.
#include "postern/agent/config.h"
#include "postern/agent/enrol.h"
#include "postern/agent/pin.h"
#include "postern/base/log.h"
#include "postern/base/text.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct agent_config, field)
#define TEXT_OR_NULL(path_, field, help_)                                                                              \
  { .path = path_, .type = OPT_STRING, .offset = AT(field), .preset = "null", .nullable = true, .help = help_ }

// All but the tunnels is the gateway's part: what differs there is used at the next connection.
static const struct opt options[] = {
    {.path = "server", .type = OPT_STRING, .offset = AT(server), .help = "the gateway's control port, HOST:PORT"},
    TEXT_OR_NULL("token_file", token_file, "holds the token"),
    {.path = "instance",
     .type = OPT_STRING,
     .offset = AT(instance),
     .preset = "\"default\"",
     .help = "tells several agents of one user apart"},
    TEXT_OR_NULL("tls.ca", ca, "the authority that signed the gateway's certificate, PEM"),
    TEXT_OR_NULL("tls.server_name", server_name, "the name in that certificate; null: the host of server"),
    {.path = "tls.pin_sha256",
     .type = OPT_LIST,
     .offset = AT(pin_list),
     .preset = "null",
     .nullable = true,
     .scalar_ok = true,
     .help = "SHA-256 of the gateway's or its authority's public key"},
    TEXT_OR_NULL("tls.certificate", certificate, "the agent's own certificate, PEM"),
    TEXT_OR_NULL("tls.key", key, "its private key, PEM"),
    {.path = "tunnels", .type = OPT_JSON, .offset = AT(tunnel_list), .reloadable = true, .help = "what is published"},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

// What an error is about, as either form names it.
enum setting { SERVER, TOKEN_FILE, INSTANCE, CA, PIN, CERTIFICATE, KEY, TLS };

static const struct {
  const char *key, *option;
} settings[] = {
    [SERVER] = {"server", "--server"},
    [TOKEN_FILE] = {"token_file", "--token-file"},
    [INSTANCE] = {"instance", "--instance"},
    [CA] = {"tls.ca", "--ca"},
    [PIN] = {"tls.pin_sha256", "--pin"},
    [CERTIFICATE] = {"tls.certificate", ""},
    [KEY] = {"tls.key", ""},
    [TLS] = {"tls", "TLS"},
};

// Puts the name of the setting before the error.
static int blame(const struct agent_config *c, enum setting s, int rc, struct err_text *e) {
  if (rc < 0) err_prefix(e, "%s", c->file ? settings[s].key : settings[s].option);
  return rc;
}

static int no_memory(struct err_text *e) {
  return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
}

static int copy(char **field, const char *text, struct err_text *e) {
  free(*field);
  *field = strdup(text);
  return *field ? 0 : no_memory(e);
}

// ---- what both forms share ----

static int set_server(struct agent_config *c, struct err_text *e) {
  if (hostport_split(c->server, c->host, &c->port) == 0) return 0;
  return err_set(e, PERR_INVALID, "\"%.80s\" is not HOST:PORT", c->server);
}

static int check_instance(const struct agent_config *c, struct err_text *e) {
  if (name_valid(c->instance)) return 0;
  return err_set(e, PERR_INVALID, "\"%.80s\" is not 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
                 c->instance);
}

static int add_pin(struct agent_config *c, const char *text, struct err_text *e) {
  if (c->npins == TLS_MAX_PINS) return err_set(e, PERR_INVALID, "more than %d pins", TLS_MAX_PINS);
  if (pin_parse(text, c->pins[c->npins]) == 0) {
    c->npins++;
    return 0;
  }
  return err_set(e, PERR_INVALID, "\"%.100s\" is not a SHA-256 in hex or base64", text);
}

static int check_file(const char *file, struct err_text *e) {
  if (!file || access(file, R_OK) == 0) return 0;
  return err_set(e, PERR_INVALID, "%s: %s", file, strerror(errno));
}

static int check_tls_files(const struct agent_config *c, struct err_text *e) {
  int rc = blame(c, CA, check_file(c->ca, e), e);
  if (rc == 0) rc = blame(c, CERTIFICATE, check_file(c->certificate, e), e);
  if (rc == 0) rc = blame(c, KEY, check_file(c->key, e), e);
  if (rc == 0 && !c->certificate != !c->key)
    rc = blame(c, c->key ? CERTIFICATE : KEY, err_set(e, PERR_INVALID, "missing; certificate and key go together"), e);
  return rc;
}

static int make_tls(struct agent_config *c, struct err_text *e) {
  struct tls_client_options o = {.server_name = c->server_name ? c->server_name : c->host,
                                 .ca = c->ca,
                                 .npins = c->npins,
                                 .certificate = c->certificate,
                                 .key = c->key,
                                 .alpn = "postern/1"};
  memcpy(o.pins, c->pins, sizeof o.pins);
  int rc = check_tls_files(c, e);
  return rc < 0 ? rc : blame(c, TLS, tls_client_new(&c->tls, &o, e), e);
}

static int copy_token(const struct agent_config *c, char out[CONTROL_TOKEN_TEXT], struct err_text *e) {
  size_t len = strlen(c->token);
  if (len >= CONTROL_TOKEN_TEXT)
    return err_set(e, PERR_INVALID, "the token has more than %d bytes", CONTROL_TOKEN_TEXT - 1);
  memcpy(out, c->token, len + 1);
  return 0;
}

// The gateway judges what a token says, but the protocol carries nothing that is not UTF-8.
int agent_config_token(const struct agent_config *c, char out[CONTROL_TOKEN_TEXT], struct err_text *e) {
  bool loose;
  int rc = c->token_file ? secret_read(c->token_file, "token file", out, CONTROL_TOKEN_TEXT, &loose, e)
                         : copy_token(c, out, e);
  if (rc < 0) return rc;
  json_t *text = json_string(out);
  if (!text) rc = err_set(e, PERR_INVALID, "the token is not UTF-8 text");
  json_decref(text);
  return rc;
}

static int check_token(const struct agent_config *c, struct err_text *e) {
  char token[CONTROL_TOKEN_TEXT];
  int rc = agent_config_token(c, token, e);
  crypto_wipe(token, sizeof token);
  return rc < 0 && c->token_file ? blame(c, TOKEN_FILE, rc, e) : rc;
}

// The order: --token-file, POSTERN_TOKEN, the configuration file, the enrolment line.
static int choose_token(struct agent_config *c, const struct options *o, struct err_text *e) {
  if (o->token_file) return copy(&c->token_file, o->token_file, e);
  if (o->env_token) {
    if (!*o->env_token) return err_set(e, PERR_INVALID, "POSTERN_TOKEN: empty");
    free(c->token_file);
    c->token_file = NULL;
    if (c->token) crypto_wipe(c->token, strlen(c->token));
    return copy(&c->token, o->env_token, e);
  }
  if (c->token_file || c->token) return 0;
  return blame(c, TOKEN_FILE, err_set(e, PERR_INVALID, "missing, and POSTERN_TOKEN is not set"), e);
}

static int finish(struct agent_config *c, const struct options *o, struct err_text *e) {
  int rc = blame(c, SERVER, set_server(c, e), e);
  if (rc == 0) rc = blame(c, INSTANCE, check_instance(c, e), e);
  if (rc == 0) rc = choose_token(c, o, e);
  if (rc == 0) rc = check_token(c, e);
  if (rc == 0) rc = make_tls(c, e);
  return rc;
}

// ---- agent.json ----

static int resolve(struct agent_config *c, enum setting s, char **field, struct err_text *e) {
  if (!*field) return 0;
  if (!**field) return blame(c, s, err_set(e, PERR_INVALID, "empty"), e);
  char *path = opt_resolve_path(c->file, *field);
  if (!path) return no_memory(e);
  free(*field);
  *field = path;
  return 0;
}

static int resolve_paths(struct agent_config *c, struct err_text *e) {
  int rc = resolve(c, TOKEN_FILE, &c->token_file, e);
  if (rc == 0) rc = resolve(c, CA, &c->ca, e);
  if (rc == 0) rc = resolve(c, CERTIFICATE, &c->certificate, e);
  if (rc == 0) rc = resolve(c, KEY, &c->key, e);
  return rc;
}

static int set_pins(struct agent_config *c, struct err_text *e) {
  int rc = 0;
  for (size_t i = 0; i < c->pin_list.count && rc == 0; i++) rc = blame(c, PIN, add_pin(c, c->pin_list.items[i], e), e);
  return rc;
}

static int check_server_name(const struct agent_config *c, struct err_text *e) {
  return c->server_name && !*c->server_name ? err_set(e, PERR_INVALID, "tls.server_name: empty") : 0;
}

static int fill_from_json(struct agent_config *c, json_t *root, const struct options *o, struct err_text *e) {
  int rc = opt_load(options, OPTIONS, root, c, e);
  if (rc == 0) rc = spec_read_list(c->tunnel_list, &c->tunnels, &c->ntunnels, e);
  if (rc == 0) rc = resolve_paths(c, e);
  if (rc == 0) rc = set_pins(c, e);
  if (rc == 0) rc = check_server_name(c, e);
  if (rc == 0) rc = finish(c, o, e);
  if (rc < 0) err_prefix(e, "%s", c->file);
  json_decref(c->tunnel_list);
  c->tunnel_list = NULL;
  return rc;
}

static int load_file(struct agent_config *c, const struct options *o, struct err_text *e) {
  json_t *root;
  int rc = copy(&c->file, o->config, e);
  if (rc == 0) rc = opt_read_file(o->config, &root, e);
  if (rc < 0) return rc;
  rc = fill_from_json(c, root, o, e);
  json_decref(root);
  return rc;
}

// ---- one line ----

static int set_tunnel(struct agent_config *c, const struct options *o, struct err_text *e) {
  struct tunnel_spec *s = calloc(1, sizeof *s);
  if (!s) return no_memory(e);
  c->tunnels = s;
  c->ntunnels = 1;
  s->strict_port = o->strict_port;
  int rc = spec_set_protocol(s, o->protocol, e);
  if (rc == 0) rc = spec_set_target(s, o->target, e);
  if (rc < 0) {
    err_prefix(e, "target");
    return rc;
  }
  snprintf(s->name, sizeof s->name, "%s-%u", spec_protocol(s), s->target_port);
  if (o->name && (rc = spec_set_name(s, o->name, e)) < 0) err_prefix(e, "--name");
  if (rc == 0 && o->port && (rc = spec_set_port(s, o->port, e)) < 0) err_prefix(e, "--port");
  return rc;
}

// What the line holds stands in for the options that were not given.
static int use_enrolment(struct agent_config *c, const char *line, struct err_text *e) {
  struct enrolment enrolment;
  int rc = enrol_parse(line, &enrolment, e);
  if (rc < 0) return rc;
  if (!c->server) rc = copy(&c->server, enrolment.server, e);
  if (rc == 0 && c->npins == 0) memcpy(c->pins[c->npins++], enrolment.pin, SHA256_LEN);
  if (rc == 0) rc = copy(&c->token, enrolment.token, e);
  crypto_wipe(&enrolment, sizeof enrolment);
  return rc;
}

static int read_enrolment(struct agent_config *c, const struct options *o, struct err_text *e) {
  char line[ENROL_TEXT];
  bool loose;
  if (!o->enrol_file && !o->env_enrol) return 0;
  if (!o->enrol_file) {
    int rc = use_enrolment(c, o->env_enrol, e);
    if (rc < 0) err_prefix(e, "POSTERN_ENROL");
    return rc;
  }
  int rc = secret_read(o->enrol_file, "enrolment file", line, sizeof line, &loose, e);
  if (rc < 0) return rc;
  rc = use_enrolment(c, line, e);
  crypto_wipe(line, sizeof line);
  if (rc < 0) err_prefix(e, "%s", o->enrol_file);
  return rc < 0 ? rc : copy(&c->enrol_file, o->enrol_file, e);
}

static int load_line(struct agent_config *c, const struct options *o, struct err_text *e) {
  int rc = copy(&c->instance, o->instance ? o->instance : "default", e);
  if (rc == 0 && o->server) rc = copy(&c->server, o->server, e);
  if (rc == 0 && o->ca) rc = copy(&c->ca, o->ca, e);
  for (unsigned i = 0; i < o->npins && rc == 0; i++) rc = blame(c, PIN, add_pin(c, o->pins[i], e), e);
  if (rc == 0) rc = set_tunnel(c, o, e);
  if (rc == 0) rc = read_enrolment(c, o, e);
  if (rc == 0 && !c->server) rc = err_set(e, PERR_INVALID, "--server: missing, and no enrolment line names one");
  return rc < 0 ? rc : finish(c, o, e);
}

// ---- life ----

int agent_config_load(struct agent_config **out, const struct options *o, struct err_text *e) {
  struct agent_config *c = calloc(1, sizeof *c);
  if (!c) return no_memory(e);
  int rc = o->config ? load_file(c, o, e) : load_line(c, o, e);
  if (rc < 0) {
    agent_config_free(c);
    return rc;
  }
  *out = c;
  return 0;
}

void agent_config_free(struct agent_config *c) {
  if (!c) return;
  opt_free(options, OPTIONS, c);
  free(c->file);
  free(c->enrol_file);
  if (c->token) crypto_wipe(c->token, strlen(c->token));
  free(c->token);
  free(c->tunnels);
  tls_unref(c->tls);
  free(c);
}

void agent_config_warn(const struct agent_config *c) {
  const char *const files[] = {c->token_file, c->enrol_file, c->key};
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
    if (files[i] && file_is_loose(files[i]))
      log_event(LOG_WARN, "config.secret", "others can read a secret file; chmod 600 mends it",
                LF_STR("file", files[i]));
}

static bool same_text(const char *a, const char *b) {
  return a && b ? strcmp(a, b) == 0 : a == b;
}

bool agent_config_same_gateway(const struct agent_config *a, const struct agent_config *b) {
  return !opt_fixed_difference(options, OPTIONS, a, b) && same_text(a->token, b->token);
}
