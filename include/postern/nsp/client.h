// client: the reverse side of one NSP session: for each of its apps the idle reverse connections, the visitors that
// wait for one, and the transfers. It knows how long the client has been silent and when it has to be given up, and
// leaves the rest to its owner. One loop's thread.
//
// An idle reverse connection that is given to a visitor carries him alone and ends with him (docs/nsp.md, "Reverse
// connections"). Which bytes go where is wire/nsp.h's; the page is nsp-wire.md, "Control methods", "Session logic".
#ifndef POSTERN_NSP_CLIENT_H
#define POSTERN_NSP_CLIENT_H

#include "postern/net/conn.h"
#include "postern/pipe/budget.h"
#include "postern/pipe/stream.h"
#include "postern/wire/nsp.h"

enum {
  NSP_WAIT_MS = 30 * 1000,    // how long a visitor waits for a reverse connection
  NSP_FIN_MS = 2 * 1000,      // a visitor's FIN is passed on once the client has sent nothing for so long
  NSP_CHECK_MS = 2 * 1000,    // from a CloseClient or Disconnect to what is made of it
  NSP_GONE_MS = 10 * 1000,    // from the end of the last reverse connection to giving up a client that stays silent
  NSP_STARVED_MS = 60 * 1000, // how long an app may be without a reverse connection while heartbeats come
  NSP_DISCARD_MS = 10 * 1000, // how long a visitor may go on sending to a client that has closed
  NSP_IDLE_MAX = 1024,        // idle connections of one client; a real one has one for each app
  NSP_DEAD_MIN_S = 90,        // the least time without heartbeat after which a client is dead
};

struct nsp_client;

// Why a client is to be given up.
enum nsp_loss {
  NSP_LOST_SILENT,  // no heartbeat for `dead_s`
  NSP_LOST_GONE,    // all of its reverse connections ended, and no heartbeat came since
  NSP_LOST_CLOSED,  // it said CloseClient, and its reverse connections are gone
  NSP_LOST_STARVED, // an app stays without reverse connection while heartbeats come: only a new start mends it
};

struct nsp_client_ops {
  // Told once. The owner ends the session; he may close the client in it.
  void (*on_lost)(void *ctx, enum nsp_loss why);
  // Whether the client has a reverse connection, idle or carrying, when that changes. One that it has ended is none,
  // even while its visitor is still there. Must not close the client.
  void (*on_linked)(void *ctx, bool linked);
};

struct nsp_client_settings {
  const struct nsp_dialect *dialect;
  int64_t dead_s;  // NSP_DEAD_MIN_S at least
  int64_t stall_s; // until a transfer with data pending that does not move is reset
  unsigned max_idle; // idle connections that are kept; at most NSP_IDLE_MAX are
};

// Borrows `b`, whose memory outlives the client's streams. NULL: no memory. The clock of heartbeats starts now.
struct nsp_client *nsp_client_new(struct loop *l, const struct nsp_client_settings *s, struct budget *b,
                                  const struct nsp_client_ops *ops, void *ctx);
// A new app, 1 to 255. PERR_NOMEM, PERR_EXISTS.
PERR_MUST_CHECK int nsp_client_add_app(struct nsp_client *c, uint8_t app);
// Takes a reverse connection whose opening was read and whose user was checked, attached to the loop: it becomes idle,
// or goes to the visitor who has waited longest. One for an app that is not there is closed.
void nsp_client_add_conn(struct nsp_client *c, uint8_t app, struct conn *conn);
// A stream for a visitor of the app, given the oldest idle connection at the end of this batch, or waiting for one.
// NULL: no such app, or no memory. The caller binds an end.
struct stream *nsp_client_open_stream(struct nsp_client *c, uint8_t app);
// A heartbeat was acknowledged: the client lives; every idle connection is sent a keepalive.
void nsp_client_heartbeat(struct nsp_client *c);
// The client, or somebody who says so, sent CloseClient. Starts the check, unless one is under way.
void nsp_client_check(struct nsp_client *c);
// The client sent Disconnect for a transfer of its own: what is on its way still arrives, then the transfer ends.
// Unknown ids are ignored.
void nsp_client_disconnect(struct nsp_client *c, const uint8_t transfer[NSP_TRANSFER_ID]);
// Resets every stream with `reason`, closes every connection. `for_good`: the client is told not to come back (06),
// where its dialect knows that. Idempotent; calls nothing back but the streams' ends; freed by the reaper.
void nsp_client_close(struct nsp_client *c, enum stream_reason reason, bool for_good);

#endif
