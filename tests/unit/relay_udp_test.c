// Visitors of a UDP tunnel: a flow each, their limits, who makes room, silence, and what is counted.
#include "net_fixture.h"
#include "postern/base/log.h"
#include "postern/core/registry.h"
#include "postern/net/udp.h"
#include "postern/relay/udp.h"

enum { IDLE_S = 60, MOST = 12000 };

static struct loop *loop;
static struct relay relay;
static struct registry_entry entry;
static struct relay_tunnel *tunnel;
static struct addr public;

// ---- a protocol that keeps what it is given ----

static struct wire_flow {
  struct flow base;
  struct addr visitor;
  unsigned sent, ended;
  size_t len;
  enum stream_reason reason;
} flows[MOST];
static unsigned nflows, sent;
static bool full;

static void wire_send(struct flow *f, const uint8_t *data, size_t n) {
  struct wire_flow *w = (struct wire_flow *)f;
  assert_int_equal(w->ended, 0);
  w->sent++;
  w->len = n;
  sent++;
}

static void wire_end(struct flow *f, enum stream_reason r) {
  struct wire_flow *w = (struct wire_flow *)f;
  assert_int_equal(w->ended++, 0);
  w->reason = r;
}

static const struct flow_ops wire_ops = {.send = wire_send, .end = wire_end};

static struct flow *open_flow(void *ctx, uint32_t number, const struct addr *visitor) {
  assert_int_equal(number, 7);
  if (full) return NULL;
  assert_true(nflows < MOST);
  struct wire_flow *w = &flows[nflows++];
  *w = (struct wire_flow){.base = {.ops = &wire_ops}, .visitor = *visitor};
  return &w->base;
}

static const struct relay_source source = {.open_flow = open_flow};

static void answer(struct wire_flow *w, const char *text) {
  w->base.end->datagram(w->base.end_ctx, (const uint8_t *)text, strlen(text));
}

// ---- visitors ----

static int visitor_at(const char *ip) {
  struct addr from = nx_addr(ip, 0);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, &from.sa, from.len), 0);
  assert_int_equal(connect(fd, &public.sa, public.len), 0);
  return fd;
}

static void say(int fd, const char *text) {
  unsigned before = sent;
  assert_int_equal(send(fd, text, strlen(text), 0), (ssize_t)strlen(text));
  NX_UNTIL(loop, sent > before);
}

// `n` visitors who come once. The kernel might give one the port of another who has left.
static void crowd(const char *ip, unsigned n) {
  static uint16_t port;
  for (unsigned all = nflows + n; nflows < all;) {
    struct addr from = nx_addr(ip, port = (uint16_t)(port < 20000 ? 20000 : port + 1));
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (bind(fd, &from.sa, from.len) == 0) {
      assert_int_equal(connect(fd, &public.sa, public.len), 0);
      say(fd, "x");
    }
    close(fd);
  }
}

static unsigned live(void) {
  unsigned n = 0;
  for (unsigned i = 0; i < nflows; i++) n += flows[i].ended == 0;
  assert_int_equal(atomic_load(&entry.flows), n);
  return n;
}

// ---- start and end ----

static int set_up(void **state) {
  const struct limits limits = {.visitors = 1, .dials = 1};
  struct addr any = nx_addr("127.0.0.1", 0);
  int fd = -1;
  log_set_level(LOG_ERROR);
  nflows = sent = 0;
  full = false;
  memset(&entry, 0, sizeof entry);
  loop = loop_new("test");
  assert_int_equal(relay_init(&relay, loop, &entry, &limits, &source, NULL), 0);
  assert_int_equal(udp_bind(&any, &fd), 0);
  public = nx_local(fd);
  tunnel = udp_tunnel_new(&relay, 7, "t", addr_port(&public), &fd, 1, IDLE_S);
  return tunnel ? 0 : -1;
}

static int tear_down(void **state) {
  if (tunnel) tunnel->ops->close(tunnel, STREAM_SESSION_ENDED);
  for (unsigned i = 0; i < nflows; i++) assert_int_equal(flows[i].ended, 1);
  assert_int_equal(atomic_load(&entry.flows), 0);
  relay_fini(&relay);
  loop_free(loop);
  return 0;
}

// ---- tests ----

static void test_a_flow_for_each_visitor(void **state) {
  char text[16] = "";
  int a = visitor_at("127.0.0.1"), b = visitor_at("127.0.0.1");
  say(a, "one");
  say(b, "three");
  say(a, "fifteen");
  assert_int_equal(nflows, 2);
  assert_int_equal(flows[0].sent, 2);
  assert_int_equal(flows[1].len, 5);
  struct addr at = nx_local(a);
  assert_int_equal(addr_port(&flows[0].visitor), addr_port(&at));
  answer(&flows[1], "for b");
  answer(&flows[0], "for a, alone");
  nx_settle(loop);
  assert_int_equal(recv(a, text, sizeof text, 0), 12);
  assert_int_equal(recv(b, text, sizeof text, 0), 5);
  assert_int_equal(recv(b, text, sizeof text, MSG_DONTWAIT), -1);
  assert_int_equal(atomic_load(&entry.bytes_in), 15);
  assert_int_equal(atomic_load(&entry.bytes_out), 17);
  close(a);
  close(b);
}

