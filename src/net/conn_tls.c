// conn_tls: TLS records over a conn's socket, through a BIO of our own. Reading goes straight into OpenSSL's read-ahead
// buffer; writing gathers records in a buffer of the loop's stock, so that one send carries many of them.
#include "postern/base/log.h"
#include "postern/net/conn.h"
#include "postern/net/conn_internal.h"
#include "postern/net/loop_internal.h"
#include "postern/net/tls_internal.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct conn_tls {
  SSL *ssl;
  struct tls *ctx; // counted
  uint8_t *out; // NULL while empty
  size_t out_off, out_len;
  size_t out_cap; // LOOP_BUFFER: of the loop's stock; else what was left by conn_trim
  int raw_error;   // the socket's end: PERR_EOF or PERR_RESET; 0 before
  bool starved;    // the last SSL_read wanted more from the socket
  char error[TLS_TEXT];
};

// ---- the BIO ----

static int bio_read(BIO *b, char *buf, int cap) {
  struct conn *c = BIO_get_data(b);
  BIO_clear_retry_flags(b);
  ssize_t r = conn_raw_recv(c, buf, (size_t)cap);
  if (r > 0) return (int)r;
  if (r == PERR_AGAIN) BIO_set_retry_read(b);
  else c->tls->raw_error = (int)r;
  return r == PERR_EOF ? 0 : -1;
}

// A buffer for more records, with what waits in it.
static bool out_open(struct conn *c) {
  struct conn_tls *t = c->tls;
  if (t->out && t->out_cap == LOOP_BUFFER) return true;
  uint8_t *big = loop_buffer_get(c->loop);
  if (!big) return false;
  size_t waits = t->out ? t->out_len - t->out_off : 0;
  if (waits) memcpy(big, t->out + t->out_off, waits);
  free(t->out);
  t->out = big;
  t->out_off = 0;
  t->out_len = waits;
  t->out_cap = LOOP_BUFFER;
  return true;
}

static void out_drop(struct conn *c) {
  struct conn_tls *t = c->tls;
  if (t->out_cap == LOOP_BUFFER && c->loop) loop_buffer_put(c->loop, t->out);
  else free(t->out);
  t->out = NULL;
  t->out_off = t->out_len = t->out_cap = 0;
}

void conn_trim(struct conn *c) {
  struct conn_tls *t = c->tls;
  if (!t || t->out_cap != LOOP_BUFFER) return;
  size_t waits = t->out_len - t->out_off;
  uint8_t *small = malloc(waits);
  if (!small) return;
  memcpy(small, t->out + t->out_off, waits);
  out_drop(c);
  t->out = small;
  t->out_len = t->out_cap = waits;
}

size_t conn_unsent(const struct conn *c) { return c->tls ? c->tls->out_len - c->tls->out_off : 0; }

static int bio_write(BIO *b, const char *data, int len) {
  struct conn *c = BIO_get_data(b);
  struct conn_tls *t = c->tls;
  BIO_clear_retry_flags(b);
  if (!out_open(c)) return -1;
  if ((size_t)len > LOOP_BUFFER - t->out_len && t->out_off > 0) {
    memmove(t->out, t->out + t->out_off, t->out_len - t->out_off);
    t->out_len -= t->out_off;
    t->out_off = 0;
  }
  if ((size_t)len > LOOP_BUFFER - t->out_len) {
    BIO_set_retry_write(b);
    return -1;
  }
  memcpy(t->out + t->out_len, data, (size_t)len);
  t->out_len += (size_t)len;
  return len;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr) {
  struct conn *c = BIO_get_data(b);
  switch (cmd) {
  case BIO_CTRL_FLUSH: return 1;
  case BIO_CTRL_EOF: return c->tls->raw_error == PERR_EOF;
  default: return 0;
  }
}

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static void make_method(void) {
  method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "conn");
  if (!method) return;
  BIO_meth_set_read(method, bio_read);
  BIO_meth_set_write(method, bio_write);
  BIO_meth_set_ctrl(method, bio_ctrl);
}

// ---- errors ----

static void note_error(struct conn *c) {
  struct conn_tls *t = c->tls;
  if (tls_verify_text(t->ssl, t->error, sizeof t->error)[0]) {
    ERR_clear_error();
    return;
  }
  unsigned long e = ERR_peek_last_error();
  const char *reason = e ? ERR_reason_error_string(e) : NULL;
  snprintf(t->error, sizeof t->error, "%s", reason ? reason : "TLS failed");
  ERR_clear_error();
}

