// config: reads gateway.json by one option table and checks what a type and a range cannot say. Called by the gateway
// at start and at reload, and by posternctl; a loaded configuration is never changed and freed with its last reference.
#include "postern/core/config.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// What the table fills: the public part, and beside it the values that become something else in there.
struct config_file {
  struct config c; // first: a configuration's address is its file's
  _Atomic unsigned references;
  struct opt_list control, reverse, web, tunnels;
  char *ports;
  int64_t http_port, https_port;
  json_t *plaintext;
};

static const char *const min_tls_names[] = {"1.2", "1.3", NULL};
static const char *const unbound_hosts_names[] = {"first", "refuse", NULL};
static const char *const dialect_names[] = {"0.4", "0.8", "hosts", "1.0", "1.2", "1.4", NULL};
static const char *const format_names[] = {"text", "json", NULL};
static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};

enum { FIXED = false, RELOAD = true };

#define AT(field) offsetof(struct config_file, field)
#define INT(path_, field, low, high, preset_, reload, help_)                                                           \
  {                                                                                                                    \
    .path = path_, .type = OPT_INT, .offset = AT(field), .min = low, .max = high, .preset = preset_,                   \
    .reloadable = reload, .help = help_                                                                                \
  }
#define BOOL(path_, field, preset_, reload, help_)                                                                     \
  { .path = path_, .type = OPT_BOOL, .offset = AT(field), .preset = preset_, .reloadable = reload, .help = help_ }
#define ENUM(path_, field, names, preset_, reload, help_)                                                              \
  {                                                                                                                    \
    .path = path_, .type = OPT_ENUM, .offset = AT(field), .choices = names, .preset = preset_, .reloadable = reload,   \
    .help = help_                                                                                                      \
  }
#define TEXT(path_, field, preset_, reload, help_)                                                                     \
  { .path = path_, .type = OPT_STRING, .offset = AT(field), .preset = preset_, .reloadable = reload, .help = help_ }
#define TEXT_OR_NULL(path_, field, reload, help_)                                                                      \
  {                                                                                                                    \
    .path = path_, .type = OPT_STRING, .offset = AT(field), .preset = "null", .nullable = true, .reloadable = reload,  \
    .help = help_                                                                                                      \
  }
#define LIST(path_, field, preset_, scalar, help_)                                                                     \
  { .path = path_, .type = OPT_LIST, .offset = AT(field), .preset = preset_, .scalar_ok = scalar, .help = help_ }

