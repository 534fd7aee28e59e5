// session_nsp: apps and their answer, and what ends an NSP session. See session_nsp.h.
#include "postern/gateway/session_nsp.h"
#include "postern/base/log.h"
#include "postern/gateway/anonymous.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session.h"
#include "postern/nsp/client.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

// An answer in the making: apps first .. first + count - 1 have been asked for, in this order.
struct answer {
  struct conn *conn;
  unsigned first, count, settled;
  bool asking; // not all of them have been asked for yet
  bool failed;
  struct nsp_assignment apps[];
};

struct nsp_session {
  struct session base; // first
  struct nsp_client *client;
  struct answer *answer; // NULL: nobody waits
  unsigned napps;        // ids given so far
  struct loop_task bounce;
  const char *bounce_reason; // static text
};

static struct nsp_session *nsp_of(struct session *s) { return (struct nsp_session *)s; }

// ---- answers ----

// The client reads an answer at once, and an error is one byte: the write is the only one.
static void write_answer(struct conn *c, const uint8_t *bytes, size_t len) {
  size_t n;
  if (conn_write(c, bytes, len, &n) == 0) (void)!conn_flush(c);
  conn_close(c, CONN_LINGER);
}

static void refuse(struct conn *c, enum nsp_error error) {
  uint8_t byte = (uint8_t)error;
  write_answer(c, &byte, sizeof byte);
}

static void answer_with(struct nsp_session *n, enum nsp_error error) {
  refuse(n->answer->conn, error);
  free(n->answer);
  n->answer = NULL;
}

static void settle(struct nsp_session *n) {
  struct answer *a = n->answer;
  uint8_t bytes[NSP_ANSWER_MAX];
  if (a->asking || a->settled < a->count) return;
  if (a->failed) {
    // Some apps are better than none for nobody: the client takes the answer for all that it asked for.
    n->bounce_reason = "refused";
    loop_defer(n->base.worker->loop, &n->bounce);
    answer_with(n, NSP_ERROR_OTHER);
    return;
  }
  tunnels_unpark_all(&n->base); // what was not asked for now will not be
  size_t len = nsp_put_answer(bytes, (uint16_t)n->base.entry->who.user, a->apps, a->count);
  write_answer(a->conn, bytes, len);
  free(a);
  n->answer = NULL;
}

static void tunnel_opened(struct session *s, uint32_t tunnel, uint16_t port, int64_t idle_s) {
  struct nsp_session *n = nsp_of(s);
  struct answer *a = n->answer;
  if (!a || tunnel < a->first || tunnel - a->first >= a->count) return;
  a->apps[tunnel - a->first] = (struct nsp_assignment){.app_id = (uint8_t)tunnel, .port = port};
  a->settled++;
  settle(n);
}

static void tunnel_refused(struct session *s, uint32_t tunnel, const char *reason, const char *message) {
  struct nsp_session *n = nsp_of(s);
  if (!n->answer) return;
  n->answer->failed = true;
  n->answer->settled++;
  settle(n);
}

// The protocol has no word for it. The client asks for its apps anew when it has lost its session.
static void tunnel_closed(struct session *s, uint32_t tunnel, const char *reason) {
  struct nsp_session *n = nsp_of(s);
  n->bounce_reason = strcmp(reason, "limit") == 0 ? "limit" : "port_lost";
  loop_defer(s->worker->loop, &n->bounce);
}

static void on_bounce(struct loop_task *t) {
  struct nsp_session *n = (struct nsp_session *)((char *)t - offsetof(struct nsp_session, bounce));
  session_close(&n->base, n->bounce_reason, NULL, 0);
}

// ---- the reverse side ----

static struct stream *open_stream(void *ctx, uint32_t tunnel, const struct addr *visitor) {
  struct nsp_session *n = ctx;
  return nsp_client_open_stream(n->client, (uint8_t)tunnel);
}

static const char *loss_reason(enum nsp_loss why) {
  switch (why) {
  case NSP_LOST_SILENT: return "lost: no heartbeat";
  case NSP_LOST_GONE: return "lost: every reverse connection has ended";
  case NSP_LOST_CLOSED: return "stop";
  case NSP_LOST_STARVED: return "lost: an app has no reverse connection";
  }
  return "lost";
}

