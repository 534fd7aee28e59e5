// Tests of gateway/admin over real sockets: the answers, the limits on a client, the socket file.
#include "postern/base/unix_addr.h"
#include "postern/gateway/admin.h"
#include "postern/net/loop.h"
#include "postern/wire/admin_line.h"
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { BIG = 4 << 20, PATIENCE_S = 30, CLIENTS = 32 };

// ---- the gateway's part ----

static int do_echo(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  *data = json_incref(json_object_get(request, "value"));
  return 0;
}

static int do_nothing(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  return 0;
}

static int do_fail(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  return err_set(e, PERR_LIMIT, "no more of that");
}

static int do_big(void *ctx, const json_t *request, json_t **data, struct err_text *e) {
  char *text = malloc(BIG);
  memset(text, 'x', BIG);
  *data = json_stringn(text, BIG);
  free(text);
  return 0;
}

static const struct admin_command table[] = {
    {"echo", do_echo}, {"nothing", do_nothing}, {"fail", do_fail}, {"big", do_big}};

enum { COMMANDS = sizeof table / sizeof table[0] };

struct lab {
  char dir[200], path[256];
  struct loop *loop;
  struct admin *admin;
};

static void set_folder(struct lab *l, const char *dir) {
  snprintf(l->dir, sizeof l->dir, "%s", dir);
  snprintf(l->path, sizeof l->path, "%s/" ADMIN_SOCKET, l->dir);
}

static int open_admin(struct lab *l, struct admin **out, struct err_text *e) {
  return admin_open(out, l->loop, l->path, table, COMMANDS, NULL, e);
}

static void start(struct lab *l) {
  struct err_text e = {""};
  l->loop = loop_new("admin");
  assert_non_null(l->loop);
  assert_int_equal(open_admin(l, &l->admin, &e), 0);
  assert_int_equal(loop_start_thread(l->loop), 0);
}

static void stop(struct lab *l) {
  loop_stop(l->loop);
  loop_join(l->loop);
  admin_close(l->admin);
  loop_free(l->loop);
}

static int setup(void **state) {
  struct lab *l = calloc(1, sizeof *l);
  char dir[] = "/tmp/postern-admin-XXXXXX";
  assert_non_null(mkdtemp(dir));
  set_folder(l, dir);
  start(l);
  *state = l;
  return 0;
}

static int teardown(void **state) {
  struct lab *l = *state;
  stop(l);
  assert_int_equal(access(l->path, F_OK), -1); // the socket went with the gateway
  assert_int_equal(rmdir(l->dir), 0);
  free(l);
  return 0;
}

// ---- the client's part ----

static int dial(const struct lab *l) {
  struct sockaddr_un un;
  int dir = open(l->dir, O_PATH | O_DIRECTORY), fd = socket(AF_UNIX, SOCK_STREAM, 0);
  struct timeval patience = {.tv_sec = PATIENCE_S};
  assert_true(dir >= 0 && fd >= 0);
  assert_int_equal(unix_addr_in(&un, dir, ADMIN_SOCKET), 0);
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
  close(dir);
  return fd;
}

static void send_text(int fd, const char *text, size_t len) {
  while (len) {
    ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
    assert_true(n > 0);
    text += n;
    len -= (size_t)n;
  }
}

// Everything until the gateway closes. Heap, NUL-terminated.
static char *read_all(int fd) {
  char *text = malloc(BIG + 1024);
  size_t len = 0;
  ssize_t n;
  while ((n = recv(fd, text + len, BIG + 1023 - len, 0)) > 0) len += (size_t)n;
  if (n < 0) assert_int_equal(errno, ECONNRESET); // closed with bytes of ours unread; never the time limit
  text[len] = '\0';
  close(fd);
  return text;
}

static void expect(const struct lab *l, const char *request, const char *reply) {
  int fd = dial(l);
  send_text(fd, request, strlen(request));
  char *got = read_all(fd);
  assert_string_equal(got, reply);
  free(got);
}

