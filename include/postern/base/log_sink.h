// log_sink: writes to a descriptor without blocking and without changing its open file description, which the
// process shares with its parent and others. For log alone.
#ifndef POSTERN_BASE_LOG_SINK_H
#define POSTERN_BASE_LOG_SINK_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

struct log_sink {
  int fd;
  bool owned; // fd is the sink's own
  enum {
    SINK_POLLED,  // pipe or terminal, blocking: one page after each poll
    SINK_OWN,     // pipe or terminal, opened once more without blocking
    SINK_SOCKET,  // a flag of sendmsg does it
    SINK_STORAGE, // a file never makes its writer wait for a reader
  } kind;
};

// Borrows fd. Finds the way that takes the fewest writes.
void log_sink_open(struct log_sink *s, int fd);
// Borrows fd. Needs no log_sink_close, and works on every kind of descriptor.
struct log_sink log_sink_polled(int fd);
void log_sink_close(struct log_sink *s);

// Writes some of 1 or 2 pieces, none empty. The number of bytes, PERR_AGAIN, or PERR_IO when what is there cannot be
// written at all.
PERR_MUST_CHECK ssize_t log_sink_write(const struct log_sink *s, const struct iovec *pieces, int n);
// Until it can be written, for ms at most.
void log_sink_wait(const struct log_sink *s, int ms);

#endif