static void on_lost(void *ctx, enum nsp_loss why) {
  struct nsp_session *n = ctx;
  session_close(&n->base, loss_reason(why), NULL, 0);
}

static void on_linked(void *ctx, bool linked) {
  struct nsp_session *n = ctx;
  atomic_store(&n->base.entry->linked, linked);
}

static const struct nsp_client_ops client_ops = {.on_lost = on_lost, .on_linked = on_linked};

// ---- the end ----

static enum nsp_error error_of(const char *reason) {
  if (strcmp(reason, "banned") == 0) return NSP_ERROR_BANNED;
  bool credential = strcmp(reason, "revoked") == 0 || strcmp(reason, "expired") == 0 || strcmp(reason, "removed") == 0;
  return credential ? NSP_ERROR_AUTH : NSP_ERROR_OTHER;
}

static void end(struct session *s, const char *reason, const char *message, int64_t until) {
  struct nsp_session *n = nsp_of(s);
  if (n->answer) answer_with(n, error_of(reason));
  loop_defer_cancel(s->worker->loop, &n->bounce);
  // Who is told to stop for good does not come back by himself: that is for one whose place another took.
  nsp_client_close(n->client, STREAM_SESSION_ENDED, strcmp(reason, "takeover") == 0);
  if (s->entry->who.anonymous) anonymous_touch_later(s->worker->gateway, s->entry->who.user);
}

static const struct session_ops nsp_session_ops = {.source = {.open_stream = open_stream},
                                                   .tunnel_opened = tunnel_opened,
                                                   .tunnel_refused = tunnel_refused,
                                                   .tunnel_closed = tunnel_closed,
                                                   .end = end,
                                                   .free = free};

// NULL: it is gone, or (for ids come by post) not one of these.
static struct nsp_session *find(struct worker *w, uint64_t session) {
  struct session *s = worker_find(w, session);
  return s && s->ops == &nsp_session_ops ? nsp_of(s) : NULL;
}

// ---- asking for apps ----

static void link_proof(struct nsp_session *n, const struct nsp_proof *p) {
  if (p->there) lineages_link(n->base.worker->gateway->lineages, p->lineage, n->base.id);
}

// An app has no name. The port that it asks for tells it from the others whatever their order, so that another list of
// the same user finds the ports that it has in common with the one before; else, and of a second one, its place does.
static void name_app(const struct nsp_session *n, unsigned id, uint16_t port, char name[NAME_TEXT]) {
  snprintf(name, NAME_TEXT, "tcp-%u", port);
  if (port == 0 || tunnels_has_name(&n->base, name)) snprintf(name, NAME_TEXT, "app-%u", id);
}

static void ask(struct nsp_session *n, unsigned id, const struct nsp_wanted *app) {
  struct control_tunnel_open o = {.tunnel = id, .protocol = CONTROL_TCP, .port = app->port};
  name_app(n, id, app->port, o.name);
  snprintf(o.description, sizeof o.description, "%s", app->description);
  if (nsp_client_add_app(n->client, (uint8_t)id)) tunnel_refused(&n->base, id, "unavailable", "out of memory");
  else tunnels_on_open(&n->base, &o);
}

static void ask_all(struct nsp_session *n, const struct nsp_arrival *a) {
  n->answer->asking = true;
  for (unsigned i = 0; i < a->count; i++) ask(n, ++n->napps, &a->apps[i]);
  n->answer->asking = false;
  settle(n);
}

// Takes the arrival's conn. False: it was refused.
static bool begin_answer(struct nsp_session *n, const struct nsp_arrival *a) {
  struct answer *answer = n->answer || n->napps + a->count > NSP_APPS_MAX
                              ? NULL
                              : calloc(1, sizeof *answer + a->count * sizeof answer->apps[0]);
  if (!answer) {
    refuse(a->base.conn, NSP_ERROR_OTHER);
    return false;
  }
  answer->conn = a->base.conn;
  answer->first = n->napps + 1;
  answer->count = a->count;
  n->answer = answer;
  return true;
}

// ---- arrivals ----

