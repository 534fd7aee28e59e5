// exchange: visitors that send a small message and wait for its echo: new connections, round trips, idle visitors.
// Called by load's main; owns the visitors. A message names its visitor and its number, so that an answer that went to
// another visitor shows. One thread.
#include "exchange.h"
#include "net.h"
#include "target.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, SHORT_MESSAGE = 16, LONG_MESSAGE = 64, HOLD_PENDING = 64, TURN_MS = 20 };

static const double warm_up_share = 0.1, grace_seconds = 10, hold_seconds = 60;

enum state { DOWN, CONNECTING, WAITING, RESTING };

struct visitor {
  int fd;
  enum state state;
  unsigned received; // of the answer
  uint32_t serial;   // of the message
  double since;      // when it dialled, or sent where it stays connected
};

struct exchange {
  struct tally *tally;
  struct visitor *visitors;
  uint16_t port;
  unsigned count, size;
  unsigned busy; // visitors that are CONNECTING or WAITING
  int poller;
  bool again;     // whoever is done begins anew
  bool reconnect; // with a new connection
  bool counting;
};

static void hang_up(struct exchange *x, struct visitor *v) {
  if (v->state == CONNECTING || v->state == WAITING) x->busy--;
  if (v->state != DOWN) close(v->fd);
  v->state = DOWN;
}

static void dial(struct exchange *x, struct visitor *v) {
  do {
    v->since = clock_seconds();
    v->fd = dial_loopback(x->port);
    if (v->fd >= 0) {
      v->state = CONNECTING;
      x->busy++;
      poller_add(x->poller, v->fd, EPOLLIN | EPOLLOUT | EPOLLET, v);
      return;
    }
    tally_fault(x->tally, FAULT_CONNECT, errno);
  } while (x->again && !tally_hopeless(x->tally));
}

static void fail(struct exchange *x, struct visitor *v, enum fault fault, int cause) {
  tally_fault(x->tally, fault, cause);
  hang_up(x, v);
  if (x->again && !tally_hopeless(x->tally)) dial(x, v);
}

static void write_message(const struct exchange *x, const struct visitor *v, char message[LONG_MESSAGE]) {
  uint32_t names[2] = {(uint32_t)(v - x->visitors), v->serial};
  memset(message, TARGET_ECHO, x->size);
  memcpy(message + 4, names, sizeof names);
}

static void send_message(struct exchange *x, struct visitor *v) {
  char message[LONG_MESSAGE];
  if (v->state == RESTING) x->busy++;
  v->state = WAITING;
  v->received = 0;
  v->serial++;
  write_message(x, v, message);
  ssize_t n = send(v->fd, message, x->size, MSG_NOSIGNAL);
  if (n != (ssize_t)x->size) fail(x, v, FAULT_SEND, n < 0 ? errno : 0);
}

static void on_connected(struct exchange *x, struct visitor *v) {
  int cause = 0;
  socklen_t size = sizeof cause;
  if (getsockopt(v->fd, SOL_SOCKET, SO_ERROR, &cause, &size) || cause) {
    fail(x, v, FAULT_CONNECT, cause);
    return;
  }
  if (!x->reconnect) v->since = clock_seconds();
  send_message(x, v);
}

static void on_answer(struct exchange *x, struct visitor *v) {
  double now = clock_seconds();
  if (x->counting) tally_answer(x->tally, now - v->since);
  if (x->again && !x->reconnect) {
    v->since = now;
    send_message(x, v);
    return;
  }
  if (x->reconnect) {
    hang_up(x, v);
    if (x->again) dial(x, v);
    return;
  }
  v->state = RESTING;
  x->busy--;
}

static void on_readable(struct exchange *x, struct visitor *v) {
  char answer[LONG_MESSAGE + 1], message[LONG_MESSAGE];
  ssize_t n = recv(v->fd, answer, x->size - v->received + 1, 0); // a byte more than there may be
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    fail(x, v, n ? FAULT_RECV : FAULT_EOF, n ? errno : 0);
    return;
  }
  write_message(x, v, message);
  if ((size_t)n > x->size - v->received || memcmp(answer, message + v->received, (size_t)n)) {
    fail(x, v, FAULT_WRONG, 0);
    return;
  }
  v->received += (unsigned)n;
  if (v->received == x->size) on_answer(x, v);
}

