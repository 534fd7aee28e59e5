// nsp_relay: a tunnel between the gateway and a real target.
#ifndef BENCH_NSP_RELAY_H
#define BENCH_NSP_RELAY_H
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

struct relay;

// Dials 127.0.0.1:port for a tunnel, of which `len` bytes have come already; NULL with errno. The poller tells of the
// target's socket under `of`.
struct relay *relay_new(int poller, void *of, uint16_t port, const void *first, size_t len);
void relay_free(struct relay *r); // closes the target's socket

// Moves what can be moved. False when either side has ended or failed: the stock client then closes both.
bool relay_pump(struct relay *r, SSL *ssl);

#endif
