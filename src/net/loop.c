// loop: event base, posts from other threads (an eventfd and a locked list), end-of-batch tasks, reaper, timers.
// See loop.h. Everything here but the post list belongs to the loop's own thread.
#include "postern/net/loop.h"
#include "postern/net/conn.h"
#include "postern/net/loop_internal.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct post {
  struct post *next;
  void (*fn)(void *arg);
  void *arg;
};

struct dead {
  void *obj;
  void (*free_fn)(void *obj);
};

enum { SPARE_BUFFERS = 4 };

struct loop {
  struct event_base *base;
  const char *name;
  pthread_t thread;

  pthread_mutex_t lock; // guards the four below
  struct post *posts, **posts_tail;
  bool woken;
  bool stopping;

  int wake_fd;
  struct event *wake;

  struct loop_task *tasks, **tasks_tail;
  bool in_tasks;
  struct event *batch_end;  // activated by hand: runs behind the events of this batch
  struct event *next_batch; // a zero timer: for what tasks defer themselves

  struct dead *dead;
  size_t ndead, dead_cap;

  uint8_t *scratch;
  uint8_t *spare[SPARE_BUFFERS];
  unsigned nspare;
  struct udp_batch *udp_batch;

  struct conn *suspects, *lingering;
  struct event *suspect_timer;
  void (*look)(struct loop *l);
};

static void run_posts(struct loop *l) {
  pthread_mutex_lock(&l->lock);
  struct post *p = l->posts;
  l->posts = NULL;
  l->posts_tail = &l->posts;
  l->woken = false;
  bool stop = l->stopping;
  pthread_mutex_unlock(&l->lock);
  while (p) {
    struct post *next = p->next;
    p->fn(p->arg);
    free(p);
    p = next;
  }
  if (stop) event_base_loopbreak(l->base);
}

static void on_wake(evutil_socket_t fd, short what, void *arg) {
  uint64_t n;
  if (read(fd, &n, sizeof n) < 0) return; // EAGAIN: another wake-up took it
  run_posts(arg);
}

// ---- reaper ----

static void reap(struct loop *l) {
  // A free function may put further objects to the reaper: they are freed in the same go.
  while (l->ndead > 0) {
    struct dead d = l->dead[--l->ndead];
    d.free_fn(d.obj);
  }
}

static void run_tasks(struct loop *l) {
  struct loop_task *list = l->tasks;
  l->tasks = NULL;
  l->tasks_tail = &l->tasks;
  if (list) list->prev = &list;
  l->in_tasks = true;
  while (list) {
    struct loop_task *t = list;
    list = t->next;
    if (list) list->prev = &list;
    t->prev = NULL;
    t->fn(t);
  }
  l->in_tasks = false;
  const struct timeval at_once = {0, 0};
  if (l->tasks) evtimer_add(l->next_batch, &at_once);
  reap(l);
}

static void on_batch_end(evutil_socket_t fd, short what, void *arg) { run_tasks(arg); }

static void want_batch_end(struct loop *l) {
  if (!l->in_tasks) event_active(l->batch_end, 0, 0);
}

void loop_defer(struct loop *l, struct loop_task *t) {
  if (t->prev) return;
  bool first = !l->tasks;
  t->next = NULL;
  t->prev = l->tasks_tail;
  *l->tasks_tail = t;
  l->tasks_tail = &t->next;
  if (first) want_batch_end(l);
}

void loop_defer_cancel(struct loop *l, struct loop_task *t) {
  if (!t->prev) return;
  *t->prev = t->next;
  if (t->next) t->next->prev = t->prev;
  else if (l->tasks_tail == &t->next) l->tasks_tail = t->prev;
  t->prev = NULL;
}

void loop_reap(struct loop *l, void *obj, void (*free_fn)(void *obj)) {
  if (l->ndead == l->dead_cap) {
    size_t cap = l->dead_cap ? l->dead_cap * 2 : 64;
    struct dead *grown = realloc(l->dead, cap * sizeof *grown);
    if (!grown) abort(); // nothing can be freed safely without it
    l->dead = grown;
    l->dead_cap = cap;
  }
  if (l->ndead == 0) want_batch_end(l);
  l->dead[l->ndead++] = (struct dead){obj, free_fn};
}

// ---- posts ----

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg) {
  struct post *p = malloc(sizeof *p);
  if (!p) return PERR_NOMEM;
  *p = (struct post){NULL, fn, arg};
  pthread_mutex_lock(&l->lock);
  *l->posts_tail = p;
  l->posts_tail = &p->next;
  bool wake = !l->woken;
  l->woken = true;
  pthread_mutex_unlock(&l->lock);
  if (wake) eventfd_write(l->wake_fd, 1);
  return 0;
}

void loop_stop(struct loop *l) {
  pthread_mutex_lock(&l->lock);
  l->stopping = true;
  l->woken = true;
  pthread_mutex_unlock(&l->lock);
  eventfd_write(l->wake_fd, 1);
}

