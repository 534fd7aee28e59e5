// door_internal: what the protocols behind the door share. Everything on the handshake thread.
//
// A caller is one connection from accept until it is handed over, refused or closed. TLS comes first; then the protocol
// of its port, or the one it named by ALPN, reads what it has to say.
#ifndef POSTERN_GATEWAY_DOOR_INTERNAL_H
#define POSTERN_GATEWAY_DOOR_INTERNAL_H

#include "postern/base/hash.h"
#include "postern/core/auth.h"
#include "postern/gateway/door.h"
#include "postern/gateway/worker.h"
#include "postern/net/conn.h"
#include "postern/net/listener.h"
#include <sys/queue.h>

struct caller;
struct web;

// One protocol's part of a caller. `begin` runs once TLS is up.
struct caller_ops {
  const char *awaited; // what had not come when the time was over, for the log
  PERR_MUST_CHECK int (*begin)(struct caller *c); // makes c->talk; PERR_NOMEM
  void (*on_readable)(struct caller *c);
  void (*free)(void *talk); // wipes what may be a secret
};

extern const struct caller_ops trunk_caller_ops, nsp_caller_ops, reverse_caller_ops;

enum door_kind { DOOR_CONTROL, DOOR_REVERSE, DOOR_WEB };

struct door_port {
  struct door *door;
  struct listener *listener;
  enum door_kind kind;
  bool plaintext;
};

// HANDSHAKE → TALKING → GONE (handed over, refused or closed).
enum caller_state { CALLER_HANDSHAKE, CALLER_TALKING, CALLER_GONE };

struct caller {
  struct door *door;
  const struct door_port *port;
  struct conn *conn;
  struct addr peer;
  enum caller_state state;
  uint64_t since_ms;
  uint64_t id; // never used again: for answers that come later
  UT_hash_handle hh;
  const struct caller_ops *ops; // from TALKING on
  void *talk;                   // the protocol's, heap
  TAILQ_ENTRY(caller) all;
};

struct door {
  struct gateway *gateway;
  struct loop *loop;
  struct config *config;
  struct gateway_tls tls;
  struct web *web;             // NULL where NSP is off
  struct tries *anonymous;     // users made for clients without credential, by address
  struct door_port ports[3 * CONFIG_MAX_LISTEN + 3];
  unsigned nports;
  TAILQ_HEAD(, caller) callers; // the oldest first: the deadline is the same for all
  struct caller *by_id;
  uint64_t last_id;
  unsigned ncallers;
  struct loop_timer *deadline;
};

// ---- door.c ----

// NULL once it is gone.
struct caller *caller_find(struct door *d, uint64_t id);
// The caller's conn is somebody else's from now on.
void caller_forget(struct caller *c);
void caller_close(struct caller *c, enum conn_end how);

// ---- credential.c ----

// An `auth.fail` in log and audit. `user` NULL: nobody knows.
void caller_note_failure(struct caller *c, const char *reason, const char *user, const char *detail);
// Who the caller is: by token, or (NULL) by the client certificate alone.
enum auth_result caller_check(struct caller *c, const char *token, struct identity *who, int64_t *until);
const char *caller_explain(enum auth_result r);
// The common name of the client certificate, where one is required and shown; else "".
const char *caller_certificate(struct caller *c, char name[NAME_TEXT]);
// A place in the registry for the session that `login` asks for, whose identity is a->who. AUTH_OK: `a` is filled, and
// caller_hand_over follows. Else nothing was changed, and the caller is refused for that reason.
enum auth_result caller_enter(struct caller *c, struct arrival *a, const struct registry_login *login, int64_t *until);
// Takes `a` and the caller.
void caller_hand_over(struct caller *c, struct arrival *a);

#endif
