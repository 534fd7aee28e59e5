// cmd_user: posternctl user add, list, show, remove, ban, unban.
#ifndef POSTERN_CTL_CMD_USER_H
#define POSTERN_CTL_CMD_USER_H

#include "postern/ctl/command.h"

int cmd_user_add(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_user_list(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_user_show(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_user_remove(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_user_ban(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
int cmd_user_unban(struct ctl *c, const struct args *a, json_t **data, struct err_text *e);
void cmd_user_print_id(const json_t *data);
void cmd_user_print_list(const json_t *data);
void cmd_user_print(const json_t *data);
void cmd_user_print_removed(const json_t *data);
void cmd_user_print_ban(const json_t *data);

#endif
