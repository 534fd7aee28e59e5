// cmd_bind: ports and hosts reserved to a user, and the limits of a user. Called through the command table.
#include "postern/ctl/cmd_bind.h"
#include "postern/base/opt.h"
#include "postern/ctl/output.h"
#include "postern/ctl/view.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT_MOST = 1000000 };

// ---- bind, unbind ----

struct wanted {
  struct store_resource what[ARGS_MAX_WORDS];
  unsigned count;
};

static int parse_wanted(const struct args *a, struct wanted *w, struct err_text *e) {
  w->count = 0;
  for (unsigned i = 1; i < a->nwords; i++)
    if (store_resource_parse(a->words[i], &w->what[w->count++]) < 0)
      return err_set(e, PERR_INVALID, "'%s' is neither tcp/PORT, udp/PORT nor host/NAME", a->words[i]);
  return 0;
}

static int bind_one(struct store_txn *t, const struct store_user *u, const struct store_resource *r,
                    struct err_text *e) {
  uint32_t id;
  struct store_user other;
  char text[HOST_TEXT + 8];
  int rc = store_bound_get(t, r, &id);
  if (rc == PERR_NOTFOUND || (rc == 0 && id == u->id)) return store_bind(t, u->id, r);
  if (rc == 0) rc = store_user_get(t, id, &other);
  if (rc < 0) return rc;
  return err_set(e, PERR_EXISTS, "%s is bound to the user '%s' already", store_resource_format(r, text), other.name);
}

static int unbind_one(struct store_txn *t, const struct store_user *u, const struct store_resource *r,
                      struct err_text *e) {
  int rc = store_unbind(t, u->id, r);
  char text[HOST_TEXT + 8];
  if (rc == PERR_NOTFOUND) err_set(e, rc, "%s is not bound to '%s'", store_resource_format(r, text), u->name);
  return rc;
}

// All of them or none, in one transaction.
static int change_bounds(struct ctl *c, const struct args *a, const char *action,
                         int (*one)(struct store_txn *, const struct store_user *, const struct store_resource *,
                                    struct err_text *),
                         json_t **data, struct err_text *e) {
  struct wanted w;
  struct store_txn *t;
  struct store_user u;
  char text[HOST_TEXT + 8];
  int rc = parse_wanted(a, &w, e);
  if (rc == 0) rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  for (unsigned i = 0; i < w.count && rc == 0; i++) {
    rc = one(t, &u, &w.what[i], e);
    if (rc == 0) rc = ctl_audit(c, t, action, u.name, "%s", store_resource_format(&w.what[i], text));
  }
  if (rc == 0) *data = view_user(t, &u);
  return ctl_end(t, rc, e);
}

int cmd_bind(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  return change_bounds(c, a, "user.bind", bind_one, data, e);
}

int cmd_unbind(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  return change_bounds(c, a, "user.unbind", unbind_one, data, e);
}

void cmd_bind_print(const json_t *data) {
  static const struct output_column lines[] = {{"name", "name"}, {"bound", "bound"}};
  output_record(data, lines, sizeof lines / sizeof lines[0]);
}

// ---- limit ----

static bool is_default(const char *text) {
  return strcmp(text, "default") == 0;
}

static int parse_number(const char *option, const char *text, int64_t *out, struct err_text *e) {
  if (!text) return 0;
  char *end;
  errno = 0;
  long long n = strtoll(text, &end, 10);
  if (is_default(text))
    *out = -1;
  else if (text[0] < '0' || text[0] > '9' || *end || errno || n > LIMIT_MOST)
    return err_set(e, PERR_INVALID, "%s: '%s' is neither a number from 0 to %d nor \"default\"", option, text,
                   LIMIT_MOST);
  else
    *out = n;
  return 0;
}

