// web: connections of the web port: heads in, answers out, deadlines. See web.h; the calls are in web_api.c and
// web_login.c. All of it on the handshake thread, but for web_new and web_free.
//
// A connection has one request at a time: while it is answered nothing is read, and what was pipelined behind it waits
// in the buffer. Buffers are there only while a request is.
#include "postern/base/clock.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/gateway/web_internal.h"

#include <stdio.h>
#include <time.h>

enum {
  TICK_MS = 250,
  BUSY_MS = 60 * 1000, // an answer that has not come by then is lost
  MINUTE_MS = 60 * 1000,
  TRIES_KEYS = 8192, // addresses and names whose wrong logins are remembered
  ANSWER_HEAD_MAX = 512,
};

// ---- states ----

static void enter(struct web_conn *c, enum web_state to) {
  c->state = to;
  c->since_ms = loop_now_ms(c->web->loop);
  TAILQ_INSERT_TAIL(&c->web->lists[to], c, of_state);
}

static void set_state(struct web_conn *c, enum web_state to) {
  if (c->state == to) return;
  TAILQ_REMOVE(&c->web->lists[c->state], c, of_state);
  enter(c, to);
}

// ---- the end of a connection ----

static void free_in(struct web_conn *c) {
  if (c->in) crypto_wipe(c->in, WEB_HEAD_MAX); // the query of a login was in it
  free(c->in);
  free(c->head);
  c->in = NULL;
  c->head = NULL;
  c->in_len = 0;
}

static void free_out(struct web_conn *c) {
  if (c->out) crypto_wipe(c->out, c->out_len); // a token may be in it
  free(c->out);
  c->out = NULL;
  c->out_len = c->out_off = 0;
}

static void conn_gone(void *obj) {
  struct web_conn *c = obj;
  free_in(c);
  free_out(c);
  free(c);
}

static void close_conn(struct web_conn *c, enum conn_end how) {
  struct web *w = c->web;
  if (c->state == WEB_GONE) return;
  TAILQ_REMOVE(&w->lists[c->state], c, of_state);
  HASH_DEL(w->conns, c);
  c->state = WEB_GONE;
  conn_close(c->conn, how);
  loop_reap(w->loop, c, conn_gone);
}

// ---- answering ----

static const char *status_text(int status) {
  switch (status) {
  case 200: return "OK";
  case 400: return "Bad Request";
  case 404: return "Not Found";
  case 405: return "Method Not Allowed";
  case 431: return "Request Header Fields Too Large";
  default: return "HTTP Version Not Supported";
  }
}

// Of HTTP/1.0 a connection stays only when that is said.
static const char *connection_field(const struct web_conn *c) {
  if (c->close_after) return "Connection: close\r\n";
  return c->old ? "Connection: keep-alive\r\n" : "";
}

static size_t write_head(const struct web_conn *c, int status, size_t body, char out[ANSWER_HEAD_MAX]) {
  char date[64], allow[32] = "";
  struct tm tm;
  time_t now = (time_t)clock_wall_s();
  strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
  if (status == 405) snprintf(allow, sizeof allow, "Allow: GET%s\r\n", c->get_only ? "" : ", HEAD");
  return (size_t)snprintf(out, ANSWER_HEAD_MAX,
                          "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %zu\r\n"
                          "Date: %s\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s%s\r\n",
                          status, status_text(status), body, date, allow, connection_field(c));
}

// Straight into the buffer, which is wiped: no copy of a token stays behind.
static bool make_answer(struct web_conn *c, int status, const json_t *envelope) {
  char head[ANSWER_HEAD_MAX];
  size_t body = json_dumpb(envelope, NULL, 0, JSON_COMPACT);
  size_t len = write_head(c, status, body, head);
  c->out_len = len + (c->head_only ? 0 : body);
  c->out_off = 0;
  if (body == 0 || !(c->out = malloc(c->out_len))) return false;
  memcpy(c->out, head, len);
  return c->head_only || json_dumpb(envelope, c->out + len, body, JSON_COMPACT) == body;
}

static void finish_answer(struct web_conn *c) {
  free_out(c);
  if (c->close_after) {
    close_conn(c, CONN_LINGER); // what the peer still sends must not turn the answer into a reset
    return;
  }
  set_state(c, WEB_IDLE);
  conn_resume(c->conn);
}

