// conn_fixture: an owner of a conn who counts what he is told and does what a test asks of him, for tests of conns.
#ifndef TESTS_UNIT_CONN_FIXTURE_H
#define TESTS_UNIT_CONN_FIXTURE_H

#include "net_fixture.h"
#include "postern/net/conn.h"

struct owner {
  struct conn *conn;
  struct loop *loop;
  // what he was told
  unsigned connects, handshakes, readables, writables, aborts;
  int connect_result, connect_errno, handshake_result;
  char tls_error[256];
  // what he read: the pattern of nx_byte, checked as it comes
  uint64_t got;
  int end; // what a read said instead of bytes, but for PERR_AGAIN
  // what he wrote of the pattern
  uint64_t sent, to_send;
  // how he behaves
  size_t read_once; // bytes per read; 0: a plenty
  bool idle;        // does not read, but asks for aborts
  bool deaf;        // does not even ask
  bool closes;      // closes on whatever comes first
  enum conn_end how;
  unsigned closed_in; // how many callbacks came behind that
};

static inline void owner_close(struct owner *o, enum conn_end how) {
  conn_close(o->conn, how);
  o->conn = NULL;
}

static inline bool owner_closes(struct owner *o) {
  if (!o->conn)
    o->closed_in++;
  else if (o->closes)
    owner_close(o, o->how);
  return o->conn == NULL;
}

static inline void owner_read(struct owner *o) {
  static uint8_t buf[256 * 1024];
  size_t n;
  while (o->conn && !o->end) {
    int code = conn_read(o->conn, buf, o->read_once ? o->read_once : sizeof buf, &n);
    if (code == PERR_AGAIN) return;
    if (code) {
      o->end = code;
      return;
    }
    nx_check(buf, n, o->got);
    o->got += n;
  }
}

// Writes what is left to send; PERR_AGAIN, or 0 when all is written.
static inline int owner_write(struct owner *o) {
  static uint8_t buf[64 * 1024];
  while (o->sent < o->to_send) {
    size_t n, max = conn_ssl(o->conn) ? 16384 : sizeof buf,
              len = o->to_send - o->sent < max ? o->to_send - o->sent : max;
    nx_fill(buf, len, o->sent);
    int code = conn_write(o->conn, buf, len, &n);
    if (code) return code;
    o->sent += n;
  }
  return conn_flush(o->conn);
}

static inline void owner_on_connect(void *ctx, struct conn *c, int result) {
  struct owner *o = ctx;
  o->connects++;
  o->connect_result = result;
  o->connect_errno = errno;
  owner_closes(o);
}

static inline void owner_on_handshake(void *ctx, struct conn *c, int result) {
  struct owner *o = ctx;
  o->handshakes++;
  o->handshake_result = result;
  snprintf(o->tls_error, sizeof o->tls_error, "%s", conn_tls_error(c));
  owner_closes(o);
}

static inline void owner_on_readable(void *ctx, struct conn *c) {
  struct owner *o = ctx;
  o->readables++;
  if (owner_closes(o) || o->deaf) return;
  if (o->idle)
    conn_probe(c);
  else
    owner_read(o);
}

static inline void owner_on_writable(void *ctx, struct conn *c) {
  struct owner *o = ctx;
  o->writables++;
  if (!owner_closes(o)) (void)owner_write(o);
}

static inline void owner_on_abort(void *ctx, struct conn *c) {
  struct owner *o = ctx;
  o->aborts++;
  owner_closes(o);
}

static const struct conn_ops owner_ops = {
    .on_connect = owner_on_connect,
    .on_handshake = owner_on_handshake,
    .on_readable = owner_on_readable,
    .on_writable = owner_on_writable,
    .on_abort = owner_on_abort,
};

static inline void owner_start(struct owner *o, struct loop *l, int fd) {
  o->loop = l;
  o->conn = conn_new(l, fd, &owner_ops, o);
  assert_non_null(o->conn);
}

#endif
