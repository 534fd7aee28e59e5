// record: values as JSON objects, for the records that people may look at. Called by the store's modules.
#include "postern/store/internal.h"
#include <stdlib.h>
#include <string.h>

int store_json_put(struct store_txn *t, enum store_db db, const struct store_key *k, json_t *value) {
  char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
  json_decref(value);
  if (!text) return store_fail(t, PERR_NOMEM, "store: out of memory");
  int rc = store_db_put(t, db, k, text, strlen(text));
  free(text);
  return rc;
}

json_t *store_json_text(const char *s) {
  json_t *value = json_string(s);
  if (value) return value;
  char *copy = strdup(s);
  if (!copy) return NULL;
  for (char *p = copy; *p; p++)
    if ((unsigned char)*p >= 0x80) *p = '?';
  value = json_string(copy);
  free(copy);
  return value;
}

struct store_row store_row_open(const MDB_val *v) {
  json_t *o = json_loadb(v->mv_data, v->mv_size, JSON_REJECT_DUPLICATES, NULL);
  return (struct store_row){.o = o, .bad = !json_is_object(o)};
}

int64_t store_row_int(struct store_row *r, const char *key) {
  const json_t *v = json_object_get(r->o, key);
  if (!json_is_integer(v)) r->bad = true;
  return json_integer_value(v);
}

bool store_row_bool(struct store_row *r, const char *key) {
  const json_t *v = json_object_get(r->o, key);
  if (!json_is_boolean(v)) r->bad = true;
  return json_is_true(v);
}

int64_t store_row_int_if(struct store_row *r, const char *key) {
  return json_object_get(r->o, key) ? store_row_int(r, key) : 0;
}

bool store_row_bool_if(struct store_row *r, const char *key) {
  return json_object_get(r->o, key) ? store_row_bool(r, key) : false;
}

void store_row_text(struct store_row *r, const char *key, char *out, size_t cap) {
  const json_t *v = json_object_get(r->o, key);
  size_t len = json_string_length(v);
  if (!json_is_string(v) || len >= cap) {
    r->bad = true;
    len = 0;
  }
  if (len) memcpy(out, json_string_value(v), len);
  out[len] = '\0';
}

int store_row_close(struct store_row *r, struct store_txn *t, enum store_db db) {
  static const char *const names[DB_COUNT] = {
      [DB_USERS] = "user",    [DB_TOKENS] = "token", [DB_BANS] = "ban",
      [DB_LIMITS] = "limits", [DB_AUDIT] = "audit",  [DB_PASSWORDS] = "password",
  };
  json_decref(r->o);
  r->o = NULL;
  return r->bad ? store_fail(t, PERR_CORRUPT, "store: a record (%s) does not parse", names[db]) : 0;
}
