// listener: a TCP socket that accepts, on one loop. Survives running out of descriptors: it rests for a second.
#ifndef POSTERN_NET_LISTENER_H
#define POSTERN_NET_LISTENER_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/net/loop.h"

struct listener;

// Takes `fd` (non-blocking, TCP_NODELAY and keepalive inherited). May close the listener.
typedef void (*listener_fn)(void *ctx, struct listener *l, int fd, const struct addr *peer);

// Binds and listens; IPv6 sockets are IPv6 only. The descriptor is the caller's. PERR_IN_USE, PERR_DENIED,
// PERR_NOTFOUND (the machine lacks the family or the address), PERR_LIMIT (descriptors), PERR_IO.
PERR_MUST_CHECK int listener_bind(const struct addr *a, int *fd);
// What an errno of socket, bind or listen means, for whoever binds another kind of socket.
int listener_bind_error(int error);
// Why it failed, for a person.
const char *listener_why(int code);

// Takes `fd` from listener_bind, also on failure (NULL). Accepts at once unless `paused`.
struct listener *listener_new(struct loop *l, int fd, bool paused, listener_fn fn, void *ctx);
void listener_pause(struct listener *ln);  // connections wait in the kernel's queue
void listener_resume(struct listener *ln);
// Gives the descriptor back, still listening, and frees the listener: for another owner or loop.
int listener_release(struct listener *ln);
void listener_close(struct listener *ln); // NULL is fine
const struct addr *listener_addr(const struct listener *ln); // as bound, with the real port

#endif
