// door_nsp: what the three files of the NSP side of the door share: requests (door_nsp.c), reverse connections
// (door_reverse.c), clients without a credential (door_anonymous.c). The handshake thread.
#ifndef POSTERN_GATEWAY_DOOR_NSP_H
#define POSTERN_GATEWAY_DOOR_NSP_H

#include "postern/gateway/door_internal.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session_nsp.h"

// Closes, and counts.
void nsp_caller_ignore(struct caller *c, enum nsp_ignored what);

// What clients of this gateway speak.
const struct nsp_dialect *nsp_caller_dialect(const struct caller *c);

// ---- proof (docs/nsp.md, "Proof") ----

struct nsp_proof nsp_caller_proof(struct caller *c);
// Whether the peer is the one that authenticated for this session: by TLS lineage or client certificate.
bool nsp_caller_proves(struct caller *c, const struct registry_view *v);
// The same for an anonymous client; one that came without TLS, and without a token, is known by its address alone.
bool nsp_caller_owns_anonymous(struct caller *c, const struct registry_view *v);
// Whether the peer is the one whose place the session took: by TLS lineage, or by the token that it shows ("": none). It
// was not told to stop when no connection of it was idle.
bool nsp_caller_displaced(struct caller *c, const struct registry_view *v, const char *token_id);
// The live NSP session of a user.
bool nsp_caller_session(struct caller *c, uint32_t user, struct registry_view *v);
// Who a client is by its token, or by its certificate where the dialect has no token. *anonymous: by neither, and that
// is allowed; `who` is nobody then. Of a genuine credential that is refused, `who` has the user's name.
enum auth_result nsp_caller_check(struct caller *c, const char *token, struct identity *who, bool *anonymous);

// ---- answers ----

void nsp_caller_say(struct caller *c, uint8_t byte);
// The error byte for it, and the end.
void nsp_caller_refuse_auth(struct caller *c, enum auth_result r, const char *user);
// The request, read whole and fit to be served, is granted to this user.
void nsp_caller_grant(struct caller *c, const struct identity *who);

// ---- door_anonymous.c ----

// The request comes without a credential, and may: continues the client's session, or makes a user for it.
void nsp_anonymous_grant(struct caller *c, const struct nsp_request *q);

#endif
