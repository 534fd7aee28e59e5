// watch: brings what changed in the store to the live sessions, and ends credentials that have run out. Main thread.
#ifndef POSTERN_GATEWAY_WATCH_H
#define POSTERN_GATEWAY_WATCH_H

#include "postern/base/err.h"

struct gateway;
struct watch;

enum { WATCH_POLL_MS = 100, WATCH_SECOND_MS = 1000 };

PERR_MUST_CHECK int watch_start(struct watch **out, struct gateway *g);
void watch_stop(struct watch *w); // NULL is fine
// Looks at once, for whoever changed something himself.
void watch_now(struct watch *w);

#endif
