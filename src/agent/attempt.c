// attempt: one try to reach the gateway, for session. Owns its conn until the gateway lets it in. Loop thread.
#include "postern/agent/attempt.h"
#include "postern/base/crypto.h"
#include "postern/base/log.h"
#include "postern/trunk/link.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  CONNECT_MS = 10000, // per address
  ANSWER_MS = 15000,  // from the connection to the gateway's answer
  REASON_TEXT = 512,
};

// In order: a failure further on says more about what is wrong.
enum stage { STAGE_RESOLVE, STAGE_CONNECT, STAGE_TLS, STAGE_HELLO, STAGE_OVER };

struct attempt {
  struct loop *loop;
  struct resolver *resolver;
  uint64_t look_up;
  struct tls *tls;
  struct conn *conn;
  struct loop_timer *timer;
  const struct attempt_ops *ops;
  void *ctx;
  char host[HOST_TEXT];
  struct control hello;
  struct addr addrs[RESOLVE_MAX];
  unsigned n, next;
  enum stage stage;
  enum stage furthest; // of the addresses that failed, and why
  char reason[REASON_TEXT];
  struct link_greeting greeting;
};

static const struct conn_ops conn_ops;

// ---- the end of an attempt ----

static void attempt_free(void *obj) {
  free(obj);
}

// Lets go of everything but the conn that the caller may have taken out. What is left is the reason.
static void attempt_over(struct attempt *a) {
  assert(a->stage != STAGE_OVER);
  a->stage = STAGE_OVER;
  resolver_cancel(a->resolver, a->look_up);
  conn_close(a->conn, CONN_CLOSE);
  a->conn = NULL;
  loop_timer_free(a->timer);
  tls_unref(a->tls);
  crypto_wipe(&a->hello, sizeof a->hello);
  loop_reap(a->loop, a, attempt_free);
}

void attempt_cancel(struct attempt *a) {
  if (a && a->stage != STAGE_OVER) attempt_over(a);
}

static void fail_attempt(struct attempt *a) {
  attempt_over(a);
  a->ops->on_failed(a->ctx, a->reason);
}

// ---- one address ----

// Keeps the reason when this address came at least as far as those before it.
static void note_reason(struct attempt *a, const char *why) {
  char address[ADDR_TEXT], ip[ADDR_TEXT];
  if (a->stage < a->furthest) return;
  a->furthest = a->stage;
  const struct addr *to = &a->addrs[a->next - 1];
  if (strcmp(addr_format_ip(to, ip), a->host) == 0)
    snprintf(a->reason, sizeof a->reason, "%s", why);
  else
    snprintf(a->reason, sizeof a->reason, "%s (%s)", why, addr_format(to, address));
}

static void dial_next(struct attempt *a);

static void fail_address(struct attempt *a, const char *why) {
  note_reason(a, why);
  conn_close(a->conn, CONN_CLOSE);
  a->conn = NULL;
  dial_next(a);
}

static const char *connect_error(int result, int error) {
  switch (result) {
  case PERR_RESET: return "connection refused";
  case PERR_TIMEOUT: return "connecting timed out";
  case PERR_IO: return strerror(error);
  default: return perr_str(result);
  }
}

static void dial_next(struct attempt *a) {
  while (a->next < a->n) {
    int error = 0;
    a->stage = STAGE_CONNECT;
    a->greeting.have = 0;
    a->conn = conn_dial(a->loop, &a->addrs[a->next++], &conn_ops, a, &error);
    if (a->conn) {
      loop_timer_set(a->timer, CONNECT_MS);
      return;
    }
    note_reason(a, connect_error(error, errno));
  }
  fail_attempt(a);
}

// What a failed read, write or handshake says about the gateway.
static void fail_conn(struct attempt *a, int code) {
  const char *tls = conn_tls_error(a->conn);
  bool hello = a->stage == STAGE_HELLO;
  if (*tls)
    fail_address(a, tls);
  else if (code == PERR_EOF || code == PERR_TRUNCATED || code == PERR_RESET)
    fail_address(a, hello ? "the gateway closed the connection instead of an answer"
                          : "the gateway closed the connection during the TLS handshake");
  else
    fail_address(a, perr_str(code));
}

