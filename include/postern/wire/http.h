// http: the head of an HTTP/1.x request, read strictly (RFC 9112; terms and fields as in RFC 9110). Pure functions over
// the bytes that have come so far. For whoever answers HTTP himself, and for whoever only looks for the Host.
//
// What two programs in a row could read differently is an error here, for that is how requests are smuggled: bare CR or
// LF, folded lines, blanks before the colon, two lengths, a length beside a transfer coding.
#ifndef POSTERN_WIRE_HTTP_H
#define POSTERN_WIRE_HTTP_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  HTTP_HEAD_MAX = 32 * 1024, // no caller may allow a longer head
  HTTP_FIELDS_MAX = 100,
};

// Bytes of the caller's buffer, not NUL-terminated.
struct http_slice {
  const char *p;
  size_t len;
};

// Where something stands in the head.
struct http_span {
  uint16_t at, len;
};

enum http_state { HTTP_REQUEST_LINE, HTTP_FIELDS, HTTP_DONE, HTTP_BAD };

// Invariant: line <= scanned <= max; everything before `line` is parsed, and of [line, scanned) is known that no line
// ends in it. The spans lie before `line`.
struct http_head {
  enum http_state state;
  int error;       // HTTP_BAD: what http_head_parse answers from then on
  const char *why; // HTTP_BAD: static text, which names no byte of the peer's
  size_t max, line, scanned;
  const char *buf; // of the last call; borrowed
  struct http_span method, target;
  unsigned minor; // of HTTP/1.minor: 0 or 1
  struct {
    struct http_span name, value;
  } fields[HTTP_FIELDS_MAX];
  unsigned nfields;
  // Framing, once HTTP_DONE (RFC 9112, section 6).
  bool has_length, coded; // Content-Length; any Transfer-Encoding
  uint64_t length;
  bool close, keep_alive; // tokens of Connection
};

// `max` is the most bytes that the head may have, its empty line included; at most HTTP_HEAD_MAX.
void http_head_init(struct http_head *h, size_t max);
// `buf` holds the head's first `len` bytes: those of the last call (at another place, if the buffer was moved) and what
// has come since; more than the head is fine. 0: complete, http_head_size bytes of it are the head. PERR_AGAIN: not yet.
// PERR_LIMIT: longer than `max`, or too many fields. PERR_VERSION: neither HTTP/1.0 nor 1.1. PERR_PROTOCOL: malformed.
// An error is final. The slices below point into the `buf` of the last call.
PERR_MUST_CHECK int http_head_parse(struct http_head *h, const void *buf, size_t len);
size_t http_head_size(const struct http_head *h);

struct http_slice http_method(const struct http_head *h);
struct http_slice http_target(const struct http_head *h);
// How many fields have the name (compared without case); *value is the first one's value, untouched when there is none.
unsigned http_field(const struct http_head *h, const char *name, struct http_slice *value);
// The i-th field, i < nfields.
void http_field_at(const struct http_head *h, unsigned i, struct http_slice *name, struct http_slice *value);
// Whether a body follows.
bool http_has_body(const struct http_head *h);
// Whether the connection may serve another request behind this one (RFC 9112, section 9.3).
bool http_persists(const struct http_head *h);

// Cuts a target in origin or absolute form (RFC 9112, section 3.2) into path and query, both as they stand there; the
// query is what follows the first '?', a '#' in it included, for clients send one. False: another form.
bool http_target_split(struct http_slice target, struct http_slice *path, struct http_slice *query);

bool http_slice_is(struct http_slice s, const char *text);      // byte for byte
bool http_slice_is_name(struct http_slice s, const char *text); // without ASCII case

#endif
