// log_line: writes one log event as a line of text or JSON. A pure function, for log alone.
#ifndef POSTERN_BASE_LOG_LINE_H
#define POSTERN_BASE_LOG_LINE_H

#include "postern/base/log.h"
#include <stddef.h>

enum { LOG_LINE_MAX = 8192 }; // the newline included

struct log_record {
  const char *ts; // RFC 3339
  enum log_level level;
  const char *event, *msg;
  const struct log_field *fields;
  unsigned n;
};

// Returns the length with the newline; no NUL is added. A line that would be longer is cut and says so: "..." at the
// end of text, a member "cut" in JSON, which stays valid.
size_t log_line_format(char out[LOG_LINE_MAX], enum log_format format, const struct log_record *r);

#endif