static void send_answer(struct web_conn *c) {
  int code = 0;
  while (code == 0 && c->out_off < c->out_len) {
    size_t n = 0;
    code = conn_write(c->conn, c->out + c->out_off, c->out_len - c->out_off, &n);
    if (code == 0) c->out_off += n;
  }
  if (code == 0) code = conn_flush(c->conn);
  if (code == PERR_AGAIN) set_state(c, WEB_ANSWER);
  else if (code) close_conn(c, CONN_CLOSE);
  else finish_answer(c);
}

// Takes `data`.
static void answer(struct web_conn *c, int status, int ok, const char *message, json_t *data) {
  json_t *envelope = json_pack("{s:i, s:s, s:o}", "State", ok, "Msg", message, "Data", data ? data : json_null());
  bool made = envelope && make_answer(c, status, envelope);
  json_decref(envelope);
  if (made) send_answer(c);
  else close_conn(c, CONN_CLOSE);
}

void web_answer(struct web_conn *c, json_t *data) { answer(c, 200, 1, "", data); }
void web_answer_error(struct web_conn *c, const char *message) { answer(c, 200, 0, message, NULL); }
void web_refuse(struct web_conn *c, int status, const char *message) { answer(c, status, 0, message, NULL); }
void web_wait(struct web_conn *c) { set_state(c, WEB_BUSY); }

struct web_conn *web_find(struct web *w, uint64_t id) {
  struct web_conn *c;
  HASH_FIND(hh, w->conns, &id, sizeof id, c);
  return c;
}

// ---- reading ----

static bool make_in(struct web_conn *c) {
  if (c->in) return true;
  c->in = malloc(WEB_HEAD_MAX);
  c->head = malloc(sizeof *c->head);
  if (!c->in || !c->head) return false;
  http_head_init(c->head, WEB_HEAD_MAX);
  return true;
}

// 0: a head is complete; an error of http_head_parse or of conn_read.
static int read_head(struct web_conn *c) {
  if (!make_in(c)) return PERR_NOMEM;
  for (;;) {
    int code = http_head_parse(c->head, c->in, c->in_len);
    if (c->in_len > 0) set_state(c, WEB_HEAD);
    if (code != PERR_AGAIN) return code;
    size_t n = 0;
    code = conn_read(c->conn, c->in + c->in_len, WEB_HEAD_MAX - c->in_len, &n);
    if (code) return code;
    c->in_len += n;
  }
}

// Drops the request that was served; what was pipelined behind it moves up.
static void drop_request(struct web_conn *c) {
  size_t used = http_head_size(c->head);
  c->in_len -= used;
  memmove(c->in, c->in + used, c->in_len);
  crypto_wipe(c->in + c->in_len, used);
  http_head_init(c->head, WEB_HEAD_MAX);
}

static void serve_request(struct web_conn *c) {
  c->head_only = http_slice_is(http_method(c->head), "HEAD");
  c->close_after = !http_persists(c->head);
  c->old = c->head->minor == 0;
  web_serve(c);
  if (c->state != WEB_GONE) drop_request(c);
}

// Nobody knows where the next request would begin.
static void refuse_head(struct web_conn *c, int error) {
  int status = error == PERR_LIMIT ? 431 : error == PERR_VERSION ? 505 : 400;
  char message[128], peer[ADDR_TEXT];
  snprintf(message, sizeof message, "error: %s.", c->head->why);
  log_event(LOG_DEBUG, "web.malformed", c->head->why, LF_STR("peer", addr_format(&c->peer, peer)),
            LF_INT("status", status));
  c->head_only = false;
  c->close_after = true;
  web_refuse(c, status, message);
}

static void on_readable(void *ctx, struct conn *conn) {
  struct web_conn *c = ctx;
  if (c->state != WEB_IDLE && c->state != WEB_HEAD) return;
  int code = read_head(c);
  if (code == 0) serve_request(c);
  else if (code == PERR_PROTOCOL || code == PERR_LIMIT || code == PERR_VERSION) refuse_head(c, code);
  else if (code != PERR_AGAIN) close_conn(c, CONN_CLOSE);
  else if (c->in_len == 0) free_in(c);
}

static void on_writable(void *ctx, struct conn *conn) {
  struct web_conn *c = ctx;
  if (c->state == WEB_ANSWER) send_answer(c);
}

static void on_abort(void *ctx, struct conn *conn) { close_conn(ctx, CONN_CLOSE); }

static const struct conn_ops web_conn_ops = {
    .on_readable = on_readable, .on_writable = on_writable, .on_abort = on_abort};

