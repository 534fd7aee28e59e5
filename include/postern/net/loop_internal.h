// loop_internal: what net's other files need of a loop. Not for other layers.
#ifndef POSTERN_NET_LOOP_INTERNAL_H
#define POSTERN_NET_LOOP_INTERNAL_H

#include "postern/net/loop.h"

struct conn;
struct udp_batch;

// CONN_OUT_HIGH, and above it two records and a close_notify.
enum { LOOP_BUFFER = 100 * 1024 };

// A buffer of LOOP_BUFFER bytes from the loop's small stock, or a fresh one; NULL for want of memory.
uint8_t *loop_buffer_get(struct loop *l);
void loop_buffer_put(struct loop *l, uint8_t *buf); // NULL is fine

// The loop's buffers for datagrams (udp.c); NULL until somebody needs them, freed with the loop.
struct udp_batch **loop_udp_batch(struct loop *l);
void udp_batch_free(struct udp_batch *b); // NULL is fine

// Conns that linger with no owner left: loop_free closes them.
struct conn **loop_lingering(struct loop *l);

// Conns whose abort may have gone unseen (conn.c, conn_suspect): looked at once a second.
struct conn **loop_suspects(struct loop *l);
void loop_watch_suspects(struct loop *l, void (*look)(struct loop *l));

#endif
