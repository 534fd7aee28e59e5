// log: levels, the ring of lines and the thread that drains it to stderr. Any thread logs; the log thread is the only
// one that takes lines out, and the bytes it is writing stay its own until it gives the room back, so that it writes
// straight from the ring without the lock.
#include "postern/base/log.h"
#include "postern/base/clock.h"
#include "postern/base/err.h"
#include "postern/base/log_line.h"
#include "postern/base/log_sink.h"
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  RING_SIZE = 1 << 20,
  GATHER_MS = 4,     // lines wait this long for company
  STALL_MS = 100,    // how often a stalled log thread looks whether it shall stop
  GIVE_UP_MS = 1000, // for log_stop, and for a line written directly
};

static atomic_int chosen_level = LOG_INFO;
static atomic_int chosen_format = LOG_TEXT;

static struct {
  pthread_mutex_t lock; // covers all but `thread` and `sink`
  pthread_cond_t wake;
  char *ring;           // NULL: no log thread, lines are written directly
  size_t head, used;    // the lines are the `used` bytes from `head`, around the end
  uint64_t lost;        // lines dropped and not reported yet
  bool waiting;         // the log thread sleeps on `wake`
  uint64_t give_up_ms;  // log_stop was called, drain until then; 0 before
  pthread_t thread;     // log_start's and log_stop's
  struct log_sink sink; // the log thread's
} the_log = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

void log_set_level(enum log_level level) {
  atomic_store_explicit(&chosen_level, (int)level, memory_order_relaxed);
}

void log_set_format(enum log_format format) {
  atomic_store_explicit(&chosen_format, (int)format, memory_order_relaxed);
}

bool log_enabled(enum log_level level) {
  return (int)level <= atomic_load_explicit(&chosen_level, memory_order_relaxed);
}

bool log_level_parse(const char *text, enum log_level *level) {
  static const char *const names[] = {"error", "warn", "info", "debug"};
  for (int i = 0; i < 4; i++) {
    if (strcmp(text, names[i]) != 0) continue;
    *level = (enum log_level)i;
    return true;
  }
  return false;
}

bool log_format_parse(const char *text, enum log_format *format) {
  bool json = strcmp(text, "json") == 0;
  if (!json && strcmp(text, "text") != 0) return false;
  *format = json ? LOG_JSON : LOG_TEXT;
  return true;
}

// The time of now. Each thread keeps the text of its last second, for the date is the expensive part.
static const char *timestamp(void) {
  static _Thread_local int64_t second = -1;
  static _Thread_local char text[CLOCK_TEXT];
  int64_t ms = clock_wall_ms();
  if (ms / 1000 != second || ms < 0) {
    clock_format_ms(ms, text);
    second = ms / 1000;
    return text;
  }
  unsigned rest = (unsigned)(ms % 1000);
  char *digits = text + sizeof "2026-01-31T23:59:59." - 1;
  digits[0] = (char)('0' + rest / 100);
  digits[1] = (char)('0' + rest / 10 % 10);
  digits[2] = (char)('0' + rest % 10);
  return text;
}

static size_t format_line(char out[LOG_LINE_MAX], struct log_record r) {
  r.ts = timestamp();
  return log_line_format(out, (enum log_format)atomic_load_explicit(&chosen_format, memory_order_relaxed), &r);
}

// The functions from here to log_fields are called with the lock held, and return with it held.

static bool ring_put(const char *line, size_t len) {
  if (len > RING_SIZE - the_log.used) return false;
  size_t at = (the_log.head + the_log.used) % RING_SIZE;
  size_t first = len < RING_SIZE - at ? len : RING_SIZE - at;
  memcpy(the_log.ring + at, line, first);
  memcpy(the_log.ring, line + first, len - first);
  the_log.used += len;
  return true;
}

static int ring_pieces(struct iovec pieces[2]) {
  size_t first = the_log.used < RING_SIZE - the_log.head ? the_log.used : RING_SIZE - the_log.head;
  pieces[0] = (struct iovec){.iov_base = the_log.ring + the_log.head, .iov_len = first};
  pieces[1] = (struct iovec){.iov_base = the_log.ring, .iov_len = the_log.used - first};
  return pieces[1].iov_len ? 2 : 1;
}

static void ring_take(size_t len) {
  the_log.head = (the_log.head + len) % RING_SIZE;
  the_log.used -= len;
}

static uint64_t count_lines(const struct iovec *pieces, int n) {
  uint64_t lines = 0;
  for (int i = 0; i < n; i++)
    for (size_t at = 0; at < pieces[i].iov_len; at++) lines += ((const char *)pieces[i].iov_base)[at] == '\n';
  return lines;
}

// Puts the count of dropped lines behind those that had room, where the dropped ones would be.
static void report_lost(void) {
  char line[LOG_LINE_MAX];
  const struct log_field field = LF_INT("lines", the_log.lost);
  size_t len = format_line(line, (struct log_record){.level = LOG_WARN,
                                                     .event = "log.lost",
                                                     .msg = "log lines were dropped because stderr was not read",
                                                     .fields = &field,
                                                     .n = 1});
  if (ring_put(line, len)) the_log.lost = 0;
}

