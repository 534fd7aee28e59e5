// args: the command line of posternctl, read by the command table. Options may stand anywhere; "--" ends them.
#ifndef POSTERN_CTL_ARGS_H
#define POSTERN_CTL_ARGS_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>

enum { ARGS_MAX_WORDS = 64, ARGS_MAX_OPTIONS = 8 };

struct args_option {
  const char *name;  // "--for"
  const char *value; // what stands after it in the usage ("2h"); NULL: a switch
  const char *help;
};

struct command;

// What was typed. Every string is borrowed from argv.
struct args {
  const struct command *command; // NULL: none was named
  const char *words[ARGS_MAX_WORDS];
  unsigned nwords;
  const char *options[ARGS_MAX_OPTIONS]; // in the order of command->options; "" for a switch that was given
  const char *config, *db, *log, *log_level;
  bool json, help, version;
};

// PERR_INVALID with a line that names what is wrong. With --help or --version what is missing is not looked at.
PERR_MUST_CHECK int args_parse(struct args *a, int argc, char **argv, struct err_text *e);
// The value of one of the command's options, NULL when it was not given. Naming one that the command lacks aborts.
const char *args_option(const struct args *a, const char *name);

// The options that every command takes; ends with an empty one.
extern const struct args_option args_global[];

#endif
