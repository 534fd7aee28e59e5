// agent: the running program: one loop, the session at the gateway, the tunnels, the visitors, and the signals.
#ifndef POSTERN_AGENT_AGENT_H
#define POSTERN_AGENT_AGENT_H

#include "postern/agent/config.h"
#include "postern/agent/options.h"

// Runs until a signal or the gateway ends it. Takes `cfg`; `o` is borrowed, for SIGHUP. The program's exit status.
int agent_run(struct agent_config *cfg, const struct options *o);

#endif