static void test_answers(void **state) {
  struct lab *l = *state;
  expect(l, "{\"command\":\"echo\",\"value\":[1,{\"a\":null}]}\n", "{\"ok\":true,\"data\":[1,{\"a\":null}]}\n");
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n");
  expect(l, "{\"command\":\"fail\"}\n", "{\"ok\":false,\"error\":\"no more of that\"}\n");
  expect(l, "{\"command\":\"ech\"}\n", "{\"ok\":false,\"error\":\"unknown command\"}\n");
  expect(l, "{\"command\":\"\"}\n", "{\"ok\":false,\"error\":\"unknown command\"}\n");
}

static void test_malformed(void **state) {
  struct lab *l = *state;
  static const char *const lines[] = {"\n",
                                      "nonsense\n",
                                      "[]\n",
                                      "{}\n",
                                      "{\"command\":1}\n",
                                      "{\"command\":\"nothing\",\"command\":\"nothing\"}\n",
                                      "{\"command\":\"nothing\"} {}\n",
                                      "{\"command\":\"\xff\"}\n"};
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    int fd = dial(l);
    send_text(fd, lines[i], strlen(lines[i]));
    char *got = read_all(fd);
    assert_ptr_equal(strstr(got, "{\"ok\":false,\"error\":\""), got);
    free(got);
  }
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n");
}

static void test_length(void **state) {
  struct lab *l = *state;
  static const char head[] = "{\"command\":\"nothing\"}";
  for (int over = 0; over < 2; over++) {
    size_t len = ADMIN_REQUEST_MAX + (size_t)over;
    char *line = malloc(len);
    memset(line, ' ', len);
    memcpy(line, head, strlen(head));
    line[len - 1] = '\n';
    int fd = dial(l);
    send_text(fd, line, len);
    char *got = read_all(fd);
    assert_string_equal(got, over ? "{\"ok\":false,\"error\":\"the request is too long\"}\n"
                                  : "{\"ok\":true,\"data\":null}\n");
    free(got);
    free(line);
  }
}

static void test_endless_line(void **state) {
  struct lab *l = *state;
  char block[4096];
  memset(block, 'x', sizeof block);
  int fd = dial(l);
  for (int i = 0; i < ADMIN_REQUEST_MAX / (int)sizeof block + 1; i++) send_text(fd, block, sizeof block);
  char *got = read_all(fd);
  assert_string_equal(got, "{\"ok\":false,\"error\":\"the request is too long\"}\n");
  free(got);
}

static void test_byte_by_byte_and_half_close(void **state) {
  struct lab *l = *state;
  static const char line[] = "{\"command\":\"big\"}\n";
  int fd = dial(l);
  for (size_t i = 0; i < strlen(line); i++) send_text(fd, line + i, 1);
  shutdown(fd, SHUT_WR);
  char *got = read_all(fd);
  assert_int_equal(strlen(got), BIG + strlen("{\"ok\":true,\"data\":\"\"}\n"));
  free(got);

  fd = dial(l); // an end without a whole line has no answer
  send_text(fd, line, strlen(line) - 1);
  shutdown(fd, SHUT_WR);
  got = read_all(fd);
  assert_string_equal(got, "");
  free(got);
}

static void on_round(void *arg) {
  sem_post(arg);
}

// Lets the loop look at everything that is there now, and at what follows from it.
static void let_loop_run(const struct lab *l) {
  sem_t done;
  sem_init(&done, 0, 0);
  for (int i = 0; i < 10; i++) {
    assert_int_equal(loop_post(l->loop, on_round, &done), 0);
    while (sem_wait(&done) < 0) continue;
  }
  sem_destroy(&done);
}

// With every place taken a further client waits, and is served when one leaves.
static void test_places(void **state) {
  struct lab *l = *state;
  static const char line[] = "{\"command\":\"nothing\"}\n";
  int taken[CLIENTS];
  char byte;
  for (int i = 0; i < CLIENTS; i++) taken[i] = dial(l);
  int deaf = taken[CLIENTS - 1]; // once its answer has begun, it and all before it have their places
  send_text(deaf, "{\"command\":\"big\"}\n", strlen("{\"command\":\"big\"}\n"));
  assert_int_equal(recv(deaf, &byte, 1, 0), 1);

  int fd = dial(l);
  send_text(fd, line, strlen(line));
  let_loop_run(l);
  assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
  assert_int_equal(errno, EAGAIN);
  send_text(taken[0], line, strlen(line));
  char *got = read_all(taken[0]);
  assert_string_equal(got, "{\"ok\":true,\"data\":null}\n");
  free(got);
  got = read_all(fd);
  assert_string_equal(got, "{\"ok\":true,\"data\":null}\n");
  free(got);
  for (int i = 1; i < CLIENTS; i++) close(taken[i]);
}

