// loop: one thread's event loop, with what libevent does not give: calls posted from other threads, tasks that run
// once at the end of the current batch of events, and a reaper that frees objects after every callback has unwound.
//
// A loop belongs to the thread that runs it. Only loop_post and loop_stop may be called from other threads.
#ifndef POSTERN_NET_LOOP_H
#define POSTERN_NET_LOOP_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct event_base;

enum { LOOP_SCRATCH = 64 * 1024 };

// NULL for want of memory or descriptors. `name` (at most 15 characters) names the thread; borrowed.
struct loop *loop_new(const char *name);
// Runs what is still posted or to be reaped, then frees. The loop must not be running.
void loop_free(struct loop *l);
// Runs until loop_stop.
void loop_run(struct loop *l);
void loop_stop(struct loop *l); // any thread
// Starts a thread that runs the loop; loop_join waits for it to end after loop_stop.
PERR_MUST_CHECK int loop_start_thread(struct loop *l);
void loop_join(struct loop *l);
struct event_base *loop_base(struct loop *l);
// Monotonic milliseconds, a few of them coarse.
uint64_t loop_now_ms(struct loop *l);
// A buffer of LOOP_SCRATCH bytes that anybody on this loop may use until he returns.
uint8_t *loop_scratch(struct loop *l);

// Calls fn(arg) on the loop's thread. From any thread; in order per poster. PERR_CLOSED after the loop was freed is
// not detected: posters must stop first. Never blocks; PERR_NOMEM is the only error.
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

// A task runs once at the end of the current batch. Embedded in its owner, who cancels it before going away.
struct loop_task {
  void (*fn)(struct loop_task *t);
  struct loop_task *next, **prev; // prev NULL: not queued
};
void loop_defer(struct loop *l, struct loop_task *t); // queued twice is queued once
void loop_defer_cancel(struct loop *l, struct loop_task *t);

// Calls free_fn(obj) once all callbacks and tasks of this batch have returned.
void loop_reap(struct loop *l, void *obj, void (*free_fn)(void *obj));

// A timer embedded in its owner, one shot. Cheap to set again.
struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *l, void (*fn)(void *ctx), void *ctx);
void loop_timer_free(struct loop_timer *t); // NULL is fine
void loop_timer_set(struct loop_timer *t, uint64_t ms);
void loop_timer_clear(struct loop_timer *t);

#endif
