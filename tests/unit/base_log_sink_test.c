// log_sink: each kind of descriptor takes everything in order, and none blocks its writer.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/base/log_sink.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 300000 };

// Writes SIZE bytes in two pieces, reading from `from` whenever nothing more goes in.
static void pump(const struct log_sink *s, int from) {
  char *data = malloc(SIZE), *got = malloc(SIZE);
  size_t sent = 0, received = 0;
  bool stalled = false;
  assert_true(data && got);
  for (size_t i = 0; i < SIZE; i++) data[i] = (char)(i * 31 % 251);
  while (received < SIZE) {
    ssize_t n = PERR_AGAIN;
    if (sent < SIZE) {
      size_t half = (SIZE - sent + 1) / 2;
      struct iovec pieces[2] = {{data + sent, half}, {data + sent + half, SIZE - sent - half}};
      n = log_sink_write(s, pieces, pieces[1].iov_len ? 2 : 1);
    }
    if (n == PERR_AGAIN) {
      stalled = stalled || sent < SIZE;
      n = read(from, got + received, SIZE - received);
      assert_true(n > 0);
      received += (size_t)n;
    } else {
      assert_true(n > 0);
      sent += (size_t)n;
    }
  }
  assert_true(stalled);
  assert_memory_equal(data, got, SIZE);
  free(data);
  free(got);
}

static void a_pipe_is_opened_again(void **state) {
  int ends[2];
  struct log_sink s;
  assert_int_equal(pipe(ends), 0);
  log_sink_open(&s, ends[1]);
  assert_int_equal(s.kind, SINK_OWN);
  pump(&s, ends[0]);
  assert_int_equal(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0);
  log_sink_close(&s);
  close(ends[1]);
  char byte;
  assert_int_equal(read(ends[0], &byte, 1), 0); // nothing was left open
  close(ends[0]);
}

static void a_pipe_can_be_polled(void **state) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  struct log_sink s = log_sink_polled(ends[1]);
  pump(&s, ends[0]);
  close(ends[0]);
  close(ends[1]);
}

static void a_socket(void **state) {
  int ends[2];
  struct log_sink s;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  log_sink_open(&s, ends[1]);
  assert_int_equal(s.kind, SINK_SOCKET);
  pump(&s, ends[0]);
  close(ends[0]);
  struct iovec piece = {(char[]){"x"}, 1};
  assert_int_equal(log_sink_write(&s, &piece, 1), PERR_IO); // and no SIGPIPE
  log_sink_close(&s);
  close(ends[1]);
}

static void files_and_what_is_no_descriptor(void **state) {
  struct log_sink s;
  struct iovec pieces[2] = {{(char[]){"ab"}, 2}, {(char[]){"c"}, 1}};
  char file[] = "/tmp/base_log_sink_XXXXXX", got[4] = "";
  int fd = mkstemp(file);
  log_sink_open(&s, fd);
  assert_int_equal(s.kind, SINK_STORAGE);
  assert_int_equal(log_sink_write(&s, pieces, 2), 3);
  assert_int_equal(pread(fd, got, 3, 0), 3);
  assert_string_equal(got, "abc");
  log_sink_close(&s);
  close(fd);
  unlink(file);

  fd = open("/dev/full", O_WRONLY);
  log_sink_open(&s, fd);
  assert_int_equal(log_sink_write(&s, pieces, 2), PERR_IO);
  close(fd);
  log_sink_open(&s, fd); // closed already
  assert_int_equal(log_sink_write(&s, pieces, 2), PERR_IO);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_pipe_is_opened_again),
      cmocka_unit_test(a_pipe_can_be_polled),
      cmocka_unit_test(a_socket),
      cmocka_unit_test(files_and_what_is_no_descriptor),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
