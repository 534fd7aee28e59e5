// options: the command line of the agent, and the two secrets that may stand in the environment.
#ifndef POSTERN_AGENT_OPTIONS_H
#define POSTERN_AGENT_OPTIONS_H

#include "postern/base/err.h"
#include "postern/base/log.h"
#include <stdbool.h>

enum { OPTIONS_MAX_PINS = 8 };

// What was typed; NULL and 0: not given. Borrowed from argv and the environment.
struct options {
  bool help, version;
  const char *config; // -c FILE: the file form; otherwise one line, a protocol with its target
  const char *protocol, *target;
  const char *server, *token_file, *enrol_file, *ca, *instance, *name, *port;
  const char *pins[OPTIONS_MAX_PINS];
  unsigned npins;
  bool strict_port;
  enum log_format log_format;
  enum log_level log_level;
  const char *env_token; // POSTERN_TOKEN
  const char *env_enrol; // POSTERN_ENROL
};

// PERR_INVALID: `e` names the option or command. --help and --version end the reading.
PERR_MUST_CHECK int options_parse(struct options *o, int argc, char *const argv[], struct err_text *e);
// Prints the help screen on stdout.
void options_help(void);

#endif
