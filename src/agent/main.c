// postern: the agent. Reads the command line and the configuration, prepares the process, and runs.
#include "postern/agent/agent.h"
#include "postern/agent/config.h"
#include "postern/agent/options.h"
#include "postern/base/log.h"
#include "postern/base/process.h"
#include <jansson.h>
#include <signal.h>
#include <stdio.h>

enum { STATUS_USAGE = 2 };

static int run(const struct options *o) {
  struct err_text e = {""};
  struct agent_config *cfg;
  if (agent_config_load(&cfg, o, &e) < 0) {
    fprintf(stderr, "postern: %s\n", e.s);
    return STATUS_USAGE;
  }
  log_start();
  int status = agent_run(cfg, o);
  log_stop();
  return status;
}

int main(int argc, char *argv[]) {
  struct err_text e = {""};
  struct options o;
  signal(SIGPIPE, SIG_IGN);
  process_forbid_core();
  process_raise_descriptors();
  json_object_seed(0); // before there are threads
  if (options_parse(&o, argc, argv, &e) < 0) {
    fprintf(stderr, "postern: %s\n", e.s);
    return STATUS_USAGE;
  }
  log_set_format(o.log_format);
  log_set_level(o.log_level);
  if (o.help) options_help();
  if (o.version) printf("postern %s\n", POSTERN_VERSION);
  return o.help || o.version ? 0 : run(&o);
}
