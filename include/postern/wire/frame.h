// frame: the frames of the trunk protocol (docs/protocol.md, "Frames"). Pure functions over bytes.
#ifndef POSTERN_WIRE_FRAME_H
#define POSTERN_WIRE_FRAME_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include <stddef.h>
#include <stdint.h>

enum {
  FRAME_HEADER = 8,
  FRAME_MAX = 16384, // header included: one TLS record
  FRAME_PAYLOAD_MAX = FRAME_MAX - FRAME_HEADER,
  FRAME_OPEN_MAX = 4 + 1 + 2 + 16,
  FRAME_DATAGRAM_MAX = 65507,
};

enum frame_type {
  FRAME_CONTROL = 1,  // JSON control message; stream 0
  FRAME_OPEN = 2,     // gateway → agent: tunnel u32, visitor's address
  FRAME_OPENED = 3,   // agent → gateway: the target was reached
  FRAME_DATA = 4,     // 1 and more bytes
  FRAME_FIN = 5,      // the sender's direction has ended
  FRAME_RESET = 6,    // reason u8
  FRAME_CREDIT = 7,   // u32: bytes more
  FRAME_PING = 8,     // 8 opaque bytes; stream 0
  FRAME_PONG = 9,     // the same 8 bytes
  FRAME_DATAGRAM = 10, // a piece of a datagram of a flow
  FRAME_FLOW = 11,     // gateway → agent: a flow begins; tunnel u32, visitor's address
  FRAME_FLOW_END = 12, // reason u8
  FRAME_TYPES
};

// Bits of `flags` in a DATAGRAM; all other frames have flags 0.
enum { FRAME_FIRST = 1, FRAME_LAST = 2 };

struct frame {
  uint8_t type, flags;
  uint16_t len;    // of the payload
  uint32_t stream; // or flow; 0 for control, ping, pong
};

// Writes the 8 header bytes.
void frame_put_header(uint8_t out[FRAME_HEADER], const struct frame *f);
// Reads and checks a header: known type, flags, the length that the type allows, stream 0 or not as the type wants.
// PERR_PROTOCOL with *why set to one static line.
PERR_MUST_CHECK int frame_get_header(const uint8_t in[FRAME_HEADER], struct frame *f, const char **why);

// OPEN's payload, and FLOW's. The address may be unset (family 0).
struct frame_open {
  uint32_t tunnel;
  struct addr visitor;
};
size_t frame_put_open(uint8_t out[FRAME_OPEN_MAX], const struct frame_open *o);
PERR_MUST_CHECK int frame_get_open(const uint8_t *in, size_t len, struct frame_open *o);

#endif
