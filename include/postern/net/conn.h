// conn: one byte stream over a socket, plain or TLS, on one loop at a time.
//
// Built on edge-triggered events: a conn remembers whether its descriptor may have bytes or room, and its owner reads
// and writes when he likes. Not reading *is* the pause; no event is changed for it. A TLS conn gathers records in an
// output buffer, so that many records cost one system call; conn_flush sends them.
//
// Closing: conn_close is idempotent, calls nothing back, and the object is freed after the callbacks have unwound.
#ifndef POSTERN_NET_CONN_H
#define POSTERN_NET_CONN_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/net/loop.h"
#include "postern/net/tls.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;

// Each callback may close the conn; none is called after that.
struct conn_ops {
  // A dialled conn: 0, or why it failed (PERR_RESET refused, PERR_TIMEOUT, PERR_IO; errno tells more).
  void (*on_connect)(void *ctx, struct conn *c, int result);
  // The TLS handshake ended: 0, PERR_TLS (conn_tls_error has the text), PERR_EOF, PERR_RESET.
  void (*on_handshake)(void *ctx, struct conn *c, int result);
  // Bytes or an end may be there: read until PERR_AGAIN, or call conn_resume later.
  void (*on_readable)(void *ctx, struct conn *c);
  // There may be room again after a write or flush that answered PERR_AGAIN.
  void (*on_writable)(void *ctx, struct conn *c);
  // The peer aborted while nobody was reading; bytes that came before are still readable.
  void (*on_abort)(void *ctx, struct conn *c);
};

enum {
  CONN_OUT_HIGH = 64 * 1024, // a TLS conn refuses to take more than this unsent
  CONN_KEEPALIVE_S = 60,
  // The kernel's queue of unsent bytes is kept below this on every socket (TCP_NOTSENT_LOWAT): without it a reader that
  // stops holds megabytes of the kernel's, and on a link the kernel and not the scheduler decides who is next.
  CONN_UNSENT = 128 * 1024,
};

// Takes the connected socket `fd` (non-blocking), closing it on failure. `ops` and `ctx` are borrowed for life.
// The first on_readable comes with the first event.
struct conn *conn_new(struct loop *l, int fd, const struct conn_ops *ops, void *ctx);
// Starts to connect; on_connect tells the end. NULL: failed at once, *error is set and errno tells more.
struct conn *conn_dial(struct loop *l, const struct addr *to, const struct conn_ops *ops, void *ctx, int *error);
// Starts TLS on a connected conn, as server or as client by the context's kind; on_handshake tells the end. The conn
// holds a reference to `t` for as long as it lives.
PERR_MUST_CHECK int conn_start_tls(struct conn *c, struct tls *t);

// 0 with 1 <= *n <= cap; PERR_AGAIN, PERR_EOF (orderly), PERR_TRUNCATED (TLS: no close_notify), PERR_RESET, PERR_TLS.
PERR_MUST_CHECK int conn_read(struct conn *c, void *buf, size_t cap, size_t *n);
// False when the next conn_read would answer PERR_AGAIN for sure.
bool conn_may_read(const struct conn *c);
// Plain: sends, *n of `len` taken. TLS: takes all or nothing (PERR_AGAIN when CONN_OUT_HIGH is unsent); len at most
// 16,384. While a conn is still connecting it answers PERR_AGAIN, or calls on_connect before it returns.
PERR_MUST_CHECK int conn_write(struct conn *c, const void *buf, size_t len, size_t *n);
// TLS: the last words before CONN_LINGER, at most 16,384 bytes: taken also when CONN_OUT_HIGH is unsent.
int conn_write_last(struct conn *c, const void *buf, size_t len);
// TLS: sends what was taken. 0: all of it is with the kernel; PERR_AGAIN: on_writable will come. Plain: 0.
PERR_MUST_CHECK int conn_flush(struct conn *c);
// TLS: bytes that were taken and are not with the kernel. Plain: 0.
size_t conn_unsent(const struct conn *c);
// For an owner who has been waiting for on_writable: what is unsent keeps no more memory than it needs.
void conn_trim(struct conn *c);
// Whether conn_write may take something now.
bool conn_may_write(const struct conn *c);
// Ends the sending direction (FIN; with TLS close_notify, then FIN); reading goes on. After the last write only.
int conn_shutdown(struct conn *c);
// Calls on_readable at the end of this batch, for an owner who stopped before PERR_AGAIN.
void conn_resume(struct conn *c);
// For an owner who does not read now: on_abort when the last event had an abort in it.
void conn_probe(struct conn *c);

enum conn_end {
  CONN_CLOSE,  // close now; what the kernel holds is sent
  CONN_ABORT,  // RST, so that the peer does not take the bytes for complete
  CONN_LINGER, // send what was written, half-close, drop what comes, close after the peer or after two seconds
};
void conn_close(struct conn *c, enum conn_end how);

// Whether a conn of this loop was closed by CONN_LINGER and is not through.
bool conn_any_lingers(struct loop *l);

// Hand-over between threads: detach on the old loop's thread, attach on the new one's. Between the two nothing is
// called. Of the conn's callbacks only on_readable may detach it: behind the others the old loop looks at it once more.
// attach calls on_readable once, for bytes may wait inside TLS.
void conn_detach(struct conn *c);
PERR_MUST_CHECK int conn_attach(struct conn *c, struct loop *l, const struct conn_ops *ops, void *ctx);

// Another owner on the same loop; on_readable is called once at the end of this batch.
void conn_rebind(struct conn *c, const struct conn_ops *ops, void *ctx);

// The peer's address as conn_set_peer or conn_dial was told.
const struct addr *conn_peer(const struct conn *c);
void conn_set_peer(struct conn *c, const struct addr *peer);
int conn_fd(const struct conn *c);
// NULL for plain conns. Borrowed; OpenSSL's SSL object, for inspection only.
struct ssl_st *conn_ssl(struct conn *c);
const char *conn_alpn(struct conn *c, char out[32]); // "" where none was agreed
// One line about the last TLS failure ("certificate has expired", …); "" where there was none.
const char *conn_tls_error(const struct conn *c);

#endif