// A client that is silent and one that does not read are dropped after ten seconds; others are served meanwhile.
static void test_slow_clients(void **state) {
  struct lab *l = *state;
  int silent = dial(l), deaf = dial(l);
  send_text(deaf, "{\"command\":\"big\"}\n", strlen("{\"command\":\"big\"}\n"));
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n");
  char *got = read_all(silent);
  assert_string_equal(got, "");
  free(got);
  got = read_all(deaf);
  assert_true(strlen(got) < BIG);
  free(got);
}

static void test_file(void **state) {
  struct lab *l = *state;
  struct stat st;
  struct err_text e = {""};
  struct admin *second = NULL;
  assert_int_equal(lstat(l->path, &st), 0);
  assert_true(S_ISSOCK(st.st_mode));
  assert_int_equal(st.st_mode & 0777, 0600);
  assert_int_equal(open_admin(l, &second, &e), PERR_IN_USE);
  assert_non_null(strstr(e.s, l->dir));
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n"); // the first is none the worse
}

// What a killed gateway leaves behind is replaced; what is no socket is not.
static void test_leftovers(void **state) {
  struct lab *l = *state;
  stop(l);
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  snprintf(un.sun_path, sizeof un.sun_path, "%.100s", l->path);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
  close(fd);
  start(l);
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n");
  stop(l);

  l->loop = loop_new("admin");
  fd = open(l->path, O_CREAT | O_EXCL | O_WRONLY, 0600);
  assert_true(fd >= 0);
  close(fd);
  struct err_text e = {""};
  assert_int_equal(open_admin(l, &l->admin, &e), PERR_EXISTS);
  assert_int_equal(unlink(l->path), 0);
  loop_free(l->loop);
  start(l);
}

static void test_long_path(void **state) {
  struct lab *l = *state;
  char top[200], deep[200];
  snprintf(top, sizeof top, "%s", l->dir);
  stop(l);
  assert_true(snprintf(deep, sizeof deep, "%.60s/%0100d", top, 0) < (int)sizeof deep);
  assert_int_equal(mkdir(deep, 0700), 0);
  set_folder(l, deep);
  start(l);
  expect(l, "{\"command\":\"nothing\"}\n", "{\"ok\":true,\"data\":null}\n");
  stop(l);
  assert_int_equal(rmdir(deep), 0);
  set_folder(l, top);
  start(l);
}

// The mode of the socket keeps others out; where somebody opened it wide, their credentials do.
static void test_other_user(void **state) {
  struct lab *l = *state;
  if (geteuid() != 0) skip();
  assert_int_equal(chmod(l->dir, 0755), 0);
  assert_int_equal(chmod(l->path, 0666), 0);
  pid_t pid = fork();
  if (pid == 0) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%.100s", l->path);
    char reply[256] = "";
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setuid(65534) < 0 || connect(fd, (struct sockaddr *)&un, sizeof un) < 0) _exit(1);
    send(fd, "{\"command\":\"nothing\"}\n", 22, MSG_NOSIGNAL);
    if (recv(fd, reply, sizeof reply - 1, 0) <= 0) _exit(2);
    _exit(strstr(reply, "\"ok\":false") && strstr(reply, "owner") ? 0 : 3);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
      cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_length, setup, teardown),
      cmocka_unit_test_setup_teardown(test_endless_line, setup, teardown),
      cmocka_unit_test_setup_teardown(test_byte_by_byte_and_half_close, setup, teardown),
      cmocka_unit_test_setup_teardown(test_places, setup, teardown),
      cmocka_unit_test_setup_teardown(test_slow_clients, setup, teardown),
      cmocka_unit_test_setup_teardown(test_file, setup, teardown),
      cmocka_unit_test_setup_teardown(test_leftovers, setup, teardown),
      cmocka_unit_test_setup_teardown(test_long_path, setup, teardown),
      cmocka_unit_test_setup_teardown(test_other_user, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