static void on_ready(struct exchange *x, struct visitor *v, uint32_t events) {
  if (v->state == CONNECTING)
    on_connected(x, v);
  else if (v->state == WAITING && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
    on_readable(x, v);
  else if (v->state == RESTING && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
    fail(x, v, FAULT_EOF, 0);
}

static void turn(struct exchange *x) {
  struct epoll_event ready[EVENTS];
  int n = epoll_wait(x->poller, ready, EVENTS, TURN_MS);
  if (n < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < n; i++) on_ready(x, ready[i].data.ptr, ready[i].events);
}

// Lets those who wait get their answers; who gets none in time is a fault.
static void finish(struct exchange *x) {
  double deadline = clock_seconds() + grace_seconds;
  x->again = false;
  while (x->busy && clock_seconds() < deadline) turn(x);
  for (unsigned i = 0; i < x->count; i++)
    if (x->visitors[i].state == CONNECTING || x->visitors[i].state == WAITING)
      fail(x, &x->visitors[i], FAULT_TIMEOUT, 0);
}

static void begin(struct exchange *x, struct tally *t, uint16_t port, unsigned count, unsigned size) {
  *x = (struct exchange){.tally = t, .port = port, .count = count, .size = size, .poller = poller_new()};
  x->visitors = calloc(count, sizeof *x->visitors);
  if (!x->visitors) die("calloc");
}

static void end(struct exchange *x) {
  for (unsigned i = 0; i < x->count; i++) hang_up(x, &x->visitors[i]);
  free(x->visitors);
  close(x->poller);
}

static void run_timed(struct exchange *x, double seconds) {
  double now = clock_seconds(), from = now + seconds * warm_up_share, until = from + seconds;
  x->again = true;
  for (unsigned i = 0; i < x->count; i++) dial(x, &x->visitors[i]);
  for (; now < until && !tally_hopeless(x->tally); now = clock_seconds()) {
    if (!x->counting && now >= from) {
      x->counting = true;
      from = now;
    }
    turn(x);
  }
  x->tally->seconds = x->counting ? now - from : 0;
  x->counting = false;
  finish(x);
}

void exchange_connect(struct tally *t, uint16_t port, unsigned count, double seconds) {
  struct exchange x;
  begin(&x, t, port, count, SHORT_MESSAGE);
  x.reconnect = true;
  run_timed(&x, seconds);
  end(&x);
}

void exchange_ping(struct tally *t, uint16_t port, unsigned count, double seconds) {
  struct exchange x;
  begin(&x, t, port, count, LONG_MESSAGE);
  run_timed(&x, seconds);
  end(&x);
}

static void open_all(struct exchange *x) {
  double deadline = clock_seconds() + hold_seconds;
  unsigned opened = 0;
  while (opened < x->count && clock_seconds() < deadline && !tally_hopeless(x->tally)) {
    while (opened < x->count && x->busy < HOLD_PENDING) dial(x, &x->visitors[opened++]);
    turn(x);
  }
  finish(x);
  unsigned resting = 0;
  for (unsigned i = 0; i < x->count; i++) resting += x->visitors[i].state == RESTING;
  if (!tally_errors(x->tally) && resting < x->count) tally_fault(x->tally, FAULT_TIMEOUT, 0);
  printf("{\"held\":%u}\n", resting);
  fflush(stdout);
}

void exchange_hold(struct tally *t, uint16_t port, unsigned count, double unused) {
  struct exchange x;
  begin(&x, t, port, count, SHORT_MESSAGE);
  open_all(&x);
  while (getchar() != '\n' && !feof(stdin)) {
  }
  double from = clock_seconds();
  x.counting = true;
  for (unsigned i = 0; i < count; i++) {
    if (x.visitors[i].state != RESTING) continue;
    x.visitors[i].since = clock_seconds();
    send_message(&x, &x.visitors[i]);
  }
  finish(&x);
  t->seconds = clock_seconds() - from;
  end(&x);
}
