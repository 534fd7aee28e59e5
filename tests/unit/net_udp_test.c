// UDP sockets: batches there and back, addresses, ports that are in use, what is lost.
#include "net_fixture.h"
#include "postern/net/udp.h"

enum { LARGEST = 65507 };

static struct loop *loop;

static struct side {
  struct udp *udp;
  unsigned packets, batches, most, errors;
  int error;
  size_t len;
  uint8_t data[65536];
  struct addr peer, local;
  bool echoes, closes;
} near, far;

static void on_packets(void *ctx, struct udp *u, const struct udp_packet *p, unsigned n) {
  struct side *s = ctx;
  assert_ptr_equal(u, s->udp);
  s->batches++;
  if (n > s->most) s->most = n;
  for (unsigned i = 0; i < n; i++) {
    s->packets++;
    s->len = p[i].len;
    memcpy(s->data, p[i].data, p[i].len);
    s->peer = p[i].peer;
    s->local = p[i].local;
    if (s->echoes) udp_send(u, p[i].data, p[i].len, &p[i].peer, &p[i].local);
  }
  if (!s->closes) return;
  s->udp = NULL;
  udp_close(u);
}

static void on_error(void *ctx, struct udp *u, int error) {
  struct side *s = ctx;
  s->errors++;
  s->error = error;
}

static const struct udp_ops ops = {.on_packets = on_packets, .on_error = on_error};

static void bind_side(struct side *s, const char *ip, struct addr *at) {
  struct addr a;
  int fd = -1;
  assert_int_equal(addr_from_ip(&a, ip, 0), 0);
  assert_int_equal(udp_bind(&a, &fd), 0);
  *at = nx_local(fd);
  s->udp = udp_new(loop, fd, false, &ops, s);
  assert_non_null(s->udp);
}

static void connect_side(struct side *s, const struct addr *to) {
  int fd = -1;
  assert_int_equal(udp_connect(to, &fd), 0);
  s->udp = udp_new(loop, fd, false, &ops, s);
  assert_non_null(s->udp);
}

static int set_up(void **state) {
  memset(&near, 0, sizeof near);
  memset(&far, 0, sizeof far);
  loop = loop_new("test");
  return loop ? 0 : -1;
}

static int tear_down(void **state) {
  udp_close(near.udp);
  udp_close(far.udp);
  loop_free(loop);
  return 0;
}

static void there_and_back(const char *ip) {
  static const size_t sizes[] = {0, 1, 1472, 9000, LARGEST};
  static uint8_t payload[LARGEST];
  struct addr at;
  bind_side(&far, ip, &at);
  far.echoes = true;
  connect_side(&near, &at);
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    nx_fill(payload, sizes[i], i);
    udp_send(near.udp, payload, sizes[i], NULL, NULL);
    memset(payload, 0, sizes[i]); // it was copied
    NX_UNTIL(loop, near.packets == i + 1);
    assert_int_equal(near.len, sizes[i]);
    nx_check(near.data, near.len, i);
  }
  assert_int_equal(near.peer.len, 0);
  assert_true(addr_equal_ip(&far.local, &at));
  assert_true(addr_equal_ip(&far.peer, &at));
}

static void test_there_and_back(void **state) { there_and_back("127.0.0.1"); }

static void test_there_and_back_by_ip6(void **state) { there_and_back("::1"); }

// What one batch of events sends arrives in few.
static void test_batches(void **state) {
  enum { N = 1000 };
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  for (unsigned i = 0; i < N; i++) udp_send(near.udp, (const uint8_t *)&i, sizeof i, NULL, NULL);
  NX_UNTIL(loop, far.packets == N);
  unsigned last = 0;
  memcpy(&last, far.data, sizeof last);
  assert_int_equal(last, N - 1);
  assert_true(far.most >= 16 && far.batches < N / 8);
  assert_int_equal(udp_take_drops(near.udp) + udp_take_drops(far.udp), 0);
}

// Large ones do not fit the buffer together.
static void test_batches_of_large_ones(void **state) {
  enum { N = 20 };
  static uint8_t payload[LARGEST];
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  nx_fill(payload, sizeof payload, 7);
  for (unsigned i = 0; i < N; i++) {
    udp_send(near.udp, payload, sizeof payload, NULL, NULL);
    if (i % 4 == 3) NX_UNTIL(loop, far.packets == i + 1);
  }
  nx_check(far.data, far.len, 7);
}

