// core_store: a store in a temporary folder with its writer, for the tests of core.
#ifndef POSTERN_TESTS_UNIT_CORE_STORE_H
#define POSTERN_TESTS_UNIT_CORE_STORE_H

#include "postern/store/store.h"
#include "postern/store/writer.h"
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct core_store {
  char folder[64];
  struct store *store;
  struct writer *writer;
};

#define must(call)                                                                                                     \
  do {                                                                                                                 \
    int must_rc_ = (call);                                                                                             \
    if (must_rc_ != 0) fail_msg("%s: %s", #call, perr_str(must_rc_));                                                  \
  } while (0)

static inline void core_store_open(struct core_store *c) {
  struct err_text e = {""};
  if (store_open(&c->store, c->folder, STORE_CREATE, &e) != 0) fail_msg("store_open: %s", e.s);
  must(writer_start(&c->writer, c->store));
}

// Everything that was queued is on disk afterwards.
static inline void core_store_close(struct core_store *c) {
  writer_stop(c->writer);
  store_close(c->store);
}

static inline void core_store_new(struct core_store *c) {
  strcpy(c->folder, "/tmp/postern-core-XXXXXX");
  assert_non_null(mkdtemp(c->folder));
  core_store_open(c);
}

static inline int core_store_unlink(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
  (void)st, (void)flag, (void)ftw;
  return remove(path);
}

static inline void core_store_free(struct core_store *c) {
  core_store_close(c);
  assert_int_equal(nftw(c->folder, core_store_unlink, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static inline struct store_txn *core_store_begin(struct core_store *c) {
  struct store_txn *t = store_begin(c->store, STORE_WRITE);
  assert_non_null(t);
  return t;
}

static inline void core_store_commit(struct store_txn *t) {
  struct err_text e = {""};
  if (store_commit(t, &e) != 0) fail_msg("store_commit: %s", e.s);
}

static inline uint32_t core_store_user(struct core_store *c, const char *name) {
  struct store_user u;
  struct store_txn *t = core_store_begin(c);
  must(store_user_add(t, name, 1000, &u));
  core_store_commit(t);
  return u.id;
}

static inline void core_store_remove_user(struct core_store *c, uint32_t user) {
  struct store_txn *t = core_store_begin(c);
  must(store_user_remove(t, user));
  core_store_commit(t);
}

static inline void core_store_bind(struct core_store *c, uint32_t user, const char *what) {
  struct store_resource r;
  must(store_resource_parse(what, &r));
  struct store_txn *t = core_store_begin(c);
  must(store_bind(t, user, &r));
  core_store_commit(t);
}

static inline void core_store_unbind(struct core_store *c, uint32_t user, const char *what) {
  struct store_resource r;
  must(store_resource_parse(what, &r));
  struct store_txn *t = core_store_begin(c);
  must(store_unbind(t, user, &r));
  core_store_commit(t);
}

#endif
