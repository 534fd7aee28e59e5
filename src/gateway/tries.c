// tries: see tries.h. Owned by the web part, on the handshake thread.
#include "postern/gateway/tries.h"
#include "postern/base/hash.h"

#include <assert.h>
#include <stdio.h>

struct entry {
  char key[TRIES_KEY_TEXT];
  uint64_t at_ms[TRIES_MOST]; // a ring of `most` times
  unsigned next, count;       // where the next one goes; how many there are
  UT_hash_handle hh;          // in the order of the last note
};

struct tries {
  unsigned most, keys;
  uint64_t window_ms;
  struct entry *entries;
};

static void cut_key(const char *key, char out[TRIES_KEY_TEXT]) { snprintf(out, TRIES_KEY_TEXT, "%s", key); }

static struct entry *find(const struct tries *t, const char *key) {
  char cut[TRIES_KEY_TEXT];
  struct entry *e;
  cut_key(key, cut);
  HASH_FIND_STR(t->entries, cut, e);
  return e;
}

static void drop(struct tries *t, struct entry *e) {
  HASH_DEL(t->entries, e);
  free(e);
}

bool tries_spent(const struct tries *t, const char *key, uint64_t now_ms) {
  const struct entry *e = find(t, key);
  // In a full ring the next place holds the oldest.
  return e && e->count == t->most && now_ms - e->at_ms[e->next] < t->window_ms;
}

// At the end of the order, whether it is new or not.
static struct entry *freshen(struct tries *t, const char *key) {
  struct entry *e = find(t, key);
  if (e) {
    HASH_DEL(t->entries, e);
  } else {
    if (HASH_COUNT(t->entries) >= t->keys) drop(t, t->entries);
    e = calloc(1, sizeof *e);
    if (!e) return NULL;
    cut_key(key, e->key);
  }
  HASH_ADD_STR(t->entries, key, e);
  return e;
}

void tries_note(struct tries *t, const char *key, uint64_t now_ms) {
  struct entry *e = freshen(t, key);
  if (!e) return;
  e->at_ms[e->next] = now_ms;
  e->next = (e->next + 1) % t->most;
  if (e->count < t->most) e->count++;
}

struct tries *tries_new(unsigned most, uint64_t window_ms, unsigned keys) {
  assert(most > 0 && most <= TRIES_MOST && keys > 0);
  struct tries *t = calloc(1, sizeof *t);
  if (t) *t = (struct tries){.most = most, .keys = keys, .window_ms = window_ms};
  return t;
}

void tries_free(struct tries *t) {
  if (!t) return;
  while (t->entries) drop(t, t->entries);
  free(t);
}

const char *tries_addr_key(const struct addr *a, char out[TRIES_KEY_TEXT]) {
  struct addr net = *a;
  char ip[ADDR_TEXT];
  if (net.sa.sa_family == AF_INET6) memset(net.in6.sin6_addr.s6_addr + 8, 0, 8);
  snprintf(out, TRIES_KEY_TEXT, "%s", addr_format_ip(&net, ip));
  return out;
}