// Calls add for each part of a list with commas; "default" is the empty list.
static int parse_list(const char *option, const char *text, struct store_limits *l,
                      int (*add)(struct store_limits *, const char *), struct err_text *e) {
  if (is_default(text)) return 0;
  char *copy = strdup(text), *rest = copy, *part;
  int rc = copy ? 0 : PERR_NOMEM;
  while (rc == 0 && (part = strsep(&rest, ","))) {
    rc = add(l, part);
    if (rc == PERR_INVALID) err_set(e, rc, "%s: '%s' is not valid", option, part);
    if (rc == PERR_LIMIT) rc = err_set(e, PERR_INVALID, "%s: the list is too long", option);
  }
  free(copy);
  return rc;
}

static int add_range(struct store_limits *l, const char *text) {
  if (l->nports == STORE_MAX_RANGES) return PERR_LIMIT;
  struct store_range *r = &l->ports[l->nports];
  if (port_range_parse(text, &r->low, &r->high) < 0) return PERR_INVALID;
  l->nports++;
  return 0;
}

static int add_host(struct store_limits *l, const char *text) {
  if (l->nhosts == STORE_MAX_HOSTS) return PERR_LIMIT;
  struct store_resource r;
  char what[HOST_TEXT + 8];
  if (snprintf(what, sizeof what, "host/%s", text) >= (int)sizeof what || store_resource_parse(what, &r) < 0)
    return PERR_INVALID;
  memcpy(l->hosts[l->nhosts++], r.host, sizeof r.host);
  return 0;
}

// Changes what the options name and leaves the rest.
static int apply_options(const struct args *a, struct store_limits *l, struct err_text *e) {
  const char *ports = args_option(a, "--ports"), *hosts = args_option(a, "--hosts");
  int rc = parse_number("--tunnels", args_option(a, "--tunnels"), &l->tunnels, e);
  if (rc == 0) rc = parse_number("--connections", args_option(a, "--connections"), &l->connections, e);
  if (rc == 0) rc = parse_number("--instances", args_option(a, "--instances"), &l->instances, e);
  if (rc == 0 && ports) {
    l->nports = 0;
    rc = parse_list("--ports", ports, l, add_range, e);
  }
  if (rc == 0 && hosts) {
    l->nhosts = 0;
    rc = parse_list("--hosts", hosts, l, add_host, e);
  }
  return rc;
}

static bool any_option(const struct args *a) {
  for (unsigned i = 0; a->command->options[i].name; i++)
    if (a->options[i]) return true;
  return false;
}

// The options as they were typed, for the audit.
static void describe_options(const struct args *a, char *out, size_t cap) {
  size_t n = 0;
  out[0] = '\0';
  for (unsigned i = 0; a->command->options[i].name && n < cap; i++)
    if (a->options[i])
      n += (size_t)snprintf(out + n, cap - n, "%s%s %s", n ? " " : "", a->command->options[i].name + 2, a->options[i]);
}

int cmd_limit(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  struct store_limits l = {.tunnels = -1};
  bool write = any_option(a);
  int rc = apply_options(a, &l, e); // a mistake is told before the store is touched
  if (rc == 0) rc = write ? ctl_write(c, &t, e) : ctl_read(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  if (rc == 0 && write) {
    char what[256];
    describe_options(a, what, sizeof what);
    rc = store_limits_get(t, u.id, &l);
    if (rc == 0) rc = apply_options(a, &l, e);
    if (rc == 0) rc = store_limits_put(t, u.id, &l);
    if (rc == 0) rc = ctl_audit(c, t, "user.limit", u.name, "%s", what);
  }
  if (rc == 0) *data = view_user(t, &u);
  return ctl_end(t, rc, e);
}

void cmd_limit_print(const json_t *data) {
  static const struct output_column lines[] = {{"name", "name"},
                                               {"tunnels", "limits.tunnels"},
                                               {"connections", "limits.connections"},
                                               {"instances", "limits.instances"},
                                               {"ports (-: any)", "limits.ports"},
                                               {"hosts (-: any)", "limits.hosts"}};
  output_record(data, lines, sizeof lines / sizeof lines[0]);
}
