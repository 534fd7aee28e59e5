// tls_tickets: session tickets of a server under keys that change every day. The ring of keys is shared by a context
// and its successors after a reload. For net's TLS modules alone.
#ifndef POSTERN_NET_TLS_TICKETS_H
#define POSTERN_NET_TLS_TICKETS_H

#include "postern/base/err.h"
#include <stdint.h>

struct tls;
struct ticket_ring;

enum { TICKET_NAME_LEN = 16, TICKET_SECRET_LEN = 32, TICKET_DAY_MS = 24 * 60 * 60 * 1000 };

struct ticket_key {
  uint8_t name[TICKET_NAME_LEN], aes[TICKET_SECRET_LEN], mac[TICKET_SECRET_LEN];
  uint64_t made_ms;
};

enum ticket_use {
  TICKET_UNKNOWN, // no such key, or it is too old
  TICKET_GOOD,
  TICKET_RENEW, // the previous day's: the ticket is good, and a new one is due
};

// Counted; any thread. NULL for want of memory.
struct ticket_ring *ticket_ring_new(uint64_t now_ms);
struct ticket_ring *ticket_ring_ref(struct ticket_ring *r);
void ticket_ring_unref(struct ticket_ring *r); // NULL is fine
// Copies of keys, for the caller to wipe. `now_ms` is monotonic.
void ticket_ring_current(struct ticket_ring *r, uint64_t now_ms, struct ticket_key *out);
enum ticket_use ticket_ring_find(struct ticket_ring *r, const uint8_t name[TICKET_NAME_LEN], uint64_t now_ms,
                                 struct ticket_key *out);

// Makes the context issue and take tickets by t->ring.
PERR_MUST_CHECK int tls_tickets_use(struct tls *t);

#endif
