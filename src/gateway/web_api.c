// web_api: the web port's calls, by their paths (docs/nsp.md); the login is in web_login.c. Called by web.c with a
// complete request, on the handshake thread.
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/core/auth.h"
#include "postern/gateway/web_internal.h"
#include "postern/wire/nsp.h"
#include "postern/wire/nsp_web.h"

// ---- the calls ----

static void get_server_ports(struct web_conn *c, struct http_slice query) {
  web_answer(c, json_pack("{s:i, s:i, s:i}", "ReversePort", c->ports.reverse, "ConfigPort", c->ports.control,
                          "WebAPIPort", c->ports.web));
}

static void get_version_info(struct web_conn *c, struct http_slice query) {
  web_answer(c, json_string("Postern " POSTERN_VERSION));
}

// The token in one of the Cookie fields: a client may send several.
static int find_token(const struct http_head *h, char out[NSP_TOKEN_MAX + 1]) {
  struct http_slice name, value;
  for (unsigned i = 0; i < h->nfields; i++) {
    http_field_at(h, i, &name, &value);
    if (!http_slice_is_name(name, "Cookie")) continue;
    if (nsp_web_cookie_token(value.p, value.len, out, NSP_TOKEN_MAX + 1) == 0) return 0;
  }
  return PERR_NOTFOUND;
}

// Who asks is who the token says; a user id in the query is nobody's proof.
static void get_server_client_config(struct web_conn *c, struct http_slice query) {
  char token[NSP_TOKEN_MAX + 1];
  struct identity who = {0};
  int64_t until = 0;
  bool found = find_token(c->head, token) == 0;
  bool in = found && auth_token(c->web->gateway->store, token, NULL, clock_wall_s(), &who, &until) == AUTH_OK;
  if (found) crypto_wipe(token, sizeof token);
  if (in) web_answer(c, NULL); // null: the client keeps its own configuration
  else web_answer_error(c, "error: not logged in.");
}

// ---- finding the call ----

static const struct route {
  const char *path;
  void (*serve)(struct web_conn *c, struct http_slice query);
  bool makes; // something that a HEAD would lose
} routes[] = {
    {"/LoginFromClient", web_login, true},
    {"/GetServerPorts", get_server_ports, false},
    {"/GetServerClientConfig", get_server_client_config, false},
    {"/GetVersionInfo", get_version_info, false},
};

static const struct route *find_route(struct http_slice path) {
  for (unsigned i = 0; i < sizeof routes / sizeof *routes; i++)
    if (http_slice_is_name(path, routes[i].path)) return &routes[i];
  return NULL;
}

// A path that is none of ours may have anything in it, a password too, and is not logged.
static void log_request(const struct web_conn *c, const struct route *r) {
  char peer[ADDR_TEXT];
  log_event(LOG_DEBUG, "web.request", "a request", LF_STR("peer", addr_format(&c->peer, peer)),
            LF_STR("path", r ? r->path : NULL));
}

void web_serve(struct web_conn *c) {
  struct http_slice method = http_method(c->head), path = {"", 0}, query = {"", 0};
  bool get = http_slice_is(method, "GET"), head = http_slice_is(method, "HEAD");
  const struct route *r = http_target_split(http_target(c->head), &path, &query) ? find_route(path) : NULL;
  log_request(c, r);
  c->close_after |= http_has_body(c->head); // which nobody reads
  c->get_only = r && r->makes;
  if (!get && (!head || c->get_only)) web_refuse(c, 405, "error: GET is what is answered here.");
  else if (http_has_body(c->head)) web_refuse(c, 400, "error: a GET has no body.");
  else if (!r) web_refuse(c, 404, "error: there is no such call.");
  else r->serve(c, query);
}
