// view: store records as JSON. Called by the commands; owns nothing.
#include "postern/ctl/view.h"
#include "postern/base/clock.h"
#include "postern/core/limits.h"
#include "postern/ctl/output.h"

json_t *view_time(int64_t wall_s) {
  char text[CLOCK_TEXT];
  return wall_s ? json_string(clock_format_s(wall_s, text)) : json_null();
}

static json_t *view_range(const struct store_range *r) {
  return r->low == r->high ? json_sprintf("%u", r->low) : json_sprintf("%u-%u", r->low, r->high);
}

// What holds for the user, the defaults filled in. Empty lists: whatever the gateway allows.
static json_t *view_limits(struct store_txn *t, uint32_t user) {
  struct store_limits own;
  if (store_limits_get(t, user, &own) < 0) return json_null();
  struct limits l;
  limits_from_store(&l, &own);
  json_t *ports = json_array(), *hosts = json_array();
  for (unsigned i = 0; i < own.nports; i++) json_array_append_new(ports, view_range(&own.ports[i]));
  for (unsigned i = 0; i < own.nhosts; i++) json_array_append_new(hosts, output_string(own.hosts[i]));
  return json_pack("{s:I, s:I, s:I, s:o, s:o}", "tunnels", (json_int_t)l.tunnels, "connections", (json_int_t)l.visitors,
                   "instances", (json_int_t)l.instances, "ports", ports, "hosts", hosts);
}

// The ban that holds now, or null.
static json_t *view_ban(struct store_txn *t, uint32_t user) {
  struct store_ban ban;
  if (store_ban_get(t, user, &ban) < 0 || (ban.until && ban.until <= clock_wall_s())) return json_null();
  return json_pack("{s:o, s:o, s:o}", "since", view_time(ban.since), "until", view_time(ban.until), "reason",
                   output_string(ban.reason));
}

static bool append_bound(void *ctx, const struct store_resource *r, uint32_t user) {
  char text[HOST_TEXT + 8];
  return json_array_append_new(ctx, output_string(store_resource_format(r, text))) == 0;
}

static bool has_password(struct store_txn *t, uint32_t user) {
  struct store_password p;
  return store_password_get(t, user, &p) == 0; // a failure sticks to the transaction
}

json_t *view_user(struct store_txn *t, const struct store_user *u) {
  json_t *ban = view_ban(t, u->id), *bound = json_array();
  store_bound_each(t, u->id, append_bound, bound); // a failure sticks to the transaction
  return json_pack("{s:I, s:s, s:b, s:o, s:o, s:o, s:o, s:b, s:b}", "id", (json_int_t)u->id, "name", u->name, "banned",
                   !json_is_null(ban), "created", view_time(u->created), "bound", bound, "ban", ban, "limits",
                   view_limits(t, u->id), "password", has_password(t, u->id), "anonymous", u->anonymous);
}

struct listing {
  struct store_txn *t;
  json_t *users;
};

static bool collect_user(void *ctx, const struct store_user *u) {
  struct listing *l = ctx;
  return json_array_append_new(l->users, view_user(l->t, u)) == 0;
}

json_t *view_users(struct store_txn *t) {
  struct listing l = {.t = t, .users = json_array()};
  store_user_each(t, collect_user, &l); // a failure sticks to the transaction
  return l.users;
}

json_t *view_token(const struct store_token *k) {
  return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "id", k->id, "label", output_string(k->label), "created",
                   view_time(k->created), "expires", view_time(k->expires), "last_used", view_time(k->last_used),
                   "last_peer", k->last_peer[0] ? output_string(k->last_peer) : json_null(), "revoked",
                   view_time(k->revoked), "enrol", k->enrol);
}
