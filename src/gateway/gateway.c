// gateway: start and stop in one table, walked forward and undone backward; reload. Main thread. See gateway.h.
#include "postern/gateway/gateway.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/core/lineages.h"
#include "postern/gateway/admin.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/commands.h"
#include "postern/gateway/door.h"
#include "postern/gateway/signals.h"
#include "postern/gateway/watch.h"
#include "postern/gateway/worker.h"
#include "postern/net/listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- the parts ----

// Puts the key of the configuration that it is about before the error.
static int blame(const struct gateway *g, const char *key, int code, struct err_text *e) {
  if (code) err_prefix(e, "%s: %s", g->config_file, key);
  return code;
}

static int start_tls(struct gateway *g, struct err_text *e) {
  return gateway_tls_make(&g->tls, g->config, g->config_file, NULL, e);
}
static void stop_tls(struct gateway *g) { gateway_tls_unref(&g->tls); }

static int start_loop(struct gateway *g, struct err_text *e) {
  g->loop = loop_new("main");
  return g->loop ? 0 : err_set(e, PERR_NOMEM, "cannot make the event loop");
}
static void stop_loop(struct gateway *g) { loop_free(g->loop); }

static int start_signals(struct gateway *g, struct err_text *e) {
  return signals_start(&g->signals, g) ? err_set(e, PERR_NOMEM, "cannot watch for signals") : 0;
}
static void stop_signals(struct gateway *g) { signals_stop(g->signals); }

static int start_store(struct gateway *g, struct err_text *e) {
  return blame(g, "database", store_open(&g->store, g->config->database, STORE_CREATE, e), e);
}
static void stop_store(struct gateway *g) { store_close(g->store); }

// Before anything is served: it is also what keeps two gateways from one database.
static int start_admin(struct gateway *g, struct err_text *e) {
  char path[4096];
  snprintf(path, sizeof path, "%s/postern.sock", g->config->database);
  return blame(g, "database", admin_open(&g->admin, g->loop, path, gateway_commands, gateway_command_count, g, e), e);
}
static void stop_admin(struct gateway *g) { admin_close(g->admin); }

static void free_workers(struct gateway *g) {
  for (unsigned i = 0; i < g->nworkers; i++) worker_free(g->workers[i]);
  free(g->workers);
}

static int make_workers(struct gateway *g, struct err_text *e) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  unsigned want = g->config->workers ? (unsigned)g->config->workers : cores > 0 ? (unsigned)cores : 1;
  g->workers = calloc(want, sizeof(struct worker *));
  while (g->workers && g->nworkers < want && (g->workers[g->nworkers] = worker_new(g, g->nworkers))) g->nworkers++;
  if (g->workers && g->nworkers == want) return 0;
  free_workers(g);
  return err_set(e, PERR_NOMEM, "cannot make %u workers", want);
}

static int start_registry(struct gateway *g, struct err_text *e) {
  g->registry = registry_new(g->nworkers);
  return g->registry ? 0 : err_set(e, PERR_NOMEM, "out of memory");
}
static void stop_registry(struct gateway *g) { registry_free(g->registry); }

static int start_lineages(struct gateway *g, struct err_text *e) {
  g->lineages = lineages_new();
  return g->lineages ? 0 : err_set(e, PERR_NOMEM, "out of memory");
}
static void stop_lineages(struct gateway *g) { lineages_free(g->lineages); }

// Its answers go to the workers and the door, which therefore outlive it.
static int start_writer(struct gateway *g, struct err_text *e) {
  return writer_start(&g->writer, g->store) ? err_set(e, PERR_LIMIT, "cannot start the store thread") : 0;
}
static void stop_writer(struct gateway *g) { writer_stop(g->writer); }

static int start_audit(struct gateway *g, struct err_text *e) {
  g->audit = audit_new(g->writer);
  return g->audit ? 0 : err_set(e, PERR_NOMEM, "out of memory");
}
static void stop_audit(struct gateway *g) { audit_free(g->audit); }

static int start_ports(struct gateway *g, struct err_text *e) {
  int code = ports_new(&g->ports, g->store, g->writer, e);
  if (code == 0) ports_set_range(g->ports, g->config->port_low, g->config->port_high);
  return code;
}
static void stop_ports(struct gateway *g) { ports_free(g->ports); }

// Which of tunnels.address this machine has: asked once, with a port of the system's choice.
static int find_addresses(struct gateway *g, struct err_text *e) {
  const struct config_listen *want = &g->config->tunnels;
  g->tunnel_addrs.count = 0;
  for (unsigned i = 0; i < want->count; i++) {
    char text[ADDR_TEXT];
    int fd, code = listener_bind(&want->addr[i], &fd);
    addr_format_ip(&want->addr[i], text);
    if (code == 0) {
      close(fd);
      g->tunnel_addrs.addr[g->tunnel_addrs.count++] = want->addr[i];
    } else if (want->written || code != PERR_NOTFOUND) {
      err_set(e, code, "cannot listen on %s: %s", text, listener_why(code));
      return blame(g, "tunnels.address", code, e);
    } else {
      log_event(LOG_WARN, "gateway.skip", "this machine lacks the address family", LF_STR("what", "tunnels"),
                LF_STR("address", text));
    }
  }
  if (g->tunnel_addrs.count) return 0;
  return blame(g, "tunnels.address", err_set(e, PERR_NOTFOUND, "this machine has none of the addresses"), e);
}
static void nothing(struct gateway *g) {}

