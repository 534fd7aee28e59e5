// auth: who a credential belongs to, and whether that user is allowed now. One read transaction a call, any thread.
#ifndef POSTERN_CORE_AUTH_H
#define POSTERN_CORE_AUTH_H

#include "postern/core/limits.h"
#include "postern/store/store.h"

// The reasons of `auth.fail` in the contract, and of the refusal that the agent gets.
enum auth_result {
  AUTH_OK,
  AUTH_UNKNOWN_TOKEN,
  AUTH_REVOKED,
  AUTH_EXPIRED,
  AUTH_BANNED,
  AUTH_MALFORMED,
  AUTH_LIMIT,
  AUTH_CERTIFICATE,
  AUTH_HANDSHAKE,
  AUTH_INSTANCE_BUSY,
  AUTH_STORE, // the store could not be read; a temporary refusal, logged as an error and not the peer's fault
};

const char *auth_reason(enum auth_result r); // "unknown_token", …; AUTH_STORE is "unavailable"

struct identity {
  uint32_t user;
  char user_name[NAME_TEXT];
  char token_id[STORE_TOKEN_ID_TEXT]; // "": known without a token
  int64_t expires;                    // wall seconds when the token ends; 0: never
  int64_t certificate_ends; // the last wall second of the client certificate that was shown; 0: none was asked for
  struct limits limits;
  bool anonymous;
};

// Checks a token at wall time `now`. `until` is set for AUTH_BANNED (0: for good). `client_name` is the common name
// of the verified client certificate, or NULL where none is asked for; another name than the user's is
// AUTH_CERTIFICATE. Of a genuine token that is refused, `out` has its user's name and nothing else that counts.
enum auth_result auth_token(struct store *s, const char *token, const char *client_name, int64_t now,
                            struct identity *out, int64_t *until);
// The identity of a user who is known without a token: by a verified client certificate with that common name, or as
// an anonymous one. AUTH_UNKNOWN_TOKEN: there is no such user; AUTH_BANNED sets `until`. Of a user that is refused,
// `out` has the name and nothing else that counts.
enum auth_result auth_user(struct store *s, const char *name, int64_t now, struct identity *out, int64_t *until);
// Whether a session that was let in may stay: user there, not banned, token (where it has one) neither revoked nor
// expired, certificate not ended. Refreshes id->limits and id->expires.
enum auth_result auth_recheck(struct store *s, struct identity *id, int64_t now, int64_t *until);
// Whether time alone has ended what a session was let in for: AUTH_OK, AUTH_EXPIRED or AUTH_CERTIFICATE.
enum auth_result auth_lapsed(const struct identity *id, int64_t now);

#endif
