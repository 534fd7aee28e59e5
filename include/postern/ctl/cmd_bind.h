// cmd_bind: posternctl user bind, unbind, limit: what is reserved to a user and what it may have.
#ifndef POSTERN_CTL_CMD_BIND_H
#define POSTERN_CTL_CMD_BIND_H

#include "postern/ctl/command.h"

int cmd_bind(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_unbind(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_bind_print(const json_t *data);

int cmd_limit(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_limit_print(const json_t *data);

#endif
