// attempt: one try to reach the gateway: look the name up, dial each address in turn, TLS, hello, and its answer.
#ifndef POSTERN_AGENT_ATTEMPT_H
#define POSTERN_AGENT_ATTEMPT_H

#include "postern/net/conn.h"
#include "postern/net/loop.h"
#include "postern/net/resolver.h"
#include "postern/net/tls.h"
#include "postern/wire/control.h"
#include <stdint.h>

struct attempt;

// Exactly one of these is called, once, never from within attempt_start; the attempt is over by then.
struct attempt_ops {
  // The gateway let us in. Takes `c`, attached and beyond its greeting.
  void (*on_welcome)(void *ctx, struct conn *c, const struct control_welcome *w);
  // The gateway said no.
  void (*on_end)(void *ctx, const struct control_end *end);
  // No address led to an answer; `reason` is of the one that came furthest.
  void (*on_failed)(void *ctx, const char *reason);
};

// `hello` is copied, and wiped when the attempt is over; `tls` is counted; the rest is borrowed for the attempt's life.
// NULL for want of memory.
struct attempt *attempt_start(struct loop *l, struct resolver *r, const char *host, uint16_t port, struct tls *tls,
                              const struct control_hello *hello, const struct attempt_ops *ops, void *ctx);
// Gives up without a word; NULL is fine.
void attempt_cancel(struct attempt *a);

#endif