static void on_connect(void *ctx, struct conn *c, int result) {
  struct attempt *a = ctx;
  if (result < 0) {
    fail_address(a, connect_error(result, errno));
    return;
  }
  a->stage = STAGE_TLS;
  loop_timer_set(a->timer, ANSWER_MS);
  int rc = conn_start_tls(c, a->tls);
  if (rc < 0) fail_conn(a, rc);
}

static void say_hello(struct attempt *a) {
  a->stage = STAGE_HELLO;
  int rc = link_greeting_write(a->conn, &a->hello);
  if (rc < 0 && rc != PERR_AGAIN) fail_conn(a, rc);
}

static void on_handshake(void *ctx, struct conn *c, int result) {
  struct attempt *a = ctx;
  char alpn[32];
  if (result < 0)
    fail_conn(a, result);
  else if (strcmp(conn_alpn(c, alpn), "postern/1") != 0)
    fail_address(a, "the server does not speak postern/1: is this the gateway's control port?");
  else
    say_hello(a);
}

static void on_answer(struct attempt *a, const struct control *m) {
  struct conn *c = a->conn;
  if (m->type == CONTROL_WELCOME && m->welcome.version == CONTROL_VERSION) {
    a->conn = NULL;
    attempt_over(a);
    a->ops->on_welcome(a->ctx, c, &m->welcome);
  } else if (m->type == CONTROL_END) {
    attempt_over(a);
    a->ops->on_end(a->ctx, &m->end);
  } else {
    fail_address(a, "protocol: the gateway's first message is neither welcome nor end");
  }
}

static void on_readable(void *ctx, struct conn *c) {
  struct attempt *a = ctx;
  struct control m;
  struct err_text e = {""};
  if (a->stage != STAGE_HELLO) return;
  int rc = link_greeting_read(&a->greeting, c, &m, &e);
  if (rc == 0) {
    on_answer(a, &m);
  } else if (rc == PERR_PROTOCOL) {
    err_prefix(&e, "protocol");
    fail_address(a, e.s);
  } else if (rc != PERR_AGAIN) {
    fail_conn(a, rc);
  }
}

static void on_writable(void *ctx, struct conn *c) {
  struct attempt *a = ctx;
  int rc = conn_flush(c);
  if (rc < 0 && rc != PERR_AGAIN) fail_conn(a, rc);
}

static void on_abort(void *ctx, struct conn *c) {
  fail_conn(ctx, PERR_RESET);
}

static const struct conn_ops conn_ops = {.on_connect = on_connect,
                                         .on_handshake = on_handshake,
                                         .on_readable = on_readable,
                                         .on_writable = on_writable,
                                         .on_abort = on_abort};

static void on_timeout(void *ctx) {
  struct attempt *a = ctx;
  switch (a->stage) {
  case STAGE_CONNECT: fail_address(a, "connecting timed out"); break;
  case STAGE_TLS: fail_address(a, "the TLS handshake timed out"); break;
  default: fail_address(a, "the gateway did not answer hello in time"); break;
  }
}

// ---- start ----

static void on_resolved(void *ctx, const struct addr *addrs, unsigned n, const char *error) {
  struct attempt *a = ctx;
  a->look_up = 0;
  if (n == 0) {
    snprintf(a->reason, sizeof a->reason, "the name cannot be resolved: %s", error);
    fail_attempt(a);
    return;
  }
  a->n = n < RESOLVE_MAX ? n : RESOLVE_MAX;
  memcpy(a->addrs, addrs, a->n * sizeof *addrs);
  dial_next(a);
}

struct attempt *attempt_start(struct loop *l, struct resolver *r, const char *host, uint16_t port, struct tls *tls,
                              const struct control_hello *hello, const struct attempt_ops *ops, void *ctx) {
  struct attempt *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  a->loop = l;
  a->resolver = r;
  a->ops = ops;
  a->ctx = ctx;
  a->hello = (struct control){.type = CONTROL_HELLO, .hello = *hello};
  snprintf(a->host, sizeof a->host, "%s", host);
  a->timer = loop_timer_new(l, on_timeout, a);
  a->look_up = a->timer ? resolver_ask(r, host, port, on_resolved, a) : 0;
  if (!a->look_up) {
    loop_timer_free(a->timer);
    crypto_wipe(&a->hello, sizeof a->hello);
    free(a);
    return NULL;
  }
  a->tls = tls_ref(tls);
  return a;
}
