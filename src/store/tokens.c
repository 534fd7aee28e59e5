// tokens: the credentials of users, by id, with an index by user.
#include "postern/store/internal.h"
#include <string.h>

enum { TOKEN_ID_LEN = STORE_TOKEN_ID_TEXT - 1 };

static bool id_valid(const char *id) {
  return strnlen(id, STORE_TOKEN_ID_TEXT) == TOKEN_ID_LEN && strspn(id, "0123456789abcdef") == TOKEN_ID_LEN;
}

static struct store_key index_key(uint32_t user, const char *id) {
  struct store_key k = store_key_u32(user);
  store_key_append(&k, id, TOKEN_ID_LEN);
  return k;
}

static int token_put(struct store_txn *t, const struct store_token *k) {
  char hash[2 * SHA256_LEN + 1];
  hex_encode(k->hash, SHA256_LEN, hash);
  struct store_key key = store_key_text(k->id);
  return store_json_put(t, DB_TOKENS, &key,
                        json_pack("{s:I, s:s, s:o, s:I, s:I, s:I, s:I, s:o, s:b, s:I}", "user", (json_int_t)k->user,
                                  "hash", hash, "label", store_json_text(k->label), "created", (json_int_t)k->created,
                                  "expires", (json_int_t)k->expires, "last_used", (json_int_t)k->last_used, "revoked",
                                  (json_int_t)k->revoked, "last_peer", store_json_text(k->last_peer), "enrol",
                                  (int)k->enrol, "seq", (json_int_t)k->seq));
}

static int token_parse(struct store_txn *t, const char *id, const MDB_val *v, struct store_token *out) {
  struct store_row r = store_row_open(v);
  memcpy(out->id, id, TOKEN_ID_LEN);
  out->id[TOKEN_ID_LEN] = '\0';
  out->user = (uint32_t)store_row_int(&r, "user");
  char hash[2 * SHA256_LEN + 1];
  store_row_text(&r, "hash", hash, sizeof hash);
  if (hex_decode(hash, out->hash, SHA256_LEN)) r.bad = true;
  store_row_text(&r, "label", out->label, sizeof out->label);
  out->created = store_row_int(&r, "created");
  out->expires = store_row_int(&r, "expires");
  out->last_used = store_row_int(&r, "last_used");
  out->revoked = store_row_int(&r, "revoked");
  store_row_text(&r, "last_peer", out->last_peer, sizeof out->last_peer);
  out->enrol = store_row_bool(&r, "enrol");
  out->seq = (uint64_t)store_row_int_if(&r, "seq");
  return store_row_close(&r, t, DB_TOKENS);
}

int store_token_add(struct store_txn *t, const struct store_token *k) {
  if (!id_valid(k->id)) return store_fail(t, PERR_INVALID, "not the id of a token");
  int rc = store_user_check(t, k->user);
  if (rc) return rc;
  struct store_key key = store_key_text(k->id), index = index_key(k->user, k->id);
  MDB_val v;
  rc = store_db_get(t, DB_TOKENS, &key, &v);
  if (rc == 0) return store_fail(t, PERR_EXISTS, "there is a token %s already", k->id);
  if (rc != PERR_NOTFOUND) return rc;
  struct store_token numbered = *k;
  numbered.seq = store_change_last(t) + 1; // that of the change below
  token_put(t, &numbered);
  store_db_put(t, DB_USER_TOKENS, &index, "", 0);
  return store_change_note(t, STORE_CHANGED_TOKEN, k->user);
}

int store_token_get(struct store_txn *t, const char *id, struct store_token *out) {
  if (t->error) return t->error;
  if (!id_valid(id)) return PERR_NOTFOUND;
  struct store_key key = store_key_text(id);
  MDB_val v;
  int rc = store_db_get(t, DB_TOKENS, &key, &v);
  return rc ? rc : token_parse(t, id, &v, out);
}

int store_token_revoke(struct store_txn *t, const char *id, int64_t now) {
  struct store_token k;
  int rc = store_token_get(t, id, &k);
  if (rc || k.revoked) return rc;
  k.revoked = now;
  token_put(t, &k);
  return store_change_note(t, STORE_CHANGED_TOKEN, k.user);
}

int store_token_remove(struct store_txn *t, const char *id) {
  struct store_token k;
  int rc = store_token_get(t, id, &k);
  if (rc) return rc;
  struct store_key key = store_key_text(id), index = index_key(k.user, id);
  store_db_del(t, DB_TOKENS, &key);
  store_db_del(t, DB_USER_TOKENS, &index);
  return store_change_note(t, STORE_CHANGED_TOKEN, k.user);
}

int store_token_touch(struct store_txn *t, const char *id, int64_t now, const char *peer) {
  struct store_token k;
  int rc = store_token_get(t, id, &k);
  if (rc) return rc;
  k.last_used = now;
  size_t len = strnlen(peer, sizeof k.last_peer - 1);
  memcpy(k.last_peer, peer, len);
  k.last_peer[len] = '\0';
  return token_put(t, &k);
}

// The id in the index row that a walk stands on.
static int index_id(const struct store_walk *w, char id[STORE_TOKEN_ID_TEXT]) {
  struct rd r = rd_init(w->at.b, w->at.len);
  rd_u32(&r);
  const uint8_t *text = rd_bytes(&r, TOKEN_ID_LEN);
  if (!rd_done(&r)) return store_fail(w->t, PERR_CORRUPT, "store: the index of tokens does not parse");
  memcpy(id, text, TOKEN_ID_LEN);
  id[TOKEN_ID_LEN] = '\0';
  return 0;
}

int store_token_each(struct store_txn *t, uint32_t user, store_token_fn fn, void *ctx) {
  struct store_key prefix = store_key_u32(user);
  struct store_walk w = store_walk_prefix(t, DB_USER_TOKENS, &prefix);
  MDB_val v;
  char id[STORE_TOKEN_ID_TEXT];
  while (store_walk_next(&w, &v) && index_id(&w, id) == 0) {
    struct store_token k;
    int rc = store_token_get(t, id, &k);
    if (rc == PERR_NOTFOUND) store_fail(t, PERR_CORRUPT, "store: token %s is in the index only", id);
    if (rc || !fn(ctx, &k)) break;
  }
  return t->error;
}

int store_tokens_drop(struct store_txn *t, uint32_t user) {
  struct store_key prefix = store_key_u32(user);
  struct store_walk w = store_walk_prefix(t, DB_USER_TOKENS, &prefix);
  MDB_val v;
  char id[STORE_TOKEN_ID_TEXT];
  while (store_walk_next(&w, &v) && index_id(&w, id) == 0) {
    struct store_key key = store_key_text(id);
    store_db_del(t, DB_TOKENS, &key);
    store_db_del(t, DB_USER_TOKENS, &w.at);
  }
  return t->error;
}
