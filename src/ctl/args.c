// args: reads the command line by the command table. Called once by main; owns nothing.
#include "postern/ctl/args.h"
#include "postern/ctl/command.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

const struct args_option args_global[] = {
    {"-c", "FILE", "the gateway's configuration (default: ./gateway.json)"},
    {"--db", "DIR", "the database folder, instead of a configuration"},
    {"--json", NULL, "print one JSON value"},
    {"--log", "text|json", "format of warnings and errors on stderr"},
    {"--log-level", "LEVEL", "error, warn, info or debug"},
    {"--version", NULL, "print the version"},
    {"--help", NULL, "this page; after a command, the page of that command"},
    {NULL, NULL, NULL},
};

// Where the value of a global option goes; NULL for a switch.
static const char **global_value(struct args *a, const char *name) {
  if (strcmp(name, "-c") == 0) return &a->config;
  if (strcmp(name, "--db") == 0) return &a->db;
  if (strcmp(name, "--log") == 0) return &a->log;
  if (strcmp(name, "--log-level") == 0) return &a->log_level;
  return NULL;
}

static void global_switch(struct args *a, const char *name) {
  if (strcmp(name, "--json") == 0) a->json = true;
  if (strcmp(name, "--version") == 0) a->version = true;
  if (strcmp(name, "--help") == 0) a->help = true;
}

static bool is_option(const struct args_option *o, const char *text, size_t len) {
  return strlen(o->name) == len && memcmp(o->name, text, len) == 0;
}

// Finds an option by the first `len` bytes of `text`. *slot is where its value goes, NULL for a global switch.
static const struct args_option *find_option(struct args *a, const char *text, size_t len, const char ***slot) {
  for (size_t i = 0; args_global[i].name; i++)
    if (is_option(&args_global[i], text, len)) {
      *slot = global_value(a, args_global[i].name);
      return &args_global[i];
    }
  for (unsigned i = 0; a->command && a->command->options[i].name; i++)
    if (is_option(&a->command->options[i], text, len)) {
      *slot = &a->options[i];
      return &a->command->options[i];
    }
  return NULL;
}

// Takes the option at argv[*i], and the next argument where that is its value.
static int take_option(struct args *a, int argc, char **argv, int *i, struct err_text *e) {
  const char *text = strcmp(argv[*i], "-h") == 0 ? "--help" : argv[*i];
  const char *equals = strncmp(text, "--", 2) == 0 ? strchr(text, '=') : NULL;
  size_t len = equals ? (size_t)(equals - text) : strlen(text);
  const char **slot = NULL;
  const struct args_option *o = find_option(a, text, len, &slot);
  if (!o && a->command)
    return err_set(e, PERR_INVALID, "unknown option %.*s of '%s'", (int)len, text, a->command->name);
  if (!o) return err_set(e, PERR_INVALID, "unknown option %.*s before the command", (int)len, text);
  if (!o->value && equals) return err_set(e, PERR_INVALID, "option %s takes no value", o->name);
  if (!slot) {
    global_switch(a, o->name);
    return 0;
  }
  if (*slot) return err_set(e, PERR_INVALID, "option %s is given twice", o->name);
  if (!o->value)
    *slot = "";
  else if (equals)
    *slot = equals + 1;
  else if (*i + 1 < argc)
    *slot = argv[++*i];
  else
    return err_set(e, PERR_INVALID, "option %s needs a value (%s)", o->name, o->value);
  return 0;
}

// A word is part of the command's name until the command is known, and then an argument.
static int take_word(struct args *a, const char **group, const char *word, struct err_text *e) {
  if (a->command) {
    if (a->nwords == a->command->most)
      return err_set(e, PERR_INVALID, "unexpected argument '%s' of '%s'", word, a->command->name);
    a->words[a->nwords++] = word;
    return 0;
  }
  if (*group) {
    a->command = command_find(*group, word);
    return a->command ? 0 : err_set(e, PERR_INVALID, "unknown command '%s %s'", *group, word);
  }
  a->command = command_find(word, NULL);
  if (!a->command && !command_is_group(word)) return err_set(e, PERR_INVALID, "unknown command '%s'", word);
  if (!a->command) *group = word;
  return 0;
}

static int check_complete(const struct args *a, const char *group, struct err_text *e) {
  if (a->help || a->version) return 0;
  if (!a->command && group) return err_set(e, PERR_INVALID, "'%s' is not a whole command; see --help", group);
  if (!a->command) return err_set(e, PERR_INVALID, "a command is missing; see --help");
  if (a->nwords < a->command->least)
    return err_set(e, PERR_INVALID, "'%s' needs %s; see posternctl %s --help", a->command->name, a->command->arguments,
                   a->command->name);
  if (a->config && a->db) return err_set(e, PERR_INVALID, "-c and --db exclude each other");
  return 0;
}

int args_parse(struct args *a, int argc, char **argv, struct err_text *e) {
  memset(a, 0, sizeof *a);
  const char *group = NULL;
  bool literal = false; // after "--"
  int rc = 0;
  for (int i = 1; i < argc && rc == 0; i++) {
    if (!literal && strcmp(argv[i], "--") == 0)
      literal = true;
    else if (!literal && argv[i][0] == '-' && argv[i][1])
      rc = take_option(a, argc, argv, &i, e);
    else
      rc = take_word(a, &group, argv[i], e);
  }
  return rc < 0 ? rc : check_complete(a, group, e);
}

const char *args_option(const struct args *a, const char *name) {
  for (unsigned i = 0; a->command->options[i].name; i++)
    if (strcmp(a->command->options[i].name, name) == 0) return a->options[i];
  assert(!"an option of the command's table");
  abort();
}
