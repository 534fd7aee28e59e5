// log: lines through the ring and the thread to a stderr that is a file, a pipe, a stalled pipe or gone.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/clock.h"
#include "postern/base/log.h"
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WAIT_MS = 20000, THREADS = 4, LINES = 500 };

// The stderr of one test: what was there before, and the end to read from (-1: none).
struct capture {
  int saved, from;
};

static void capture_with(struct capture *c, int to, int from) {
  c->saved = dup(STDERR_FILENO);
  c->from = from;
  assert_true(c->saved >= 0 && dup2(to, STDERR_FILENO) == STDERR_FILENO);
  close(to);
}

static void capture_pipe(struct capture *c) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  capture_with(c, ends[1], ends[0]);
}

// Also closes the writing end, so that reading ends.
static void restore_stderr(struct capture *c) {
  dup2(c->saved, STDERR_FILENO);
  close(c->saved);
}

struct text {
  char *s;
  size_t len;
};

static void read_some(int fd, struct text *t) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  assert_int_equal(poll(&p, 1, WAIT_MS), 1);
  t->s = realloc(t->s, t->len + 65537);
  assert_non_null(t->s);
  ssize_t n = read(fd, t->s + t->len, 65536);
  assert_true(n > 0);
  t->len += (size_t)n;
  t->s[t->len] = '\0';
}

static void read_until(int fd, struct text *t, const char *what) {
  while (!t->s || !strstr(t->s, what)) read_some(fd, t);
}

static size_t count(const char *s, const char *what) {
  size_t n = 0;
  while ((s = strstr(s, what))) {
    n++;
    s += strlen(what);
  }
  return n;
}

static void names_of_levels_and_formats(void **state) {
  enum log_level level = LOG_DEBUG;
  enum log_format kind = LOG_JSON;
  assert_true(log_level_parse("error", &level) && level == LOG_ERROR);
  assert_true(log_level_parse("warn", &level) && level == LOG_WARN);
  assert_true(log_level_parse("info", &level) && level == LOG_INFO);
  assert_true(log_level_parse("debug", &level) && level == LOG_DEBUG);
  assert_true(log_format_parse("text", &kind) && kind == LOG_TEXT);
  assert_true(log_format_parse("json", &kind) && kind == LOG_JSON);
  assert_false(log_level_parse("warning", &level) || log_level_parse("", &level) || log_level_parse("INFO", &level));
  assert_false(log_format_parse("xml", &kind) || log_format_parse("", &kind));
}

static void without_a_thread_lines_are_written_at_once(void **state) {
  struct capture c;
  struct text t = {0};
  capture_pipe(&c);
  log_event(LOG_INFO, "gateway.ready", "ready", LF_INT("port", 7841));
  log_event(LOG_DEBUG, "hidden", "hidden");
  log_line(LOG_WARN, "plain", "%s and %d", "text", 5);
  restore_stderr(&c);
  read_until(c.from, &t, "5\n");
  assert_int_equal(count(t.s, "\n"), 2);
  assert_non_null(strstr(t.s, "Z INFO  gateway.ready: ready port=7841\n"));
  assert_non_null(strstr(t.s, "Z WARN  plain: text and 5\n"));
  close(c.from);
  free(t.s);
}

static void lines_arrive_while_the_thread_runs(void **state) {
  struct capture c;
  struct text t = {0};
  capture_pipe(&c);
  assert_int_equal(log_start(), 0);
  assert_int_not_equal(log_start(), 0);
  for (int i = 0; i < 50; i++) { // each time the thread sleeps again and has to be woken
    char what[32];
    snprintf(what, sizeof what, "n=%d\n", i);
    log_event(LOG_INFO, "tick", "tock", LF_INT("n", i));
    read_until(c.from, &t, what);
  }
  log_stop();
  log_stop();
  restore_stderr(&c);
  close(c.from);
  free(t.s);
}

static void *log_many(void *arg) {
  for (int i = 0; i < LINES; i++)
    log_event(LOG_INFO, "many", "a line", LF_INT("thread", *(const int *)arg), LF_INT("n", i));
  return NULL;
}

// The lines of each thread are whole and in order.
static void check_threads(const char *text) {
  int next[THREADS] = {0};
  for (const char *line = text; *line;) {
    const char *end = strchr(line, '\n');
    assert_non_null(end);
    json_t *root = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    json_int_t thread = json_integer_value(json_object_get(root, "thread"));
    assert_in_range(thread, 0, THREADS - 1);
    assert_int_equal(json_integer_value(json_object_get(root, "n")), next[thread]++);
    assert_int_equal(strlen(json_string_value(json_object_get(root, "ts"))), 24);
    json_decref(root);
    line = end + 1;
  }
  for (int i = 0; i < THREADS; i++) assert_int_equal(next[i], LINES);
}

