// posternd: the gateway program. Options, configuration, and the run from start to stop.
#include "postern/base/log.h"
#include "postern/base/process.h"
#include "postern/gateway/gateway.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char usage[] =
    "Usage: posternd -c FILE [OPTIONS]\n"
    "\n"
    "The Postern gateway: agents behind NAT dial it over TLS, and it publishes their\n"
    "services on its own ports. It stays in the foreground and logs to stderr.\n"
    "\n"
    "  -c, --config FILE      the configuration (gateway.json)\n"
    "      --check            validate the configuration and exit\n"
    "      --log FORMAT       text or json\n"
    "      --log-level LEVEL  error, warn, info or debug\n"
    "      --version          print the version and exit\n"
    "      --help             print this and exit\n"
    "\n"
    "SIGHUP reloads the configuration; SIGTERM and SIGINT stop (twice: at once).\n"
    "Status: 0 stopped, 1 failed, 2 bad usage or configuration.\n"
    "\n"
    "Example:\n"
    "  certs/make-certs.sh --out certs gw.example.com\n"
    "  echo '{\"tls\": {\"certificate\": \"certs/gateway.crt\", \"key\": \"certs/gateway.key\"}}' > gateway.json\n"
    "  posternctl -c gateway.json user add alice\n"
    "  posternd -c gateway.json\n";

struct arguments {
  const char *config;
  bool check;
  int log_format, log_level; // -1: not said
};

enum { OPT_CHECK = 1000, OPT_LOG, OPT_LEVEL, OPT_VERSION, OPT_HELP };

static int bad_usage(const char *what, const char *value) {
  fprintf(stderr, "posternd: %s%s%s (see posternd --help)\n", what, value ? ": " : "", value ? value : "");
  return EXIT_USAGE;
}

// -1: go on; otherwise the exit status.
static int parse_arguments(int argc, char **argv, struct arguments *a) {
  static const struct option options[] = {
      {"config", required_argument, NULL, 'c'},      {"check", no_argument, NULL, OPT_CHECK},
      {"log", required_argument, NULL, OPT_LOG},     {"log-level", required_argument, NULL, OPT_LEVEL},
      {"version", no_argument, NULL, OPT_VERSION},   {"help", no_argument, NULL, OPT_HELP},
      {NULL, 0, NULL, 0},
  };
  opterr = 0;
  for (int o; (o = getopt_long(argc, argv, ":c:h", options, NULL)) != -1;) {
    switch (o) {
    case 'c': a->config = optarg; break;
    case OPT_CHECK: a->check = true; break;
    case OPT_LOG: {
      enum log_format format;
      if (!log_format_parse(optarg, &format)) return bad_usage("--log: neither text nor json", optarg);
      a->log_format = (int)format;
      break;
    }
    case OPT_LEVEL: {
      enum log_level level;
      if (!log_level_parse(optarg, &level)) return bad_usage("--log-level: not error, warn, info or debug", optarg);
      a->log_level = (int)level;
      break;
    }
    case OPT_VERSION: printf("posternd %s\n", POSTERN_VERSION); return EXIT_OK;
    case 'h':
    case OPT_HELP: fputs(usage, stdout); return EXIT_OK;
    case ':': return bad_usage("option needs a value", argv[optind - 1]);
    default: return bad_usage("unknown option", argv[optind - 1]);
    }
  }
  if (optind < argc) return bad_usage("unexpected argument", argv[optind]);
  if (!a->config) return bad_usage("no configuration: -c FILE is needed", NULL);
  return -1;
}

static int fail(int status, const struct err_text *e) {
  log_stop();
  fprintf(stderr, "posternd: %s\n", e->s);
  return status;
}

static int check(struct config *c, const char *file) {
  struct err_text e;
  struct gateway_tls t;
  int code = gateway_tls_make(&t, c, file, NULL, &e);
  config_unref(c);
  if (code) return fail(EXIT_USAGE, &e);
  gateway_tls_unref(&t);
  printf("%s: ok\n", file);
  return EXIT_OK;
}

// A configuration that names what cannot be had is a bad configuration; the rest is a failure.
static int start_status(int code) { return code == PERR_NOTFOUND || code == PERR_INVALID ? EXIT_USAGE : EXIT_FAILED; }

int main(int argc, char **argv) {
  struct arguments a = {.log_format = -1, .log_level = -1};
  struct gateway g = {0};
  struct err_text e;
  int status = parse_arguments(argc, argv, &a);
  if (status >= 0) return status;
  signal(SIGPIPE, SIG_IGN);
  process_forbid_core();
  process_raise_descriptors();
  json_object_seed(0); // before threads
  if (config_load(a.config, &g.config, &e)) return fail(EXIT_USAGE, &e);
  g.log_format = a.log_format;
  g.log_level = a.log_level;
  gateway_set_log(&g, g.config);
  if (a.check) return check(g.config, a.config);
  if (log_start()) return fail(EXIT_FAILED, (err_set(&e, PERR_LIMIT, "cannot start the log thread"), &e));
  g.config_file = a.config;
  int code = gateway_start(&g, &e);
  if (code) {
    config_unref(g.config);
    return fail(start_status(code), &e);
  }
  loop_run(g.loop);
  gateway_stop(&g);
  config_unref(g.config);
  log_stop();
  return EXIT_OK;
}
