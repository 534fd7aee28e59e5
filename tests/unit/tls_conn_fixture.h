// tls_conn_fixture: a server's and a client's conn over TLS in one loop, with their owners.
#ifndef TESTS_UNIT_TLS_CONN_FIXTURE_H
#define TESTS_UNIT_TLS_CONN_FIXTURE_H

#include "conn_fixture.h"
#include "tls_pair.h"
#include <sys/ioctl.h>

static struct loop *loop;
static struct owner server, client;

static inline int set_up(void **state) {
  server = client = (struct owner){0};
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static inline int tear_down(void **state) {
  if (server.conn) owner_close(&server, CONN_ABORT);
  if (client.conn) owner_close(&client, CONN_ABORT);
  nx_settle(loop);
  loop_free(loop);
  return 0;
}

static inline void start_server(int fd) {
  owner_start(&server, loop, fd);
  assert_int_equal(conn_start_tls(server.conn, pair_server), 0);
}

static inline void start_client(int fd) {
  owner_start(&client, loop, fd);
  assert_int_equal(conn_start_tls(client.conn, pair_client), 0);
}

static inline void shake_hands(void) {
  NX_UNTIL(loop, server.handshakes && client.handshakes);
  assert_int_equal(server.handshake_result, 0);
  assert_int_equal(client.handshake_result, 0);
  nx_settle(loop); // the tickets
}

static inline void start_pair(void) {
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
}

static inline void start_tcp_pair(void) {
  int ours, theirs;
  nx_tcp(&ours, &theirs);
  nx_nonblock(theirs);
  start_server(ours);
  start_client(theirs);
  shake_hands();
}

static inline int bytes_at(const struct conn *c) {
  int n;
  assert_int_equal(ioctl(conn_fd(c), FIONREAD, &n), 0);
  return n;
}

// `n` bytes more of the pattern, as one record, unsent.
static inline int write_record(struct owner *o, size_t n) {
  uint8_t buf[16384];
  size_t taken;
  assert_true(n <= sizeof buf);
  nx_fill(buf, n, o->sent);
  int code = conn_write(o->conn, buf, n, &taken);
  if (code == 0) {
    assert_int_equal(taken, n);
    o->sent += n;
  }
  return code;
}

#endif
