// net: sockets of the loopback interface, the clock and the way out, for every part of the benchmark's programs.
#ifndef BENCH_NET_H
#define BENCH_NET_H
#include <stdint.h>

double clock_seconds(void);

// Prints what failed with errno's text and ends the program with 1.
__attribute__((noreturn)) void die(const char *what);

void raise_descriptor_limit(void);

// A listening, non-blocking socket on a free port of 127.0.0.1, which goes to *port.
int listen_loopback(uint16_t *port);

// A non-blocking socket on its way to 127.0.0.1:port, or -1 with errno.
int dial_loopback(uint16_t port);

int poller_new(void);
void poller_add(int poller, int fd, uint32_t events, void *of);
void poller_change(int poller, int fd, uint32_t events, void *of);

#endif
