// command: the one table of posternctl's commands, and the help that is printed from it.
#ifndef POSTERN_CTL_COMMAND_H
#define POSTERN_CTL_COMMAND_H

#include "postern/ctl/args.h"
#include "postern/ctl/context.h"
#include <jansson.h>

// Does the work: sets *data to what is to be shown (a new reference; --json prints it as it is). Returns 0 or an error
// code with its line in `e`; PERR_INVALID is bad usage.
typedef int (*command_run_fn)(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
// Shows the data to a person.
typedef void (*command_print_fn)(const json_t *data);

struct command {
  const char *name;                          // "user add"
  const char *arguments, *summary, *example; // the example without "posternctl"
  unsigned least, most;                      // arguments
  command_run_fn run;
  command_print_fn print;            // NULL: run has printed everything itself
  const struct args_option *options; // ARGS_MAX_OPTIONS at most; ends with an empty one
};

// By its words: NULL when there is no such command. `second` may be NULL.
const struct command *command_find(const char *first, const char *second);
// Whether commands of two words begin with this one.
bool command_is_group(const char *first);
// All the commands on one screen; with a command, everything about it.
void command_help(const struct command *command);

#endif
