// nsp_tls: TLS as a wrapper around the stock client would have it: no ALPN, the gateway's certificate verified, every
// connection resumed by the newest ticket. Called by nsp_client; the context owns the session. One thread.
#include "nsp_tls.h"
#include "net.h"
#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char server_name[] = "127.0.0.1";

static void tls_die(const char *what) {
  const char *reason = ERR_reason_error_string(ERR_peek_error());
  fprintf(stderr, "nsp_bench: %s: %s\n", what, reason ? reason : "?");
  exit(1);
}

static void free_session(void *parent, void *session, CRYPTO_EX_DATA *ad, int index, long argl, void *argp) {
  SSL_SESSION_free(session);
}

static int newest_index(void) {
  static int index = -1;
  if (index < 0) index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_session);
  if (index < 0) tls_die("session");
  return index;
}

// Keeps a copy: OpenSSL spoils the session of a connection when it ends, and in TLS 1.3 when it is used.
static int on_session(SSL *ssl, SSL_SESSION *session) {
  SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
  SSL_SESSION_free(SSL_CTX_get_ex_data(ctx, newest_index()));
  SSL_CTX_set_ex_data(ctx, newest_index(), SSL_SESSION_dup(session));
  return 0;
}

SSL_CTX *tls_context(const char *ca_file, int version) {
  SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
  if (!ctx || SSL_CTX_load_verify_file(ctx, ca_file) != 1) tls_die(ca_file);
  if (X509_VERIFY_PARAM_set1_ip_asc(SSL_CTX_get0_param(ctx), server_name) != 1) tls_die(server_name);
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_min_proto_version(ctx, version);
  SSL_CTX_set_max_proto_version(ctx, version);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(ctx, on_session);
  SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(ctx, 1);
  SSL_CTX_set_default_read_buffer_len(ctx, 64 * 1024);
  return ctx;
}

SSL *tls_dial(SSL_CTX *ctx, uint16_t port) {
  int fd = dial_loopback(port);
  if (fd < 0) return NULL;
  SSL *ssl = SSL_new(ctx);
  if (!ssl || SSL_set_fd(ssl, fd) != 1) tls_die("connection");
  SSL_SESSION *newest = SSL_CTX_get_ex_data(ctx, newest_index());
  SSL_SESSION *copy = newest ? SSL_SESSION_dup(newest) : NULL;
  if (copy) SSL_set_session(ssl, copy);
  SSL_SESSION_free(copy);
  SSL_set_connect_state(ssl);
  return ssl;
}

void tls_hang_up(SSL *ssl) {
  int fd = SSL_get_fd(ssl);
  ERR_clear_error();
  if (SSL_is_init_finished(ssl)) SSL_shutdown(ssl);
  ERR_clear_error();
  SSL_free(ssl);
  close(fd);
}

bool tls_is_waiting(SSL *ssl, int ret, bool *end, const char **text) {
  int cause = errno, code = SSL_get_error(ssl, ret);
  *end = code == SSL_ERROR_ZERO_RETURN;
  if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) return true;
  const char *reason = ERR_reason_error_string(ERR_peek_error());
  *text = reason ? reason : code == SSL_ERROR_SYSCALL && cause ? strerror(cause) : "ended without close_notify";
  ERR_clear_error();
  return false;
}
