// postern: the agent. Reads the command line and the configuration, prepares the process, and runs.
#include "postern/agent/agent.h"
#include "postern/agent/config.h"
#include "postern/agent/options.h"
#include "postern/base/log.h"
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { STATUS_USAGE = 2 };

// Each visitor costs a descriptor.
static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

// A core file would hold the token.
static void forbid_core_files(void) {
#ifdef POSTERN_NO_CORE
  const struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
#ifndef POSTERN_SANITIZED
  prctl(PR_SET_DUMPABLE, 0);
#endif
#endif
}

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
  forbid_core_files();
  raise_descriptor_limit();
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
