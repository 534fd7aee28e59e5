// store: what the gateway keeps on disk — users, tokens, bans, bounds, limits, claims, audit — and the one way to it.
//
// Everything happens inside a transaction. Reads are short snapshots on any thread; a write transaction blocks until
// no other process or thread writes, so in the gateway only the store thread (writer.h) begins one. Errors stick to
// the transaction: after the first failure every call returns it and store_commit returns it too, so a caller may
// test once. "Not found" is an answer and does not stick; "exists" and "invalid" do, so look first where you can go on.
// Each change that live sessions must hear of is appended to the change sequence in the same transaction. No LMDB type
// shows here: a replicated store can stand behind it.
#ifndef POSTERN_STORE_STORE_H
#define POSTERN_STORE_STORE_H

#include "postern/base/addr.h"
#include "postern/base/crypto.h"
#include "postern/base/err.h"
#include "postern/base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_txn;

enum {
  STORE_USER_ID_MAX = 60000, // NSP carries user ids in 16 bits; the ids above are for anonymous users
  STORE_ANONYMOUS_ID_MAX = 65000,
  STORE_LABEL_TEXT = 129,
  STORE_REASON_TEXT = 257,
  STORE_TOKEN_ID_TEXT = 13, // 12 hex digits
  STORE_MAX_RANGES = 16,    // port ranges in one user's limits
  STORE_MAX_HOSTS = 16,     // host patterns in one user's limits
};

// ---- environment ----

enum store_open_flags { STORE_CREATE = 1, STORE_READ_ONLY = 2 };

// Opens the environment in folder `path` (made with mode 0700 by STORE_CREATE; files 0600), checks the schema version
// and migrates an older one. The line in `e` names the folder and what is wrong (missing, not writable, made by a
// newer version, another process without room…). The lock against opening twice in one process is the caller's.
PERR_MUST_CHECK int store_open(struct store **out, const char *path, int flags, struct err_text *e);
void store_close(struct store *s);
// Id of the last committed transaction of any process; a cheap read of shared memory.
uint64_t store_last_txn(struct store *s);
// A consistent, compacted copy into `file` (must not exist; mode 0600), as a single data file that store_open can
// read when it is named data.mdb in a folder. Safe while others write.
PERR_MUST_CHECK int store_backup(struct store *s, const char *file, struct err_text *e);

// ---- transactions ----

enum store_mode { STORE_READ, STORE_WRITE };

// Never NULL but for want of memory. A failed begin shows as the sticky error of the first use.
struct store_txn *store_begin(struct store *s, enum store_mode mode);
// The sticky error, 0 while all is well; the text names the system's reason (map full, disk full, …).
int store_error(const struct store_txn *t, struct err_text *e);
// Ends the transaction either way. A read transaction is simply ended. PERR_FULL when disk or map are full.
PERR_MUST_CHECK int store_commit(struct store_txn *t, struct err_text *e);
void store_abort(struct store_txn *t);

// ---- users ----

struct store_user {
  uint32_t id;
  char name[NAME_TEXT];
  int64_t created; // wall seconds
  bool anonymous;  // made for a client that gave no credential; may be used again once it is removed
};

// Return from an iteration callback: true goes on.
typedef bool (*store_user_fn)(void *ctx, const struct store_user *u);

// Whether a name begins like those of anonymous users, which nobody else can have.
bool store_name_reserved(const char *name);
// New id: the next one, never one that was used before. PERR_EXISTS, PERR_INVALID (name), PERR_LIMIT (ids used up).
int store_user_add(struct store_txn *t, const char *name, int64_t now, struct store_user *out);
int store_user_get(struct store_txn *t, uint32_t id, struct store_user *out);
int store_user_find(struct store_txn *t, const char *name, struct store_user *out);
// With its password, tokens, ban, limits, bounds and claims.
int store_user_remove(struct store_txn *t, uint32_t id);
int store_user_each(struct store_txn *t, store_user_fn fn, void *ctx); // by id

// ---- anonymous users: users like the others, with ids of their own and a note of when they were last active ----

// As store_user_add: `anonymous-ID`, the ids STORE_USER_ID_MAX + 1 to STORE_ANONYMOUS_ID_MAX in turn, without those in
// use. It was last active `now`. PERR_LIMIT: all ids are in use.
int store_anonymous_add(struct store_txn *t, int64_t now, struct store_user *out);
// Not a change that sessions hear of. PERR_NOTFOUND: there is no such anonymous user.
int store_anonymous_touch(struct store_txn *t, uint32_t user, int64_t now);
uint64_t store_anonymous_count(struct store_txn *t);

// Return: true goes on.
typedef bool (*store_anonymous_fn)(void *ctx, uint32_t user, int64_t last_active);
int store_anonymous_each(struct store_txn *t, store_anonymous_fn fn, void *ctx); // by id

// ---- passwords ----

enum { STORE_SALT_LEN = 16 };

// What scrypt makes of a password (core/password.h).
struct store_password {
  uint32_t n, r, p; // the cost; whoever computes with them checks them first
  uint8_t salt[STORE_SALT_LEN];
  uint8_t hash[SHA256_LEN];
};

// Replaces an older one; not a change that sessions hear of. PERR_DENIED: an anonymous user has none.
int store_password_set(struct store_txn *t, uint32_t user, const struct store_password *p);
int store_password_get(struct store_txn *t, uint32_t user, struct store_password *out);
int store_password_remove(struct store_txn *t, uint32_t user); // PERR_NOTFOUND when there is none

// ---- tokens ----

