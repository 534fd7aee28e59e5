// options: reads the command line by one table, for main. Owns nothing. Main thread, before anything runs.
#include "postern/agent/options.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum form { FORM_ANY, FORM_LINE }; // which of the two forms an option belongs to

static int set_text(struct options *o, size_t offset, const char *value, struct err_text *e);
static int add_pin(struct options *o, size_t offset, const char *value, struct err_text *e);
static int set_format(struct options *o, size_t offset, const char *value, struct err_text *e);
static int set_level(struct options *o, size_t offset, const char *value, struct err_text *e);
static int set_flag(struct options *o, size_t offset, const char *value, struct err_text *e);

#define AT(field) offsetof(struct options, field)

static const struct row {
  const char *name, *alias;
  int (*set)(struct options *o, size_t offset, const char *value, struct err_text *e);
  size_t offset;
  enum form form;
} rows[] = {
    {"--help", "-h", set_flag, AT(help), FORM_ANY},
    {"--version", NULL, set_flag, AT(version), FORM_ANY},
    {"-c", NULL, set_text, AT(config), FORM_ANY},
    {"--log", NULL, set_format, 0, FORM_ANY},
    {"--log-level", NULL, set_level, 0, FORM_ANY},
    {"--token-file", NULL, set_text, AT(token_file), FORM_ANY},
    {"--server", NULL, set_text, AT(server), FORM_LINE},
    {"--enrol-file", NULL, set_text, AT(enrol_file), FORM_LINE},
    {"--ca", NULL, set_text, AT(ca), FORM_LINE},
    {"--pin", NULL, add_pin, 0, FORM_LINE},
    {"--instance", NULL, set_text, AT(instance), FORM_LINE},
    {"--name", NULL, set_text, AT(name), FORM_LINE},
    {"--port", NULL, set_text, AT(port), FORM_LINE},
    {"--strict-port", NULL, set_flag, AT(strict_port), FORM_LINE},
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static const char help_text[] = "usage: postern -c agent.json\n"
                                "       postern tcp|udp TARGET --server HOST:PORT --token-file FILE [--ca FILE]\n"
                                "       postern tcp|udp TARGET --enrol-file FILE\n"
                                "\n"
                                "Publishes a service of this machine, TARGET, on a port of a Postern gateway.\n"
                                "TARGET is HOST:PORT, or a bare number for a port of 127.0.0.1.\n"
                                "\n"
                                "  -c FILE            the configuration file; SIGHUP reads it again\n"
                                "  --server HOST:PORT the gateway's control port\n"
                                "  --token-file FILE  the token; or POSTERN_TOKEN in the environment\n"
                                "  --enrol-file FILE  an enrolment line; or POSTERN_ENROL in the environment\n"
                                "  --ca FILE          the authority that signed the gateway's certificate\n"
                                "  --pin SHA256       the gateway's public key, or its authority's; repeatable\n"
                                "  --instance NAME    tells several agents of one user apart (default)\n"
                                "  --name NAME        the tunnel's name (tcp- or udp- and the target's port)\n"
                                "  --port N           the public port to ask for; 0: any (0)\n"
                                "  --strict-port      exactly that port or none\n"
                                "  --log text|json  --log-level error|warn|info|debug  --version  --help\n"
                                "\n"
                                "Example: postern tcp 127.0.0.1:22 --server gateway.example.com:7841 \\\n"
                                "             --token-file token --ca ca.crt --port 22022\n";

void options_help(void) {
  fputs(help_text, stdout);
}

static int set_text(struct options *o, size_t offset, const char *value, struct err_text *e) {
  const char **field = (const char **)((char *)o + offset);
  if (*field) return err_set(e, PERR_INVALID, "given twice");
  if (!*value) return err_set(e, PERR_INVALID, "empty");
  *field = value;
  return 0;
}

static int add_pin(struct options *o, size_t offset, const char *value, struct err_text *e) {
  if (o->npins == OPTIONS_MAX_PINS) return err_set(e, PERR_INVALID, "given more than %d times", OPTIONS_MAX_PINS);
  o->pins[o->npins++] = value;
  return 0;
}

static int set_format(struct options *o, size_t offset, const char *value, struct err_text *e) {
  if (log_format_parse(value, &o->log_format)) return 0;
  return err_set(e, PERR_INVALID, "\"%.64s\" is neither text nor json", value);
}

static int set_level(struct options *o, size_t offset, const char *value, struct err_text *e) {
  if (log_level_parse(value, &o->log_level)) return 0;
  return err_set(e, PERR_INVALID, "\"%.64s\" is none of error, warn, info, debug", value);
}

static int set_flag(struct options *o, size_t offset, const char *value, struct err_text *e) {
  *(bool *)((char *)o + offset) = true;
  return 0;
}

static const struct row *find_row(const char *name, size_t len) {
  for (size_t i = 0; i < ROWS; i++) {
    const struct row *r = &rows[i];
    if (strlen(r->name) == len && memcmp(r->name, name, len) == 0) return r;
    if (r->alias && strlen(r->alias) == len && memcmp(r->alias, name, len) == 0) return r;
  }
  return NULL;
}

// What follows the "=" of an unknown option may be a secret, and is not shown.
static int unknown_option(const char *name, size_t len, struct err_text *e) {
  if (strncmp(name, "--token", len) == 0 && len == strlen("--token"))
    return err_set(e, PERR_INVALID, "--token: a secret never comes from the command line: use --token-file");
  return err_set(e, PERR_INVALID, "unknown option %.*s (see --help)", len > 64 ? 64 : (int)len, name);
}

// Reads the option at argv[*i] and its value; *used gathers the first option that only the one-line form knows.
static int read_option(struct options *o, int argc, char *const argv[], int *i, const char **used, struct err_text *e) {
  const char *arg = argv[*i];
  size_t len = arg[1] == '-' ? strcspn(arg, "=") : strlen(arg);
  const struct row *r = find_row(arg, len);
  if (!r) return unknown_option(arg, len, e);
  const char *value = NULL;
  if (r->set == set_flag && arg[len]) return err_set(e, PERR_INVALID, "%s takes no value", r->name);
  if (r->set != set_flag) {
    value = arg[len] ? arg + len + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    if (!value) return err_set(e, PERR_INVALID, "%s: a value is missing", r->name);
  }
  if (r->form == FORM_LINE) *used = r->name;
  int rc = r->set(o, r->offset, value, e);
  if (rc < 0) err_prefix(e, "%s", r->name);
  return rc;
}

static int check_forms(const struct options *o, const char *used, struct err_text *e) {
  if (o->config && o->protocol) return err_set(e, PERR_INVALID, "-c and a command exclude each other");
  if (o->config && used) return err_set(e, PERR_INVALID, "%s: belongs into the configuration file with -c", used);
  if (o->config) return 0;
  if (!o->protocol) return err_set(e, PERR_INVALID, "give -c FILE, or tcp TARGET (see --help)");
  if (!o->target) return err_set(e, PERR_INVALID, "%s: the target is missing", o->protocol);
  return 0;
}

static int take_word(struct options *o, const char *word, struct err_text *e) {
  if (!o->protocol) {
    o->protocol = word;
    bool known = strcmp(word, "tcp") == 0 || strcmp(word, "udp") == 0;
    return known ? 0 : err_set(e, PERR_INVALID, "unknown command %.64s (tcp, udp)", word);
  }
  if (o->target) return err_set(e, PERR_INVALID, "more than one target: %.64s", word);
  o->target = word;
  return 0;
}

int options_parse(struct options *o, int argc, char *const argv[], struct err_text *e) {
  const char *used = NULL;
  *o = (struct options){.log_format = LOG_TEXT, .log_level = LOG_INFO};
  for (int i = 1; i < argc; i++) {
    bool option = argv[i][0] == '-' && argv[i][1];
    int rc = option ? read_option(o, argc, argv, &i, &used, e) : take_word(o, argv[i], e);
    if (rc < 0) return rc;
    if (o->help || o->version) return 0;
  }
  o->env_token = getenv("POSTERN_TOKEN");
  o->env_enrol = getenv("POSTERN_ENROL");
  return check_forms(o, used, e);
}
