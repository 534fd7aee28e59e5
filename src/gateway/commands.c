// commands: the handlers behind the admin socket. See commands.h.
#include "postern/gateway/commands.h"
#include "postern/base/clock.h"
#include "postern/base/text.h"
#include "postern/gateway/audit.h"
#include "postern/gateway/gateway.h"

#include <stdio.h>
#include <string.h>

// ---- session.list ----

static void add_session(void *ctx, const struct registry_view *v) {
  json_t *list = ctx;
  char peer[ADDR_TEXT], since[CLOCK_TEXT];
  json_array_append_new(
      list, json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:i, s:I}", "id", (json_int_t)v->id, "user",
                      v->who.user_name, "instance", v->instance, "protocol", v->protocol, "peer",
                      addr_format(&v->peer, peer), "since", clock_format_s(v->since, since), "tunnels", (int)v->tunnels,
                      "visitors", (int)v->visitors, "bytes_in", (json_int_t)v->bytes_in, "bytes_out",
                      (json_int_t)v->bytes_out, "flows", (int)v->flows, "datagrams_dropped", (json_int_t)v->dropped));
}

static int session_list(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  struct gateway *g = ctx;
  *data = json_array();
  if (!*data || registry_each(g->registry, 0, add_session, *data)) return err_set(e, PERR_NOMEM, "out of memory");
  return 0;
}

// ---- session.kick ----

struct kick {
  struct gateway *gateway;
  const char *user, *instance; // instance NULL: all
  int kicked;
};

static void kick_one(void *ctx, const struct registry_view *v) {
  struct kick *k = ctx;
  if (strcmp(v->who.user_name, k->user) != 0) return;
  if (k->instance && strcmp(v->instance, k->instance) != 0) return;
  gateway_close_session(k->gateway, v->id, v->worker, "kicked", 0);
  k->kicked++;
}

static int session_kick(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  struct kick k = {.gateway = ctx,
                   .user = json_string_value(json_object_get(request, "user")),
                   .instance = json_string_value(json_object_get(request, "instance"))};
  const json_t *instance = json_object_get(request, "instance");
  if (!k.user) return err_set(e, PERR_INVALID, "session.kick: user: expected a name");
  if (instance && !k.instance) return err_set(e, PERR_INVALID, "session.kick: instance: expected a name");
  if (registry_each(k.gateway->registry, 0, kick_one, &k)) return err_set(e, PERR_NOMEM, "out of memory");
  if (k.kicked) audit_note(k.gateway->audit, "admin", "session.kick", k.user, k.instance);
  *data = json_pack("{s:i}", "kicked", k.kicked);
  return 0;
}

// ---- status ----

struct sums {
  json_int_t sessions, tunnels, visitors, bytes_in, bytes_out, flows, dropped;
};

static void add_up(void *ctx, const struct registry_view *v) {
  struct sums *s = ctx;
  s->sessions++;
  s->tunnels += v->tunnels;
  s->visitors += v->visitors;
  s->bytes_in += (json_int_t)v->bytes_in;
  s->bytes_out += (json_int_t)v->bytes_out;
  s->flows += v->flows;
  s->dropped += (json_int_t)v->dropped;
}

// What NSP clients said and nobody answered, by what it was.
static json_t *count_ignored(struct gateway *g) {
  static const char *const names[NSP_IGNORED_KINDS] = {
      [NSP_IGNORED_HEARTBEAT] = "heartbeat", [NSP_IGNORED_CLOSE] = "close", [NSP_IGNORED_DISCONNECT] = "disconnect",
      [NSP_IGNORED_REQUEST] = "request",     [NSP_IGNORED_REVERSE] = "reverse"};
  json_t *counts = json_object();
  for (int i = 0; counts && i < NSP_IGNORED_KINDS; i++)
    json_object_set_new(counts, names[i], json_integer((json_int_t)atomic_load(&g->nsp_ignored[i])));
  return counts;
}

static int status(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  struct gateway *g = ctx;
  struct sums s = {0};
  char started[CLOCK_TEXT];
  if (registry_each(g->registry, 0, add_up, &s)) return err_set(e, PERR_NOMEM, "out of memory");
  *data = json_pack("{s:s, s:s, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "version", POSTERN_VERSION,
                    "started", clock_format_s(g->started, started), "uptime_seconds", (json_int_t)(clock_wall_s() - g->started),
                    "workers", (int)g->nworkers, "sessions", s.sessions, "tunnels", s.tunnels, "visitors", s.visitors,
                    "bytes_in", s.bytes_in, "bytes_out", s.bytes_out, "flows", s.flows,
                    "datagrams_dropped", s.dropped, "buffered_bytes",
                    (json_int_t)atomic_load(&g->budget.used), "buffer_bound_bytes",
                    (json_int_t)atomic_load(&g->budget.bound), "nsp_ignored", count_ignored(g));
  return *data ? 0 : err_set(e, PERR_NOMEM, "out of memory");
}

// ---- reload ----

static int reload(void *ctx, const json_t *request, json_t **data, struct err_text *e) { return gateway_reload(ctx, e); }

const struct admin_command gateway_commands[] = {
    {"session.list", session_list}, {"session.kick", session_kick}, {"status", status}, {"reload", reload}};
const size_t gateway_command_count = sizeof gateway_commands / sizeof *gateway_commands;