// ---- limits ----

static uint64_t limit_ms(const struct web *w, enum web_state s) {
  switch (s) {
  case WEB_IDLE: return (uint64_t)w->config->http_idle_s * 1000;
  case WEB_BUSY: return BUSY_MS;
  default: return (uint64_t)w->config->http_head_s * 1000;
  }
}

static void on_deadline(void *ctx) {
  struct web *w = ctx;
  uint64_t now = loop_now_ms(w->loop);
  for (enum web_state s = WEB_IDLE; s < WEB_GONE; s++) {
    struct web_conn *c;
    while ((c = TAILQ_FIRST(&w->lists[s])) && now - c->since_ms >= limit_ms(w, s)) close_conn(c, CONN_CLOSE);
  }
  loop_timer_set(w->deadline, TICK_MS);
}

// Closes the connection of that key that has been idle longest. False: there is none.
static bool close_idle_of(struct web *w, const char *key) {
  struct web_conn *c;
  TAILQ_FOREACH(c, &w->lists[WEB_IDLE], of_state) {
    if (strcmp(c->key, key) != 0) continue;
    close_conn(c, CONN_CLOSE);
    return true;
  }
  return false;
}

// Whether one more of that key may come. An idle connection gives way, for its client makes another; under a flood the
// one that has waited longest for its head.
static bool make_room(struct web *w, const char *key) {
  unsigned same = 0;
  for (struct web_conn *c = w->conns; c; c = c->hh.next) same += strcmp(c->key, key) == 0;
  if (same >= WEB_PER_ADDRESS && !close_idle_of(w, key)) return false;
  if (HASH_COUNT(w->conns) < WEB_MOST) return true;
  struct web_conn *oldest = TAILQ_FIRST(&w->lists[WEB_IDLE]);
  if (!oldest) oldest = TAILQ_FIRST(&w->lists[WEB_HEAD]);
  if (oldest) close_conn(oldest, CONN_CLOSE);
  return oldest != NULL;
}

void web_take(struct web *w, struct conn *conn, const struct addr *peer, const struct web_ports *ports, bool plaintext) {
  char key[TRIES_KEY_TEXT];
  struct web_conn *c = make_room(w, tries_addr_key(peer, key)) ? calloc(1, sizeof *c) : NULL;
  if (!c) {
    conn_close(conn, CONN_CLOSE);
    return;
  }
  c->web = w;
  c->id = ++w->last_id;
  c->conn = conn;
  c->peer = *peer;
  memcpy(c->key, key, sizeof c->key);
  c->ports = *ports;
  c->plaintext = plaintext;
  HASH_ADD(hh, w->conns, id, sizeof c->id, c);
  enter(c, WEB_HEAD);
  conn_rebind(conn, &web_conn_ops, c);
}

// ---- life ----

void web_set_config(struct web *w, struct config *c) {
  config_unref(w->config);
  w->config = config_ref(c);
}

int web_new(struct web **out, struct gateway *g, struct loop *l, struct tries *anonymous) {
  struct web *w = calloc(1, sizeof *w);
  if (!w) return PERR_NOMEM;
  for (unsigned i = 0; i < WEB_GONE; i++) TAILQ_INIT(&w->lists[i]);
  w->gateway = g;
  w->loop = l;
  w->config = config_ref(g->config);
  w->mail = web_mail_new(w, l);
  w->hasher = hasher_new();
  w->wrong_by_address = tries_new(WEB_WRONG_PER_MINUTE, MINUTE_MS, TRIES_KEYS);
  w->wrong_by_user = tries_new(WEB_WRONG_PER_MINUTE, MINUTE_MS, TRIES_KEYS);
  w->anonymous_by_address = anonymous;
  w->deadline = loop_timer_new(l, on_deadline, w);
  if (!w->mail || !w->hasher || !w->wrong_by_address || !w->wrong_by_user || !w->deadline) {
    web_free(w);
    return PERR_NOMEM;
  }
  loop_timer_set(w->deadline, TICK_MS);
  *out = w;
  return 0;
}

void web_free(struct web *w) {
  if (!w) return;
  hasher_free(w->hasher);
  if (w->mail) web_mail_end(w->mail);
  while (w->conns) close_conn(w->conns, CONN_CLOSE);
  loop_timer_free(w->deadline);
  tries_free(w->wrong_by_address);
  tries_free(w->wrong_by_user);
  config_unref(w->config);
  free(w);
}
