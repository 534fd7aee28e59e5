// door: listeners, TLS, deadlines, and which protocol a caller speaks. See door.h. Everything below runs on the
// handshake thread but for start, stop and the posting of a new configuration.
#include "postern/gateway/door.h"
#include "postern/base/log.h"
#include "postern/gateway/door_internal.h"
#include "postern/gateway/anonymous.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/tries.h"
#include "postern/gateway/web.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- callers ----

struct caller *caller_find(struct door *d, uint64_t id) {
  struct caller *c;
  HASH_FIND(hh, d->by_id, &id, sizeof id, c);
  return c;
}

void caller_forget(struct caller *c) {
  struct door *d = c->door;
  c->state = CALLER_GONE;
  TAILQ_REMOVE(&d->callers, c, all);
  HASH_DEL(d->by_id, c);
  d->ncallers--;
  if (c->talk) c->ops->free(c->talk);
  c->talk = NULL;
  loop_reap(d->loop, c, free);
}

void caller_close(struct caller *c, enum conn_end how) {
  struct conn *conn = c->conn;
  if (c->state == CALLER_GONE) return;
  caller_forget(c);
  conn_close(conn, how);
}

// ---- the web port ----

// What the first listener of a kind has for a port; 0: there is none.
static uint16_t port_of(const struct door *d, enum door_kind kind, bool plaintext) {
  for (unsigned i = 0; i < d->nports; i++)
    if (d->ports[i].kind == kind && d->ports[i].plaintext == plaintext) return addr_port(listener_addr(d->ports[i].listener));
  return 0;
}

static void visit_web(struct caller *c) {
  struct door *d = c->door;
  bool plaintext = c->port->plaintext;
  struct web_ports ports = {.reverse = port_of(d, DOOR_REVERSE, plaintext),
                            .control = port_of(d, DOOR_CONTROL, plaintext),
                            .web = addr_port(listener_addr(c->port->listener))};
  struct conn *conn = c->conn;
  struct addr peer = c->peer;
  caller_forget(c);
  web_take(d->web, conn, &peer, &ports, plaintext);
}

// ---- the conn's events ----

static const struct caller_ops *protocol_of(struct caller *c) {
  char alpn[32];
  if (c->port->kind == DOOR_REVERSE) return &reverse_caller_ops;
  return strcmp(conn_alpn(c->conn, alpn), "postern/1") == 0 ? &trunk_caller_ops : &nsp_caller_ops;
}

// TLS is up, or not wanted.
static void greet(struct caller *c) {
  if (c->port->kind == DOOR_WEB) {
    visit_web(c);
    return;
  }
  c->ops = protocol_of(c);
  if (c->ops->begin(c)) caller_close(c, CONN_CLOSE);
  else c->state = CALLER_TALKING;
}

static void on_readable(void *ctx, struct conn *conn) {
  struct caller *c = ctx;
  if (c->state == CALLER_TALKING) c->ops->on_readable(c);
}

static void on_handshake(void *ctx, struct conn *conn, int result) {
  struct caller *c = ctx;
  if (result == 0) {
    greet(c);
    return;
  }
  const char *text = conn_tls_error(conn);
  bool certificate = c->door->config->client_ca && strstr(text, "certificate");
  if (result == PERR_TLS) caller_note_failure(c, certificate ? "certificate" : "handshake", NULL, text);
  caller_close(c, CONN_LINGER); // the alert goes out first
}

static void on_abort(void *ctx, struct conn *conn) { caller_close(ctx, CONN_CLOSE); }

static const struct conn_ops caller_conn_ops = {
    .on_handshake = on_handshake, .on_readable = on_readable, .on_abort = on_abort};

// ---- accepting ----

static struct tls *tls_for(const struct door_port *p) {
  const struct gateway_tls *t = &p->door->tls;
  if (p->plaintext) return NULL;
  return p->kind == DOOR_CONTROL ? t->control : p->kind == DOOR_REVERSE ? t->reverse : t->web;
}

