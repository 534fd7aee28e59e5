// err: the one list of error codes, and a bounded text for errors that a person reads.
//
// Functions return 0 or one of these negative codes; a predicate returns bool. Where a code alone cannot say what is
// wrong (configuration, files, certificates), the function also takes a struct err_text and writes one line into it.
#ifndef POSTERN_BASE_ERR_H
#define POSTERN_BASE_ERR_H

enum perr {
  PERR_OK = 0,
  PERR_AGAIN = -1,    // would block; wait for readiness
  PERR_EOF = -2,      // orderly end of the stream
  PERR_NOMEM = -3,    // out of memory
  PERR_INVALID = -4,  // an argument or a value is malformed
  PERR_NOTFOUND = -5, // no such thing
  PERR_EXISTS = -6,   // it is there already
  PERR_IN_USE = -7,   // somebody else holds it
  PERR_DENIED = -8,   // not permitted
  PERR_PROTOCOL = -9, // the peer broke the protocol
  PERR_LIMIT = -10,   // a limit is reached
  PERR_IO = -11,      // the system refused; errno says why at the place of the call
  PERR_FULL = -12,    // no room left in a store or a buffer
  PERR_CLOSED = -13,  // the object is closed
  PERR_RESET = -14,   // the peer aborted the connection
  PERR_TIMEOUT = -15, // took too long
  PERR_TRUNCATED = -16, // TLS ended without close_notify
  PERR_TLS = -17,     // TLS failed; the object holds the text
  PERR_CORRUPT = -18, // stored data does not parse
  PERR_VERSION = -19, // made by a version that this program does not understand
};

#define PERR_MUST_CHECK __attribute__((warn_unused_result))

// A short English text for a code; never NULL.
const char *perr_str(int code);

// One line for a person. Embedded in the caller's frame; always NUL-terminated.
struct err_text {
  char s[512];
};

// Formats into `e` (which may be NULL) and returns `code`, so that a caller can write `return err_set(e, PERR_X, …)`.
int err_set(struct err_text *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Puts "prefix: " before the text that is there already.
void err_prefix(struct err_text *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
