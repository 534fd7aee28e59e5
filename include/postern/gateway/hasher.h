// hasher: work that takes a processor for long (password hashes), on helper threads, so that no loop waits for it.
#ifndef POSTERN_GATEWAY_HASHER_H
#define POSTERN_GATEWAY_HASHER_H

#include "postern/base/err.h"

struct hasher;

enum { HASHER_THREADS = 2, HASHER_QUEUE = 64 };

// Embedded at the beginning of what the work is about, which is allocated by malloc. `run` is called on a helper thread,
// then `done` on the same thread, which owns the job from there; it must not block: it posts the job to a loop.
// `drop` is called instead of both, on the thread that stops the hasher: it owns the job too.
struct hasher_job {
  void (*run)(struct hasher_job *j);
  void (*done)(struct hasher_job *j);
  void (*drop)(struct hasher_job *j);
  struct hasher_job *next; // the hasher's own
};

// Threads begin with the first job. NULL: no memory.
struct hasher *hasher_new(void);
// Any thread. Takes the job; on error it is the caller's again: PERR_LIMIT when HASHER_QUEUE jobs wait or no thread can
// be had, PERR_CLOSED once hasher_free was called.
PERR_MUST_CHECK int hasher_post(struct hasher *h, struct hasher_job *j);
// Drops what waits, joins the threads (each ends the job that it is at), frees. NULL is fine. Posters have stopped.
void hasher_free(struct hasher *h);

#endif
