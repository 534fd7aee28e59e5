// cmd_token: posternctl token create, list, revoke.
#ifndef POSTERN_CTL_CMD_TOKEN_H
#define POSTERN_CTL_CMD_TOKEN_H

#include "postern/ctl/command.h"

int cmd_token_create(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_token_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_token_revoke(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_token_print_new(const json_t *data);
void cmd_token_print_list(const json_t *data);
void cmd_token_print_revoked(const json_t *data);

#endif
