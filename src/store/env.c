// env: the LMDB environment of a store: its map, its readers, and the count of transactions that a resize waits for.
// Called by store.c and txn.c, on any thread.
#include "postern/base/clock.h"
#include "postern/store/internal.h"
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

enum {
  MAX_READERS = 512,
  BEGIN_TRIES = 3,
  RESIZE_WAIT_S = 2,
  READER_CHECK_MS = 60 * 1000,
};

#define MAP_FLOOR_BYTES ((size_t)16 << 20)

static int open_once(struct store *s, const char *path, unsigned flags, size_t map) {
  int rc = mdb_env_create(&s->env);
  if (rc) return rc;
  rc = mdb_env_set_mapsize(s->env, map);
  if (!rc) rc = mdb_env_set_maxdbs(s->env, DB_COUNT);
  if (!rc) rc = mdb_env_set_maxreaders(s->env, MAX_READERS);
  if (!rc) rc = mdb_env_open(s->env, path, flags | MDB_NOTLS, 0600);
  if (rc) {
    mdb_env_close(s->env);
    s->env = NULL;
  }
  return rc;
}

// A process that was killed inside a read transaction keeps pages from being used again until its slot is cleared.
static void check_readers(struct store *s) {
  int dead;
  mdb_reader_check(s->env, &dead);
}

int store_env_open(struct store *s, const char *path, unsigned flags, size_t map) {
  int rc = open_once(s, path, flags, map);
  while (rc == ENOMEM && map / 2 >= MAP_FLOOR_BYTES) rc = open_once(s, path, flags, map /= 2);
  if (rc) return rc;

  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&s->changed, &attr);
  pthread_condattr_destroy(&attr);
  pthread_mutex_init(&s->lock, NULL);
  check_readers(s);
  s->checked_ms = clock_mono_ms();
  return 0;
}

void store_env_close(struct store *s) {
  if (s->probe) mdb_txn_abort(s->probe);
  mdb_env_close(s->env);
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
}

static bool enter(struct store *s) {
  pthread_mutex_lock(&s->lock);
  while (s->resizing) pthread_cond_wait(&s->changed, &s->lock);
  bool ok = !s->lost;
  if (ok) s->active++;
  pthread_mutex_unlock(&s->lock);
  return ok;
}

void store_env_end(struct store *s) {
  pthread_mutex_lock(&s->lock);
  if (--s->active == 0) pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
}

static bool can_map(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return false;
  munmap(p, bytes);
  return true;
}

// LMDB unmaps before it maps, and an environment without a map is of no use; so the room is tried beforehand.
static int remap(struct store *s) {
  MDB_envinfo info;
  MDB_stat stat;
  int rc = mdb_env_info(s->env, &info);
  if (!rc) rc = mdb_env_stat(s->env, &stat);
  if (rc) return rc;
  size_t need = (info.me_last_pgno + 1) * stat.ms_psize, size = STORE_MAP_BYTES;
  while (size >= need && !can_map(size)) size /= 2;
  if (size < need) return ENOMEM;
  rc = mdb_env_set_mapsize(s->env, size);
  if (rc) s->lost = true;
  return rc;
}

// Another process wrote beyond this one's map. Mapping anew needs a moment without transactions in this process; a
// thread that holds one while it begins another would wait for itself, hence the limit.
static int follow_growth(struct store *s) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += RESIZE_WAIT_S;

  pthread_mutex_lock(&s->lock);
  int rc = 0;
  if (s->resizing) {
    while (s->resizing) pthread_cond_wait(&s->changed, &s->lock);
  } else {
    s->resizing = true;
    int waited = 0;
    while (s->active > 0 && waited == 0) waited = pthread_cond_timedwait(&s->changed, &s->lock, &until);
    rc = s->active > 0 ? MDB_MAP_RESIZED : remap(s);
    s->resizing = false;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return rc;
}

static bool reader_check_due(struct store *s) {
  uint64_t now = clock_mono_ms();
  pthread_mutex_lock(&s->lock);
  bool due = now - s->checked_ms >= READER_CHECK_MS;
  if (due) s->checked_ms = now;
  pthread_mutex_unlock(&s->lock);
  return due;
}

int store_env_begin(struct store *s, enum store_mode mode, MDB_txn **out) {
  if (mode == STORE_WRITE && reader_check_due(s)) check_readers(s);
  int rc = MDB_PANIC;
  for (int i = 0; i < BEGIN_TRIES; i++) {
    if (!enter(s)) return MDB_PANIC;
    rc = mdb_txn_begin(s->env, NULL, mode == STORE_READ ? MDB_RDONLY : 0, out);
    if (rc == 0) return 0;
    store_env_end(s);
    if (rc == MDB_READERS_FULL) {
      check_readers(s);
    } else if (rc == MDB_MAP_RESIZED) {
      rc = follow_growth(s);
      if (rc) return rc;
    } else {
      return rc;
    }
  }
  return rc;
}
