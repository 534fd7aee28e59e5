// nsp_bench: the NSP benchmark's client. run.py starts it beside a gateway and lets the load generator be its visitors;
// it says its public port once it is ready, and what it counted at each SIGUSR1 and at its end. One thread.
#include "net.h"
#include "nsp_client.h"
#include "nsp_tls.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const char usage[] = "usage: nsp_bench CONTROL_PORT REVERSE_PORT TARGET_PORT CA_FILE TOKEN_FILE [OPTION...]\n"
                            "A client of the NSP protocol (1.4) inside TLS with one TCP app, on 127.0.0.1. It answers "
                            "a visitor's 16 bytes that\n"
                            "begin with 'e' itself and hangs up; every other visitor is taken to the target.\n"
                            "  -n N     idle reverse connections (default: 32)\n"
                            "  -p PORT  the public port to ask for (default: any)\n"
                            "  -t 1.2   TLS 1.2 (default: 1.3)\n"
                            "  -d       no Disconnect after a transfer\n"
                            "Prints {\"port\":N} when it is ready. SIGUSR1 prints what was counted since the last "
                            "report, SIGTERM does so and ends\n"
                            "the program. The status is 1 when an error was counted.\n";

enum { EVENTS = 256, TURN_MS = 500, TOKEN_MAX = 4096 };

struct bench {
  int poller, signals;
  struct nsp_client *client;
  unsigned reports;
  double since; // the last report
  bool ready, failed, over;
};

static void report(struct bench *b) {
  struct nsp_counts n = nsp_client_take_counts(b->client);
  double now = clock_seconds();
  if (n.errors) b->failed = true;
  printf("{\"report\":%u,\"seconds\":%.3f,\"transfers\":%llu,\"answered\":%llu,\"relayed\":%llu,\"disconnects\":%llu,"
         "\"handshakes\":%llu,\"resumed\":%llu,\"errors\":%llu,\"first_error\":\"%s\"}\n",
         ++b->reports, now - b->since, (unsigned long long)n.transfers, (unsigned long long)n.answered,
         (unsigned long long)n.relayed, (unsigned long long)n.disconnects, (unsigned long long)n.handshakes,
         (unsigned long long)n.resumed, (unsigned long long)n.errors, n.first_error);
  fflush(stdout);
  b->since = now;
}

static void on_signal(struct bench *b) {
  struct signalfd_siginfo info;
  if (read(b->signals, &info, sizeof info) != sizeof info) die("signalfd");
  if (info.ssi_signo == SIGUSR1)
    report(b);
  else
    b->over = true;
}

static void tell_port(struct bench *b) {
  if (b->ready || !nsp_client_port(b->client)) return;
  b->ready = true;
  printf("{\"port\":%u}\n", nsp_client_port(b->client));
  fflush(stdout);
}

static void turn(struct bench *b) {
  struct epoll_event ready[EVENTS];
  int n = epoll_wait(b->poller, ready, EVENTS, TURN_MS);
  if (n < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < n; i++) {
    if (ready[i].data.ptr)
      nsp_client_ready(b->client, ready[i].data.ptr);
    else
      on_signal(b);
  }
  nsp_client_tick(b->client);
  tell_port(b);
}

static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (sigprocmask(SIG_BLOCK, &set, NULL)) die("sigprocmask");
  signal(SIGPIPE, SIG_IGN); // OpenSSL writes without MSG_NOSIGNAL
  int fd = signalfd(-1, &set, SFD_CLOEXEC);
  if (fd < 0) die("signalfd");
  return fd;
}

static void read_token(const char *file, char token[TOKEN_MAX]) {
  FILE *f = fopen(file, "r");
  if (!f || !fgets(token, TOKEN_MAX, f)) die(file);
  fclose(f);
  token[strcspn(token, "\r\n")] = '\0';
}

static uint16_t port_of(const char *text) {
  unsigned long port = strtoul(text, NULL, 10);
  return port <= UINT16_MAX ? (uint16_t)port : 0;
}

// False where the command line is wrong.
static bool parse(int argc, char **argv, struct nsp_options *o, int *version, char token[TOKEN_MAX]) {
  int option;
  while ((option = getopt(argc, argv, "n:p:t:d")) != -1) {
    switch (option) {
    case 'n': o->idle = (unsigned)strtoul(optarg, NULL, 10); break;
    case 'p': o->wish = port_of(optarg); break;
    case 't': *version = strcmp(optarg, "1.2") ? TLS1_3_VERSION : TLS1_2_VERSION; break;
    case 'd': o->disconnects = false; break;
    default: return false;
    }
  }
  if (argc - optind != 5 || !o->idle) return false;
  o->control_port = port_of(argv[optind]);
  o->reverse_port = port_of(argv[optind + 1]);
  o->target_port = port_of(argv[optind + 2]);
  if (!o->control_port || !o->reverse_port || !o->target_port) return false;
  read_token(argv[optind + 4], token);
  o->tls = tls_context(argv[optind + 3], *version);
  o->token = token;
  return true;
}

int main(int argc, char **argv) {
  static char token[TOKEN_MAX];
  struct nsp_options o = {.idle = 32, .disconnects = true};
  int version = TLS1_3_VERSION;
  raise_descriptor_limit();
  if (!parse(argc, argv, &o, &version, token)) {
    fputs(usage, stderr);
    return 2;
  }
  struct bench b = {.poller = poller_new(), .signals = open_signals(), .since = clock_seconds()};
  poller_add(b.poller, b.signals, EPOLLIN, NULL);
  b.client = nsp_client_new(&o, b.poller);
  while (!b.over && !nsp_client_hopeless(b.client)) turn(&b);
  report(&b);
  bool failed = b.failed || !b.over;
  nsp_client_free(b.client);
  SSL_CTX_free(o.tls);
  close(b.signals);
  close(b.poller);
  return failed;
}
