// web_mail: letters to the web part (web_internal.h). Sent by the hasher's threads and the store thread; counted, so
// that whoever comes last frees it.
#include "postern/gateway/web_internal.h"

#include <pthread.h>

struct web_mail {
  pthread_mutex_t lock; // guards the next two
  unsigned refs;
  struct loop *loop; // NULL: the end
  struct web *web;   // the loop's thread; NULL: the end
};

struct web_mail *web_mail_new(struct web *w, struct loop *l) {
  struct web_mail *m = calloc(1, sizeof *m);
  if (!m) return NULL;
  pthread_mutex_init(&m->lock, NULL);
  m->refs = 1;
  m->loop = l;
  m->web = w;
  return m;
}

static void unref(struct web_mail *m) {
  pthread_mutex_lock(&m->lock);
  bool last = --m->refs == 0;
  pthread_mutex_unlock(&m->lock);
  if (!last) return;
  pthread_mutex_destroy(&m->lock);
  free(m);
}

void web_mail_end(struct web_mail *m) {
  pthread_mutex_lock(&m->lock);
  m->loop = NULL;
  pthread_mutex_unlock(&m->lock);
  m->web = NULL;
  unref(m);
}

void web_letter_address(struct web_letter *l, struct web_mail *m) {
  pthread_mutex_lock(&m->lock);
  m->refs++;
  pthread_mutex_unlock(&m->lock);
  l->mail = m;
}

static void open_letter(struct web_letter *l, struct web *w) {
  struct web_mail *m = l->mail;
  l->open(w, l);
  unref(m);
}

// On the loop's thread, or on the one that frees the loop.
static void on_letter(void *arg) {
  struct web_letter *l = arg;
  open_letter(l, l->mail->web);
}

void web_letter_send(struct web_letter *l) {
  struct web_mail *m = l->mail;
  pthread_mutex_lock(&m->lock);
  bool sent = m->loop && loop_post(m->loop, on_letter, l) == 0;
  pthread_mutex_unlock(&m->lock);
  if (!sent) web_letter_cancel(l); // with no memory for the post, the connection's deadline ends what waits for it
}

void web_letter_cancel(struct web_letter *l) { open_letter(l, NULL); }