static void test_a_flow_that_the_agent_ends(void **state) {
  int a = visitor_at("127.0.0.1");
  say(a, "one");
  flows[0].ended = 1;
  flows[0].base.end->ended(flows[0].base.end_ctx, STREAM_UNREACHABLE);
  assert_int_equal(live(), 0);
  say(a, "two");
  assert_int_equal(nflows, 2);
  close(a);
}

static void test_no_room_on_the_link(void **state) {
  int a = visitor_at("127.0.0.1");
  full = true;
  assert_int_equal(send(a, "x", 1, 0), 1);
  NX_UNTIL(loop, atomic_load(&entry.dropped) == 1);
  full = false;
  say(a, "y");
  assert_int_equal(live(), 1);
  close(a);
}

static void test_silence(void **state) {
  int asked = visitor_at("127.0.0.1"), unheard = visitor_at("127.0.0.1");
  say(asked, "x");
  say(unheard, "x");
  answer(&flows[0], "y");
  nx_pass(loop, 9000);
  assert_int_equal(live(), 2);
  nx_pass(loop, 2000);
  assert_int_equal(flows[1].ended, 1);
  nx_pass(loop, (IDLE_S - 14) * 1000);
  answer(&flows[0], "still here");
  nx_pass(loop, (IDLE_S - 2) * 1000);
  assert_int_equal(live(), 1);
  nx_pass(loop, 3000);
  assert_int_equal(live(), 0);
  close(asked);
  close(unheard);
}

static void test_most_flows_of_a_source(void **state) {
  int regular = visitor_at("127.0.0.3"), elsewhere = visitor_at("127.0.0.2");
  say(elsewhere, "x"); // the oldest of all, and without an answer
  say(regular, "x");
  answer(&flows[1], "y");
  crowd("127.0.0.3", UDP_SOURCE_FLOWS + 100);
  assert_int_equal(live(), UDP_SOURCE_FLOWS + 1);
  assert_int_equal(flows[0].ended + flows[1].ended, 0);
  assert_int_equal(flows[2].ended, 1);
  assert_int_equal(flows[2].reason, STREAM_LIMIT);
  assert_int_equal(flows[2 + 101].ended, 0);
  // All answered: who has been silent longest.
  for (unsigned i = nflows; i--;)
    if (!flows[i].ended) answer(&flows[i], "y");
  answer(&flows[nflows - 1], "y");
  crowd("127.0.0.3", 1);
  assert_int_equal(flows[nflows - 3].ended, 1);
  assert_int_equal(live(), UDP_SOURCE_FLOWS + 1);
  close(regular);
  close(elsewhere);
}

static void test_most_flows_of_a_tunnel(void **state) {
  char ip[16];
  int regular = visitor_at("127.0.0.1");
  say(regular, "x");
  answer(&flows[0], "y");
  for (int i = 2; i < 8; i++) {
    snprintf(ip, sizeof ip, "127.0.0.%d", i);
    crowd(ip, 1700);
  }
  assert_true(nflows > UDP_TUNNEL_FLOWS);
  assert_int_equal(live(), UDP_TUNNEL_FLOWS);
  assert_int_equal(flows[0].ended, 0);
  assert_int_equal(flows[1].ended, 1);
  close(regular);
}

static void test_away(void **state) {
  int a = visitor_at("127.0.0.1");
  relay_set_away(&relay, true);
  assert_int_equal(send(a, "x", 1, 0), 1);
  nx_settle(loop);
  assert_int_equal(nflows, 0);
  relay_set_away(&relay, false);
  NX_UNTIL(loop, sent == 1);
  close(a);
}

static void test_release(void **state) {
  int fds[RELAY_MAX_LISTEN], a = visitor_at("127.0.0.1");
  say(a, "x");
  assert_int_equal(tunnel->ops->release(tunnel, fds), 1);
  assert_int_equal(flows[0].reason, STREAM_SESSION_ENDED);
  tunnel->ops->close(tunnel, STREAM_SESSION_ENDED);
  tunnel = udp_tunnel_new(&relay, 7, "t", addr_port(&public), fds, 1, IDLE_S);
  say(a, "y");
  assert_int_equal(live(), 1);
  close(a);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(a_flow_for_each_visitor), T(a_flow_that_the_agent_ends), T(no_room_on_the_link), T(silence),
      T(most_flows_of_a_source),  T(most_flows_of_a_tunnel),     T(away),                T(release),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
