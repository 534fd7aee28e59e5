// lineages: pairs of a TLS lineage and a session that it has proven itself to. Called by whoever serves a connection
// that shows a lineage, on any thread; everything happens under the one lock, and never blocks.
//
//   pairs ── (lineage, session) ── in the list of its line and in that of its holder, most recently used first
//   lines ── lineage ── its pairs                holders ── session ── its pairs
//
// A line and a holder exist exactly as long as they have a pair.
#include "postern/core/lineages.h"
#include "postern/base/hash.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct pair_key {
  uint8_t lineage[LINEAGE_LEN];
  uint64_t session;
};

struct pair {
  struct pair_key key;
  struct line *line;
  struct holder *holder;
  TAILQ_ENTRY(pair) of_line, of_holder;
  UT_hash_handle hh;
};

TAILQ_HEAD(pairs, pair);

struct line {
  uint8_t lineage[LINEAGE_LEN];
  struct pairs pairs;
  unsigned count;
  UT_hash_handle hh;
};

struct holder {
  uint64_t session;
  struct pairs pairs;
  unsigned count;
  UT_hash_handle hh;
};

struct lineages {
  pthread_mutex_t lock; // guards all of it
  struct pair *pairs;
  struct line *lines;
  struct holder *holders;
};

static struct pair *find_pair(struct lineages *l, const uint8_t *lineage, uint64_t session) {
  struct pair_key key = {.session = session};
  struct pair *p;
  memcpy(key.lineage, lineage, LINEAGE_LEN);
  HASH_FIND(hh, l->pairs, &key, sizeof key, p);
  return p;
}

static struct line *find_line(struct lineages *l, const uint8_t *lineage) {
  struct line *line;
  HASH_FIND(hh, l->lines, lineage, LINEAGE_LEN, line);
  return line;
}

static struct holder *find_holder(struct lineages *l, uint64_t session) {
  struct holder *h;
  HASH_FIND(hh, l->holders, &session, sizeof session, h);
  return h;
}

// ---- pairs come and go ----

static struct line *add_line(struct lineages *l, const uint8_t *lineage) {
  struct line *line = calloc(1, sizeof *line);
  if (line == NULL) return NULL;
  memcpy(line->lineage, lineage, LINEAGE_LEN);
  TAILQ_INIT(&line->pairs);
  HASH_ADD(hh, l->lines, lineage, LINEAGE_LEN, line);
  return line;
}

static struct holder *add_holder(struct lineages *l, uint64_t session) {
  struct holder *h = calloc(1, sizeof *h);
  if (h == NULL) return NULL;
  h->session = session;
  TAILQ_INIT(&h->pairs);
  HASH_ADD(hh, l->holders, session, sizeof h->session, h);
  return h;
}

static void drop_line_if_empty(struct lineages *l, struct line *line) {
  if (line == NULL || line->count > 0) return;
  HASH_DEL(l->lines, line);
  free(line);
}

static void drop_holder_if_empty(struct lineages *l, struct holder *h) {
  if (h == NULL || h->count > 0) return;
  HASH_DEL(l->holders, h);
  free(h);
}

static void add_pair(struct lineages *l, const uint8_t *lineage, uint64_t session) {
  struct line *line = find_line(l, lineage);
  struct holder *h = find_holder(l, session);
  struct pair *p = calloc(1, sizeof *p);
  if (line == NULL) line = add_line(l, lineage);
  if (h == NULL) h = add_holder(l, session);
  if (p == NULL || line == NULL || h == NULL) {
    free(p);
    drop_line_if_empty(l, line);
    drop_holder_if_empty(l, h);
    return;
  }
  memcpy(p->key.lineage, lineage, LINEAGE_LEN);
  p->key.session = session;
  p->line = line;
  p->holder = h;
  TAILQ_INSERT_HEAD(&line->pairs, p, of_line);
  TAILQ_INSERT_HEAD(&h->pairs, p, of_holder);
  line->count++;
  h->count++;
  HASH_ADD(hh, l->pairs, key, sizeof p->key, p);
}

static void remove_pair(struct lineages *l, struct pair *p) {
  TAILQ_REMOVE(&p->line->pairs, p, of_line);
  TAILQ_REMOVE(&p->holder->pairs, p, of_holder);
  p->line->count--;
  p->holder->count--;
  HASH_DEL(l->pairs, p);
  drop_line_if_empty(l, p->line);
  drop_holder_if_empty(l, p->holder);
  free(p);
}

static void touch(struct pair *p) {
  TAILQ_REMOVE(&p->line->pairs, p, of_line);
  TAILQ_INSERT_HEAD(&p->line->pairs, p, of_line);
  TAILQ_REMOVE(&p->holder->pairs, p, of_holder);
  TAILQ_INSERT_HEAD(&p->holder->pairs, p, of_holder);
}

// A list that is full has more than one pair: neither the line nor the holder goes with the one that gives way.
static void make_room(struct lineages *l, const uint8_t *lineage, uint64_t session) {
  struct line *line = find_line(l, lineage);
  if (line != NULL && line->count >= LINEAGES_SESSIONS) remove_pair(l, TAILQ_LAST(&line->pairs, pairs));
  struct holder *h = find_holder(l, session);
  if (h != NULL && h->count >= LINEAGES_PER_SESSION) remove_pair(l, TAILQ_LAST(&h->pairs, pairs));
}

// ---- the interface ----

struct lineages *lineages_new(void) {
  struct lineages *l = calloc(1, sizeof *l);
  if (l == NULL || pthread_mutex_init(&l->lock, NULL) != 0) {
    free(l);
    return NULL;
  }
  return l;
}

void lineages_free(struct lineages *l) {
  if (l == NULL) return;
  struct holder *h, *next;
  HASH_ITER(hh, l->holders, h, next) lineages_forget(l, h->session);
  pthread_mutex_destroy(&l->lock);
  free(l);
}

void lineages_link(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t session) {
  pthread_mutex_lock(&l->lock);
  struct pair *p = find_pair(l, lineage, session);
  if (p != NULL) {
    touch(p);
  } else {
    make_room(l, lineage, session);
    add_pair(l, lineage, session);
  }
  pthread_mutex_unlock(&l->lock);
}

bool lineages_linked(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t session) {
  pthread_mutex_lock(&l->lock);
  struct pair *p = find_pair(l, lineage, session);
  if (p != NULL) touch(p);
  pthread_mutex_unlock(&l->lock);
  return p != NULL;
}

unsigned lineages_sessions(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t *out, unsigned cap) {
  unsigned n = 0;
  struct pair *p;
  pthread_mutex_lock(&l->lock);
  struct line *line = find_line(l, lineage);
  if (line != NULL) {
    TAILQ_FOREACH(p, &line->pairs, of_line) {
      if (n == cap) break;
      out[n++] = p->key.session;
    }
  }
  pthread_mutex_unlock(&l->lock);
  return n;
}

void lineages_forget(struct lineages *l, uint64_t session) {
  pthread_mutex_lock(&l->lock);
  struct holder *h = find_holder(l, session);
  for (unsigned left = h == NULL ? 0 : h->count; left > 0; left--) remove_pair(l, TAILQ_FIRST(&h->pairs));
  pthread_mutex_unlock(&l->lock);
}
