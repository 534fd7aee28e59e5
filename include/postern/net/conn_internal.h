// conn_internal: the inside of a conn, shared by conn.c (socket, events, life) and conn_tls.c (records). Not for others.
#ifndef POSTERN_NET_CONN_INTERNAL_H
#define POSTERN_NET_CONN_INTERNAL_H

#include "postern/net/conn.h"
#include <event2/event.h>
#include <event2/event_struct.h>

// CONNECTING → OPEN; OPEN → HANDSHAKE → OPEN with TLS; OPEN or HANDSHAKE → LINGER → CLOSED; any → CLOSED.
enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_HANDSHAKE, CONN_LINGERING, CONN_CLOSED };

struct conn_tls;

struct conn {
  struct loop *loop; // NULL while detached
  const struct conn_ops *ops;
  void *ctx;
  int fd;
  uint8_t state;
  bool may_recv, may_send; // what the last edges said, corrected by short reads and writes
  bool peer_fin;           // EPOLLRDHUP came: read on until the end shows
  bool suspect;            // in the loop's list of conns whose abort may have gone unseen
  bool both_edges;         // the last event would have looked the same with an abort in it
  bool reads;              // its owner has read since it was last looked at
  bool want_write;         // somebody got PERR_AGAIN
  bool shut;               // our direction has ended, or will once the rest is sent
  bool shut_sent;
  struct conn_tls *tls;    // NULL: plain
  struct event event;
  struct loop_task resume;
  struct conn *suspect_next, **suspect_prev;
  struct conn *linger_next, **linger_prev; // in the loop's list while LINGERING
  struct loop_timer *linger;
  struct addr peer;
};

// One recv with the edge bookkeeping: bytes, or PERR_AGAIN, PERR_EOF, PERR_RESET.
ssize_t conn_raw_recv(struct conn *c, void *buf, size_t cap);
// One send: bytes, or PERR_AGAIN, PERR_RESET.
ssize_t conn_raw_send(struct conn *c, const void *buf, size_t len);

// ---- conn_tls.c ----

int conn_tls_new(struct conn *c, struct tls *t);
void conn_tls_free(struct conn *c);
int conn_tls_handshake(struct conn *c); // 0, PERR_AGAIN, PERR_TLS, PERR_EOF, PERR_RESET
int conn_tls_read(struct conn *c, void *buf, size_t cap, size_t *n);
int conn_tls_write(struct conn *c, const void *buf, size_t len);
int conn_tls_write_last(struct conn *c, const void *buf, size_t len);
int conn_tls_flush(struct conn *c);
bool conn_tls_may_read(const struct conn *c);
bool conn_tls_may_write(const struct conn *c);
void conn_tls_shutdown(struct conn *c); // queues close_notify

#endif