static void on_accept(void *ctx, struct listener *ln, int fd, const struct addr *peer) {
  const struct door_port *p = ctx;
  struct door *d = p->door;
  struct caller *c = calloc(1, sizeof *c);
  struct conn *conn = c ? conn_new(d->loop, fd, &caller_conn_ops, c) : NULL;
  if (!conn) {
    if (!c) close(fd);
    free(c);
    return;
  }
  conn_set_peer(conn, peer);
  c->door = d;
  c->port = p;
  c->conn = conn;
  c->peer = *peer;
  c->since_ms = loop_now_ms(d->loop);
  c->id = ++d->last_id;
  TAILQ_INSERT_TAIL(&d->callers, c, all);
  HASH_ADD(hh, d->by_id, id, sizeof c->id, c);
  // Under a flood the one that has waited longest gives way: it had its chance.
  if (++d->ncallers > DOOR_MAX_CALLERS) caller_close(TAILQ_FIRST(&d->callers), CONN_CLOSE);
  struct tls *t = tls_for(p);
  if (!t) greet(c);
  else if (conn_start_tls(conn, t)) caller_close(c, CONN_CLOSE);
}

static void on_deadline(void *ctx) {
  struct door *d = ctx;
  uint64_t now = loop_now_ms(d->loop), limit = (uint64_t)d->config->handshake_s * 1000;
  struct caller *c;
  while ((c = TAILQ_FIRST(&d->callers)) && now - c->since_ms >= limit) {
    caller_note_failure(c, "handshake", NULL, c->state == CALLER_TALKING ? c->ops->awaited : "no TLS handshake in time");
    caller_close(c, CONN_CLOSE);
  }
  loop_timer_set(d->deadline, 250);
}

// ---- configuration ----

struct new_config {
  struct door *door;
  struct config *config;
  struct gateway_tls tls;
};

static void take_config(void *arg) {
  struct new_config *n = arg;
  struct door *d = n->door;
  config_unref(d->config);
  gateway_tls_unref(&d->tls);
  d->config = n->config;
  d->tls = n->tls;
  if (d->web) web_set_config(d->web, d->config);
  if (!d->config->anonymous) anonymous_close_all(d->gateway); // from here on nobody else comes in
  free(n);
}

void door_set_config(struct door *d, struct config *c, const struct gateway_tls *t) {
  struct new_config *n = malloc(sizeof *n);
  if (!n) abort();
  *n = (struct new_config){d, config_ref(c), gateway_tls_ref(t)};
  loop_post(d->loop, take_config, n);
}

// ---- listeners ----

static const char *const kind_names[2][3] = {{"control", "reverse", "web"},
                                             {"plaintext control", "plaintext reverse", "plaintext web"}};

static void log_listening(const struct door_port *p, const char *what) {
  char ip[ADDR_TEXT];
  const struct addr *at = listener_addr(p->listener);
  log_event(LOG_INFO, "gateway.listen", "listening", LF_STR("what", what), LF_STR("address", addr_format_ip(at, ip)),
            LF_INT("port", addr_port(at)));
  if (p->plaintext)
    log_event(LOG_WARN, "gateway.plaintext", "a port without TLS: whoever is on the way reads tokens and traffic",
              LF_STR("what", what), LF_STR("address", addr_format_ip(at, ip)), LF_INT("port", addr_port(at)));
}

// What nobody wrote down may be missing: the family always, and of the ports that the trunk does without also the port.
static bool may_be_missing(int code, enum door_kind kind, bool written) {
  return !written && (code == PERR_NOTFOUND || (code == PERR_IN_USE && kind != DOOR_CONTROL));
}

static int open_one(struct door *d, enum door_kind kind, bool plaintext, const struct addr *a, bool written,
                    struct err_text *e) {
  char text[ADDR_TEXT];
  const char *what = kind_names[plaintext][kind];
  int fd, code = listener_bind(a, &fd);
  addr_format(a, text);
  if (may_be_missing(code, kind, written)) {
    log_event(LOG_WARN, "gateway.skip",
              code == PERR_IN_USE ? "the default port is in use" : "this machine lacks the address family",
              LF_STR("what", what), LF_STR("address", text));
    return 0;
  }
  if (code) return err_set(e, code, "cannot listen on %s: %s", text, listener_why(code));
  struct door_port *p = &d->ports[d->nports];
  *p = (struct door_port){.door = d, .kind = kind, .plaintext = plaintext};
  p->listener = listener_new(d->loop, fd, false, on_accept, p);
  if (!p->listener) return err_set(e, PERR_NOMEM, "out of memory");
  d->nports++;
  ports_reserve(d->gateway->ports, addr_port(listener_addr(p->listener)));
  log_listening(p, what);
  return 0;
}