static const struct opt options[] = {
    LIST("control.listen", control, "[\"0.0.0.0:7841\", \"[::]:7841\"]", false, "where agents connect"),
    LIST("reverse.listen", reverse, "[\"0.0.0.0:7842\", \"[::]:7842\"]", false, "reverse connections of NSP clients"),
    LIST("web.listen", web, "[\"127.0.0.1:7843\"]", false, "the web interface"),
    TEXT("tls.certificate", c.certificate, NULL, RELOAD, "the gateway's certificate chain, PEM"),
    TEXT("tls.key", c.key, NULL, RELOAD, "its private key, PEM"),
    TEXT_OR_NULL("tls.client_ca", c.client_ca, RELOAD, "agents must show a certificate of this CA"),
    ENUM("tls.min_version", c.min_tls, min_tls_names, "\"1.2\"", RELOAD, "the oldest TLS that is spoken"),
    TEXT("database", c.database, "\"db\"", FIXED, "the folder of the store"),
    LIST("tunnels.address", tunnels, "[\"0.0.0.0\", \"::\"]", true, "the addresses that public ports are opened on"),
    TEXT("tunnels.ports", ports, "\"20000-29999\"", RELOAD, "the range of public ports"),
    INT("tunnels.http_port", http_port, 0, 65535, "0", FIXED, "the shared port of HTTP tunnels; 0: none"),
    INT("tunnels.https_port", https_port, 0, 65535, "0", FIXED, "the shared port of HTTPS and TLS tunnels; 0: none"),
    TEXT_OR_NULL("tunnels.host_certificates", c.host_certificates, RELOAD, "the folder of the hosts' certificates"),
    ENUM("tunnels.unbound_hosts", c.unbound_hosts, unbound_hosts_names, "\"first\"", RELOAD, "who gets unbound hosts"),
    BOOL("nsp.enabled", c.nsp_enabled, "true", FIXED, "serve NSP clients"),
    ENUM("nsp.dialect", c.nsp_dialect, dialect_names, "\"1.4\"", FIXED, "the version that NSP clients speak"),
    {.path = "nsp.plaintext",
     .type = OPT_JSON,
     .offset = AT(plaintext),
     .preset = "null",
     .nullable = true,
     .help = "listeners for NSP clients without TLS"},
    BOOL("anonymous", c.anonymous, "false", RELOAD, "let NSP clients without a credential in, within their own limits"),
    INT("workers", c.workers, 0, 256, "0", FIXED, "worker threads; 0: one per core"),
    INT("limits.handshake_seconds", c.handshake_s, 1, 300, "10", RELOAD, "until a new connection has said who it is"),
    INT("limits.heartbeat_seconds", c.heartbeat_s, 1, 3600, "15", RELOAD, "between the pings on a quiet link"),
    INT("limits.dead_seconds", c.dead_s, 2, 86400, "45", RELOAD, "until a silent link counts as lost"),
    INT("limits.dial_seconds", c.dial_s, 1, 300, "10", RELOAD, "until an agent has reached the target"),
    INT("limits.stall_seconds", c.stall_s, 1, 86400, "600", RELOAD, "until a stream that does not move is reset"),
    INT("limits.udp_idle_seconds", c.udp_idle_s, 1, 86400, "60", RELOAD, "until a silent UDP flow ends"),
    INT("limits.http_head_seconds", c.http_head_s, 1, 3600, "10", RELOAD, "until an HTTP head is complete"),
    INT("limits.http_idle_seconds", c.http_idle_s, 1, 3600, "75", RELOAD, "until an idle HTTP visitor is closed"),
    INT("limits.http_target_seconds", c.http_target_s, 1, 3600, "60", RELOAD, "until an HTTP target has answered"),
    INT("limits.buffer_mib", c.buffer_mib, 1, 1048576, "256", RELOAD, "memory for bytes on their way, MiB"),
    ENUM("log.format", c.log_format, format_names, "\"text\"", RELOAD, "text or JSON lines"),
    ENUM("log.level", c.log_level, level_names, "\"info\"", RELOAD, "the least level that is logged"),
};

enum { OPTIONS = sizeof options / sizeof options[0] };

// ---- addresses ----

static bool is_written(const json_t *root, const char *section, const char *key) {
  return json_object_get(json_object_get(root, section), key) != NULL;
}

static int parse_address(struct addr *a, const char *text, bool with_port) {
  return with_port ? addr_parse(a, text) : addr_from_ip(a, text, 0);
}

static int set_addresses(struct config_listen *out, const struct opt_list *list, const char *path, bool with_port,
                         struct err_text *e) {
  if (list->count > CONFIG_MAX_LISTEN) {
    return err_set(e, PERR_INVALID, "%s: more than %d addresses", path, CONFIG_MAX_LISTEN);
  }
  for (size_t i = 0; i < list->count; i++) {
    if (parse_address(&out->addr[i], list->items[i], with_port) < 0) {
      return err_set(e, PERR_INVALID, "%s: \"%.64s\" is not %s", path, list->items[i],
                     with_port ? "an IP address with a port, such as 0.0.0.0:7841" : "an IP address");
    }
  }
  out->count = (unsigned)list->count;
  return 0;
}

