// view: users and tokens as JSON, in the shapes of the contract.
#ifndef POSTERN_CTL_VIEW_H
#define POSTERN_CTL_VIEW_H

#include "postern/store/store.h"
#include <jansson.h>

// An RFC 3339 text; 0 is null. New reference, as all of these.
json_t *view_time(int64_t wall_s);
json_t *view_user(struct store_txn *t, const struct store_user *u);
json_t *view_users(struct store_txn *t);
json_t *view_token(const struct store_token *k);

#endif
