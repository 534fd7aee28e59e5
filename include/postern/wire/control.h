// control: the control messages of the trunk protocol, JSON in a CONTROL frame (docs/protocol.md, "Control messages").
// Strict: an unknown type, an unknown key, a key that is missing, of the wrong type or out of range is PERR_PROTOCOL,
// named in the error text.
#ifndef POSTERN_WIRE_CONTROL_H
#define POSTERN_WIRE_CONTROL_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  CONTROL_VERSION = 1,
  CONTROL_RUN_LEN = 16,
  CONTROL_TOKEN_TEXT = 4097, // the gateway judges the form of a token
  CONTROL_TEXT = 257,        // reasons, messages, descriptions
  CONTROL_IDLE_MAX_S = 86400,
};

enum control_type {
  CONTROL_HELLO,          // agent → gateway, first
  CONTROL_WELCOME,        // gateway → agent: the session is there
  CONTROL_END,            // either way: the session is over, or never began, and why
  CONTROL_TUNNEL_OPEN,    // agent → gateway
  CONTROL_TUNNEL_OPENED,  // gateway → agent
  CONTROL_TUNNEL_REFUSED, // gateway → agent
  CONTROL_TUNNEL_CLOSE,   // agent → gateway
  CONTROL_TUNNEL_CLOSED,  // gateway → agent: on request, or by the gateway's decision
  CONTROL_GOAWAY,         // either way: no new streams on this link; it ends by the deadline
};

// What became of the agent's earlier link of this run.
enum control_previous { CONTROL_PREVIOUS_NONE, CONTROL_PREVIOUS_LOST, CONTROL_PREVIOUS_DRAINING };

enum control_protocol { CONTROL_TCP, CONTROL_UDP };

// Bits of `features`; on the wire a list of names, of which unknown ones are ignored. A side uses what both have named.
enum control_feature {
  CONTROL_FEATURE_UDP = 1, // "udp": tunnels of that protocol, flows and datagrams
};
enum { CONTROL_FEATURES = CONTROL_FEATURE_UDP }; // those of these programs

struct control_hello {
  int64_t version;
  uint32_t features;
  char software[CONTROL_TEXT];
  char token[CONTROL_TOKEN_TEXT];
  char instance[NAME_TEXT];
  uint8_t run[CONTROL_RUN_LEN];
  enum control_previous previous;
};

struct control_welcome {
  int64_t version;
  uint32_t features;
  char software[CONTROL_TEXT];
  uint64_t session;
  char user[NAME_TEXT];
  bool resumed; // the session of this run went on, its tunnels are still there
  int64_t heartbeat_s, dead_s, dial_s, stall_s;
};

struct control_end {
  char reason[NAME_TEXT];      // a word of docs/protocol.md, "Reasons"
  char message[CONTROL_TEXT];  // for a person; may be empty
  int64_t until;               // wall seconds until when a temporary refusal holds; 0: not said
};

struct control_tunnel_open {
  uint32_t tunnel; // chosen by the agent, unique in its run
  char name[NAME_TEXT];
  enum control_protocol protocol;
  uint16_t port;
  bool strict_port;
  char description[CONTROL_TEXT];
  int64_t idle_s; // udp: until a silent flow ends; 0: as the gateway has it
};

struct control_tunnel_opened {
  uint32_t tunnel;
  uint16_t port;
  int64_t idle_s; // udp: what holds; 0: not udp
};

struct control_tunnel_refused {
  uint32_t tunnel;
  char reason[NAME_TEXT];
  char message[CONTROL_TEXT];
};

struct control_tunnel_close {
  uint32_t tunnel;
};

struct control_tunnel_closed {
  uint32_t tunnel;
  char reason[NAME_TEXT];
};

struct control_goaway {
  char reason[NAME_TEXT];
  int64_t deadline_s; // from now
};

struct control {
  enum control_type type;
  union {
    struct control_hello hello;
    struct control_welcome welcome;
    struct control_end end;
    struct control_tunnel_open tunnel_open;
    struct control_tunnel_opened tunnel_opened;
    struct control_tunnel_refused tunnel_refused;
    struct control_tunnel_close tunnel_close;
    struct control_tunnel_closed tunnel_closed;
    struct control_goaway goaway;
  };
};

// The frame's payload. PERR_PROTOCOL: *e names the key or type. `out` may hold a token: wipe it when done.
PERR_MUST_CHECK int control_decode(const uint8_t *data, size_t len, struct control *out, struct err_text *e);
// Encodes into `out`; *len is set. PERR_FULL when `cap` (FRAME_PAYLOAD_MAX is enough) does not do, PERR_NOMEM.
PERR_MUST_CHECK int control_encode(const struct control *c, uint8_t *out, size_t cap, size_t *len);

#endif