static int set_listeners(struct config_file *f, const json_t *root, struct err_text *e) {
  const struct {
    struct config_listen *out;
    const struct opt_list *list;
    const char *section, *key, *path;
    bool with_port, needed;
  } rows[] = {
      {&f->c.control, &f->control, "control", "listen", "control.listen", true, true},
      {&f->c.reverse, &f->reverse, "reverse", "listen", "reverse.listen", true, false},
      {&f->c.web, &f->web, "web", "listen", "web.listen", true, false},
      {&f->c.tunnels, &f->tunnels, "tunnels", "address", "tunnels.address", false, true},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    int rc = set_addresses(rows[i].out, rows[i].list, rows[i].path, rows[i].with_port, e);
    if (rc < 0) return rc;
    if (rows[i].needed && rows[i].out->count == 0) {
      return err_set(e, PERR_INVALID, "%s: needs at least one address", rows[i].path);
    }
    rows[i].out->written = is_written(root, rows[i].section, rows[i].key);
  }
  return 0;
}

// ---- nsp.plaintext ----

struct plaintext {
  char *control, *reverse, *web;
  bool insecure;
};

#define PLAINTEXT_ADDRESS(name)                                                                                        \
  {                                                                                                                    \
    .path = "nsp.plaintext." #name, .type = OPT_STRING, .offset = offsetof(struct plaintext, name), .preset = "null",  \
    .nullable = true                                                                                                   \
  }

static const struct opt plaintext_options[] = {
    PLAINTEXT_ADDRESS(control),
    PLAINTEXT_ADDRESS(reverse),
    PLAINTEXT_ADDRESS(web),
    {.path = "nsp.plaintext.insecure",
     .type = OPT_BOOL,
     .offset = offsetof(struct plaintext, insecure),
     .preset = "false"},
};

enum { PLAINTEXT_OPTIONS = sizeof plaintext_options / sizeof plaintext_options[0] };

static int set_plaintext_address(struct addr *out, const char *text, const char *key, bool insecure,
                                 struct err_text *e) {
  if (text == NULL) return 0;
  if (addr_parse(out, text) < 0) {
    return err_set(e, PERR_INVALID, "nsp.plaintext.%s: \"%.64s\" is not an IP address with a port", key, text);
  }
  if (insecure || addr_is_loopback(out)) return 0;
  return err_set(e, PERR_INVALID,
                 "nsp.plaintext.%s: %.64s is not a loopback address; that needs \"insecure\": true beside it", key,
                 text);
}

static int set_plaintext_addresses(struct config *c, const struct plaintext *p, struct err_text *e) {
  int rc = set_plaintext_address(&c->plaintext_control, p->control, "control", p->insecure, e);
  if (rc == 0) rc = set_plaintext_address(&c->plaintext_reverse, p->reverse, "reverse", p->insecure, e);
  if (rc == 0) rc = set_plaintext_address(&c->plaintext_web, p->web, "web", p->insecure, e);
  c->nsp_plaintext = p->control != NULL || p->reverse != NULL || p->web != NULL;
  if (rc == 0 && !c->nsp_plaintext) rc = err_set(e, PERR_INVALID, "nsp.plaintext: names no address");
  return rc;
}

// Read by a table of its own, for null stands for the whole object.
static int set_plaintext(struct config_file *f, struct err_text *e) {
  if (f->plaintext == NULL) return 0;
  struct plaintext p = {0};
  json_t *root = json_pack("{s:{s:O}}", "nsp", "plaintext", f->plaintext);
  if (root == NULL) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  int rc = opt_load(plaintext_options, PLAINTEXT_OPTIONS, root, &p, e);
  json_decref(root);
  if (rc < 0) return rc;
  rc = set_plaintext_addresses(&f->c, &p, e);
  opt_free(plaintext_options, PLAINTEXT_OPTIONS, &p);
  return rc;
}

// ---- the rest ----

