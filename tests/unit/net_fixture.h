// net_fixture: a clock that stands still until a test moves it, a loop that runs until a condition holds, and sockets,
// for the tests of net, pipe and trunk. Nothing here sleeps; a condition that never holds ends the program.
#ifndef TESTS_UNIT_NET_FIXTURE_H
#define TESTS_UNIT_NET_FIXTURE_H

#include "postern/base/addr.h"
#include "postern/net/loop.h"
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

// ---- time ----

static _Atomic uint64_t nx_clock_us = 1000 * 1000000ull;

// Stands before the system's, for libevent too.
int clock_gettime(clockid_t id, struct timespec *t) {
  if (id != CLOCK_MONOTONIC && id != CLOCK_MONOTONIC_COARSE) return (int)syscall(SYS_clock_gettime, id, t);
  uint64_t now = atomic_load(&nx_clock_us);
  *t = (struct timespec){.tv_sec = (time_t)(now / 1000000), .tv_nsec = (long)(now % 1000000 * 1000)};
  return 0;
}

static inline void nx_advance_us(uint64_t us) {
  atomic_fetch_add(&nx_clock_us, us);
}

static inline void nx_advance(uint64_t ms) {
  nx_advance_us(ms * 1000);
}

// ---- the loop ----

static const char *volatile nx_awaited = "the start";

static inline void nx_on_alarm(int signal) {
  static const char what[] = "waited in vain for ";
  if (write(STDERR_FILENO, what, sizeof what - 1) < 0 || write(STDERR_FILENO, nx_awaited, strlen(nx_awaited)) < 0 ||
      write(STDERR_FILENO, "\n", 1) < 0)
    abort();
  _exit(1);
}

enum { NX_PATIENCE_S = 30 };

static inline void nx_await(const char *what) {
  nx_awaited = what;
  signal(SIGALRM, nx_on_alarm);
  alarm(NX_PATIENCE_S);
}

// One batch of events; waits for the first.
static inline void nx_step(struct loop *l) {
  event_base_loop(loop_base(l), EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
}

#define NX_UNTIL(l, condition)                                                                                         \
  do {                                                                                                                 \
    nx_await(#condition);                                                                                              \
    while (!(condition)) nx_step(l);                                                                                   \
    alarm(0);                                                                                                          \
  } while (0)

// What is ready now, without waiting.
static inline void nx_peek(struct loop *l) {
  event_base_loop(loop_base(l), EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

// … and what comes of it: enough rounds for anything that two ends in one loop have to say.
static inline void nx_settle(struct loop *l) {
  for (int i = 0; i < 32; i++) event_base_loop(loop_base(l), EVLOOP_NONBLOCK);
}

// The clock moves in steps that are shorter than any timer's period, as it does outside.
static inline void nx_pass(struct loop *l, uint64_t ms) {
  enum { STEP_MS = 50 };
  for (; ms > STEP_MS; ms -= STEP_MS) {
    nx_advance(STEP_MS);
    event_base_loop(loop_base(l), EVLOOP_NONBLOCK);
    event_base_loop(loop_base(l), EVLOOP_NONBLOCK);
  }
  nx_advance(ms);
  nx_settle(l);
}

// ---- sockets ----

static inline struct addr nx_addr(const char *ip, uint16_t port) {
  struct addr a;
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
  assert_int_equal(inet_pton(AF_INET, ip, &in.sin_addr), 1);
  addr_from_sockaddr(&a, (struct sockaddr *)&in, sizeof in);
  return a;
}

static inline struct addr nx_local(int fd) {
  struct addr a;
  struct sockaddr_storage ss;
  socklen_t len = sizeof ss;
  assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
  addr_from_sockaddr(&a, (struct sockaddr *)&ss, len);
  return a;
}

// A plain listening socket on a port of the system's choice.
static inline int nx_listen(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct addr a = nx_addr("127.0.0.1", 0);
  assert_true(fd >= 0);
  assert_int_equal(bind(fd, &a.sa, a.len), 0);
  assert_int_equal(listen(fd, 128), 0);
  return fd;
}

static inline int nx_connect_to(const struct addr *a) {
  int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(connect(fd, &a->sa, a->len), 0);
  return fd;
}

// A target that does not answer yet: its queue is full. Once there is room the kernel of whoever dials it asks again,
// after a second.
struct nx_slow_target {
  int fd, waiting[4];
};

static inline struct nx_slow_target nx_slow_target(void) {
  struct nx_slow_target t = {.fd = nx_listen()};
  struct addr a = nx_local(t.fd);
  assert_int_equal(listen(t.fd, 0), 0);
  for (size_t i = 0; i < sizeof t.waiting / sizeof *t.waiting; i++) {
    t.waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)!connect(t.waiting[i], &a.sa, a.len);
  }
  return t;
}

static inline void nx_answer(const struct nx_slow_target *t) {
  assert_int_equal(listen(t->fd, 128), 0);
}

// Takes the connection from `from`, whichever others came before; ends the target.
static inline int nx_accept_from(struct nx_slow_target *t, const struct addr *from) {
  int fd;
  for (;;) {
    struct sockaddr_in in;
    socklen_t len = sizeof in;
    fd = accept(t->fd, (struct sockaddr *)&in, &len);
    assert_true(fd >= 0);
    if (ntohs(in.sin_port) == addr_port(from)) break;
    close(fd);
  }
  for (size_t i = 0; i < sizeof t->waiting / sizeof *t->waiting; i++) close(t->waiting[i]);
  close(t->fd);
  return fd;
}

static inline void nx_nonblock(int fd) {
  assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

static inline void nx_small(int fd, int option) {
  int size = 4096;
  assert_int_equal(setsockopt(fd, SOL_SOCKET, option, &size, sizeof size), 0);
}

// A connected pair of TCP: *ours does not block, *theirs does.
static inline void nx_tcp(int *ours, int *theirs) {
  int l = nx_listen();
  struct addr a = nx_local(l);
  *theirs = nx_connect_to(&a);
  *ours = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  assert_true(*ours >= 0);
  int on = 1;
  setsockopt(*theirs, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  close(l);
}

// A pair that passes bytes on within the call, so that what is not there now will not come.
static inline void nx_pair(int fd[2]) {
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

static inline void nx_reset(int fd) {
  struct linger l = {.l_onoff = 1, .l_linger = 0};
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
  close(fd);
}

static inline void nx_send(int fd, const void *data, size_t n) {
  assert_int_equal(send(fd, data, n, MSG_NOSIGNAL), (ssize_t)n);
}

// Byte `i` of the stream that tests send: any cut, loss or doubling shows.
static inline uint8_t nx_byte(uint64_t i) {
  return (uint8_t)(i ^ i >> 8 ^ i >> 16);
}

static inline void nx_fill(uint8_t *buf, size_t n, uint64_t at) {
  for (size_t i = 0; i < n; i++) buf[i] = nx_byte(at + i);
}

static inline void nx_check(const uint8_t *buf, size_t n, uint64_t at) {
  for (size_t i = 0; i < n; i++)
    if (buf[i] != nx_byte(at + i)) fail_msg("byte %llu is wrong", (unsigned long long)(at + i));
}

#endif
