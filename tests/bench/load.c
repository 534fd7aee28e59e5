// load: the load generator of the benchmark. run.py starts it, once as the target behind the tunnels and once for each
// measurement; its answer is one line of JSON on stdout. Errors are counted by kind, never hidden.
#include "bulk.h"
#include "datagrams.h"
#include "exchange.h"
#include "net.h"
#include "tally.h"
#include "target.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: load target                              the service: echo, discard or source by the first byte\n"
    "       load conn PORT CONNECTIONS SECONDS       new connections: connect, 16 bytes and back, close\n"
    "       load ping PORT CONNECTIONS SECONDS       round trips of 64 bytes\n"
    "       load pump PORT CONNECTIONS SECONDS       bulk to an echo and back\n"
    "       load download PORT CONNECTIONS SECONDS   bulk from the target\n"
    "       load upload PORT CONNECTIONS SECONDS     bulk to the target\n"
    "       load udp PORT VISITORS SECONDS           datagrams of 200 bytes one way\n"
    "       load paced PORT VISITORS SECONDS         the same, 60,000 a second\n"
    "       load hold PORT CONNECTIONS               idle visitors, until a line comes on stdin\n"
    "PORT is one of 127.0.0.1. Each mode ends with 1 when it counted an error.\n";

enum { MAX_CONNECTIONS = 100000 };

static const struct mode {
  const char *name;
  void (*run)(struct tally *t, uint16_t port, unsigned count, double seconds);
  int arguments;
} modes[] = {
    {"conn", exchange_connect, 5},  {"ping", exchange_ping, 5}, {"pump", bulk_pump, 5},
    {"download", bulk_download, 5}, {"upload", bulk_upload, 5}, {"hold", exchange_hold, 4},
    {"udp", datagrams_send, 5},      {"paced", datagrams_send_paced, 5},
};

static int bad_usage(void) {
  fputs(usage, stderr);
  return 2;
}

int main(int argc, char **argv) {
  raise_descriptor_limit();
  if (argc == 2 && !strcmp(argv[1], "target")) target_serve();
  const struct mode *mode = NULL;
  for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
    if (!strcmp(argv[1], modes[i].name)) mode = &modes[i];
  if (!mode || argc != mode->arguments) return bad_usage();
  unsigned long port = strtoul(argv[2], NULL, 10), count = strtoul(argv[3], NULL, 10);
  double seconds = argc > 4 ? strtod(argv[4], NULL) : 0;
  if (!port || port > UINT16_MAX || !count || count > MAX_CONNECTIONS || (argc > 4 && !(seconds > 0)))
    return bad_usage();
  struct tally tally = {0};
  mode->run(&tally, (uint16_t)port, (unsigned)count, seconds);
  bool failed = tally_errors(&tally);
  tally_print(&tally, mode->name, (unsigned)count);
  return failed;
}