static int set_ports(struct config_file *f, struct err_text *e) {
  struct config *c = &f->c;
  if (port_range_parse(f->ports, &c->port_low, &c->port_high) < 0) {
    return err_set(e, PERR_INVALID, "tunnels.ports: \"%.64s\" is not a range of ports, such as 20000-29999", f->ports);
  }
  c->http_port = (uint16_t)f->http_port;
  c->https_port = (uint16_t)f->https_port;
  if (c->http_port != 0 && c->http_port == c->https_port) {
    return err_set(e, PERR_INVALID, "tunnels.https_port: %u is tunnels.http_port too", c->https_port);
  }
  return 0;
}

static int check_times(const struct config *c, struct err_text *e) {
  if (c->heartbeat_s < c->dead_s) return 0;
  return err_set(e, PERR_INVALID,
                 "limits.heartbeat_seconds: %" PRId64 " is not less than limits.dead_seconds, %" PRId64, c->heartbeat_s,
                 c->dead_s);
}

static int resolve(const char *file, const char *path, char **value, struct err_text *e) {
  if (*value == NULL) return 0;
  if (**value == '\0') return err_set(e, PERR_INVALID, "%s: is empty", path);
  char *resolved = opt_resolve_path(file, *value);
  if (resolved == NULL) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  free(*value);
  *value = resolved;
  return 0;
}

static int resolve_paths(struct config *c, const char *file, struct err_text *e) {
  int rc = resolve(file, "tls.certificate", &c->certificate, e);
  if (rc == 0) rc = resolve(file, "tls.key", &c->key, e);
  if (rc == 0) rc = resolve(file, "tls.client_ca", &c->client_ca, e);
  if (rc == 0) rc = resolve(file, "database", &c->database, e);
  if (rc == 0) rc = resolve(file, "tunnels.host_certificates", &c->host_certificates, e);
  return rc;
}

static int fill(struct config_file *f, const char *file, json_t *root, struct err_text *e) {
  int rc = opt_load(options, OPTIONS, root, f, e);
  if (rc == 0) rc = resolve_paths(&f->c, file, e);
  if (rc == 0) rc = set_listeners(f, root, e);
  if (rc == 0) rc = set_ports(f, e);
  if (rc == 0) rc = set_plaintext(f, e);
  if (rc == 0) rc = check_times(&f->c, e);
  if (rc < 0) err_prefix(e, "%s", file);
  return rc;
}

int config_load(const char *file, struct config **out, struct err_text *e) {
  json_t *root;
  int rc = opt_read_file(file, &root, e);
  if (rc < 0) return rc;
  struct config_file *f = calloc(1, sizeof *f);
  if (f == NULL) {
    json_decref(root);
    return err_set(e, PERR_NOMEM, "%s: %s", file, perr_str(PERR_NOMEM));
  }
  f->references = 1;
  rc = fill(f, file, root, e);
  json_decref(root);
  if (rc < 0) {
    config_unref(&f->c);
    return rc;
  }
  *out = &f->c;
  return 0;
}

struct config *config_ref(struct config *c) {
  atomic_fetch_add(&((struct config_file *)c)->references, 1);
  return c;
}

void config_unref(struct config *c) {
  struct config_file *f = (struct config_file *)c;
  if (f == NULL || atomic_fetch_sub(&f->references, 1) > 1) return;
  opt_free(options, OPTIONS, f);
  free(f);
}

const char *config_fixed_difference(const struct config *a, const struct config *b) {
  const struct opt *o = opt_fixed_difference(options, OPTIONS, a, b);
  return o != NULL ? o->path : NULL;
}

// The database's name is left out: it is looked at by whoever starts alone.
void config_keep_fixed(struct config *c, const struct config *running) {
  c->control = running->control;
  c->reverse = running->reverse;
  c->web = running->web;
  c->tunnels = running->tunnels;
  c->http_port = running->http_port;
  c->https_port = running->https_port;
  c->nsp_enabled = running->nsp_enabled;
  c->nsp_dialect = running->nsp_dialect;
  c->nsp_plaintext = running->nsp_plaintext;
  c->plaintext_control = running->plaintext_control;
  c->plaintext_reverse = running->plaintext_reverse;
  c->plaintext_web = running->plaintext_web;
  c->workers = running->workers;
}
