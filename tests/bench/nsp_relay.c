// nsp_relay: moves bytes between a TLS connection and a target, one buffer each way. Called by nsp_client; owns the
// target's socket. One thread.
#include "nsp_relay.h"
#include "net.h"
#include "nsp_tls.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 65536, ROUNDS = 32 };

static const uint32_t events = EPOLLIN | EPOLLOUT | EPOLLET;

struct way {
  size_t off, len;
  char data[CHUNK];
};

struct relay {
  int fd, poller;
  void *of;
  struct way to_target, to_gateway;
};

enum progress { MOVED, STUCK, OVER };

struct relay *relay_new(int poller, void *of, uint16_t port, const void *first, size_t len) {
  struct relay *r = malloc(sizeof *r);
  if (!r) die("malloc");
  r->fd = dial_loopback(port);
  if (r->fd < 0) {
    free(r);
    return NULL;
  }
  r->poller = poller;
  r->of = of;
  r->to_target.off = r->to_gateway.off = r->to_gateway.len = 0;
  r->to_target.len = len;
  memcpy(r->to_target.data, first, len);
  poller_add(poller, r->fd, events, of);
  return r;
}

void relay_free(struct relay *r) {
  if (!r) return;
  close(r->fd);
  free(r);
}

static enum progress after_socket(ssize_t n) {
  if (n > 0) return MOVED;
  return n < 0 && (errno == EAGAIN || errno == ENOTCONN) ? STUCK : OVER; // not connected yet
}

static enum progress after_tls(SSL *ssl, int n) {
  bool end;
  const char *why;
  if (n > 0) return MOVED;
  return tls_is_waiting(ssl, n, &end, &why) ? STUCK : OVER;
}

static enum progress fill_from_gateway(struct way *w, SSL *ssl) {
  w->off = w->len = 0;
  enum progress p = MOVED;
  while (p == MOVED && w->len < CHUNK) { // record by record
    int n = SSL_read(ssl, w->data + w->len, (int)(CHUNK - w->len));
    p = after_tls(ssl, n);
    if (n > 0) w->len += (size_t)n;
  }
  return w->len > 0 ? MOVED : p;
}

static enum progress move_to_target(struct relay *r, SSL *ssl) {
  struct way *w = &r->to_target;
  if (w->off == w->len) {
    enum progress p = fill_from_gateway(w, ssl);
    if (p != MOVED) return p;
  }
  ssize_t n = send(r->fd, w->data + w->off, w->len - w->off, MSG_NOSIGNAL);
  if (n > 0) w->off += (size_t)n;
  return after_socket(n);
}

static enum progress move_to_gateway(struct relay *r, SSL *ssl) {
  struct way *w = &r->to_gateway;
  if (w->off == w->len) {
    ssize_t got = recv(r->fd, w->data, CHUNK, 0);
    if (got <= 0) return after_socket(got);
    w->off = 0;
    w->len = (size_t)got;
  }
  int n = SSL_write(ssl, w->data + w->off, (int)(w->len - w->off));
  if (n > 0) w->off += (size_t)n;
  return after_tls(ssl, n);
}

bool relay_pump(struct relay *r, SSL *ssl) {
  for (int i = 0; i < ROUNDS; i++) {
    enum progress out = move_to_target(r, ssl), back = move_to_gateway(r, ssl);
    if (out == OVER || back == OVER) return false;
    if (out == STUCK && back == STUCK) return true;
  }
  poller_change(r->poller, r->fd, events, r->of); // the others' turn; this tells of the socket once more
  return true;
}
