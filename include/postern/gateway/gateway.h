// gateway: the parts of a running posternd and who owns them. Private to the gateway layer.
//
// Threads: main (this struct's owner; signals, admin, watching the store), store (writer), handshake (door), N workers,
// log. What is set before the threads start and not changed after is marked so; the rest belongs to the main thread.
#ifndef POSTERN_GATEWAY_GATEWAY_H
#define POSTERN_GATEWAY_GATEWAY_H

#include "postern/core/config.h"
#include "postern/core/ports.h"
#include "postern/core/registry.h"
#include "postern/gateway/gateway_tls.h"
#include "postern/net/loop.h"
#include "postern/pipe/budget.h"
#include "postern/store/writer.h"

struct admin;
struct audit;
struct door;
struct watch;
struct worker;

// Of what NSP clients say: answered by a close alone, and counted (posternctl status).
enum nsp_ignored {
  NSP_IGNORED_HEARTBEAT,  // of a client that is not there, or from somebody else
  NSP_IGNORED_CLOSE,      // likewise
  NSP_IGNORED_DISCONNECT, // without proof
  NSP_IGNORED_REQUEST,    // malformed, or not finished
  NSP_IGNORED_REVERSE,    // a reverse connection that was not let in
  NSP_IGNORED_KINDS
};

struct gateway {
  // Set before the threads start.
  const char *config_file;
  int log_format, log_level; // what the command line said, which wins over reloads too; -1: nothing
  struct store *store;
  struct writer *writer;
  struct registry *registry;
  struct lineages *lineages;
  struct ports *ports;
  struct audit *audit;
  struct worker **workers;
  unsigned nworkers;
  struct config_listen tunnel_addrs; // those of tunnels.address whose family the machine has
  struct budget budget;              // the whole gateway's buffers
  struct door *door;
  _Atomic uint64_t nsp_ignored[NSP_IGNORED_KINDS];

  // The main thread's.
  struct loop *loop;
  struct config *config;
  struct gateway_tls tls;
  struct admin *admin;
  struct watch *watch;
  struct signals *signals;
  int64_t started; // wall seconds
};

// Starts everything in the order of the table in gateway.c; on failure what was started is stopped again.
PERR_MUST_CHECK int gateway_start(struct gateway *g, struct err_text *e);
void gateway_stop(struct gateway *g);
// Reads the configuration anew, validates it, then swaps; on failure the old one stays.
int gateway_reload(struct gateway *g, struct err_text *e);
// The log's format and level by the command line and the configuration.
void gateway_set_log(const struct gateway *g, const struct config *c);

// Asks a session's worker to end it. Any thread. `until` is told to the agent; 0: nothing to tell.
void gateway_close_session(struct gateway *g, uint64_t session, unsigned worker, const char *reason, int64_t until);

#endif