// A socket that all addresses lead to answers from the one that was asked.
static void test_answers_from_the_address_that_was_asked(void **state) {
  struct addr at, asked;
  bind_side(&far, "0.0.0.0", &at);
  far.echoes = true;
  asked = nx_addr("127.0.0.5", addr_port(&at));
  connect_side(&near, &asked);
  udp_send(near.udp, (const uint8_t *)"x", 1, NULL, NULL);
  NX_UNTIL(loop, near.packets == 1);
  assert_true(addr_equal_ip(&far.local, &asked));
}

static void test_a_port_in_use(void **state) {
  struct addr at;
  int fd = -1;
  bind_side(&far, "127.0.0.1", &at);
  assert_int_equal(udp_bind(&at, &fd), PERR_IN_USE);
  struct addr strange = nx_addr("192.0.2.1", 0);
  assert_int_equal(udp_bind(&strange, &fd), PERR_NOTFOUND);
  udp_close(far.udp);
  far.udp = NULL;
  assert_int_equal(udp_bind(&at, &fd), 0);
  close(fd);
}

static void test_a_peer_that_refuses(void **state) {
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  udp_close(far.udp);
  far.udp = NULL;
  connect_side(&near, &at);
  udp_send(near.udp, (const uint8_t *)"x", 1, NULL, NULL);
  NX_UNTIL(loop, near.errors);
  assert_int_equal(near.error, ECONNREFUSED);
  // It is there later; the refusal of the one before does not cost the next.
  int fd = -1;
  udp_send(near.udp, (const uint8_t *)"x", 1, NULL, NULL);
  assert_int_equal(udp_bind(&at, &fd), 0);
  far.udp = udp_new(loop, fd, false, &ops, &far);
  udp_send(near.udp, (const uint8_t *)"y", 1, NULL, NULL);
  NX_UNTIL(loop, far.packets == 2);
  assert_int_equal(far.data[0], 'y');
}

// While it is paused nothing is read; what the kernel cannot keep is counted.
static void test_pause_and_drops(void **state) {
  enum { N = 40000 };
  static uint8_t payload[1000];
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  udp_pause(far.udp);
  for (unsigned i = 0; i < N; i++) udp_send(near.udp, payload, sizeof payload, NULL, NULL);
  nx_settle(loop);
  assert_int_equal(far.packets, 0);
  udp_resume(far.udp);
  nx_settle(loop);
  NX_UNTIL(loop, far.packets > 0);
  for (int i = 0; i < 1000; i++) nx_peek(loop);
  uint64_t lost = udp_take_drops(far.udp), unsent = udp_take_drops(near.udp);
  assert_true(lost > 0);
  assert_int_equal(far.packets + lost + unsent, N);
  assert_int_equal(udp_take_drops(far.udp), 0);
}

static void test_what_cannot_be_sent_is_counted(void **state) {
  static uint8_t payload[LARGEST + 1];
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  udp_send(near.udp, payload, 1, NULL, NULL);
  udp_send(near.udp, payload, sizeof payload, NULL, NULL);
  udp_send(near.udp, payload, 1, NULL, NULL);
  NX_UNTIL(loop, far.packets == 2);
  assert_int_equal(udp_take_drops(near.udp), 1);
}

// Another owner gets the port without its being closed, and what came meanwhile.
static void test_release(void **state) {
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  far.echoes = true;
  udp_send(near.udp, (const uint8_t *)"a", 1, NULL, NULL);
  NX_UNTIL(loop, far.packets == 1); // its echo waits to be sent
  int fd = udp_release(far.udp);
  udp_send(near.udp, (const uint8_t *)"b", 1, NULL, NULL);
  nx_settle(loop);
  far.udp = udp_new(loop, fd, false, &ops, &far);
  NX_UNTIL(loop, near.packets == 2);
  assert_int_equal(near.data[0], 'b');
}

static void test_closed_in_a_callback(void **state) {
  struct addr at;
  bind_side(&far, "127.0.0.1", &at);
  connect_side(&near, &at);
  far.closes = true;
  for (unsigned i = 0; i < 100; i++) udp_send(near.udp, (const uint8_t *)"x", 1, NULL, NULL);
  NX_UNTIL(loop, !far.udp);
  nx_settle(loop);
  assert_true(far.packets <= 32);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(there_and_back),
      T(there_and_back_by_ip6),
      T(batches),
      T(batches_of_large_ones),
      T(answers_from_the_address_that_was_asked),
      T(a_port_in_use),
      T(a_peer_that_refuses),
      T(pause_and_drops),
      T(what_cannot_be_sent_is_counted),
      T(release),
      T(closed_in_a_callback),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
