// nsp_client: logs in, keeps idle reverse connections, serves visitors. Called by nsp_bench; owns every connection, in
// one list. One thread.
//
// A visitor's first message of TARGET_ECHO is answered here and ends the tunnel, so that only the gateway is measured;
// everything else goes to the real target. Every control message must come as ten bytes in one record, which is what
// the stock client's single read needs.
#include "nsp_client.h"
#include "net.h"
#include "nsp_relay.h"
#include "nsp_tls.h"
#include "target.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>

enum {
  HEARTBEAT = 1,
  NEW_APPS = 2,
  DISCONNECT = 5,
  ATTACH = 0xf9,
  AUTH_OK = 1,
  TRANSFER = 1,
  KEEP_ALIVE = 3,
  ID_LEN = 4,
  CONTROL_LEN = 10,
  RECORD_LEN = 1124,
  LOGIN_ANSWER = 5,
  MESSAGE = 16, // of the load generator's new connections
  TOKEN_MAX = 4096,
  REQUEST_MAX = 3 + TOKEN_MAX + 3 + RECORD_LEN,
  HOPELESS_ERRORS = 1000,
  HEARTBEAT_S = 30
};

enum state { SHAKING, WAITING, IDLE, ANSWERING, RELAYING, GONE };

struct line {
  SSL *ssl;
  enum state state;
  bool reverse;
  uint8_t operation;  // of a control connection
  uint8_t id[ID_LEN]; // of the transfer that is on this connection, or is disconnected by it
  uint8_t in[MESSAGE];
  size_t in_len;
  struct relay *relay;
  LIST_ENTRY(line) of_all;
  SLIST_ENTRY(line) of_gone;
};

struct nsp_client {
  struct nsp_options o;
  int poller;
  uint8_t session[2], app;
  uint16_t port;
  unsigned idle; // now
  bool stands;   // all idle connections have been there
  bool hopeless;
  double next_heartbeat;
  struct nsp_counts counts;
  LIST_HEAD(, line) all;
  SLIST_HEAD(, line) gone; // until the batch is over
};

__attribute__((format(printf, 2, 3))) static void note_error(struct nsp_client *c, const char *format, ...) {
  if (c->counts.errors++) return;
  va_list args;
  va_start(args, format);
  vsnprintf(c->counts.first_error, sizeof c->counts.first_error, format, args);
  va_end(args);
}

// ---- connections come and go ----

static struct line *dial(struct nsp_client *c, bool reverse, uint8_t operation) {
  struct line *l = calloc(1, sizeof *l);
  if (!l) die("calloc");
  l->ssl = tls_dial(c->o.tls, reverse ? c->o.reverse_port : c->o.control_port);
  if (!l->ssl) {
    note_error(c, "connect: %s", strerror(errno));
    free(l);
    return NULL;
  }
  l->reverse = reverse;
  l->operation = operation;
  LIST_INSERT_HEAD(&c->all, l, of_all);
  poller_add(c->poller, SSL_get_fd(l->ssl), EPOLLIN | EPOLLOUT | EPOLLET, l);
  return l;
}

static void hang_up(struct nsp_client *c, struct line *l) {
  if (l->state == GONE) return;
  if (l->state == IDLE) c->idle--;
  l->state = GONE;
  relay_free(l->relay);
  tls_hang_up(l->ssl);
  LIST_REMOVE(l, of_all);
  SLIST_INSERT_HEAD(&c->gone, l, of_gone);
}

static void fail(struct nsp_client *c, struct line *l, const char *why) {
  static const char *const doing[] = {"handshake", "answer", "idle", "visitor", "relay"};
  note_error(c, "%s connection, %s: %s", l->reverse ? "reverse" : "control", doing[l->state], why);
  bool replace = l->reverse && l->state <= IDLE;
  if (l->operation == NEW_APPS) c->hopeless = true;
  hang_up(c, l);
  if (c->counts.errors >= HOPELESS_ERRORS) c->hopeless = true;
  if (replace && !c->hopeless) dial(c, true, 0);
}

// True with *n bytes; false when there is nothing now, or no more: then the connection may be gone.
static bool receive(struct nsp_client *c, struct line *l, void *data, size_t cap, size_t *n, bool *end) {
  const char *why = NULL;
  int got = SSL_read(l->ssl, data, (int)cap);
  *end = false;
  *n = got > 0 ? (size_t)got : 0;
  if (got > 0) return true;
  if (!tls_is_waiting(l->ssl, got, end, &why) && !*end) fail(c, l, why);
  return false;
}