struct store_token {
  char id[STORE_TOKEN_ID_TEXT];
  uint32_t user;
  uint8_t hash[SHA256_LEN]; // of the whole token text
  char label[STORE_LABEL_TEXT];
  int64_t created, expires; // expires 0: never
  int64_t last_used;        // 0: never
  int64_t revoked;          // 0: not
  char last_peer[ADDR_TEXT];
  bool enrol;   // void when not used within 24 hours of its creation
  uint64_t seq; // grows from token to token, whatever the clock does; store_token_add sets it; 0: made before schema 2
};

typedef bool (*store_token_fn)(void *ctx, const struct store_token *k);

int store_token_add(struct store_txn *t, const struct store_token *k); // PERR_EXISTS: the id is taken
int store_token_get(struct store_txn *t, const char *id, struct store_token *out);
// Marks as revoked; revoking twice is fine. The record stays, so that its use is answered "revoked".
int store_token_revoke(struct store_txn *t, const char *id, int64_t now);
// Notes a use; not a change that sessions hear of.
int store_token_touch(struct store_txn *t, const char *id, int64_t now, const char *peer);
// As revoking, but the record goes as well. PERR_NOTFOUND.
int store_token_remove(struct store_txn *t, const char *id);
int store_token_each(struct store_txn *t, uint32_t user, store_token_fn fn, void *ctx);

// ---- bans ----

struct store_ban {
  int64_t since, until; // until 0: for good
  char reason[STORE_REASON_TEXT];
};

int store_ban_put(struct store_txn *t, uint32_t user, const struct store_ban *b);
int store_ban_get(struct store_txn *t, uint32_t user, struct store_ban *out); // also one that has run out
int store_ban_remove(struct store_txn *t, uint32_t user);                     // PERR_NOTFOUND when there is none

// ---- limits of a user ----

struct store_range {
  uint16_t low, high;
};

struct store_limits {
  int64_t tunnels, connections, instances; // -1: the default
  struct store_range ports[STORE_MAX_RANGES];
  unsigned nports; // 0: whatever the gateway allows
  char hosts[STORE_MAX_HOSTS][HOST_TEXT];
  unsigned nhosts; // 0: whatever the gateway allows
};

int store_limits_put(struct store_txn *t, uint32_t user, const struct store_limits *l);
// Fills defaults (-1, nothing) and returns 0 when the user has none of its own.
int store_limits_get(struct store_txn *t, uint32_t user, struct store_limits *out);

// ---- what can be bound to a user or claimed by a tunnel ----

enum store_kind { STORE_TCP = 1, STORE_UDP = 2, STORE_HOST = 3 };

struct store_resource {
  enum store_kind kind;
  uint16_t port;        // tcp, udp
  char host[HOST_TEXT]; // host: lower case, no trailing dot; "*.example.com" is a pattern of its own
};

// "tcp/2222", "udp/53", "host/App.example.com". PERR_INVALID otherwise.
PERR_MUST_CHECK int store_resource_parse(const char *text, struct store_resource *out);
const char *store_resource_format(const struct store_resource *r, char out[HOST_TEXT + 8]);

typedef bool (*store_bound_fn)(void *ctx, const struct store_resource *r, uint32_t user);

// PERR_EXISTS when it is bound to another user; binding to the same user again is fine.
int store_bind(struct store_txn *t, uint32_t user, const struct store_resource *r);
int store_unbind(struct store_txn *t, uint32_t user, const struct store_resource *r); // PERR_NOTFOUND: not this user's
int store_bound_get(struct store_txn *t, const struct store_resource *r, uint32_t *user);
int store_bound_each(struct store_txn *t, uint32_t user, store_bound_fn fn, void *ctx); // user 0: all

// Which tunnel had a resource last, and until when it was in use.
struct store_claim {
  struct store_resource what;
  uint32_t user;
  char instance[NAME_TEXT], tunnel[NAME_TEXT];
  int64_t last_used; // wall seconds
};

typedef bool (*store_claim_fn)(void *ctx, const struct store_claim *c);

// One claim per resource; the newer replaces the older. Not a change that sessions hear of.
int store_claim_put(struct store_txn *t, const struct store_claim *c);
int store_claim_each(struct store_txn *t, store_claim_fn fn, void *ctx);

// ---- audit ----

struct store_audit {
  int64_t at_ms;   // wall milliseconds
  char actor[96];  // "cli:uid 0", "gateway", a peer address
  char action[48]; // "user.add", "auth.fail", "session.open", …
  char user[NAME_TEXT];
  char detail[512]; // free text
  uint32_t count;   // how many events this row stands for
};

typedef bool (*store_audit_fn)(void *ctx, const struct store_audit *a);

int store_audit_add(struct store_txn *t, const struct store_audit *a);
int store_audit_each(struct store_txn *t, int64_t since_ms, store_audit_fn fn, void *ctx); // oldest first
// Removes rows older than `before_ms` and the oldest above `rows`, at most `most` in this transaction.
int store_audit_prune(struct store_txn *t, int64_t before_ms, uint64_t rows, unsigned most);

// ---- changes ----

enum store_change_kind {
  STORE_CHANGED_USER = 1,
  STORE_CHANGED_TOKEN,
  STORE_CHANGED_BAN,
  STORE_CHANGED_BOUND,
  STORE_CHANGED_LIMITS
};

struct store_change {
  uint64_t seq;
  enum store_change_kind kind;
  uint32_t user;
};

typedef bool (*store_change_fn)(void *ctx, const struct store_change *c);

uint64_t store_change_last(struct store_txn *t);
// Those after `seq`, oldest first. The sequence keeps the last 10,000; PERR_NOTFOUND when `seq` is older than what is
// kept, or newer than the newest, and then the caller looks at everything anew.
int store_change_each(struct store_txn *t, uint64_t seq, store_change_fn fn, void *ctx);

#endif
