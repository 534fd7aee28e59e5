// err: texts for the error codes and the one-line error that a person reads. Any thread; owns nothing.
#include "postern/base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *perr_str(int code) {
  switch (code) {
  case PERR_OK: return "success";
  case PERR_AGAIN: return "not ready yet";
  case PERR_EOF: return "end of stream";
  case PERR_NOMEM: return "out of memory";
  case PERR_INVALID: return "invalid value";
  case PERR_NOTFOUND: return "not found";
  case PERR_EXISTS: return "exists already";
  case PERR_IN_USE: return "in use";
  case PERR_DENIED: return "not permitted";
  case PERR_PROTOCOL: return "protocol error";
  case PERR_LIMIT: return "limit reached";
  case PERR_IO: return "input/output error";
  case PERR_FULL: return "no room left";
  case PERR_CLOSED: return "closed";
  case PERR_RESET: return "connection reset";
  case PERR_TIMEOUT: return "timed out";
  case PERR_TRUNCATED: return "TLS ended without close_notify";
  case PERR_TLS: return "TLS error";
  case PERR_CORRUPT: return "stored data is damaged";
  case PERR_VERSION: return "made by another version";
  default: return "unknown error";
  }
}

// The pieces of an error may come from files and peers; they must not break the line.
static void keep_one_line(char *s) {
  for (; *s; s++)
    if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = ' ';
}

int err_set(struct err_text *e, int code, const char *format, ...) {
  if (!e) return code;
  struct err_text text; // an argument may point into *e
  va_list args;
  va_start(args, format);
  vsnprintf(text.s, sizeof text.s, format, args);
  va_end(args);
  keep_one_line(text.s);
  *e = text;
  return code;
}

static void append(struct err_text *e, const char *s) {
  size_t used = strlen(e->s);
  size_t n = strnlen(s, sizeof e->s - 1 - used);
  memcpy(e->s + used, s, n);
  e->s[used + n] = '\0';
}

void err_prefix(struct err_text *e, const char *format, ...) {
  if (!e) return;
  struct err_text text;
  va_list args;
  va_start(args, format);
  vsnprintf(text.s, sizeof text.s, format, args);
  va_end(args);
  append(&text, ": ");
  append(&text, e->s);
  keep_one_line(text.s);
  *e = text;
}
