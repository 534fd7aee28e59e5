// target: the service behind every tunnel of the benchmark. The first byte of a connection chooses what it does.
#ifndef BENCH_TARGET_H
#define BENCH_TARGET_H

enum {
  TARGET_ECHO = 'e',    // every byte comes back; an end is answered with an end
  TARGET_DISCARD = 'd', // takes everything; says the number of bytes, a uint64_t, at least every TARGET_CONFIRM bytes
  TARGET_SOURCE = 's',  // sends without end
  TARGET_CONFIRM = 1 << 20
};

// Prints {"port":N} and serves until a signal ends the program.
__attribute__((noreturn)) void target_serve(void);

#endif
