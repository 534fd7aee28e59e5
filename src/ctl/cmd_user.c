// cmd_user: users and their bans. Called through the command table.
#include "postern/ctl/cmd_user.h"
#include "postern/base/clock.h"
#include "postern/ctl/output.h"
#include "postern/ctl/view.h"
#include <stdio.h>
#include <string.h>

#define NAME_RULE "1 to 64 of a-z 0-9 . _ - and begin with a letter or digit"

// Ends the transaction with what the user is now in *data.
static int end_with_user(struct store_txn *t, int rc, const struct store_user *u, json_t **data, struct err_text *e) {
  json_t *view = rc == 0 ? view_user(t, u) : NULL;
  rc = ctl_end(t, rc, e);
  if (rc == 0)
    *data = view;
  else
    json_decref(view);
  return rc;
}

int cmd_user_add(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  const char *name = a->words[0];
  if (!name_valid(name)) return err_set(e, PERR_INVALID, "'%s' is no user name: names are " NAME_RULE, name);
  if (store_name_reserved(name))
    return err_set(e, PERR_INVALID, "'%s': names like this are those of anonymous users", name);
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_write_new(c, &t, e);
  if (rc < 0) return rc;
  rc = store_user_add(t, name, clock_wall_s(), &u);
  if (rc == PERR_EXISTS) err_set(e, rc, "there is a user '%s' already", name);
  if (rc == PERR_LIMIT) err_set(e, rc, "all %d user ids are used up", STORE_USER_ID_MAX);
  if (rc == 0) rc = ctl_audit(c, t, "user.add", name, "id %u", (unsigned)u.id);
  return end_with_user(t, rc, &u, data, e);
}

int cmd_user_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  int rc = ctl_read(c, &t, e);
  if (rc < 0) return rc;
  *data = view_users(t);
  return ctl_end(t, 0, e);
}

int cmd_user_show(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_read(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  return end_with_user(t, rc, &u, data, e);
}

int cmd_user_remove(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  int rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  if (rc == 0) *data = view_user(t, &u); // as it was
  if (rc == 0) rc = store_user_remove(t, u.id);
  if (rc == 0) rc = ctl_audit(c, t, "user.remove", u.name, "id %u", (unsigned)u.id);
  return ctl_end(t, rc, e);
}

static int parse_ban(const struct args *a, struct store_ban *b, struct err_text *e) {
  const char *text = args_option(a, "--for"), *reason = args_option(a, "--reason");
  int64_t seconds = 0;
  if (text && duration_parse(text, &seconds) < 0)
    return err_set(e, PERR_INVALID, "--for: '%s' is no time; write 30m, 2h or 7d", text);
  int rc = output_check("--reason", reason, sizeof b->reason, e);
  if (rc < 0) return rc;
  *b = (struct store_ban){.since = clock_wall_s()};
  b->until = text ? b->since + seconds : 0;
  snprintf(b->reason, sizeof b->reason, "%s", reason ? reason : "");
  return 0;
}

int cmd_user_ban(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  struct store_ban ban;
  char until[CLOCK_TEXT];
  int rc = parse_ban(a, &ban, e);
  if (rc == 0) rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  if (rc == 0) rc = store_ban_put(t, u.id, &ban);
  if (rc == 0)
    rc = ctl_audit(c, t, "user.ban", u.name, "%s%s%s%s", ban.until ? "until " : "for good",
                   ban.until ? clock_format_s(ban.until, until) : "", ban.reason[0] ? ": " : "", ban.reason);
  return end_with_user(t, rc, &u, data, e);
}

int cmd_user_unban(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  struct store_txn *t;
  struct store_user u;
  struct store_ban ban;
  int rc = ctl_write(c, &t, e);
  if (rc < 0) return rc;
  rc = ctl_user(t, a->words[0], &u, e);
  if (rc == 0) rc = store_ban_get(t, u.id, &ban);
  if (rc == 0 && ban.until && ban.until <= clock_wall_s()) rc = PERR_NOTFOUND;
  if (rc == PERR_NOTFOUND && !e->s[0]) err_set(e, rc, "the user '%s' is not banned", u.name);
  if (rc == 0) rc = store_ban_remove(t, u.id);
  if (rc == 0) rc = ctl_audit(c, t, "user.unban", u.name, "%s", "");
  return end_with_user(t, rc, &u, data, e);
}

// ---- for people ----

static const char *string_at(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}

void cmd_user_print_id(const json_t *data) {
  printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(json_object_get(data, "id")));
}

void cmd_user_print_list(const json_t *data) {
  static const struct output_column columns[] = {
      {"ID", "id"}, {"NAME", "name"}, {"BANNED", "banned"}, {"CREATED", "created"}, {"BOUND", "bound"}};
  output_table(data, columns, sizeof columns / sizeof columns[0]);
}

void cmd_user_print(const json_t *data) {
  static const struct output_column lines[] = {
      {"id", "id"},
      {"name", "name"},
      {"created", "created"},
      {"anonymous", "anonymous"},
      {"password", "password"},
      {"banned", "banned"},
      {"ban since", "ban.since"},
      {"ban until", "ban.until"},
      {"ban reason", "ban.reason"},
      {"bound", "bound"},
      {"tunnels", "limits.tunnels"},
      {"connections", "limits.connections"},
      {"instances", "limits.instances"},
      {"ports (-: any)", "limits.ports"},
      {"hosts (-: any)", "limits.hosts"},
  };
  output_record(data, lines, sizeof lines / sizeof lines[0]);
}

void cmd_user_print_removed(const json_t *data) {
  printf("%s is removed\n", string_at(data, "name"));
}

void cmd_user_print_ban(const json_t *data) {
  const json_t *ban = json_object_get(data, "ban");
  const char *until = string_at(ban, "until");
  if (json_is_null(ban))
    printf("%s is not banned\n", string_at(data, "name"));
  else
    printf("%s is banned %s%s\n", string_at(data, "name"), until ? "until " : "for good", until ? until : "");
}
