// hasher: see hasher.h. Owned by the web part, which posts to it from the handshake thread.
#include "postern/gateway/hasher.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

struct hasher {
  pthread_mutex_t lock; // guards all of the below
  pthread_cond_t wake;
  struct hasher_job *head, **tail;
  unsigned waiting, idle; // jobs; threads that wait for one
  bool stopping;
  pthread_t threads[HASHER_THREADS];
  unsigned nthreads;
};

// NULL: the hasher stops.
static struct hasher_job *take_job(struct hasher *h) {
  pthread_mutex_lock(&h->lock);
  h->idle++;
  while (!h->head && !h->stopping) pthread_cond_wait(&h->wake, &h->lock);
  h->idle--;
  struct hasher_job *j = h->stopping ? NULL : h->head;
  if (j) {
    h->head = j->next;
    if (!h->head) h->tail = &h->head;
    h->waiting--;
  }
  pthread_mutex_unlock(&h->lock);
  return j;
}

static void *helper(void *arg) {
  for (struct hasher_job *j; (j = take_job(arg));) {
    j->run(j);
    j->done(j);
  }
  return NULL;
}

// Under the lock. More threads than jobs are never needed, so most gateways get along with none or one.
static void add_thread(struct hasher *h) {
  if (h->nthreads == HASHER_THREADS || h->idle > h->waiting) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's
  if (pthread_create(&h->threads[h->nthreads], NULL, helper, h) == 0)
    pthread_setname_np(h->threads[h->nthreads++], "hasher");
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int hasher_post(struct hasher *h, struct hasher_job *j) {
  j->next = NULL;
  pthread_mutex_lock(&h->lock);
  int code = h->stopping ? PERR_CLOSED : h->waiting >= HASHER_QUEUE ? PERR_LIMIT : 0;
  if (code == 0) {
    add_thread(h);
    if (h->nthreads == 0) code = PERR_LIMIT;
  }
  if (code == 0) {
    *h->tail = j;
    h->tail = &j->next;
    h->waiting++;
    pthread_cond_signal(&h->wake);
  }
  pthread_mutex_unlock(&h->lock);
  return code;
}

struct hasher *hasher_new(void) {
  struct hasher *h = calloc(1, sizeof *h);
  if (!h) return NULL;
  h->tail = &h->head;
  pthread_mutex_init(&h->lock, NULL);
  pthread_cond_init(&h->wake, NULL);
  return h;
}

static void stop(struct hasher *h) {
  pthread_mutex_lock(&h->lock);
  h->stopping = true;
  pthread_cond_broadcast(&h->wake);
  pthread_mutex_unlock(&h->lock);
  for (unsigned i = 0; i < h->nthreads; i++) pthread_join(h->threads[i], NULL);
}

void hasher_free(struct hasher *h) {
  if (!h) return;
  stop(h);
  while (h->head) {
    struct hasher_job *j = h->head;
    h->head = j->next;
    j->drop(j);
  }
  pthread_cond_destroy(&h->wake);
  pthread_mutex_destroy(&h->lock);
  free(h);
}