static struct nsp_client *make_client(struct nsp_session *n, struct worker *w, const struct arrival *a) {
  const struct config *cfg = w->config;
  struct nsp_client_settings settings = {.dialect = nsp_dialect_at((size_t)cfg->nsp_dialect),
                                         .dead_s = cfg->dead_s > NSP_DEAD_MIN_S ? cfg->dead_s : NSP_DEAD_MIN_S,
                                         .stall_s = cfg->stall_s,
                                         .max_idle = a->who.limits.visitors};
  return nsp_client_new(w->loop, &settings, &n->base.budget, &client_ops, n);
}

static void start(struct worker *w, struct nsp_arrival *a) {
  struct nsp_session *n = calloc(1, sizeof *n);
  if (n) n->client = make_client(n, w, &a->base);
  if (!n || !n->client || session_init(&n->base, w, &a->base, &nsp_session_ops)) {
    if (n && n->client) nsp_client_close(n->client, STREAM_INTERNAL, false);
    free(n);
    registry_leave(w->gateway->registry, a->base.entry);
    refuse(a->base.conn, NSP_ERROR_OTHER);
    return;
  }
  n->bounce.fn = on_bounce;
  link_proof(n, &a->proof);
  if (begin_answer(n, a)) ask_all(n, a);
  else session_close(&n->base, "unavailable", NULL, 0);
}

static void add(struct worker *w, struct nsp_arrival *a) {
  struct nsp_session *n = find(w, a->base.session);
  if (!n) {
    refuse(a->base.conn, NSP_ERROR_OTHER);
  } else if (begin_answer(n, a)) {
    link_proof(n, &a->proof);
    ask_all(n, a);
  }
}

void nsp_session_adopt(struct worker *w, struct arrival *base) {
  struct nsp_arrival *a = (struct nsp_arrival *)base;
  if (a->adds) add(w, a);
  else start(w, a);
}

void nsp_session_adopt_reverse(struct worker *w, struct arrival *base) {
  struct nsp_reverse_arrival *a = (struct nsp_reverse_arrival *)base;
  struct nsp_session *n = find(w, base->session);
  if (!n) {
    conn_close(base->conn, CONN_CLOSE); // its end tells the client to log in again
    return;
  }
  link_proof(n, &a->proof);
  nsp_client_add_conn(n->client, a->app, base->conn);
}

// ---- posts ----

struct message {
  struct worker *worker;
  uint64_t session;
  void (*act)(struct nsp_session *n, const uint8_t *transfer);
  uint8_t transfer[NSP_TRANSFER_ID];
};

static void do_message(void *arg) {
  struct message *m = arg;
  struct nsp_session *n = find(m->worker, m->session);
  if (n) m->act(n, m->transfer);
  free(m);
}

// Without memory it is as if the client had not said it: he says a heartbeat again, and the others are hints.
static void post(struct worker *w, uint64_t session, const uint8_t *transfer,
                 void (*act)(struct nsp_session *n, const uint8_t *transfer)) {
  struct message *m = calloc(1, sizeof *m);
  if (!m) return;
  m->worker = w;
  m->session = session;
  m->act = act;
  if (transfer) memcpy(m->transfer, transfer, sizeof m->transfer);
  if (loop_post(w->loop, do_message, m)) free(m);
}

static void do_heartbeat(struct nsp_session *n, const uint8_t *transfer) {
  registry_beat_taken(n->base.worker->gateway->registry, n->base.entry);
  nsp_client_heartbeat(n->client);
}

static void do_check(struct nsp_session *n, const uint8_t *transfer) { nsp_client_check(n->client); }

static void do_disconnect(struct nsp_session *n, const uint8_t *transfer) { nsp_client_disconnect(n->client, transfer); }

void nsp_session_post_heartbeat(struct worker *w, uint64_t session) { post(w, session, NULL, do_heartbeat); }

void nsp_session_post_check(struct worker *w, uint64_t session) { post(w, session, NULL, do_check); }

void nsp_session_post_disconnect(struct worker *w, uint64_t session, const uint8_t transfer[NSP_TRANSFER_ID]) {
  post(w, session, transfer, do_disconnect);
}
