// Listeners: what binding says, accepting, pausing, changing hands, running out of descriptors.
#include "net_fixture.h"
#include "postern/base/err.h"
#include "postern/net/conn.h"
#include "postern/net/listener.h"
#include <sys/resource.h>
#include <sys/wait.h>

static struct loop *loop;
static struct listener *listener;

// What was accepted.
enum { MOST = 256 };
static struct {
  int fds[MOST];
  struct addr peers[MOST];
  unsigned n;
  bool pauses, closes, releases;
  int released;
} got;

static int set_up(void **state) {
  loop = loop_new("test");
  listener = NULL;
  memset(&got, 0, sizeof got);
  return loop ? 0 : -1;
}

static int tear_down(void **state) {
  listener_close(listener);
  for (unsigned i = 0; i < got.n; i++) close(got.fds[i]);
  loop_free(loop);
  return 0;
}

static void on_accept(void *ctx, struct listener *ln, int fd, const struct addr *peer) {
  assert_ptr_equal(ctx, &got);
  assert_true(got.n < MOST);
  got.fds[got.n] = fd;
  got.peers[got.n++] = *peer;
  if (got.pauses) listener_pause(ln);
  if (got.releases)
    got.released = listener_release(ln);
  else if (got.closes)
    listener_close(ln);
  if (got.releases || got.closes) listener = NULL;
}

static int bind_to(const char *text, uint16_t port) {
  struct addr a;
  int fd = -1;
  assert_int_equal(addr_from_ip(&a, text, port), 0);
  int code = listener_bind(&a, &fd);
  if (code) {
    assert_int_equal(fd, -1);
    return code;
  }
  return fd;
}

static struct addr start(bool paused) {
  listener = listener_new(loop, bind_to("127.0.0.1", 0), paused, on_accept, &got);
  assert_non_null(listener);
  return *listener_addr(listener);
}

// ---- binding ----

static void test_in_use(void **state) {
  struct addr a = start(false);
  assert_true(addr_port(&a) != 0);
  assert_int_equal(bind_to("127.0.0.1", addr_port(&a)), PERR_IN_USE);
  listener_close(listener);
  listener = NULL;
  nx_settle(loop);
  int fd = bind_to("127.0.0.1", addr_port(&a));
  assert_true(fd >= 0);
  close(fd);
}

// The port of a connection that is not quite over can be bound again.
static void test_after_a_connection(void **state) {
  struct addr a = start(false);
  int c = nx_connect_to(&a);
  NX_UNTIL(loop, got.n == 1);
  close(got.fds[0]); // first: this end is the one in TIME_WAIT
  got.n = 0;
  close(c);
  listener_close(listener);
  listener = NULL;
  int fd = bind_to("127.0.0.1", addr_port(&a));
  assert_true(fd >= 0);
  close(fd);
}

static void test_not_ours(void **state) {
  assert_int_equal(bind_to("192.0.2.1", 0), PERR_NOTFOUND);
}

static void test_denied(void **state) {
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    // What root may, others may not.
    struct addr a = nx_addr("127.0.0.1", 1);
    int fd = -1, low = 1024;
    FILE *f = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "r");
    if (f && fscanf(f, "%d", &low) != 1) low = 1024;
    if (low <= 1 || (geteuid() == 0 && setuid(65534))) _exit(0);
    _exit(listener_bind(&a, &fd) == PERR_DENIED ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

static void limit_files(rlim_t n) {
  struct rlimit r;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
  r.rlim_cur = n;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
}

// No descriptor is left; the limit that there was.
static rlim_t use_up_files(void) {
  struct rlimit r;
  int next = dup(STDERR_FILENO);
  close(next);
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
  limit_files((rlim_t)next);
  return r.rlim_cur;
}

static void test_no_descriptor_to_bind(void **state) {
  rlim_t before = use_up_files();
  int code = bind_to("127.0.0.1", 0);
  limit_files(before);
  assert_int_equal(code, PERR_LIMIT);
}

// On a port that the system chose for IPv6. False: with IPv4 somebody else has that port just now.
static bool try_both_families(void) {
  int six = bind_to("::", 0);
  if (six == PERR_NOTFOUND) skip(); // a machine without IPv6
  assert_true(six >= 0);
  struct addr a = nx_local(six), four = nx_addr("127.0.0.1", addr_port(&a));
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  bool refused = connect(fd, &four.sa, four.len) == -1 && errno == ECONNREFUSED;
  close(fd);
  int any = bind_to("0.0.0.0", addr_port(&a));
  if (any >= 0) close(any);
  close(six);
  return refused && any >= 0;
}

// 0.0.0.0 and [::] are two sockets on one port, and IPv4 comes to the first alone.
static void test_both_families(void **state) {
  bool both = false;
  for (int i = 0; i < 20 && !both; i++) both = try_both_families();
  assert_true(both);
}

// ---- accepting ----

static int option(int fd, int level, int name) {
  int value = 0;
  socklen_t len = sizeof value;
  assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
  return value;
}

static void test_accepting(void **state) {
  struct addr a = start(false);
  int c = nx_connect_to(&a);
  struct addr mine = nx_local(c);
  NX_UNTIL(loop, got.n == 1);
  assert_true(addr_equal_ip(&got.peers[0], &mine));
  assert_int_equal(addr_port(&got.peers[0]), addr_port(&mine));
  int fd = got.fds[0];
  assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_true(option(fd, IPPROTO_TCP, TCP_NODELAY));
  assert_true(option(fd, SOL_SOCKET, SO_KEEPALIVE));
  assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), CONN_KEEPALIVE_S);
  assert_int_equal(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT), CONN_UNSENT);
  close(c);
}

