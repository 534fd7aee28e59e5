// target: the service behind every tunnel of the benchmark. Called by load's main; owns its connections, which hold
// memory only while their peer reads too slowly. One thread.
#include "target.h"
#include "datagrams.h"
#include "net.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 65536, EVENTS = 256 };

struct peer {
  int fd;
  char duty; // TARGET_*, 0 before the first byte
  uint64_t received;
  uint64_t confirmed; // by TARGET_DISCARD
  char *rest;         // of TARGET_ECHO: what its peer did not take yet
  size_t rest_len, rest_sent;
};

struct target {
  int poller, listener, udp;
  char chunk[CHUNK];
};

static void drop(struct peer *p) {
  close(p->fd);
  free(p->rest);
  free(p);
}

static void accept_all(struct target *t) {
  const int on = 1;
  int fd;
  while ((fd = accept4(t->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    struct peer *p = calloc(1, sizeof *p);
    if (!p) die("calloc");
    p->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    poller_add(t->poller, fd, EPOLLIN, p);
  }
  if (errno != EAGAIN && errno != ECONNABORTED) die("accept");
}

// False when the connection is over.
static bool send_some(int fd, const char *data, size_t len, size_t *sent) {
  ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
  *sent = n > 0 ? (size_t)n : 0;
  return n >= 0 || errno == EAGAIN;
}

static bool echo(struct target *t, struct peer *p, size_t len) {
  size_t sent;
  if (!send_some(p->fd, t->chunk, len, &sent)) return false;
  if (sent == len) return true;
  p->rest_len = len - sent;
  p->rest_sent = 0;
  p->rest = malloc(p->rest_len);
  if (!p->rest) die("malloc");
  memcpy(p->rest, t->chunk + sent, p->rest_len);
  poller_change(t->poller, p->fd, EPOLLOUT, p);
  return true;
}

static bool echo_rest(struct target *t, struct peer *p) {
  size_t sent;
  if (!send_some(p->fd, p->rest + p->rest_sent, p->rest_len - p->rest_sent, &sent)) return false;
  p->rest_sent += sent;
  if (p->rest_sent < p->rest_len) return true;
  free(p->rest);
  p->rest = NULL;
  poller_change(t->poller, p->fd, EPOLLIN, p);
  return true;
}

// Whoever is confirmed to reads all the time, so there is room.
static bool confirm(struct peer *p) {
  size_t sent;
  if (p->received - p->confirmed < TARGET_CONFIRM - CHUNK) return true;
  p->confirmed = p->received;
  return send_some(p->fd, (const char *)&p->confirmed, sizeof p->confirmed, &sent) && sent == sizeof p->confirmed;
}

static bool on_readable(struct target *t, struct peer *p) {
  ssize_t n = recv(p->fd, t->chunk, CHUNK, 0);
  if (n <= 0) return n < 0 && errno == EAGAIN;
  if (!p->duty) {
    p->duty = t->chunk[0];
    if (p->duty == TARGET_SOURCE) poller_change(t->poller, p->fd, EPOLLIN | EPOLLOUT, p);
  }
  p->received += (uint64_t)n;
  if (p->duty == TARGET_DISCARD) return confirm(p);
  return p->duty != TARGET_ECHO || echo(t, p, (size_t)n);
}

static bool on_writable(struct target *t, struct peer *p) {
  size_t sent;
  if (p->rest) return echo_rest(t, p);
  return p->duty != TARGET_SOURCE || send_some(p->fd, t->chunk, CHUNK, &sent);
}

static bool on_ready(struct target *t, struct peer *p, uint32_t events) {
  if (events & EPOLLOUT && !on_writable(t, p)) return false;
  return !(events & (EPOLLIN | EPOLLERR | EPOLLHUP)) || p->rest || on_readable(t, p);
}

void target_serve(void) {
  static struct target t;
  uint16_t port;
  t.listener = listen_loopback(&port);
  t.poller = poller_new();
  t.udp = datagrams_bind(port);
  poller_add(t.poller, t.listener, EPOLLIN, NULL);
  poller_add(t.poller, t.udp, EPOLLIN, &t);
  printf("{\"port\":%u}\n", port);
  fflush(stdout);
  for (;;) {
    struct epoll_event ready[EVENTS];
    int n = epoll_wait(t.poller, ready, EVENTS, -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      struct peer *p = ready[i].data.ptr;
      if (!p)
        accept_all(&t);
      else if ((void *)p == (void *)&t)
        datagrams_take(t.udp);
      else if (!on_ready(&t, p, ready[i].events))
        drop(p);
    }
  }
}