static int tls_failure(struct conn *c, int ret) {
  struct conn_tls *t = c->tls;
  int code = SSL_get_error(t->ssl, ret);
  if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) return PERR_AGAIN;
  if (code == SSL_ERROR_ZERO_RETURN) return PERR_EOF;
  if (t->raw_error) {
    ERR_clear_error();
    return t->raw_error == PERR_EOF ? PERR_TRUNCATED : PERR_RESET;
  }
  note_error(c);
  return PERR_TLS;
}

const char *conn_tls_error(const struct conn *c) { return c->tls ? c->tls->error : ""; }

// ---- life ----

int conn_tls_new(struct conn *c, struct tls *ctx) {
  pthread_once(&method_once, make_method);
  struct conn_tls *t = calloc(1, sizeof *t);
  if (!t || !method) {
    free(t);
    return PERR_NOMEM;
  }
  t->ssl = SSL_new(tls_ctx(ctx));
  BIO *bio = BIO_new(method);
  if (!t->ssl || !bio) {
    SSL_free(t->ssl);
    BIO_free(bio);
    free(t);
    return PERR_NOMEM;
  }
  t->ctx = tls_ref(ctx);
  BIO_set_data(bio, c);
  BIO_set_init(bio, 1);
  SSL_set_bio(t->ssl, bio, bio);
  c->tls = t;
  if (tls_is_client(ctx)) {
    SSL_set_connect_state(t->ssl);
    tls_prepare(ctx, t->ssl);
  } else {
    SSL_set_accept_state(t->ssl);
  }
  return 0;
}

void conn_tls_free(struct conn *c) {
  struct conn_tls *t = c->tls;
  if (!t) return;
  out_drop(c);
  c->tls = NULL;
  SSL_free(t->ssl);
  tls_unref(t->ctx);
  free(t);
}

int conn_tls_handshake(struct conn *c) {
  int ret = SSL_do_handshake(c->tls->ssl);
  int code = ret == 1 ? 0 : tls_failure(c, ret);
  int flushed = conn_tls_flush(c); // an alert too
  if (code == PERR_TRUNCATED) return PERR_EOF;
  if (code == 0 && flushed == PERR_RESET) return PERR_RESET;
  return code;
}

// ---- reading and writing ----

int conn_tls_read(struct conn *c, void *buf, size_t cap, size_t *n) {
  struct conn_tls *t = c->tls;
  ERR_clear_error(); // SSL_get_error would take what others left there for ours
  int ret = SSL_read_ex(t->ssl, buf, cap, n);
  if (ret == 1) {
    t->starved = false;
    return 0;
  }
  int code = tls_failure(c, ret);
  if (code == PERR_AGAIN) t->starved = true;
  return code;
}

bool conn_tls_may_read(const struct conn *c) {
  return c->may_recv || (!c->tls->starved && SSL_has_pending(c->tls->ssl));
}

bool conn_tls_may_write(const struct conn *c) { return conn_unsent(c) < CONN_OUT_HIGH; }

int conn_tls_write_last(struct conn *c, const void *buf, size_t len) {
  size_t taken;
  ERR_clear_error();
  int ret = SSL_write_ex(c->tls->ssl, buf, len, &taken);
  return ret == 1 ? 0 : tls_failure(c, ret);
}

int conn_tls_write(struct conn *c, const void *buf, size_t len) {
  if (!conn_tls_may_write(c)) {
    int code = conn_tls_flush(c);
    if (code == PERR_RESET) return code;
    if (!conn_tls_may_write(c)) {
      c->want_write = true;
      return PERR_AGAIN;
    }
  }
  return conn_tls_write_last(c, buf, len);
}

int conn_tls_flush(struct conn *c) {
  struct conn_tls *t = c->tls;
  while (t->out_off < t->out_len) {
    ssize_t r = conn_raw_send(c, t->out + t->out_off, t->out_len - t->out_off);
    if (r < 0) return (int)r;
    t->out_off += (size_t)r;
  }
  if (t->out) out_drop(c);
  return 0;
}

void conn_tls_shutdown(struct conn *c) {
  if (SSL_is_init_finished(c->tls->ssl)) SSL_shutdown(c->tls->ssl);
  ERR_clear_error();
}

struct ssl_st *conn_ssl(struct conn *c) { return c->tls ? c->tls->ssl : NULL; }

const char *conn_alpn(struct conn *c, char out[32]) {
  const unsigned char *name = NULL;
  unsigned len = 0;
  if (c->tls) SSL_get0_alpn_selected(c->tls->ssl, &name, &len);
  if (len > 31) len = 0;
  if (len) memcpy(out, name, len);
  out[len] = '\0';
  return out;
}
