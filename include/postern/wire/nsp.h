// nsp: the messages of the NSP protocol, one codec each, and the one table that says how its dialects differ. Pure
// functions over bytes, on any thread; nothing is allocated. Whoever needs to know what a client understands asks the
// dialect's fields here, never its name. The sections named below are those of the page nsp-wire.md.
//
// Integers are big-endian, but the length of a compressed block, and in "1.4" the UDP lengths towards the client.
#ifndef POSTERN_WIRE_NSP_H
#define POSTERN_WIRE_NSP_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  NSP_TOKEN_MAX = 4096, // a longer declared length is malformed
  NSP_APPS_MAX = 255,   // the count is one byte
  NSP_HOST_LEN = 1024,  // of the record's fields
  NSP_DESCRIPTION_LEN = 96,
  NSP_RECORD_MAX = 2 + 1 + 1 + NSP_HOST_LEN + NSP_DESCRIPTION_LEN,
  NSP_OPENING_MAX = 1 + 2 + NSP_TOKEN_MAX, // first byte, length, token
  NSP_HEAD_MAX = NSP_OPENING_MAX + 2 + 1,  // of a request, up to its records: client id, count
  NSP_ANSWER_MAX = 2 + 3 * NSP_APPS_MAX,
  NSP_TRANSFER_ID = 4,
  NSP_CONTROL_MAX = 10,    // what a client reads of a control message at once
  NSP_UDP_ADDR_MAX = 64,   // the gateway chooses the address that a client echoes
  NSP_UDP_IN_MAX = 65507,  // data from the client
  NSP_UDP_OUT_MAX = 32767, // data to the client, whose length is signed
  NSP_UDP_FRAME_MAX = NSP_CONTROL_MAX + 2 + NSP_UDP_ADDR_MAX + 2 + 2 + NSP_UDP_OUT_MAX, // to the client
  NSP_BLOCK_HEADER = 4,
  NSP_BLOCK_MAX = 16 * 1024 * 1024, // of a compressed block: a client makes one of whatever one read gave it
};

// ---- dialects ("Dialects", "Older clients") ----

enum nsp_order { NSP_ORDER_NONE, NSP_ORDER_BE, NSP_ORDER_LE };
enum nsp_compression {
  NSP_COMPRESSION_NONE,
  NSP_COMPRESSION_UNFRAMED, // one read is one block: nobody can carry that over a byte stream, so it is refused
  NSP_COMPRESSION_FRAMED,   // each block behind its length
};

struct nsp_dialect {
  const char *name;
  // The record of an app: port BE16, then these fields in this order, each of so many bytes; 0 where there is none.
  uint16_t protocol_len, compress_len, host_len, description_len;
  bool token;        // a request carries one; else the client must be known otherwise
  bool old_id_first; // Reconnect tells first which client it was
  bool adds_apps;    // a second request of a live client adds apps, ids go on; else it replaces the session
  bool reverse_auth; // a reverse connection opens with F9 and the token, and waits for an auth byte before the ids
  uint8_t transfer_id_len;     // of the id in a transfer, which Disconnect names later; 0: there are none
  bool keepalive, force_close; // whether the client knows these control messages
  uint8_t control_len;         // control messages are padded with zeros to this length; 0: they are not
  enum nsp_order udp_to_client, udp_from_client; // of the UDP lengths; none: the client has no UDP
  enum nsp_compression compression;
};

// By name, "0.4", "0.8", "hosts", "1.0", "1.2" or "1.4"; NULL for any other.
const struct nsp_dialect *nsp_dialect_find(const char *name);
// By place in that order, which is that of the configuration's values; NULL beyond it.
const struct nsp_dialect *nsp_dialect_at(size_t index);
// Bytes of the record of one app.
size_t nsp_record_len(const struct nsp_dialect *d);

// ---- requests on the control channel ("Config port"; 0.4: excerpts 6, 9, 10) ----
//
//   01 Heartbeat            client id BE16
//   02 ClientNewAppRequest  token length BE16, token, client id BE16, count u8, count records
//   03 Reconnect            the same; 0.4: old client id BE16 first, and no token in 02 and 03
//   04 CloseClient          client id BE16
//   05 Disconnect           the 4 opaque bytes of a transfer

