// prompt: reads a password from standard input. Called by the commands that need one. While a terminal's echo is off
// the signals that end or stop the program wait until it is on again.
#include "postern/ctl/prompt.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

// ---- the terminal ----

struct terminal {
  struct termios normal, quiet;
  sigset_t held, before;
  int pending; // readable while a signal is held back
};

static void be_quiet(const struct terminal *tty) {
  sigprocmask(SIG_BLOCK, &tty->held, NULL);
  tcsetattr(STDIN_FILENO, TCSAFLUSH, &tty->quiet);
}

// What was typed and not read is thrown away, or the shell would get it. A signal that was held back comes now.
static void be_normal(const struct terminal *tty) {
  tcsetattr(STDIN_FILENO, TCSAFLUSH, &tty->normal);
  sigprocmask(SIG_SETMASK, &tty->before, NULL);
}

static int terminal_open(struct terminal *tty, struct err_text *e) {
  static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
  sigemptyset(&tty->held);
  for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++) sigaddset(&tty->held, ending[i]);
  sigprocmask(SIG_SETMASK, NULL, &tty->before);
  if (tcgetattr(STDIN_FILENO, &tty->normal) < 0)
    return err_set(e, PERR_IO, "cannot switch the terminal's echo off: %s", strerror(errno));
  tty->quiet = tty->normal;
  tty->quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
  tty->pending = signalfd(-1, &tty->held, SFD_CLOEXEC);
  if (tty->pending < 0) return err_set(e, PERR_IO, "cannot wait for signals: %s", strerror(errno));
  be_quiet(tty);
  return 0;
}

static void terminal_close(struct terminal *tty) {
  close(tty->pending);
  be_normal(tty);
}

// Returns when there is something to read. A signal does what it always does; who comes back from it is asked anew.
static void await_input(const struct terminal *tty, const char *question) {
  struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = tty->pending, .events = POLLIN}};
  for (;;) {
    int n = poll(fds, 2, -1);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 || !fds[1].revents) return;
    be_normal(tty);
    be_quiet(tty);
    fputs(question, stderr);
  }
}

// ---- one line ----

// 1, 0 at the end of the input, or PERR_IO.
static int read_byte(const struct terminal *tty, const char *question, char *c, struct err_text *e) {
  ssize_t n;
  do {
    if (tty) await_input(tty, question);
    n = read(STDIN_FILENO, c, 1);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? err_set(e, PERR_IO, "cannot read standard input: %s", strerror(errno)) : (int)n;
}

// `tty` is NULL where there is none, and nobody is asked.
static int read_line(const struct terminal *tty, const char *question, char out[PASSWORD_TEXT], struct err_text *e) {
  size_t len = 0;
  char c;
  int rc;
  if (tty) fputs(question, stderr);
  while ((rc = read_byte(tty, question, &c, e)) > 0 && c != '\n' && len < PASSWORD_TEXT) out[len++] = c;
  if (tty) fputc('\n', stderr);
  if (rc < 0) return rc;
  if (len == 0) return err_set(e, PERR_INVALID, "no password was given on standard input");
  bool whole = len < PASSWORD_TEXT;
  out[whole ? len : 0] = '\0';
  if (strlen(out) == len && password_valid(out)) return 0;
  return err_set(e, PERR_INVALID, "a password is one line of 1 to %d bytes without control characters",
                 PASSWORD_MAX_LEN);
}

static int read_twice(const struct terminal *tty, char out[PASSWORD_TEXT], struct err_text *e) {
  char again[PASSWORD_TEXT];
  int rc = read_line(tty, "New password: ", out, e);
  if (rc < 0) return rc;
  rc = read_line(tty, "The same again: ", again, e);
  if (rc == 0 && strcmp(out, again) != 0) rc = err_set(e, PERR_DENIED, "the two passwords differ; nothing is changed");
  crypto_wipe(again, sizeof again);
  return rc;
}

int prompt_password(char out[PASSWORD_TEXT], struct err_text *e) {
  if (!isatty(STDIN_FILENO)) return read_line(NULL, "", out, e);
  struct terminal tty;
  int rc = terminal_open(&tty, e);
  if (rc < 0) return rc;
  rc = read_twice(&tty, out, e);
  terminal_close(&tty);
  return rc;
}
