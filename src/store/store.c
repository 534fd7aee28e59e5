// store: opens and closes the environment, tells the newest transaction, copies the whole. Called by the programs'
// start and stop, by the gateway's watch for outside changes and by the backup command.
#include "postern/store/store.h"
#include "postern/store/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int sync_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  int rc = fsync(fd) < 0 ? errno : 0;
  close(fd);
  return rc;
}

static bool has_data(const char *path) {
  char *file;
  if (asprintf(&file, "%s/data.mdb", path) < 0) return false;
  bool there = access(file, F_OK) == 0 || errno != ENOENT;
  free(file);
  return there;
}

static int prepare_folder(const char *path, bool create, struct err_text *e) {
  if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
    return err_set(e, store_code(errno), "cannot be created: %s", strerror(errno));
  struct stat st;
  if (stat(path, &st) < 0) return err_set(e, store_code(errno), "%s", strerror(errno));
  if (!S_ISDIR(st.st_mode)) return err_set(e, PERR_INVALID, "not a folder");
  if (!create && !has_data(path)) return err_set(e, PERR_NOTFOUND, "there is no store yet");
  return 0;
}

static int open_env(struct store *s, const char *path, unsigned flags, size_t map, struct err_text *e) {
  int rc = store_env_open(s, path, flags, map);
  if (rc == 0) return 0;
  const char *hint = "";
  if (store_code(rc) == PERR_DENIED) hint = " (the folder, data.mdb and lock.mdb must be writable)";
  return err_set(e, store_code(rc), "%s%s", mdb_strerror(rc), hint);
}

// The new files' names must outlive a power cut like what is in them; and the probe takes its reader's slot for good.
static int finish_open(struct store *s, const char *path, bool created, struct err_text *e) {
  int rc = created ? sync_folder(path) : 0;
  if (!rc) rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &s->probe);
  if (rc) return err_set(e, store_code(rc), "%s", mdb_strerror(rc));
  mdb_txn_reset(s->probe);
  return 0;
}

static int open_parts(struct store *s, const char *path, int flags, size_t map, struct err_text *e) {
  bool create = (flags & STORE_CREATE) != 0;
  s->read_only = (flags & STORE_READ_ONLY) != 0;
  if (create && s->read_only) return err_set(e, PERR_INVALID, "cannot be created read-only");
  int rc = prepare_folder(path, create, e);
  if (rc) return rc;
  bool created = !has_data(path);
  rc = open_env(s, path, s->read_only ? MDB_RDONLY : 0, map, e);
  if (rc) return rc;
  rc = store_schema_open(s, create, e);
  if (!rc) rc = finish_open(s, path, created, e);
  if (rc) store_env_close(s);
  return rc;
}

int store_open_sized(struct store **out, const char *path, int flags, size_t map, struct err_text *e) {
  *out = NULL;
  struct store *s = calloc(1, sizeof *s);
  if (!s) return err_set(e, PERR_NOMEM, "store %s: out of memory", path);
  int rc = open_parts(s, path, flags, map, e);
  if (rc) {
    err_prefix(e, "store %s", path);
    free(s);
    return rc;
  }
  *out = s;
  return 0;
}

int store_open(struct store **out, const char *path, int flags, struct err_text *e) {
  return store_open_sized(out, path, flags, STORE_MAP_BYTES, e);
}

void store_close(struct store *s) {
  if (!s) return;
  store_env_close(s);
  free(s);
}

// The id in LMDB's meta page moves a moment before readers get to see that transaction; who looked in between would
// note the new id with the old data and miss the change. A reader's own id cannot run ahead.
uint64_t store_last_txn(struct store *s) {
  uint64_t id = 0;
  pthread_mutex_lock(&s->lock);
  if (!s->lost && mdb_txn_renew(s->probe) == 0) {
    id = mdb_txn_id(s->probe);
    mdb_txn_reset(s->probe);
  } else if (!s->lost) {
    // The map has to grow first: an id that is new makes the caller begin a transaction, which sees to that.
    MDB_envinfo info;
    if (mdb_env_info(s->env, &info) == 0) id = info.me_last_txnid;
  }
  pthread_mutex_unlock(&s->lock);
  return id;
}

// ---- backup ----

static int copy_into(struct store *s, int fd, struct err_text *e) {
  // Held meanwhile so that the map follows another process's growth first, and stays where it is.
  struct store_txn *t = store_begin(s, STORE_READ);
  if (!t) return err_set(e, PERR_NOMEM, "out of memory");
  if (store_error(t, NULL) == 0) {
    int rc = mdb_env_copyfd2(s->env, fd, MDB_CP_COMPACT);
    if (!rc && fsync(fd) < 0) rc = errno;
    if (rc) store_fail(t, store_code(rc), "%s", mdb_strerror(rc));
  }
  return store_commit(t, e);
}

static int sync_parent(const char *file, struct err_text *e) {
  const char *slash = strrchr(file, '/');
  char *folder = slash ? strndup(file, slash == file ? 1 : (size_t)(slash - file)) : strdup(".");
  if (!folder) return err_set(e, PERR_NOMEM, "out of memory");
  int rc = sync_folder(folder);
  free(folder);
  return rc ? err_set(e, store_code(rc), "%s", strerror(rc)) : 0;
}

int store_backup(struct store *s, const char *file, struct err_text *e) {
  int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    int code = errno == EEXIST ? PERR_EXISTS : store_code(errno);
    return err_set(e, code, "backup %s: %s", file, strerror(errno));
  }
  int rc = copy_into(s, fd, e);
  close(fd);
  if (!rc) rc = sync_parent(file, e);
  if (rc) {
    unlink(file);
    err_prefix(e, "backup %s", file);
  }
  return rc;
}
