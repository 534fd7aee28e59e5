// web: the HTTP port of NSP clients: they log in there by user name and password, and learn the gateway's ports. On the
// handshake thread, whose loop it borrows; never blocks it: passwords are hashed by helper threads, tokens are written
// by the store thread.
//
// docs/nsp.md has the calls and what they answer.
#ifndef POSTERN_GATEWAY_WEB_H
#define POSTERN_GATEWAY_WEB_H

#include "postern/base/addr.h"
#include "postern/core/config.h"
#include "postern/net/conn.h"

struct gateway;
struct tries;
struct web;

enum {
  WEB_MOST = 1024,           // connections
  WEB_PER_ADDRESS = 64,      // of them, from one address (IPv6: one /64)
  WEB_WRONG_PER_MINUTE = 10, // wrong logins from one address, and for one user name
  WEB_HEAD_MAX = 8 * 1024,   // bytes of a request's head
};

// What GetServerPorts answers whoever came by a listener.
struct web_ports {
  uint16_t reverse, control, web;
};

// Before the loop runs. Borrows all three; `anonymous` counts the users made for an address, by whichever port.
PERR_MUST_CHECK int web_new(struct web **out, struct gateway *g, struct loop *l, struct tries *anonymous);
// After the loop's thread has ended and before loop_free; the store thread may go on. NULL is fine.
void web_free(struct web *w);
// Takes a connection whose TLS handshake is done, or a plain one. It may be closed at once.
void web_take(struct web *w, struct conn *c, const struct addr *peer, const struct web_ports *ports, bool plaintext);
// Takes a reference of its own. On the loop's thread.
void web_set_config(struct web *w, struct config *c);

#endif