enum nsp_op {
  NSP_OP_HEARTBEAT = 1,
  NSP_OP_NEW_APPS = 2,
  NSP_OP_RECONNECT = 3,
  NSP_OP_CLOSE = 4,
  NSP_OP_DISCONNECT = 5
};
enum nsp_protocol { NSP_TCP = 0, NSP_HTTP = 1, NSP_UDP = 4 };

// Fields that the dialect does not have are 0 or "".
struct nsp_app {
  uint16_t port;
  uint8_t protocol; // enum nsp_protocol, or what nobody knows: nsp_app_refusal
  bool compress;
  char host[NSP_HOST_LEN + 1];               // printable ASCII, as it was written
  char description[NSP_DESCRIPTION_LEN + 1]; // meant to be UTF-8, not checked: to be escaped where it is shown
};

struct nsp_request {
  enum nsp_op op;
  uint16_t client_id;
  uint16_t old_id;                      // of Reconnect in 0.4
  uint8_t transfer_id[NSP_TRANSFER_ID]; // of Disconnect
  uint8_t count;                        // of apps
};

// HEAD → APPS (where the count is not 0) → DONE, or BAD for ever.
enum nsp_request_state { NSP_REQUEST_HEAD, NSP_REQUEST_APPS, NSP_REQUEST_DONE, NSP_REQUEST_BAD };

// Reads one request out of bytes that come in any pieces. May hold a token: wipe it when done.
struct nsp_request_parser {
  const struct nsp_dialect *dialect;
  enum nsp_request_state state;
  size_t need;                // bytes that are missing for sure; who never reads more, never reads too far
  struct nsp_request request; // from APPS or DONE on
  // Told of each app as its record is complete, `index` from 0; set before the first record is fed; NULL: they are
  // dropped. A record is large, and what the caller needs of it need not be.
  void (*on_app)(void *ctx, unsigned index, const struct nsp_app *app);
  void *ctx;
  const char *why;            // BAD: one static line
  unsigned napps;             // records that were read
  size_t have;                // bytes in `head`, then in `record`
  uint8_t head[NSP_HEAD_MAX]; // once it was read: the token
  uint8_t record[NSP_RECORD_MAX];
};

void nsp_request_init(struct nsp_request_parser *p, const struct nsp_dialect *d);
// Takes *used of `len` bytes. PERR_AGAIN: all were taken, at least `need` more must come. 0: the state has moved on, to
// APPS (bytes that were not taken are to be fed again) or DONE (nothing more is taken). PERR_PROTOCOL: BAD.
PERR_MUST_CHECK int nsp_request_feed(struct nsp_request_parser *p, const void *data, size_t len, size_t *used);
// Printable ASCII, "" where there is none or other bytes are in it; borrowed from `p`. From APPS or DONE on.
const char *nsp_request_token(const struct nsp_request_parser *p);
// Why the dialect cannot carry this app, one static line; NULL: it can.
const char *nsp_app_refusal(const struct nsp_dialect *d, const struct nsp_app *a);

// ---- answers on the control channel ("Config port", "Single-read assumptions of the client") ----

enum { NSP_ACK = 0x01 }; // to a heartbeat: this one byte

// To 02 and 03, after the whole request was read: exactly one byte, then the end.
enum nsp_error { NSP_ERROR_OTHER = 0x00, NSP_ERROR_AUTH = 0x03, NSP_ERROR_BANNED = 0x04 };

struct nsp_assignment {
  uint8_t app_id; // 1 to 255, all different
  uint16_t port;
};

// The config answer, to be sent in one write: client id BE16, then app id u8 and port BE16 for each app, in the order
// of the request. Returns its length; 0 when there are more than NSP_APPS_MAX.
size_t nsp_put_answer(uint8_t out[NSP_ANSWER_MAX], uint16_t client_id, const struct nsp_assignment *apps, size_t count);

// ---- reverse connections ("Reverse port") ----
//
//   F9 | token length BE16 | token      then the gateway writes an auth byte
//   client id BE16 | app id u8          0.4: these three bytes alone, and no auth byte

enum nsp_auth { NSP_AUTH_FAILED = 0x00, NSP_AUTH_OK = 0x01 };

