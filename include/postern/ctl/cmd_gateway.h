// cmd_gateway: posternctl session list, session kick, status, reload: what only the running gateway can answer.
#ifndef POSTERN_CTL_CMD_GATEWAY_H
#define POSTERN_CTL_CMD_GATEWAY_H

#include "postern/ctl/command.h"

int cmd_session_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_session_kick(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_status(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_reload(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_session_print_list(const json_t *data);
void cmd_session_print_kicked(const json_t *data);
void cmd_reload_print(const json_t *data);

#endif
