// udp: UDP sockets on one loop: bound ones that many peers send to, and connected ones that lead to one. Datagrams are
// read and sent many at a time; nothing is queued here beyond the batch of events.
#ifndef POSTERN_NET_UDP_H
#define POSTERN_NET_UDP_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/net/loop.h"

struct udp;

struct udp_packet {
  const uint8_t *data; // NULL when len is 0
  size_t len;
  struct addr peer;  // unset on a connected socket
  struct addr local; // bound sockets: the address that was sent to, without port, or unset; answers come from there
};

struct udp_ops {
  // `n` datagrams came; borrowed. May close the socket.
  void (*on_packets)(void *ctx, struct udp *u, const struct udp_packet *p, unsigned n);
  // Connected sockets: the peer refuses (an errno, ECONNREFUSED first of all). NULL: nobody wants to know. May close.
  void (*on_error)(void *ctx, struct udp *u, int error);
};

// Binds; never shares the port with another socket; IPv6 sockets are IPv6 only. The descriptor is the caller's.
// Errors as of listener_bind.
PERR_MUST_CHECK int udp_bind(const struct addr *a, int *fd);
PERR_MUST_CHECK int udp_connect(const struct addr *to, int *fd);

// Takes `fd`, also on failure (NULL). `ops` and `ctx` are borrowed.
struct udp *udp_new(struct loop *l, int fd, bool paused, const struct udp_ops *ops, void *ctx);
void udp_pause(struct udp *u); // datagrams wait in the kernel's buffer, or are lost there
void udp_resume(struct udp *u);
// Copies the datagram and sends it at the end of this batch of events, with its neighbours. `to` is NULL on connected
// sockets; `local` may be NULL. What the kernel does not take is dropped and counted.
void udp_send(struct udp *u, const uint8_t *data, size_t len, const struct addr *to, const struct addr *local);
// How many datagrams were lost since the last call: not taken by the kernel, or come when its buffer was full.
uint64_t udp_take_drops(struct udp *u);
// Gives the descriptor back, still bound, and frees the rest.
int udp_release(struct udp *u);
void udp_close(struct udp *u); // NULL is fine

#endif