static int open_list(struct door *d, enum door_kind kind, const struct config_listen *l, const char *key,
                     struct err_text *e) {
  for (unsigned i = 0; i < l->count; i++) {
    int code = open_one(d, kind, false, &l->addr[i], l->written, e);
    if (code == 0) continue;
    err_prefix(e, "%s", key);
    return code;
  }
  return 0;
}

static int open_plaintext(struct door *d, enum door_kind kind, const struct addr *a, const char *key,
                          struct err_text *e) {
  if (a->len == 0) return 0;
  int code = open_one(d, kind, true, a, true, e);
  if (code) err_prefix(e, "%s", key);
  return code;
}

static int open_all(struct door *d, struct err_text *e) {
  const struct config *c = d->config;
  int code = open_list(d, DOOR_CONTROL, &c->control, "control.listen", e);
  if (code == 0 && d->nports == 0)
    code = err_set(e, PERR_NOTFOUND, "control.listen: this machine has none of the addresses");
  if (code || !c->nsp_enabled) return code;
  code = open_list(d, DOOR_REVERSE, &c->reverse, "reverse.listen", e);
  if (code == 0) code = open_list(d, DOOR_WEB, &c->web, "web.listen", e);
  if (code || !c->nsp_plaintext) return code;
  code = open_plaintext(d, DOOR_CONTROL, &c->plaintext_control, "nsp.plaintext.control", e);
  if (code == 0) code = open_plaintext(d, DOOR_REVERSE, &c->plaintext_reverse, "nsp.plaintext.reverse", e);
  if (code == 0) code = open_plaintext(d, DOOR_WEB, &c->plaintext_web, "nsp.plaintext.web", e);
  return code;
}

// ---- life ----

int door_new(struct door **out, struct gateway *g) {
  struct door *d = calloc(1, sizeof *d);
  if (!d) return PERR_NOMEM;
  TAILQ_INIT(&d->callers);
  d->gateway = g;
  d->config = config_ref(g->config);
  d->tls = gateway_tls_ref(&g->tls);
  d->loop = loop_new("handshake");
  if (d->loop) d->deadline = loop_timer_new(d->loop, on_deadline, d);
  d->anonymous = tries_new(ANONYMOUS_PER_MINUTE, 60 * 1000, ANONYMOUS_ADDRESSES);
  int code = d->deadline && d->anonymous ? 0 : PERR_NOMEM;
  if (code == 0 && d->config->nsp_enabled) code = web_new(&d->web, g, d->loop, d->anonymous);
  if (code) door_free(d);
  else *out = d;
  return code;
}

static void close_all(struct door *d) {
  while (d->nports) listener_close(d->ports[--d->nports].listener);
  while (!TAILQ_EMPTY(&d->callers)) caller_close(TAILQ_FIRST(&d->callers), CONN_CLOSE);
}

int door_start(struct door *d, struct err_text *e) {
  int code = open_all(d, e);
  if (code == 0) {
    loop_timer_set(d->deadline, 250);
    code = loop_start_thread(d->loop);
    if (code) err_set(e, code, "cannot start the handshake thread");
  }
  if (code) close_all(d);
  return code;
}

void door_stop(struct door *d) {
  loop_stop(d->loop);
  loop_join(d->loop);
  close_all(d);
}

void door_free(struct door *d) {
  if (!d) return;
  web_free(d->web);
  tries_free(d->anonymous);
  loop_timer_free(d->deadline);
  if (d->loop) loop_free(d->loop);
  config_unref(d->config);
  gateway_tls_unref(&d->tls);
  free(d);
}