// ---- suspects ----

struct conn **loop_lingering(struct loop *l) { return &l->lingering; }

struct conn **loop_suspects(struct loop *l) { return &l->suspects; }

static void on_suspect_timer(evutil_socket_t fd, short what, void *arg) {
  struct loop *l = arg;
  l->look(l);
}

void loop_watch_suspects(struct loop *l, void (*look)(struct loop *l)) {
  l->look = look;
  const struct timeval second = {1, 0};
  if (!evtimer_pending(l->suspect_timer, NULL)) evtimer_add(l->suspect_timer, &second);
}

// ---- buffers ----

uint8_t *loop_scratch(struct loop *l) { return l->scratch; }

struct udp_batch **loop_udp_batch(struct loop *l) { return &l->udp_batch; }

uint8_t *loop_buffer_get(struct loop *l) { return l->nspare ? l->spare[--l->nspare] : malloc(LOOP_BUFFER); }

void loop_buffer_put(struct loop *l, uint8_t *buf) {
  if (!buf) return;
  if (l->nspare < SPARE_BUFFERS) l->spare[l->nspare++] = buf;
  else free(buf);
}

// ---- life ----

struct loop *loop_new(const char *name) {
  struct loop *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->name = name;
  l->posts_tail = &l->posts;
  l->tasks_tail = &l->tasks;
  pthread_mutex_init(&l->lock, NULL);
  l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  l->scratch = malloc(LOOP_SCRATCH);
  struct event_config *cfg = event_config_new();
  if (cfg) {
    event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK); // one thread each; posts have their own lock
    l->base = event_base_new_with_config(cfg);
    event_config_free(cfg);
  }
  if (l->base && l->wake_fd >= 0) {
    l->wake = event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_wake, l);
    l->batch_end = event_new(l->base, -1, 0, on_batch_end, l);
    l->next_batch = evtimer_new(l->base, on_batch_end, l);
    l->suspect_timer = evtimer_new(l->base, on_suspect_timer, l);
  }
  if (!l->scratch || !l->wake || !l->batch_end || !l->next_batch || !l->suspect_timer || event_add(l->wake, NULL)) {
    loop_free(l);
    return NULL;
  }
  return l;
}

// What is run here may post, defer and let go of more.
static void run_out(struct loop *l) {
  do {
    run_posts(l);
    while (l->lingering) conn_close(l->lingering, CONN_CLOSE);
    run_tasks(l);
  } while (l->posts || l->lingering || l->tasks || l->ndead);
}

void loop_free(struct loop *l) {
  if (!l) return;
  if (l->wake) run_out(l);
  struct event *events[] = {l->wake, l->batch_end, l->next_batch, l->suspect_timer};
  for (size_t i = 0; i < sizeof events / sizeof *events; i++)
    if (events[i]) event_free(events[i]);
  if (l->base) event_base_free(l->base);
  if (l->wake_fd >= 0) close(l->wake_fd);
  while (l->nspare) free(l->spare[--l->nspare]);
  udp_batch_free(l->udp_batch);
  free(l->dead);
  free(l->scratch);
  pthread_mutex_destroy(&l->lock);
  free(l);
}

void loop_run(struct loop *l) {
  event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY);
  pthread_mutex_lock(&l->lock);
  l->stopping = false;
  pthread_mutex_unlock(&l->lock);
}

static void *thread_main(void *arg) {
  struct loop *l = arg;
  pthread_setname_np(pthread_self(), l->name);
  loop_run(l);
  return NULL;
}

int loop_start_thread(struct loop *l) { return pthread_create(&l->thread, NULL, thread_main, l) ? PERR_LIMIT : 0; }

void loop_join(struct loop *l) { pthread_join(l->thread, NULL); }

struct event_base *loop_base(struct loop *l) { return l->base; }

uint64_t loop_now_ms(struct loop *l) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t); // a few ns and some ms coarse: what time-outs need
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

// ---- timers ----

struct loop_timer {
  struct event *event;
  void (*fn)(void *ctx);
  void *ctx;
};

static void on_timer(evutil_socket_t fd, short what, void *arg) {
  struct loop_timer *t = arg;
  t->fn(t->ctx);
}

struct loop_timer *loop_timer_new(struct loop *l, void (*fn)(void *ctx), void *ctx) {
  struct loop_timer *t = malloc(sizeof *t);
  if (!t) return NULL;
  *t = (struct loop_timer){evtimer_new(l->base, on_timer, t), fn, ctx};
  if (t->event) return t;
  free(t);
  return NULL;
}

void loop_timer_free(struct loop_timer *t) {
  if (!t) return;
  event_free(t->event);
  free(t);
}

void loop_timer_set(struct loop_timer *t, uint64_t ms) {
  struct timeval tv = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
  evtimer_add(t->event, &tv);
}

void loop_timer_clear(struct loop_timer *t) { evtimer_del(t->event); }
