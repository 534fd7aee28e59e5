// limits: what one user may have, where it differs from the defaults.
#include "postern/store/internal.h"
#include <string.h>

static const struct store_limits defaults = {.tunnels = -1, .connections = -1, .instances = -1};

static bool limits_valid(const struct store_limits *l) {
  if (l->tunnels < -1 || l->connections < -1 || l->instances < -1) return false;
  if (l->nports > STORE_MAX_RANGES || l->nhosts > STORE_MAX_HOSTS) return false;
  for (unsigned i = 0; i < l->nports; i++)
    if (l->ports[i].low == 0 || l->ports[i].low > l->ports[i].high) return false;
  for (unsigned i = 0; i < l->nhosts; i++)
    if (l->hosts[i][0] == '\0') return false;
  return true;
}

static json_t *ports_json(const struct store_limits *l) {
  json_t *list = json_array();
  for (unsigned i = 0; i < l->nports; i++)
    json_array_append_new(list, json_pack("[i, i]", (int)l->ports[i].low, (int)l->ports[i].high));
  return list;
}

static json_t *hosts_json(const struct store_limits *l) {
  json_t *list = json_array();
  for (unsigned i = 0; i < l->nhosts; i++) json_array_append_new(list, store_json_text(l->hosts[i]));
  return list;
}

int store_limits_put(struct store_txn *t, uint32_t user, const struct store_limits *l) {
  if (!limits_valid(l)) return store_fail(t, PERR_INVALID, "limits out of range");
  int rc = store_user_check(t, user);
  if (rc) return rc;
  struct store_key k = store_key_u32(user);
  store_json_put(t, DB_LIMITS, &k,
                 json_pack("{s:I, s:I, s:I, s:o, s:o}", "tunnels", (json_int_t)l->tunnels, "connections",
                           (json_int_t)l->connections, "instances", (json_int_t)l->instances, "ports", ports_json(l),
                           "hosts", hosts_json(l)));
  return store_change_note(t, STORE_CHANGED_LIMITS, user);
}

static void parse_ports(struct store_row *r, struct store_limits *out) {
  json_t *list = json_object_get(r->o, "ports"), *item;
  size_t i;
  if (!json_is_array(list) || json_array_size(list) > STORE_MAX_RANGES) {
    r->bad = true;
    return;
  }
  json_array_foreach(list, i, item) {
    int low = 0, high = 0;
    if (json_unpack(item, "[ii!]", &low, &high) || low < 1 || high < low || high > UINT16_MAX) r->bad = true;
    out->ports[i] = (struct store_range){.low = (uint16_t)low, .high = (uint16_t)high};
  }
  out->nports = (unsigned)json_array_size(list);
}

static void parse_hosts(struct store_row *r, struct store_limits *out) {
  json_t *list = json_object_get(r->o, "hosts"), *item;
  size_t i;
  if (!json_is_array(list) || json_array_size(list) > STORE_MAX_HOSTS) {
    r->bad = true;
    return;
  }
  json_array_foreach(list, i, item) {
    size_t len = json_string_length(item);
    if (len == 0 || len >= sizeof out->hosts[i])
      r->bad = true;
    else
      memcpy(out->hosts[i], json_string_value(item), len + 1);
  }
  out->nhosts = (unsigned)json_array_size(list);
}

int store_limits_get(struct store_txn *t, uint32_t user, struct store_limits *out) {
  *out = defaults;
  struct store_key k = store_key_u32(user);
  MDB_val v;
  int rc = store_db_get(t, DB_LIMITS, &k, &v);
  if (rc == PERR_NOTFOUND) return 0;
  if (rc) return rc;
  struct store_row r = store_row_open(&v);
  out->tunnels = store_row_int(&r, "tunnels");
  out->connections = store_row_int(&r, "connections");
  out->instances = store_row_int(&r, "instances");
  parse_ports(&r, out);
  parse_hosts(&r, out);
  return store_row_close(&r, t, DB_LIMITS);
}
