// exchange: visitors that send a small message and wait for its echo.
#ifndef BENCH_EXCHANGE_H
#define BENCH_EXCHANGE_H
#include "tally.h"
#include <stdint.h>

// New connections, `count` at a time: connect, exchange 16 bytes, close, again.
void exchange_connect(struct tally *t, uint16_t port, unsigned count, double seconds);

// Round trips of 64 bytes, one at a time on each of `count` connections.
void exchange_ping(struct tally *t, uint16_t port, unsigned count, double seconds);

// Opens `count` connections, exchanges 16 bytes on each, prints {"held":N} and keeps them idle until a line comes on
// stdin; then each must answer once more.
void exchange_hold(struct tally *t, uint16_t port, unsigned count, double unused);

#endif
