// plain_fixture: a conn on a plain TCP socket with its owner, and the peer's socket in the test's hands.
#ifndef TESTS_UNIT_PLAIN_FIXTURE_H
#define TESTS_UNIT_PLAIN_FIXTURE_H

#include "conn_fixture.h"
#include <sys/ioctl.h>

static struct loop *loop;
static struct owner o;
static int peer; // a blocking socket; -1: closed

static inline int set_up(void **state) {
  o = (struct owner){0};
  peer = -1;
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static inline int tear_down(void **state) {
  if (o.conn) owner_close(&o, CONN_ABORT);
  if (peer >= 0) close(peer);
  nx_settle(loop);
  loop_free(loop);
  return 0;
}

static inline void start_tcp(void) {
  int fd;
  nx_tcp(&fd, &peer);
  owner_start(&o, loop, fd);
}

static inline void send_pattern(uint64_t at, size_t n) {
  uint8_t buf[16 * 1024];
  assert_true(n <= sizeof buf);
  nx_fill(buf, n, at);
  nx_send(peer, buf, n);
}

// Reads the pattern from the peer's socket until it holds `n` bytes; the loop goes on meanwhile.
static inline void drain_peer(uint64_t at, uint64_t n) {
  static uint8_t buf[64 * 1024];
  nx_await("the peer's bytes");
  for (uint64_t got = 0; got < n;) {
    ssize_t r = recv(peer, buf, sizeof buf, MSG_DONTWAIT);
    if (r < 0 && errno == EAGAIN) {
      nx_peek(loop);
      continue;
    }
    assert_true(r > 0);
    nx_check(buf, (size_t)r, at + got);
    got += (uint64_t)r;
  }
  alarm(0);
}

// What the peer's socket says once it has no more bytes: 0 for a FIN, or -errno.
static inline int peer_end(void) {
  uint8_t buf[4096];
  nx_await("the peer's end");
  for (;;) {
    ssize_t r = recv(peer, buf, sizeof buf, MSG_DONTWAIT);
    if (r > 0) continue;
    if (r < 0 && errno == EAGAIN) {
      nx_peek(loop);
      continue;
    }
    alarm(0);
    return r == 0 ? 0 : -errno;
  }
}

// Until the kernel has handed `n` bytes to our socket, so that what follows comes in one event with them.
static inline void await_bytes(const struct conn *c, int n) {
  int have = 0;
  nx_await("bytes in the socket");
  while (have < n) assert_int_equal(ioctl(conn_fd(c), FIONREAD, &have), 0);
  alarm(0);
}

// Until the kernel has the peer's abort, without taking it.
static inline void await_abort(const struct conn *c) {
  struct tcp_info info;
  socklen_t len = sizeof info;
  nx_await("the abort");
  do assert_int_equal(getsockopt(conn_fd(c), IPPROTO_TCP, TCP_INFO, &info, &len), 0);
  while (info.tcpi_state != TCP_CLOSE);
  alarm(0);
}

static inline void reset_peer(void) {
  nx_reset(peer);
  peer = -1;
}

#endif
