// nsp_client: a client of the NSP protocol, dialect 1.4, as the stock one behaves, but with as many idle reverse
// connections as one likes.
#ifndef BENCH_NSP_CLIENT_H
#define BENCH_NSP_CLIENT_H
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

struct nsp_options {
  SSL_CTX *tls;
  uint16_t control_port, reverse_port, target_port; // of 127.0.0.1
  uint16_t wish;                                    // the public port that is asked for; 0: any
  const char *token;
  unsigned idle;
  bool disconnects; // a Disconnect follows each transfer
};

// What was counted since the last report.
struct nsp_counts {
  uint64_t transfers; // visitors that were given a connection
  uint64_t answered;  // of these, by the client itself
  uint64_t relayed;   // to the target
  uint64_t disconnects;
  uint64_t handshakes, resumed;
  uint64_t errors;
  char first_error[120];
};

struct nsp_client;

struct nsp_client *nsp_client_new(const struct nsp_options *o, int poller);
// Something happened to the connection that the poller named.
void nsp_client_ready(struct nsp_client *c, void *connection);
// To be called after each batch of events, and every second at least.
void nsp_client_tick(struct nsp_client *c);
void nsp_client_free(struct nsp_client *c);

// The public port once all idle connections stand, before 0.
uint16_t nsp_client_port(const struct nsp_client *c);
// Counting begins anew.
struct nsp_counts nsp_client_take_counts(struct nsp_client *c);
// So many errors, or such a one, that the run should end.
bool nsp_client_hopeless(const struct nsp_client *c);

#endif
