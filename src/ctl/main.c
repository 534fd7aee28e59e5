// posternctl: the admin CLI. Reads the command line, runs one command of the table, prints what it found.
#include "postern/base/log.h"
#include "postern/base/process.h"
#include "postern/ctl/args.h"
#include "postern/ctl/command.h"
#include "postern/ctl/output.h"
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int setup_log(const struct args *a, struct err_text *e) {
  enum log_format format = LOG_TEXT;
  enum log_level level = LOG_INFO;
  if (a->log && !log_format_parse(a->log, &format))
    return err_set(e, PERR_INVALID, "--log must be text or json, not '%s'", a->log);
  if (a->log_level && !log_level_parse(a->log_level, &level))
    return err_set(e, PERR_INVALID, "--log-level must be error, warn, info or debug, not '%s'", a->log_level);
  log_set_format(format);
  log_set_level(level);
  return 0;
}

static int run_command(const struct args *a, struct err_text *e) {
  struct ctl c;
  json_t *data = NULL;
  int rc = ctl_init(&c, a, e);
  if (rc == 0) rc = a->command->run(&c, a, &data, e);
  if (rc == 0 && a->command->print) {
    if (a->json)
      output_json(data);
    else
      a->command->print(data);
  }
  json_decref(data);
  ctl_fini(&c);
  return rc;
}

static int run(const struct args *a, struct err_text *e) {
  int rc = setup_log(a, e);
  if (rc < 0) return rc;
  if (a->help)
    command_help(a->command);
  else if (a->version)
    printf("posternctl %s\n", POSTERN_VERSION);
  else
    rc = run_command(a, e);
  return rc < 0 ? rc : output_finish(e);
}

static void tell_error(const struct args *a, const char *line) {
  enum log_format format = LOG_TEXT;
  if (a->log && log_format_parse(a->log, &format) && format == LOG_JSON) {
    log_set_format(format);
    log_event(LOG_ERROR, "ctl.fail", line, LF_STR("command", a->command ? a->command->name : NULL));
  } else {
    output_error(line);
  }
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  umask(077);
  process_forbid_core();
  struct err_text e = {""};
  struct args a;
  int rc = args_parse(&a, argc, argv, &e);
  if (rc == 0) rc = run(&a, &e);
  if (rc == 0) return EXIT_OK;
  tell_error(&a, e.s[0] ? e.s : perr_str(rc));
  return rc == PERR_INVALID ? EXIT_USAGE : EXIT_FAILED;
}
