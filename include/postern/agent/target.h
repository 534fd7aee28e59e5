// target: where a tunnel leads. A literal address is known at once; a name is looked up for the visitors that come,
// together where they come together, and known for a few seconds.
#ifndef POSTERN_AGENT_TARGET_H
#define POSTERN_AGENT_TARGET_H

#include "postern/base/addr.h"
#include "postern/net/loop.h"
#include "postern/net/resolver.h"
#include <stdbool.h>
#include <stdint.h>

// The addresses of a name, counted. Tried in turn from `first`, which moves to the one that answered.
struct addr_set {
  unsigned refs, n, first;
  struct addr addrs[];
};

struct target_wait;

// The look-up has ended: `set` is a reference that the callee owns, or NULL. The wait is over by then.
typedef void (*target_fn)(struct target_wait *w, struct addr_set *set);

// Embedded in whoever waits for a look-up.
struct target_wait {
  target_fn fn;
  struct target_wait *next, **prev; // prev NULL: not waiting
};

struct target {
  struct loop *loop;
  struct resolver *resolver;
  char host[HOST_TEXT];
  struct addr literal; // len 0: `host` is a name
  uint16_t port;
  struct addr_set *known; // until known_until_ms
  uint64_t known_until_ms;
  uint64_t look_up; // 0: none under way
  struct target_wait *waiting;
};

enum { TARGET_KNOWN_MS = 5000 };

// `r` is borrowed.
void target_init(struct target *t, struct loop *l, struct resolver *r, const char *host, uint16_t port);
// Nobody may wait any more.
void target_fini(struct target *t);
// The address that was written down; NULL: it is a name.
const struct addr *target_literal(const struct target *t);
// A new reference when the name is known; otherwise NULL, and w->fn is called later, never from within.
struct addr_set *target_look_up(struct target *t, struct target_wait *w);
void target_forget(struct target_wait *w); // also when it does not wait

struct addr_set *addr_set_ref(struct addr_set *s);
void addr_set_unref(struct addr_set *s); // NULL is fine
// Round and round.
const struct addr *addr_set_at(const struct addr_set *s, unsigned i);
// This one answered: others begin with it.
void addr_set_prefer(struct addr_set *s, unsigned i);

#endif
