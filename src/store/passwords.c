// passwords: what is kept of the users' passwords. Called by posternctl, which sets them, and by the web login.
#include "postern/store/internal.h"

int store_password_set(struct store_txn *t, uint32_t user, const struct store_password *p) {
  struct store_user u;
  int rc = store_user_get(t, user, &u);
  if (rc) return rc;
  if (u.anonymous) return store_fail(t, PERR_DENIED, "%s is an anonymous user and can have no password", u.name);
  char salt[2 * STORE_SALT_LEN + 1], hash[2 * SHA256_LEN + 1];
  hex_encode(p->salt, sizeof p->salt, salt);
  hex_encode(p->hash, sizeof p->hash, hash);
  struct store_key k = store_key_u32(user);
  return store_json_put(t, DB_PASSWORDS, &k,
                        json_pack("{s:I, s:I, s:I, s:s, s:s}", "n", (json_int_t)p->n, "r", (json_int_t)p->r, "p",
                                  (json_int_t)p->p, "salt", salt, "hash", hash));
}

static uint32_t read_cost(struct store_row *r, const char *key) {
  int64_t cost = store_row_int(r, key);
  if (cost < 1 || cost > UINT32_MAX) r->bad = true;
  return (uint32_t)cost;
}

static void read_bytes(struct store_row *r, const char *key, uint8_t *out, size_t len) {
  char text[2 * SHA256_LEN + 1];
  store_row_text(r, key, text, sizeof text);
  if (hex_decode(text, out, len)) r->bad = true;
}

int store_password_get(struct store_txn *t, uint32_t user, struct store_password *out) {
  struct store_key k = store_key_u32(user);
  MDB_val v;
  int rc = store_db_get(t, DB_PASSWORDS, &k, &v);
  if (rc) return rc;
  struct store_row r = store_row_open(&v);
  out->n = read_cost(&r, "n");
  out->r = read_cost(&r, "r");
  out->p = read_cost(&r, "p");
  read_bytes(&r, "salt", out->salt, sizeof out->salt);
  read_bytes(&r, "hash", out->hash, sizeof out->hash);
  return store_row_close(&r, t, DB_PASSWORDS);
}

int store_password_remove(struct store_txn *t, uint32_t user) {
  struct store_key k = store_key_u32(user);
  return store_db_del(t, DB_PASSWORDS, &k);
}
