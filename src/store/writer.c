// writer: the store thread. It takes what is queued, runs it inside one write transaction and commits; when anything
// in that transaction fails, each of its jobs is run again alone, so that one job's failure is its own.
// writer_post is called from any thread; everything else here runs on the store thread.
#include "postern/store/writer.h"
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum {
  QUEUE_MAX = 65536,
  BATCH_MAX = 256,   // jobs that share a commit, so that a failure among them costs a bounded number of commits
  LAZY_WAIT_MS = 40, // leaves the commit a share of the 50 ms
  LOG_EVERY_MS = 1000,
};

struct job {
  struct job *next;
  writer_job_fn run;
  writer_done_fn done;
  void *arg;
};

struct writer {
  struct store *store;
  pthread_t thread;
  pthread_mutex_t lock; // guards what follows, up to the line
  pthread_cond_t wake;
  struct job *head, **tail;
  unsigned waiting;
  bool soon, stopping;
  uint64_t commit_at_ms; // for lazy jobs; meaningful while any job waits
  uint64_t refused;
  // ---- the store thread's own
  uint64_t failed;
  struct err_text failure;
  uint64_t logged_ms;
};

// ---- queue ----

static struct timespec at_mono_ms(uint64_t ms) {
  return (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
}

// True when the queue, which the caller holds locked, should be worked on now.
static bool is_due(const struct writer *w) {
  if (w->stopping) return true;
  return w->head && (w->soon || w->waiting >= BATCH_MAX || clock_mono_ms() >= w->commit_at_ms);
}

// Waits for work; returns up to BATCH_MAX jobs, or NULL when the writer stops and nothing is left.
static struct job *take_batch(struct writer *w) {
  pthread_mutex_lock(&w->lock);
  while (!is_due(w)) {
    struct timespec until = at_mono_ms(w->commit_at_ms);
    if (w->head)
      pthread_cond_timedwait(&w->wake, &w->lock, &until);
    else
      pthread_cond_wait(&w->wake, &w->lock);
  }
  struct job *first = w->head, **end = &w->head;
  for (unsigned n = 0; *end && n < BATCH_MAX; n++, w->waiting--) end = &(*end)->next;
  w->head = *end;
  if (first) *end = NULL;
  // What is left was there before and is due with this batch; `soon` holds until the queue is empty.
  if (!w->head) {
    w->tail = &w->head;
    w->soon = false;
  }
  pthread_mutex_unlock(&w->lock);
  return first;
}

int writer_post(struct writer *w, writer_job_fn run, writer_done_fn done, void *arg, enum writer_urgency u) {
  struct job *j = malloc(sizeof *j);
  if (!j) return PERR_NOMEM;
  *j = (struct job){.run = run, .done = done, .arg = arg};
  pthread_mutex_lock(&w->lock);
  int rc = w->stopping ? PERR_CLOSED : 0;
  if (!rc && w->waiting >= QUEUE_MAX) {
    w->refused++;
    rc = PERR_LIMIT;
  }
  if (!rc) {
    if (!w->head) w->commit_at_ms = clock_mono_ms() + LAZY_WAIT_MS;
    bool first = !w->head;
    *w->tail = j;
    w->tail = &j->next;
    w->waiting++;
    if (u == WRITER_SOON) w->soon = true;
    if (first || w->soon || w->waiting == BATCH_MAX) pthread_cond_signal(&w->wake);
  }
  pthread_mutex_unlock(&w->lock);
  if (rc) free(j);
  return rc;
}

// ---- running ----

// Failures of the store itself; the others are answers to a job, which its owner gets.
static bool is_store_failure(int code) {
  return code == PERR_NOMEM || code == PERR_DENIED || code == PERR_IO || code == PERR_FULL || code == PERR_CORRUPT;
}

static void finish(struct writer *w, struct job *j, int result, const struct err_text *why) {
  if (is_store_failure(result)) {
    w->failed++;
    w->failure = *why;
  }
  if (j->done)
    j->done(j->arg, result);
  else
    free(j->arg);
  free(j);
}

static int commit(struct store_txn *t, struct err_text *why) {
  return t ? store_commit(t, why) : err_set(why, PERR_NOMEM, "store: out of memory");
}

// 0 when every job of the batch is on disk, else none is.
static int run_shared(struct writer *w, struct job *batch, struct err_text *why) {
  struct store_txn *t = store_begin(w->store, STORE_WRITE);
  int rc = 0;
  for (struct job *j = batch; t && j && !rc; j = j->next) rc = j->run(t, j->arg);
  if (!rc) return commit(t, why);
  if (!store_error(t, why)) err_set(why, rc, "store: %s", perr_str(rc));
  store_abort(t);
  return rc;
}

static void run_each_alone(struct writer *w, struct job *batch) {
  while (batch) {
    struct job *j = batch;
    batch = j->next;
    j->next = NULL;
    struct err_text why = {""};
    int rc = run_shared(w, j, &why);
    finish(w, j, rc, &why);
  }
}

static void run_batch(struct writer *w, struct job *batch) {
  struct err_text why = {""};
  int rc = run_shared(w, batch, &why);
  if (rc && batch->next) {
    run_each_alone(w, batch);
    return;
  }
  while (batch) {
    struct job *j = batch;
    batch = j->next;
    finish(w, j, rc, &why);
  }
}

// A full disk fails twenty commits a second; the log gets one line a second with the count.
static void log_troubles(struct writer *w, bool last) {
  uint64_t now = clock_mono_ms();
  if (!last && now - w->logged_ms < LOG_EVERY_MS) return;
  pthread_mutex_lock(&w->lock);
  uint64_t refused = w->refused;
  w->refused = 0;
  pthread_mutex_unlock(&w->lock);
  if (refused || w->failed) w->logged_ms = now;
  if (refused)
    log_event(LOG_WARN, "store.refuse", "too many writes wait, some were refused", LF_INT("writes", refused));
  if (w->failed) log_event(LOG_ERROR, "store.fail", w->failure.s, LF_INT("writes", w->failed));
  w->failed = 0;
}

static void *store_thread(void *arg) {
  struct writer *w = arg;
  for (struct job *batch; (batch = take_batch(w));) {
    run_batch(w, batch);
    log_troubles(w, false);
  }
  log_troubles(w, true);
  return NULL;
}

// ---- start and stop ----

static int start_thread(struct writer *w) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's
  int rc = pthread_create(&w->thread, NULL, store_thread, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc) return rc == EAGAIN ? PERR_LIMIT : PERR_IO;
  pthread_setname_np(w->thread, "store");
  return 0;
}

static void writer_free(struct writer *w) {
  pthread_cond_destroy(&w->wake);
  pthread_mutex_destroy(&w->lock);
  free(w);
}

int writer_start(struct writer **out, struct store *s) {
  struct writer *w = calloc(1, sizeof *w);
  if (!w) return PERR_NOMEM;
  w->store = s;
  w->tail = &w->head;
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&w->wake, &attr);
  pthread_condattr_destroy(&attr);
  pthread_mutex_init(&w->lock, NULL);
  int rc = start_thread(w);
  if (rc) {
    writer_free(w);
    return rc;
  }
  *out = w;
  return 0;
}

void writer_stop(struct writer *w) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  w->stopping = true;
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->thread, NULL);
  writer_free(w);
}
