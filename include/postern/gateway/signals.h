// signals: SIGTERM and SIGINT stop (a second one at once), SIGHUP reloads. Main thread.
#ifndef POSTERN_GATEWAY_SIGNALS_H
#define POSTERN_GATEWAY_SIGNALS_H

#include "postern/base/err.h"

struct gateway;
struct signals;

// Watches from the gateway's main loop, which a stop ends.
PERR_MUST_CHECK int signals_start(struct signals **out, struct gateway *g);
void signals_stop(struct signals *s); // NULL is fine; a later stop signal ends the process at once

#endif
