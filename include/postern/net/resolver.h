// resolver: name look-ups on a helper thread, answered on the asking loop. getaddrinfo may block for long; loops not.
#ifndef POSTERN_NET_RESOLVER_H
#define POSTERN_NET_RESOLVER_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/net/loop.h"

struct resolver;

enum { RESOLVE_MAX = 16 };

// `n` addresses in order of preference, port set; n 0: `error` is one line. Called on the resolver's loop.
typedef void (*resolve_fn)(void *ctx, const struct addr *addrs, unsigned n, const char *error);

struct resolver *resolver_new(struct loop *l); // starts the thread
// Waits for a look-up under way. Pending answers are dropped.
void resolver_free(struct resolver *r);
// An IP address is answered without the thread (still at the end of the batch). The id serves to cancel; 0: no memory.
uint64_t resolver_ask(struct resolver *r, const char *host, uint16_t port, resolve_fn fn, void *ctx);
// The answer will not come; an unknown or past id is fine.
void resolver_cancel(struct resolver *r, uint64_t id);

#endif
