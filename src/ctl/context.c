// context: finds the database, opens the store, ends transactions. Called by main and the commands; owns the store,
// the configuration and the folder's name.
#include "postern/ctl/context.h"
#include "postern/base/clock.h"
#include "postern/ctl/args.h"
#include "postern/ctl/owner.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const config_places[] = {"./gateway.json", "/etc/postern/gateway.json"};

// The file of -c, else the first default place that exists, else NULL.
static const char *find_config(const struct args *a) {
  if (a->config) return a->config;
  for (size_t i = 0; i < sizeof config_places / sizeof config_places[0]; i++)
    if (access(config_places[i], F_OK) == 0) return config_places[i];
  return NULL;
}

static int find_folder(struct ctl *c, const struct args *a, struct err_text *e) {
  const char *dir = a->db;
  if (!dir) {
    const char *file = find_config(a);
    if (!file)
      return err_set(e, PERR_INVALID, "neither %s nor %s exists; say where with -c FILE or --db DIR", config_places[0],
                     config_places[1]);
    if (config_load(file, &c->config, e) < 0) return PERR_INVALID;
    dir = c->config->database;
  }
  if (!*dir) return err_set(e, PERR_INVALID, "--db: the name of the database folder is empty");
  c->dir = strdup(dir);
  return c->dir ? 0 : err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
}

static void warn_loose(const char *file, const char *what) {
  if (file_is_loose(file))
    log_event(LOG_WARN, "file.loose", "others can read this file", LF_STR("file", file), LF_STR("what", what));
}

static void warn_files(const struct ctl *c) {
  char *data = NULL;
  if (asprintf(&data, "%s/data.mdb", c->dir) < 0) return;
  warn_loose(data, "database");
  free(data);
  if (c->config) warn_loose(c->config->key, "key");
}

int ctl_init(struct ctl *c, const struct args *a, struct err_text *e) {
  *c = (struct ctl){.uid = getuid(), .json = a->json};
  int rc = find_folder(c, a, e);
  if (rc == 0) rc = owner_become(c->dir, e);
  if (rc == 0) warn_files(c);
  return rc;
}

void ctl_fini(struct ctl *c) {
  if (c->store) store_close(c->store);
  if (c->config) config_unref(c->config);
  free(c->dir);
}

static int open_store(struct ctl *c, int flags, struct err_text *e) {
  if (c->store) return 0;
  struct stat st;
  if (!(flags & STORE_CREATE) && stat(c->dir, &st) < 0 && errno == ENOENT)
    return err_set(e, PERR_NOTFOUND, "the database folder %s does not exist", c->dir);
  return store_open(&c->store, c->dir, flags, e);
}

static int begin(struct ctl *c, int flags, enum store_mode mode, struct store_txn **t, struct err_text *e) {
  int rc = open_store(c, flags, e);
  if (rc < 0) return rc;
  *t = store_begin(c->store, mode);
  return *t ? 0 : err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
}

int ctl_open(struct ctl *c, struct err_text *e) {
  return open_store(c, STORE_READ_ONLY, e);
}

int ctl_read(struct ctl *c, struct store_txn **t, struct err_text *e) {
  return begin(c, STORE_READ_ONLY, STORE_READ, t, e);
}

int ctl_write(struct ctl *c, struct store_txn **t, struct err_text *e) {
  return begin(c, 0, STORE_WRITE, t, e);
}

int ctl_write_new(struct ctl *c, struct store_txn **t, struct err_text *e) {
  return begin(c, STORE_CREATE, STORE_WRITE, t, e);
}

int ctl_end(struct store_txn *t, int rc, struct err_text *e) {
  if (rc == 0) return store_commit(t, e);
  if (!e->s[0] && store_error(t, e) == 0) err_set(e, rc, "%s", perr_str(rc));
  store_abort(t);
  return rc;
}

int ctl_user(struct store_txn *t, const char *name, struct store_user *out, struct err_text *e) {
  int rc = name_valid(name) ? store_user_find(t, name, out) : PERR_NOTFOUND;
  return rc == PERR_NOTFOUND ? err_set(e, rc, "there is no user '%s'", name) : rc;
}

int ctl_audit(const struct ctl *c, struct store_txn *t, const char *action, const char *user, const char *format, ...) {
  struct store_audit row = {.at_ms = clock_wall_ms(), .count = 1};
  snprintf(row.actor, sizeof row.actor, "cli:uid %u", (unsigned)c->uid);
  snprintf(row.action, sizeof row.action, "%s", action);
  snprintf(row.user, sizeof row.user, "%s", user);
  va_list args;
  va_start(args, format);
  vsnprintf(row.detail, sizeof row.detail, format, args);
  va_end(args);
  return store_audit_add(t, &row);
}
