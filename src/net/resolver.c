// resolver: name look-ups for one loop. Called by the agent on its loop; one helper thread does the look-ups, one after
// the other. An ask belongs to the loop's thread, but for its answer while the helper has it. The lock guards the
// queue.
#include "postern/net/resolver.h"
#include "postern/base/hash.h"
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RETRY_NS = 50 * 1000 * 1000 };

struct ask {
  uint64_t id;
  UT_hash_handle hh;         // in resolver.asks, by id
  struct resolver *resolver; // NULL: nobody waits any more; the answer only frees the ask
  resolve_fn fn;
  void *ctx;
  struct loop_task task; // an IP address: answers at the end of the batch
  struct ask *next;      // in resolver.queue
  char host[HOST_TEXT];
  uint16_t port;
  struct addr addrs[RESOLVE_MAX];
  unsigned n;
  char error[HOST_TEXT + 128];
};

struct resolver {
  struct loop *loop;
  struct ask *asks; // all whose answer is awaited
  uint64_t last_id;
  pthread_t thread;
  pthread_mutex_t lock; // guards the three below
  pthread_cond_t wake;
  struct ask *queue, **queue_tail;
  bool stopping;
};

// ---- the loop's side ----

static void forget(struct resolver *r, struct ask *a) {
  HASH_DELETE(hh, r->asks, a);
  a->resolver = NULL;
}

static void answer(struct ask *a) {
  if (a->resolver) {
    forget(a->resolver, a); // the callback may free the resolver
    a->fn(a->ctx, a->addrs, a->n, a->n ? NULL : a->error);
  }
  free(a);
}

static void on_answer(void *arg) {
  answer(arg);
}

static void on_ip(struct loop_task *t) {
  // Found by its place in the ask.
  answer((struct ask *)((char *)t - offsetof(struct ask, task)));
}

static void enqueue(struct resolver *r, struct ask *a) {
  pthread_mutex_lock(&r->lock);
  *r->queue_tail = a;
  r->queue_tail = &a->next;
  pthread_cond_signal(&r->wake);
  pthread_mutex_unlock(&r->lock);
}

// Takes an ask back that the helper has not begun.
static bool dequeue(struct resolver *r, const struct ask *a) {
  pthread_mutex_lock(&r->lock);
  struct ask **at = &r->queue;
  while (*at && *at != a) at = &(*at)->next;
  bool found = *at != NULL;
  if (found) {
    *at = a->next;
    if (r->queue_tail == &a->next) r->queue_tail = at;
  }
  pthread_mutex_unlock(&r->lock);
  return found;
}

static void drop(struct resolver *r, struct ask *a) {
  bool deferred = a->task.prev != NULL;
  forget(r, a);
  if (deferred) loop_defer_cancel(r->loop, &a->task);
  if (deferred || dequeue(r, a)) free(a);
  // Otherwise it is with the helper or on its way here, and is freed on arrival.
}

uint64_t resolver_ask(struct resolver *r, const char *host, uint16_t port, resolve_fn fn, void *ctx) {
  struct ask *a = calloc(1, sizeof *a);
  if (!a) return 0;
  a->id = ++r->last_id;
  a->resolver = r;
  a->fn = fn;
  a->ctx = ctx;
  a->port = port;
  HASH_ADD(hh, r->asks, id, sizeof a->id, a);
  int length = snprintf(a->host, sizeof a->host, "%s", host);
  if (length < 0 || (size_t)length >= sizeof a->host)
    snprintf(a->error, sizeof a->error, "%.40s...: the name is too long", host);
  else if (addr_from_ip(&a->addrs[0], host, port) == 0)
    a->n = 1;
  uint64_t id = a->id;
  if (a->n || a->error[0]) {
    a->task.fn = on_ip;
    loop_defer(r->loop, &a->task);
  } else {
    enqueue(r, a);
  }
  return id;
}

void resolver_cancel(struct resolver *r, uint64_t id) {
  struct ask *a;
  HASH_FIND(hh, r->asks, &id, sizeof id, a);
  if (a) drop(r, a);
}

// ---- the helper ----

static bool has_ip(const struct ask *a, const struct addr *ip) {
  for (unsigned i = 0; i < a->n; i++)
    if (addr_equal_ip(&a->addrs[i], ip)) return true;
  return false;
}

static void look_up(struct ask *a) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *list = NULL;
  int rc = getaddrinfo(a->host, NULL, &hints, &list);
  if (rc) {
    snprintf(a->error, sizeof a->error, "%s: %s", a->host, rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    return;
  }
  for (const struct addrinfo *ai = list; ai && a->n < RESOLVE_MAX; ai = ai->ai_next) {
    struct addr *to = &a->addrs[a->n];
    addr_from_sockaddr(to, ai->ai_addr, ai->ai_addrlen);
    addr_set_port(to, a->port);
    if (!has_ip(a, to)) a->n++;
  }
  freeaddrinfo(list);
  if (a->n == 0) snprintf(a->error, sizeof a->error, "%s: no address", a->host);
}

// The next ask, or NULL at the end.
static struct ask *next_ask(struct resolver *r) {
  struct ask *a = NULL;
  pthread_mutex_lock(&r->lock);
  while (!r->queue && !r->stopping) pthread_cond_wait(&r->wake, &r->lock);
  if (!r->stopping) {
    a = r->queue;
    r->queue = a->next;
    if (!r->queue) r->queue_tail = &r->queue;
    a->next = NULL;
  }
  pthread_mutex_unlock(&r->lock);
  return a;
}

static void *helper(void *arg) {
  struct resolver *r = arg;
  struct ask *a;
  pthread_setname_np(pthread_self(), "resolver");
  while ((a = next_ask(r))) {
    look_up(a);
    // An answer needs a little memory; until there is some, nothing else here can be answered either.
    while (loop_post(r->loop, on_answer, a)) nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
  }
  return NULL;
}

// ---- life ----

struct resolver *resolver_new(struct loop *l) {
  struct resolver *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->loop = l;
  r->queue_tail = &r->queue;
  pthread_mutex_init(&r->lock, NULL);
  pthread_cond_init(&r->wake, NULL);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's
  int failed = pthread_create(&r->thread, NULL, helper, r);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!failed) return r;
  pthread_cond_destroy(&r->wake);
  pthread_mutex_destroy(&r->lock);
  free(r);
  return NULL;
}

void resolver_free(struct resolver *r) {
  struct ask *a, *next;
  if (!r) return;
  pthread_mutex_lock(&r->lock);
  r->stopping = true;
  pthread_cond_signal(&r->wake);
  pthread_mutex_unlock(&r->lock);
  pthread_join(r->thread, NULL);
  HASH_ITER(hh, r->asks, a, next) drop(r, a);
  pthread_cond_destroy(&r->wake);
  pthread_mutex_destroy(&r->lock);
  free(r);
}
