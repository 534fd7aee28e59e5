// writer: the store thread. Every write of the gateway is a job of it; jobs that come together share a commit.
#ifndef POSTERN_STORE_WRITER_H
#define POSTERN_STORE_WRITER_H

#include "postern/store/store.h"

struct writer;

// Runs on the store thread inside a write transaction, possibly twice (when a job beside it failed, each is run again
// alone), so it must not change `arg`. Returns 0 or the error that `done` gets.
typedef int (*writer_job_fn)(struct store_txn *t, const void *arg);
// Runs on the store thread once the outcome is on disk (result 0) or failed. Must not block; owns `arg` from here.
typedef void (*writer_done_fn)(void *arg, int result);

enum writer_urgency {
  WRITER_SOON, // somebody waits: committed with whatever else is queued, at once
  WRITER_LAZY, // nobody waits: committed within 50 ms
};

// Borrows `s` until writer_stop.
PERR_MUST_CHECK int writer_start(struct writer **out, struct store *s);
// From any thread; takes `arg`. With done == NULL `arg` is freed by free(). At most 65,536 jobs wait: PERR_LIMIT then,
// `arg` is the caller's again, and the count of refused jobs is logged. Likewise PERR_CLOSED once writer_stop was
// called, and PERR_NOMEM.
PERR_MUST_CHECK int writer_post(struct writer *w, writer_job_fn job, writer_done_fn done, void *arg,
                                enum writer_urgency u);
// Commits what is queued, calls the done functions, joins the thread, frees. NULL is fine.
void writer_stop(struct writer *w);

#endif