// The messages are small and the socket's buffer is empty: what is not taken at once is a fault.
static bool say(struct nsp_client *c, struct line *l, const void *data, size_t len) {
  if (SSL_write(l->ssl, data, (int)len) == (int)len) return true;
  fail(c, l, "write");
  return false;
}

// ---- what each connection begins with ----

static size_t put_token(const struct nsp_client *c, uint8_t *out, uint8_t first) {
  size_t len = strlen(c->o.token);
  out[0] = first;
  out[1] = (uint8_t)(len >> 8);
  out[2] = (uint8_t)len;
  memcpy(out + 3, c->o.token, len);
  return 3 + len;
}

// One TCP app, plain.
static size_t put_login(const struct nsp_client *c, uint8_t out[REQUEST_MAX]) {
  size_t n = put_token(c, out, NEW_APPS);
  memset(out + n, 0, 3 + RECORD_LEN);
  out[n + 2] = 1; // behind the client id, 0: the count
  out[n + 3] = (uint8_t)(c->o.wish >> 8);
  out[n + 4] = (uint8_t)c->o.wish;
  return n + 3 + RECORD_LEN;
}

static size_t put_request(const struct nsp_client *c, const struct line *l, uint8_t out[REQUEST_MAX]) {
  if (l->reverse) return put_token(c, out, ATTACH);
  out[0] = l->operation;
  switch (l->operation) {
  case NEW_APPS: return put_login(c, out);
  case HEARTBEAT: memcpy(out + 1, c->session, sizeof c->session); return 1 + sizeof c->session;
  default: memcpy(out + 1, l->id, ID_LEN); return 1 + ID_LEN;
  }
}

static bool on_shaking(struct nsp_client *c, struct line *l) {
  uint8_t request[REQUEST_MAX];
  const char *why = NULL;
  bool end;
  int ret = SSL_do_handshake(l->ssl);
  if (ret != 1) {
    if (!tls_is_waiting(l->ssl, ret, &end, &why)) fail(c, l, end ? "ended" : why);
    return false;
  }
  c->counts.handshakes++;
  c->counts.resumed += SSL_session_reused(l->ssl) == 1;
  if (!say(c, l, request, put_request(c, l, request))) return false;
  l->state = WAITING;
  return true;
}

// ---- the control connection's answers ----

static void on_login(struct nsp_client *c, struct line *l) {
  if (l->in_len < LOGIN_ANSWER) {
    char why[40];
    snprintf(why, sizeof why, "login refused: %u", l->in_len ? l->in[0] : 256);
    fail(c, l, why);
    return;
  }
  memcpy(c->session, l->in, sizeof c->session);
  c->app = l->in[2];
  c->port = (uint16_t)(l->in[3] << 8 | l->in[4]);
  hang_up(c, l);
  for (unsigned i = 0; i < c->o.idle; i++) dial(c, true, 0);
}

static void on_control_end(struct nsp_client *c, struct line *l) {
  if (l->operation == NEW_APPS) {
    on_login(c, l);
  } else if (l->operation == HEARTBEAT && !l->in_len) {
    fail(c, l, "heartbeat not acknowledged");
  } else {
    if (l->operation == DISCONNECT) c->counts.disconnects++;
    hang_up(c, l);
  }
}

static bool on_control_waiting(struct nsp_client *c, struct line *l) {
  size_t n;
  bool end;
  if (receive(c, l, l->in + l->in_len, sizeof l->in - l->in_len, &n, &end)) {
    l->in_len += n;
    if (l->operation != DISCONNECT && l->in_len < LOGIN_ANSWER) return true;
    if (l->operation == NEW_APPS) {
      on_login(c, l);
    } else {
      fail(c, l, "more than was asked for");
    }
  } else if (end) {
    on_control_end(c, l);
  }
  return false;
}

// ---- reverse connections ----

static bool on_reverse_waiting(struct nsp_client *c, struct line *l) {
  size_t n;
  bool end;
  uint8_t ids[] = {c->session[0], c->session[1], c->app};
  if (!receive(c, l, l->in, 1, &n, &end)) {
    if (end) fail(c, l, "ended");
    return false;
  }
  if (l->in[0] != AUTH_OK) {
    c->hopeless = true;
    fail(c, l, "refused");
    return false;
  }
  if (!say(c, l, ids, sizeof ids)) return false;
  l->state = IDLE;
  c->idle++;
  return true;
}

