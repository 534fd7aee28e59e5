// commands: what posternctl may ask a running gateway (docs/admin.md). Main thread.
#ifndef POSTERN_GATEWAY_COMMANDS_H
#define POSTERN_GATEWAY_COMMANDS_H

#include "postern/gateway/admin.h"

extern const struct admin_command gateway_commands[]; // their ctx is the gateway
extern const size_t gateway_command_count;

#endif
