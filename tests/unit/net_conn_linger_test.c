// The end of a conn that lingers: its last words reach a peer that is still sending at full speed.
#include "postern/net/conn.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { FLOOD = 8 * 1024 * 1024 };

static const char words[] = "the last words";

// The peer: sends all of the flood before it reads anything.
struct peer {
  int fd, other; // other: the conn's
  struct loop *loop;
  size_t sent;
  char heard[64];
  ssize_t nheard, end; // end: what the last recv answered
};

static void tcp_pair(int *ours, int *theirs) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof in;
  int ln = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(ln, (struct sockaddr *)&in, sizeof in), 0);
  assert_int_equal(listen(ln, 1), 0);
  assert_int_equal(getsockname(ln, (struct sockaddr *)&in, &len), 0);
  *theirs = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(connect(*theirs, (struct sockaddr *)&in, sizeof in), 0);
  *ours = accept(ln, NULL, NULL);
  assert_true(*ours >= 0);
  assert_int_equal(fcntl(*ours, F_SETFL, O_NONBLOCK), 0);
  close(ln);
}

static void *flood(void *arg) {
  static const char chunk[64 * 1024];
  struct peer *p = arg;
  ssize_t n;
  while (p->sent < FLOOD && (n = send(p->fd, chunk, sizeof chunk, MSG_NOSIGNAL)) > 0) p->sent += (size_t)n;
  while ((p->end = recv(p->fd, p->heard + p->nheard, sizeof p->heard - (size_t)p->nheard, 0)) > 0) p->nheard += p->end;
  close(p->fd);
  while (fcntl(p->other, F_GETFD) >= 0) usleep(1000); // the conn ends after its peer
  loop_stop(p->loop);
  return NULL;
}

static void on_readable(void *ctx, struct conn *c) {}

static void last_words_reach_a_peer_that_floods(void **state) {
  static const struct conn_ops ops = {.on_readable = on_readable};
  struct peer p = {.loop = loop_new("test")};
  size_t n;
  pthread_t thread;
  tcp_pair(&p.other, &p.fd);
  struct conn *c = conn_new(p.loop, p.other, &ops, NULL);
  assert_non_null(c);
  assert_int_equal(pthread_create(&thread, NULL, flood, &p), 0);
  assert_int_equal(conn_write(c, words, sizeof words, &n), 0);
  conn_close(c, CONN_LINGER);
  loop_run(p.loop);
  pthread_join(thread, NULL);
  assert_true(p.sent >= FLOOD);
  assert_int_equal(p.end, 0);
  assert_int_equal(p.nheard, sizeof words);
  assert_memory_equal(p.heard, words, sizeof words);
  loop_free(p.loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(last_words_reach_a_peer_that_floods)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
