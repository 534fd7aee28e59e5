// datagrams: datagrams one way to the target, and the target's side, which counts them.
#ifndef BENCH_DATAGRAMS_H
#define BENCH_DATAGRAMS_H
#include "tally.h"
#include <stdint.h>

// Datagrams of 200 bytes from `count` visitors, as fast as they arrive: now and then one asks the target how many came,
// and no more are under way than the answer is behind.
void datagrams_send(struct tally *t, uint16_t port, unsigned count, double seconds);

// The same, but no more than 60,000 a second.
void datagrams_send_paced(struct tally *t, uint16_t port, unsigned count, double seconds);

// A non-blocking socket on 127.0.0.1:port.
int datagrams_bind(uint16_t port);
// Takes what is there, and answers who asks.
void datagrams_take(int fd);

#endif
