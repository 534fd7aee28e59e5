// worker: the thread, its sessions by id, and the posts that reach them. See worker.h.
#include "postern/gateway/worker.h"
#include "postern/base/hash.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session.h"

#include <stdio.h>
#include <stdlib.h>

// How long the last words may take to reach the agents before their connections are closed, and how often it is looked
// whether they have.
enum { STOP_MS = 200, STOP_LOOK_MS = 10 };

static void on_stop_timer(void *ctx) {
  struct worker *w = ctx;
  if (conn_any_lingers(w->loop) && loop_now_ms(w->loop) < w->stop_by_ms) loop_timer_set(w->stop_timer, STOP_LOOK_MS);
  else loop_stop(w->loop);
}

struct session *worker_find(struct worker *w, uint64_t session) {
  struct session *s;
  HASH_FIND(hh, w->sessions, &session, sizeof session, s);
  return s;
}

// ---- arrivals ----

static void on_early(void *ctx, struct conn *c) {} // the protocol takes the conn before anything is read

static const struct conn_ops arrival_conn_ops = {.on_readable = on_early};

// What was to be closed while it was on its way is closed now.
static void arrived(struct worker *w, uint64_t session) {
  char reason[NAME_TEXT];
  int64_t until;
  if (registry_arrive(w->gateway->registry, session, reason, &until)) return;
  struct session *s = worker_find(w, session);
  if (s) session_close(s, reason, NULL, until);
}

static void adopt(void *arg) {
  struct arrival *a = arg;
  struct worker *w = a->worker;
  if (conn_attach(a->conn, w->loop, &arrival_conn_ops, NULL)) {
    if (a->entry) registry_leave(w->gateway->registry, a->entry);
    conn_close(a->conn, CONN_CLOSE);
  } else {
    uint64_t made = a->entry ? a->session : 0;
    a->adopt(w, a);
    if (made) arrived(w, made);
  }
  free(a);
}

void worker_adopt(struct worker *w, struct arrival *a) {
  a->worker = w;
  loop_post(w->loop, adopt, a);
}

// ---- posts to a session ----

struct message {
  struct worker *worker;
  uint64_t session, attempt;
  uint32_t tunnel;
  int result;
  char reason[NAME_TEXT];
  int64_t until;
  enum store_kind kind;
  uint16_t port;
  struct identity who;
  struct config *config;
};

static struct message *message_new(struct worker *w, uint64_t session) {
  struct message *m = calloc(1, sizeof *m);
  if (!m) abort(); // a ban that is not delivered must not pass for one
  m->worker = w;
  m->session = session;
  return m;
}

static void do_close(void *arg) {
  struct message *m = arg;
  struct session *s = worker_find(m->worker, m->session);
  if (s) session_close(s, m->reason, NULL, m->until);
  else registry_doom(m->worker->gateway->registry, m->session, m->reason, m->until);
  free(m);
}

void worker_close_session(struct worker *w, uint64_t session, const char *reason, int64_t until) {
  struct message *m = message_new(w, session);
  snprintf(m->reason, sizeof m->reason, "%s", reason);
  m->until = until;
  loop_post(w->loop, do_close, m);
}

static void do_limits(void *arg) {
  struct message *m = arg;
  struct session *s = worker_find(m->worker, m->session);
  if (s) session_set_identity(s, &m->who);
  free(m);
}

void worker_set_limits(struct worker *w, uint64_t session, const struct identity *who) {
  struct message *m = message_new(w, session);
  m->who = *who;
  loop_post(w->loop, do_limits, m);
}

static void do_close_port(void *arg) {
  struct message *m = arg;
  struct session *s = worker_find(m->worker, m->session);
  if (s) tunnels_lose_port(s, m->kind, m->port);
  free(m);
}

void worker_close_port(struct worker *w, uint64_t session, enum store_kind kind, uint16_t port) {
  struct message *m = message_new(w, session);
  m->kind = kind;
  m->port = port;
  loop_post(w->loop, do_close_port, m);
}

static void do_claimed(void *arg) {
  struct message *m = arg;
  struct session *s = worker_find(m->worker, m->session);
  if (s) tunnels_claimed(s, m->tunnel, m->attempt, m->result);
  free(m);
}

void worker_claimed(struct worker *w, uint64_t session, uint32_t tunnel, uint64_t attempt, int result) {
  struct message *m = message_new(w, session);
  m->tunnel = tunnel;
  m->attempt = attempt;
  m->result = result;
  loop_post(w->loop, do_claimed, m);
}

static void do_config(void *arg) {
  struct message *m = arg;
  config_unref(m->worker->config);
  m->worker->config = m->config;
  free(m);
}

void worker_set_config(struct worker *w, struct config *c) {
  struct message *m = message_new(w, 0);
  m->config = config_ref(c);
  loop_post(w->loop, do_config, m);
}

// ---- life ----

struct worker *worker_new(struct gateway *g, unsigned index) {
  struct worker *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->gateway = g;
  w->index = index;
  snprintf(w->name, sizeof w->name, "worker-%u", index);
  w->config = config_ref(g->config);
  w->loop = loop_new(w->name);
  if (w->loop) w->stop_timer = loop_timer_new(w->loop, on_stop_timer, w);
  if (w->stop_timer) return w;
  worker_free(w);
  return NULL;
}

int worker_start(struct worker *w) {
  int code = loop_start_thread(w->loop);
  w->running = code == 0;
  return code;
}

static void do_stop(void *arg) {
  struct worker *w = arg;
  struct session *s, *next;
  HASH_ITER(hh, w->sessions, s, next) session_close(s, "shutdown", "the gateway is stopping", 0);
  w->stop_by_ms = loop_now_ms(w->loop) + STOP_MS;
  loop_timer_set(w->stop_timer, 0);
}

void worker_stop(struct worker *w) {
  if (w->running) loop_post(w->loop, do_stop, w);
}

void worker_join(struct worker *w) {
  if (w->running) loop_join(w->loop);
  w->running = false;
}

void worker_free(struct worker *w) {
  if (!w) return;
  loop_timer_free(w->stop_timer);
  loop_free(w->loop);
  config_unref(w->config);
  free(w);
}
