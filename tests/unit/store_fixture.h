// store_fixture: a store in a temporary folder, and what the tests of the store layer do again and again.
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/store/store.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
  char dir[64];  // temporary
  char path[96]; // the store's folder in it
  struct store *s;
};

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  return remove(path);
}

// For a test that forks: the folder without an open store.
static inline int setup_folder(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  if (!f) return -1;
  snprintf(f->dir, sizeof f->dir, "/tmp/postern-store-XXXXXX");
  if (!mkdtemp(f->dir)) return -1;
  snprintf(f->path, sizeof f->path, "%s/store", f->dir);
  *state = f;
  return 0;
}

static inline void open_store(struct fixture *f) {
  struct err_text e = {""};
  if (store_open(&f->s, f->path, STORE_CREATE, &e)) fail_msg("%s", e.s);
}

static inline void close_store(struct fixture *f) {
  store_close(f->s);
  f->s = NULL;
}

static inline int setup_store(void **state) {
  if (setup_folder(state)) return -1;
  open_store(*state);
  return 0;
}

static inline int teardown(void **state) {
  struct fixture *f = *state;
  store_close(f->s);
  nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  free(f);
  return 0;
}

static inline struct store_txn *begin(struct fixture *f, enum store_mode mode) {
  struct store_txn *t = store_begin(f->s, mode);
  assert_non_null(t);
  return t;
}

static inline void commit(struct store_txn *t) {
  struct err_text e = {""};
  if (store_commit(t, &e)) fail_msg("%s", e.s);
}

static inline uint32_t add_user(struct store_txn *t, const char *name) {
  struct store_user u = {.id = 0};
  assert_int_equal(store_user_add(t, name, 1000, &u), 0);
  return u.id;
}

static inline struct store_resource resource(const char *text) {
  struct store_resource r;
  assert_int_equal(store_resource_parse(text, &r), 0);
  return r;
}

static inline struct store_token sample_token(uint32_t user, const char *id) {
  struct store_token k = {.user = user, .created = 5, .expires = 99, .enrol = true};
  snprintf(k.id, sizeof k.id, "%s", id);
  crypto_sha256(id, strlen(id), k.hash);
  snprintf(k.label, sizeof k.label, "laptop");
  return k;
}

static inline void copy_name(char out[NAME_TEXT], const char *name) {
  snprintf(out, NAME_TEXT, "%s", name);
}

#endif