// TOKEN (where the dialect has reverse_auth) → IDS → DONE, or BAD for ever.
enum nsp_reverse_state { NSP_REVERSE_TOKEN, NSP_REVERSE_IDS, NSP_REVERSE_DONE, NSP_REVERSE_BAD };

// Reads the opening of one reverse connection, not a byte further. May hold a token: wipe it when done.
struct nsp_reverse_parser {
  enum nsp_reverse_state state;
  size_t need;        // as of requests
  uint16_t client_id; // these two when DONE
  uint8_t app_id;
  const char *why; // BAD: one static line
  size_t have;
  uint8_t ids[3];
  uint8_t opening[NSP_OPENING_MAX]; // once it was read: the token
};

void nsp_reverse_init(struct nsp_reverse_parser *p, const struct nsp_dialect *d);
// As nsp_request_feed. 0: the token is there (IDS) and an auth byte is due, or the ids are (DONE).
PERR_MUST_CHECK int nsp_reverse_feed(struct nsp_reverse_parser *p, const void *data, size_t len, size_t *used);
// As nsp_request_token; from IDS on.
const char *nsp_reverse_token(const struct nsp_reverse_parser *p);

// ---- control messages on an idle reverse connection ("Control methods", "Control byte framing") ----
//
// Each is the whole message, to be sent in one write. The length is returned; 0: the client does not know this message.

enum nsp_control {
  NSP_CONTROL_TRANSFER = 1,
  NSP_CONTROL_KEEPALIVE = 3,
  NSP_CONTROL_UDP = 4,
  NSP_CONTROL_FORCE_CLOSE = 6
};

// The connection becomes a raw tunnel behind it.
size_t nsp_put_transfer(const struct nsp_dialect *d, const uint8_t id[NSP_TRANSFER_ID], uint8_t out[NSP_CONTROL_MAX]);
size_t nsp_put_keepalive(const struct nsp_dialect *d, uint8_t out[NSP_CONTROL_MAX]);
// The client stops for good. Where there is no such message, closing its connections has to do.
size_t nsp_put_force_close(const struct nsp_dialect *d, uint8_t out[NSP_CONTROL_MAX]);

// ---- datagrams on the reverse connection of a UDP app ("UDP") ----
//
//   to the client:    04, padded as control messages are | L address | port BE16 | L data
//   from the client:  L address | port BE16 | L data           L: a length of 16 bits, the order is the dialect's
//
// A client echoes address and port and looks at neither.
struct nsp_datagram {
  const uint8_t *addr;
  size_t addr_len;
  uint16_t port;
  const uint8_t *data;
  size_t len; // 0: a client waits for the next bytes before it delivers such a datagram
};

// Encodes into `out`, to be sent in one write; *len is set. PERR_INVALID: the client has no UDP. PERR_LIMIT: address or
// data are longer than NSP_UDP_ADDR_MAX or NSP_UDP_OUT_MAX. PERR_FULL: `cap` (NSP_UDP_FRAME_MAX is enough) does not do.
PERR_MUST_CHECK int nsp_put_datagram(const struct nsp_dialect *d, const struct nsp_datagram *g, uint8_t *out,
                                     size_t cap, size_t *len);
// Decodes the frame at the start of `len` bytes. 0: *g borrows from `data`, the frame has *size bytes. PERR_AGAIN: it
// has at least *size, more than `len`. PERR_PROTOCOL: *why is one static line.
PERR_MUST_CHECK int nsp_get_datagram(const struct nsp_dialect *d, const uint8_t *data, size_t len,
                                     struct nsp_datagram *g, size_t *size, const char **why);

// ---- blocks of a compressed tunnel ("Compressed tunnels") ----
//
//   length LE32 of the block | block

// `len`: 1 to NSP_BLOCK_MAX.
void nsp_put_block_header(uint8_t out[NSP_BLOCK_HEADER], uint32_t len);
// 0: *len is 1 to NSP_BLOCK_MAX. PERR_EOF: a length of 0 ends the stream. PERR_PROTOCOL: any other.
PERR_MUST_CHECK int nsp_get_block_header(const uint8_t in[NSP_BLOCK_HEADER], uint32_t *len);

#endif
