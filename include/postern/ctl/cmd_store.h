// cmd_store: posternctl audit and backup.
#ifndef POSTERN_CTL_CMD_STORE_H
#define POSTERN_CTL_CMD_STORE_H

#include "postern/ctl/command.h"

// Prints its rows itself, as it reads them, for there may be a million.
int cmd_audit(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);

int cmd_backup(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_backup_print(const json_t *data);

#endif