static bool on_idle(struct nsp_client *c, struct line *l) {
  uint8_t message[CONTROL_LEN];
  size_t n;
  bool end;
  if (!receive(c, l, message, sizeof message, &n, &end)) {
    if (end) fail(c, l, "ended");
    return false;
  }
  if (n == CONTROL_LEN && message[0] == KEEP_ALIVE) return true;
  if (n != CONTROL_LEN || message[0] != TRANSFER) {
    char why[64];
    snprintf(why, sizeof why, "control message %u of %zu bytes", message[0], n);
    c->hopeless = true;
    fail(c, l, why);
    return false;
  }
  c->counts.transfers++;
  c->idle--;
  l->state = ANSWERING;
  memcpy(l->id, message + 1, ID_LEN);
  dial(c, true, 0);
  return true;
}

static void end_transfer(struct nsp_client *c, struct line *l) {
  uint8_t id[ID_LEN];
  memcpy(id, l->id, ID_LEN);
  hang_up(c, l);
  struct line *d = c->o.disconnects ? dial(c, false, DISCONNECT) : NULL;
  if (d) memcpy(d->id, id, ID_LEN);
}

static bool on_answering(struct nsp_client *c, struct line *l) {
  size_t n;
  bool end;
  if (!receive(c, l, l->in + l->in_len, MESSAGE - l->in_len, &n, &end)) {
    if (end) end_transfer(c, l); // the visitor has left
    return false;
  }
  l->in_len += n;
  if (l->in[0] != TARGET_ECHO) {
    l->relay = relay_new(c->poller, l, c->o.target_port, l->in, l->in_len);
    if (!l->relay) {
      fail(c, l, "target");
      return false;
    }
    c->counts.relayed++;
    l->state = RELAYING;
    return true;
  }
  if (l->in_len < MESSAGE) return true;
  if (!say(c, l, l->in, MESSAGE)) return false;
  c->counts.answered++;
  end_transfer(c, l);
  return false;
}

static bool on_relaying(struct nsp_client *c, struct line *l) {
  if (!relay_pump(l->relay, l->ssl)) end_transfer(c, l);
  return false;
}

// ---- the interface ----

// One state's work; true when it has changed and there may be more.
static bool step(struct nsp_client *c, struct line *l) {
  switch (l->state) {
  case SHAKING: return on_shaking(c, l);
  case WAITING: return l->reverse ? on_reverse_waiting(c, l) : on_control_waiting(c, l);
  case IDLE: return on_idle(c, l);
  case ANSWERING: return on_answering(c, l);
  case RELAYING: return on_relaying(c, l);
  default: return false;
  }
}

void nsp_client_ready(struct nsp_client *c, void *connection) {
  while (step(c, connection)) {
  }
}

static void free_gone(struct nsp_client *c) {
  struct line *l;
  while ((l = SLIST_FIRST(&c->gone))) {
    SLIST_REMOVE_HEAD(&c->gone, of_gone);
    free(l);
  }
}

void nsp_client_tick(struct nsp_client *c) {
  free_gone(c);
  double now = clock_seconds();
  if (c->idle >= c->o.idle) c->stands = true;
  if (!c->port || now < c->next_heartbeat) return;
  c->next_heartbeat = now + HEARTBEAT_S;
  dial(c, false, HEARTBEAT);
}

struct nsp_client *nsp_client_new(const struct nsp_options *o, int poller) {
  struct nsp_client *c = calloc(1, sizeof *c);
  if (!c) die("calloc");
  c->o = *o;
  c->poller = poller;
  LIST_INIT(&c->all);
  SLIST_INIT(&c->gone);
  if (!dial(c, false, NEW_APPS)) c->hopeless = true;
  return c;
}

void nsp_client_free(struct nsp_client *c) {
  while (!LIST_EMPTY(&c->all)) hang_up(c, LIST_FIRST(&c->all));
  free_gone(c);
  free(c);
}

uint16_t nsp_client_port(const struct nsp_client *c) {
  return c->stands ? c->port : 0;
}

struct nsp_counts nsp_client_take_counts(struct nsp_client *c) {
  struct nsp_counts counts = c->counts;
  memset(&c->counts, 0, sizeof c->counts);
  return counts;
}

bool nsp_client_hopeless(const struct nsp_client *c) {
  return c->hopeless;
}