// Lets go of the lock meanwhile: nobody else touches the pieces.
static void write_pieces(void) {
  struct iovec pieces[2];
  int n = ring_pieces(pieces);
  pthread_mutex_unlock(&the_log.lock);
  ssize_t done = log_sink_write(&the_log.sink, pieces, n);
  if (done == PERR_AGAIN) log_sink_wait(&the_log.sink, STALL_MS);
  pthread_mutex_lock(&the_log.lock);
  if (done > 0) {
    ring_take((size_t)done);
    if (the_log.lost) report_lost();
  } else if (done != PERR_AGAIN) {
    // Reported when a later line gets through; reporting now would go round for ever.
    the_log.lost += count_lines(pieces, n);
    ring_take(pieces[0].iov_len + pieces[1].iov_len);
  }
}

// False when the log thread shall end.
static bool wait_for_lines(void) {
  while (the_log.used == 0 && !the_log.give_up_ms) {
    the_log.waiting = true;
    pthread_cond_wait(&the_log.wake, &the_log.lock);
    the_log.waiting = false;
  }
  if (the_log.give_up_ms) return the_log.used && clock_mono_ms() < the_log.give_up_ms;
  if (the_log.used < RING_SIZE / 2) {
    pthread_mutex_unlock(&the_log.lock);
    nanosleep(&(struct timespec){.tv_nsec = GATHER_MS * 1000000}, NULL);
    pthread_mutex_lock(&the_log.lock);
  }
  return true;
}

static void *log_thread(void *arg) {
  pthread_mutex_lock(&the_log.lock);
  while (wait_for_lines()) write_pieces();
  // In one step with the last look at the ring, so that no line falls in between.
  free(the_log.ring);
  the_log.ring = NULL;
  pthread_mutex_unlock(&the_log.lock);
  return NULL;
}

static void write_directly(char *line, size_t len) {
  struct log_sink sink = log_sink_polled(STDERR_FILENO);
  uint64_t give_up_ms = clock_mono_ms() + GIVE_UP_MS;
  while (len) {
    struct iovec piece = {.iov_base = line, .iov_len = len};
    ssize_t done = log_sink_write(&sink, &piece, 1);
    uint64_t now_ms = clock_mono_ms();
    if (done == PERR_IO || (done == PERR_AGAIN && now_ms >= give_up_ms)) {
      the_log.lost++;
      return;
    }
    if (done == PERR_AGAIN) {
      log_sink_wait(&sink, (int)(give_up_ms - now_ms));
    } else {
      line += done;
      len -= (size_t)done;
    }
  }
}

void log_fields(enum log_level level, const char *event, const char *msg, const struct log_field *fields, unsigned n) {
  char line[LOG_LINE_MAX];
  if (!log_enabled(level)) return;
  size_t len =
      format_line(line, (struct log_record){.level = level, .event = event, .msg = msg, .fields = fields, .n = n});
  pthread_mutex_lock(&the_log.lock);
  if (!the_log.ring)
    write_directly(line, len);
  else if (!ring_put(line, len))
    the_log.lost++;
  bool wake = the_log.waiting;
  the_log.waiting = false; // one signal is enough
  pthread_mutex_unlock(&the_log.lock);
  if (wake) pthread_cond_signal(&the_log.wake);
}

void log_line(enum log_level level, const char *event, const char *format, ...) {
  char msg[LOG_LINE_MAX];
  if (!log_enabled(level)) return;
  va_list args;
  va_start(args, format);
  vsnprintf(msg, sizeof msg, format, args);
  va_end(args);
  log_fields(level, event, msg, NULL, 0);
}

// Signals are for the main thread; and a broken stderr is an error of write here, not a SIGPIPE.
static int start_thread(void) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int failed = pthread_create(&the_log.thread, NULL, log_thread, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!failed) pthread_setname_np(the_log.thread, "log");
  return failed ? PERR_LIMIT : 0;
}

int log_start(void) {
  pthread_mutex_lock(&the_log.lock);
  int rc = the_log.ring ? PERR_EXISTS : 0;
  if (!rc) {
    the_log.ring = malloc(RING_SIZE);
    rc = the_log.ring ? 0 : PERR_NOMEM;
  }
  if (!rc) {
    the_log.head = the_log.used = 0;
    the_log.give_up_ms = 0;
    log_sink_open(&the_log.sink, STDERR_FILENO);
    rc = start_thread();
    if (rc) {
      log_sink_close(&the_log.sink);
      free(the_log.ring);
      the_log.ring = NULL;
    }
  }
  pthread_mutex_unlock(&the_log.lock);
  return rc;
}

void log_stop(void) {
  pthread_mutex_lock(&the_log.lock);
  bool running = the_log.ring != NULL;
  if (running) the_log.give_up_ms = clock_mono_ms() + GIVE_UP_MS;
  pthread_mutex_unlock(&the_log.lock);
  if (!running) return;
  pthread_cond_signal(&the_log.wake);
  pthread_join(the_log.thread, NULL);
  log_sink_close(&the_log.sink);
}