// More than one wake-up takes.
static void test_many_at_once(void **state) {
  enum { MANY = 150 };
  int c[MANY];
  struct addr a = start(false);
  for (int i = 0; i < MANY; i++) c[i] = nx_connect_to(&a);
  NX_UNTIL(loop, got.n == MANY);
  for (int i = 0; i < MANY; i++) close(c[i]);
}

static void test_pause(void **state) {
  struct addr a = start(true);
  int c[3];
  for (int i = 0; i < 3; i++) c[i] = nx_connect_to(&a);
  nx_settle(loop);
  assert_int_equal(got.n, 0);
  got.pauses = true; // again, with each that comes
  for (unsigned i = 1; i <= 3; i++) {
    listener_resume(listener);
    listener_resume(listener);
    NX_UNTIL(loop, got.n == i);
    nx_settle(loop);
    assert_int_equal(got.n, i); // the others wait in the kernel's queue
  }
  for (int i = 0; i < 3; i++) close(c[i]);
}

static void test_close_in_the_callback(void **state) {
  struct addr a = start(false);
  got.closes = true;
  int c[2];
  for (int i = 0; i < 2; i++) c[i] = nx_connect_to(&a);
  NX_UNTIL(loop, got.n);
  nx_settle(loop);
  assert_int_equal(got.n, 1);
  for (int i = 0; i < 2; i++) close(c[i]);
}

// ---- changing hands ----

static void test_release_goes_on_listening(void **state) {
  struct addr a = start(false);
  int fd = listener_release(listener);
  listener = NULL;
  int c = nx_connect_to(&a); // nobody accepts now, and nobody is refused
  nx_settle(loop);
  assert_int_equal(got.n, 0);
  struct loop *other = loop_new("other");
  struct listener *second = listener_new(other, fd, false, on_accept, &got);
  assert_int_equal(addr_port(listener_addr(second)), addr_port(&a));
  NX_UNTIL(other, got.n == 1);
  listener_close(second);
  loop_free(other);
  close(c);
}

static void test_release_in_the_callback(void **state) {
  struct addr a = start(false);
  got.releases = true;
  int c[2];
  for (int i = 0; i < 2; i++) c[i] = nx_connect_to(&a);
  NX_UNTIL(loop, got.n);
  nx_settle(loop);
  assert_int_equal(got.n, 1);
  got.releases = false;
  listener = listener_new(loop, got.released, false, on_accept, &got);
  NX_UNTIL(loop, got.n == 2);
  for (int i = 0; i < 2; i++) close(c[i]);
}

// ---- out of descriptors ----

static unsigned accepts;

// Stands before the system's, to count.
int accept4(int fd, struct sockaddr *addr, socklen_t *restrict len, int flags) {
  accepts++;
  return (int)syscall(SYS_accept4, fd, addr, len, flags);
}

// The loop must not spin on a socket that it cannot accept from, and nobody in the queue is lost.
static void rest(bool paused_meanwhile) {
  struct addr a = start(false);
  int c = nx_connect_to(&a), idle[2];
  nx_pair(idle);
  rlim_t before = use_up_files();
  accepts = 0;
  nx_settle(loop);
  limit_files(before);
  assert_int_equal(accepts, 1);
  // There is room again, but it rests for a second.
  nx_pass(loop, 900);
  assert_int_equal(accepts, 1);
  assert_int_equal(got.n, 0);
  if (paused_meanwhile) {
    listener_pause(listener);
    nx_pass(loop, 200);
    assert_int_equal(got.n, 0);
    listener_resume(listener);
  }
  nx_pass(loop, 200);
  NX_UNTIL(loop, got.n == 1);
  close(c);
  close(idle[0]);
  close(idle[1]);
}

static void test_rest(void **state) {
  rest(false);
}

static void test_rest_and_pause(void **state) {
  rest(true);
}

// Resuming does not end a rest.
static void test_resume_while_resting(void **state) {
  struct addr a = start(false);
  int c = nx_connect_to(&a);
  rlim_t before = use_up_files();
  nx_settle(loop);
  listener_pause(listener);
  listener_resume(listener);
  limit_files(before);
  nx_settle(loop);
  assert_int_equal(got.n, 0);
  listener_close(listener); // while it rests
  listener = NULL;
  nx_pass(loop, 2000);
  close(c);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(in_use),
      T(after_a_connection),
      T(not_ours),
      T(denied),
      T(no_descriptor_to_bind),
      T(both_families),
      T(accepting),
      T(many_at_once),
      T(pause),
      T(close_in_the_callback),
      T(release_goes_on_listening),
      T(release_in_the_callback),
      T(rest),
      T(rest_and_pause),
      T(resume_while_resting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