static void log_from_threads(void) {
  pthread_t threads[THREADS];
  int numbers[THREADS];
  for (int i = 0; i < THREADS; i++) {
    numbers[i] = i;
    assert_int_equal(pthread_create(&threads[i], NULL, log_many, &numbers[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void all_lines_of_all_threads_reach_a_file(void **state) {
  struct capture c;
  char file[] = "/tmp/base_log_XXXXXX";
  int fd = mkstemp(file);
  assert_true(fd >= 0);
  capture_with(&c, dup(fd), -1);
  log_set_format(LOG_JSON);
  assert_int_equal(log_start(), 0);
  log_from_threads();
  log_stop();
  log_set_format(LOG_TEXT);
  restore_stderr(&c);
  off_t len = lseek(fd, 0, SEEK_END);
  char *text = calloc(1, (size_t)len + 1);
  assert_true(text && pread(fd, text, (size_t)len, 0) == len);
  check_threads(text);
  free(text);
  close(fd);
  unlink(file);
}

static char filler[1024];

// Fills pipe and ring with nobody reading; returns how many lines were logged.
static int overflow(void) {
  const int lines = 3000; // three times what the ring holds
  memset(filler, 'f', sizeof filler - 1);
  for (int i = 0; i < lines; i++) log_event(LOG_INFO, "flood", filler, LF_INT("n", i));
  return lines;
}

// The sum over the complete log.lost lines: there is one for each time that the ring was full.
static int lost_lines(const char *s) {
  int lost = 0;
  for (; (s = strstr(s, " WARN  log.lost: ")) && strchr(s, '\n'); s++) lost += atoi(strstr(s, "lines=") + 6);
  return lost;
}

static void a_stalled_reader_stops_nobody_and_losses_are_counted(int to, int from) {
  struct capture c;
  struct text t = {0};
  capture_with(&c, to, from);
  assert_int_equal(log_start(), 0);
  int flags = fcntl(STDERR_FILENO, F_GETFL);
  int logged = overflow(), arrived; // would hang here
  assert_int_equal(fcntl(STDERR_FILENO, F_GETFL), flags);
  do {
    read_some(c.from, &t);
    arrived = (int)count(t.s, " INFO  flood: ");
  } while (arrived + lost_lines(t.s) < logged);
  assert_int_equal(arrived + lost_lines(t.s), logged);
  assert_true(arrived > 900 && lost_lines(t.s) > 900);
  log_event(LOG_INFO, "after", "the flood");
  read_until(c.from, &t, "after: the flood\n");
  log_stop();
  restore_stderr(&c);
  close(c.from);
  free(t.s);
}

static void stalled_pipe(void **state) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  a_stalled_reader_stops_nobody_and_losses_are_counted(ends[1], ends[0]);
}

static void stalled_socket(void **state) {
  int ends[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  a_stalled_reader_stops_nobody_and_losses_are_counted(ends[1], ends[0]);
}

static void stopping_gives_up_on_a_stalled_pipe(void **state) {
  struct capture c;
  capture_pipe(&c);
  assert_int_equal(log_start(), 0);
  overflow();
  uint64_t before = clock_mono_ms();
  log_stop();
  uint64_t took = clock_mono_ms() - before;
  before = clock_mono_ms();
  log_event(LOG_INFO, "last", "a line written directly");
  uint64_t direct_took = clock_mono_ms() - before;
  restore_stderr(&c);
  close(c.from);
  assert_in_range(took, 900, 5000);
  assert_in_range(direct_took, 900, 5000);
}

// Lines that arrive shortly before the end are all written, and the pause for gathering does not hold them up.
static void stopping_drains(void **state) {
  struct capture c;
  struct text t = {0};
  capture_pipe(&c);
  assert_int_equal(log_start(), 0);
  for (int i = 0; i < 100; i++) log_event(LOG_INFO, "late", "line", LF_INT("n", i));
  log_stop();
  restore_stderr(&c);
  read_until(c.from, &t, "n=99\n");
  assert_int_equal(count(t.s, "late: line"), 100);
  close(c.from);
  free(t.s);
}

// A reader that goes away is no SIGPIPE and no endless loop; with the next one the loss is told.
static void a_reader_that_is_gone(void **state) {
  struct capture c;
  capture_pipe(&c);
  assert_int_equal(log_start(), 0);
  log_event(LOG_INFO, "first", "line");
  struct text t = {0};
  read_until(c.from, &t, "first: line\n");
  close(c.from);
  log_event(LOG_INFO, "unseen", "line");
  log_stop();
  restore_stderr(&c);
  free(t.s);
  capture_pipe(&c);
  assert_int_equal(log_start(), 0);
  log_event(LOG_INFO, "second", "line");
  t = (struct text){0};
  read_until(c.from, &t, "lines=1\n");
  assert_non_null(strstr(t.s, "second: line\n"));
  log_stop();
  restore_stderr(&c);
  close(c.from);
  free(t.s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_of_levels_and_formats),
      cmocka_unit_test(without_a_thread_lines_are_written_at_once),
      cmocka_unit_test(lines_arrive_while_the_thread_runs),
      cmocka_unit_test(all_lines_of_all_threads_reach_a_file),
      cmocka_unit_test(stalled_pipe),
      cmocka_unit_test(stalled_socket),
      cmocka_unit_test(stopping_drains),
      cmocka_unit_test(a_reader_that_is_gone),
      cmocka_unit_test(stopping_gives_up_on_a_stalled_pipe),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
