// cmd_passwd: posternctl user passwd.
#ifndef POSTERN_CTL_CMD_PASSWD_H
#define POSTERN_CTL_CMD_PASSWD_H

#include "postern/ctl/command.h"

int cmd_passwd(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_passwd_print(const json_t *data);

#endif