static void stop_workers(struct gateway *g) {
  for (unsigned i = 0; i < g->nworkers; i++) worker_stop(g->workers[i]);
  for (unsigned i = 0; i < g->nworkers; i++) worker_join(g->workers[i]);
}

static int start_workers(struct gateway *g, struct err_text *e) {
  for (unsigned i = 0; i < g->nworkers; i++) {
    if (worker_start(g->workers[i]) == 0) continue;
    stop_workers(g);
    return err_set(e, PERR_LIMIT, "cannot start the worker threads");
  }
  return 0;
}

static int start_watch(struct gateway *g, struct err_text *e) {
  return watch_start(&g->watch, g) ? err_set(e, PERR_NOMEM, "cannot watch the store") : 0;
}
static void stop_watch(struct gateway *g) { watch_stop(g->watch); }

static int make_door(struct gateway *g, struct err_text *e) {
  int code = door_new(&g->door, g);
  return code ? err_set(e, code, "cannot make the door: %s", perr_str(code)) : 0;
}
static void free_door(struct gateway *g) { door_free(g->door); }

static int start_door(struct gateway *g, struct err_text *e) {
  int code = door_start(g->door, e);
  if (code) err_prefix(e, "%s", g->config_file);
  return code;
}
static void stop_door(struct gateway *g) { door_stop(g->door); }

static const struct part {
  const char *name;
  int (*start)(struct gateway *g, struct err_text *e);
  void (*stop)(struct gateway *g);
} parts[] = {
    {"tls", start_tls, stop_tls},
    {"loop", start_loop, stop_loop},
    {"signals", start_signals, stop_signals},
    {"store", start_store, stop_store},
    {"admin", start_admin, stop_admin},
    {"worker objects", make_workers, free_workers},
    {"registry", start_registry, stop_registry},
    {"lineages", start_lineages, stop_lineages},
    {"door objects", make_door, free_door},
    {"store thread", start_writer, stop_writer},
    {"audit", start_audit, stop_audit},
    {"ports", start_ports, stop_ports},
    {"addresses", find_addresses, nothing},
    {"workers", start_workers, stop_workers},
    {"watch", start_watch, stop_watch},
    {"door", start_door, stop_door},
};
enum { PARTS = sizeof parts / sizeof *parts };

static void stop_from(struct gateway *g, unsigned n) {
  while (n) parts[--n].stop(g);
}

// One line for what the configuration names and this version does not open.
static void say_unserved(const struct config *c) {
  char list[64] = "";
  if (c->http_port) strcat(list, "tunnels.http_port");
  if (c->https_port) strcat(list, list[0] ? ", tunnels.https_port" : "tunnels.https_port");
  if (list[0])
    log_event(LOG_INFO, "gateway.unserved", "in the configuration, and not served by this version", LF_STR("what", list));
}

int gateway_start(struct gateway *g, struct err_text *e) {
  g->started = clock_wall_s();
  budget_init(&g->budget, (size_t)g->config->buffer_mib << 20, NULL);
  for (unsigned i = 0; i < PARTS; i++) {
    int code = parts[i].start(g, e);
    if (code == 0) continue;
    log_line(LOG_DEBUG, "gateway.fail", "cannot start: %s", parts[i].name);
    stop_from(g, i);
    return code;
  }
  say_unserved(g->config);
  log_event(LOG_INFO, "gateway.ready", "ready", LF_STR("version", POSTERN_VERSION), LF_INT("workers", g->nworkers));
  return 0;
}

void gateway_stop(struct gateway *g) {
  stop_from(g, PARTS);
  log_event(LOG_INFO, "gateway.stop", "stopped", LF_STR("version", POSTERN_VERSION));
}

// ---- reload ----

void gateway_set_log(const struct gateway *g, const struct config *c) {
  log_set_format((enum log_format)(g->log_format >= 0 ? g->log_format : c->log_format));
  log_set_level((enum log_level)(g->log_level >= 0 ? g->log_level : c->log_level));
}

static void swap_config(struct gateway *g, struct config *c, const struct gateway_tls *t) {
  gateway_tls_warn_of_pins(&g->tls, t);
  atomic_store(&g->budget.bound, (size_t)c->buffer_mib << 20);
  ports_set_range(g->ports, c->port_low, c->port_high);
  gateway_set_log(g, c);
  door_set_config(g->door, c, t);
  for (unsigned i = 0; i < g->nworkers; i++) worker_set_config(g->workers[i], c);
  config_unref(g->config);
  gateway_tls_unref(&g->tls);
  g->config = c;
  g->tls = *t;
}

int gateway_reload(struct gateway *g, struct err_text *e) {
  struct config *c;
  struct gateway_tls t;
  const char *fixed = NULL;
  int code = config_load(g->config_file, &c, e);
  if (code == 0) {
    fixed = config_fixed_difference(g->config, c);
    config_keep_fixed(c, g->config);
    code = gateway_tls_make(&t, c, g->config_file, &g->tls, e);
    if (code) config_unref(c);
  }
  if (code) {
    log_event(LOG_ERROR, "gateway.reload", "the old configuration stays", LF_STR("error", e->s));
    return code;
  }
  if (fixed) log_event(LOG_WARN, "gateway.reload", "changed, but takes effect at the next start only", LF_STR("key", fixed));
  swap_config(g, c, &t);
  log_event(LOG_INFO, "gateway.reload", "configuration reloaded", LF_STR("file", g->config_file));
  return 0;
}

void gateway_close_session(struct gateway *g, uint64_t session, unsigned worker, const char *reason, int64_t until) {
  worker_close_session(g->workers[worker], session, reason, until);
}
