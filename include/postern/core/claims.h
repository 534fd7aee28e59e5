// claims: which tunnel holds each port, or had it last, in memory and through the writer on disk. The table behind
// ports.h, whose lock is around every call.
#ifndef POSTERN_CORE_CLAIMS_H
#define POSTERN_CORE_CLAIMS_H

#include "postern/base/hash.h"
#include "postern/store/store.h"
#include "postern/store/writer.h"

enum { CLAIMS_PORTS = 65536, CLAIMS_KINDS = 2 };

// A tunnel, for one kind of port. Hashed as a whole: make it with claim_key, which zeroes what the names leave over.
struct claim_key {
  uint32_t kind, user;
  char instance[NAME_TEXT], tunnel[NAME_TEXT];
  char zero[2]; // what would be padding otherwise
};
_Static_assert(sizeof(struct claim_key) == 2 * sizeof(uint32_t) + 2 * NAME_TEXT + 2, "a key has no padding");

struct claim {
  struct claim_key key;
  uint16_t port;
  bool latest;       // the port that its tunnel took last
  bool forgotten;    // its user was removed while it was held
  bool waiting;      // held by a session that took it over from another, and not asked for since
  uint64_t session;  // 0: not held
  int64_t last_used; // wall seconds
  UT_hash_handle hh; // in claims.latest, while `latest`
};

// Invariants: by_port[k][n] has kind k and port n; `latest` holds exactly the claims that have `latest` set, one for
// each tunnel; of the claims of one tunnel the latest has the highest last_used, so that a restart finds it again.
struct claims {
  struct writer *writer;
  struct claim *by_port[CLAIMS_KINDS][CLAIMS_PORTS];
  struct claim *latest;
};

struct claim_key claim_key(enum store_kind kind, uint32_t user, const char *instance, const char *tunnel);
bool claim_key_equal(const struct claim_key *a, const struct claim_key *b);

// `c` is zeroed but for the writer. After an error claims_fini is still due.
PERR_MUST_CHECK int claims_load(struct claims *c, struct store *s, struct err_text *e);
void claims_fini(struct claims *c);

// NULL where nobody ever had the port.
struct claim *claims_at(const struct claims *c, enum store_kind kind, uint16_t port);
// The claim of the port that the tunnel took last, unless another tunnel had that port since.
struct claim *claims_latest(const struct claims *c, const struct claim_key *key);

// The tunnel holds the port from now on, whoever had it. `done` (may be NULL) is called once, on the store thread,
// with the outcome on disk. On error nothing has changed and `done` is not called.
PERR_MUST_CHECK int claims_take(struct claims *c, const struct claim_key *key, uint16_t port, uint64_t session,
                                int64_t now, writer_done_fn done, void *arg);
// Nobody holds the port any more; the time is noted. May free the claim.
void claims_release(struct claims *c, struct claim *claim, int64_t now);
void claims_move(struct claims *c, uint64_t from, uint64_t to);
// Notes the time in every claim that is held.
void claims_refresh(struct claims *c, int64_t now);
void claims_forget_user(struct claims *c, uint32_t user);

#endif
