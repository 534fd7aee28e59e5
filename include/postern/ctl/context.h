// context: what one run of posternctl works on: the database folder, the store in it, who asks.
#ifndef POSTERN_CTL_CONTEXT_H
#define POSTERN_CTL_CONTEXT_H

#include "postern/core/config.h"
#include "postern/store/store.h"
#include <stdbool.h>
#include <sys/types.h>

struct args;

struct ctl {
  struct config *config; // NULL with --db
  char *dir;             // the database folder
  uid_t uid;             // who started posternctl; stands in the audit
  bool json;
  struct store *store; // opened by the first transaction
};

// Finds the folder by -c, --db or the default, becomes its owner when run as root, and warns of files that others can
// read. PERR_INVALID where the configuration is wrong.
PERR_MUST_CHECK int ctl_init(struct ctl *c, const struct args *a, struct err_text *e);
void ctl_fini(struct ctl *c);

// Opens the store and begins a transaction, which ctl_end must end.
PERR_MUST_CHECK int ctl_read(struct ctl *c, struct store_txn **t, struct err_text *e);
PERR_MUST_CHECK int ctl_write(struct ctl *c, struct store_txn **t, struct err_text *e);
// As ctl_write; makes the folder and the store where there is none.
PERR_MUST_CHECK int ctl_write_new(struct ctl *c, struct store_txn **t, struct err_text *e);
// Commits when rc is 0, else aborts; returns what came of it, with a line in `e` for every error.
PERR_MUST_CHECK int ctl_end(struct store_txn *t, int rc, struct err_text *e);
// Opens the store for reading (a backup needs no transaction).
PERR_MUST_CHECK int ctl_open(struct ctl *c, struct err_text *e);

// The user of that name, or PERR_NOTFOUND with its line.
PERR_MUST_CHECK int ctl_user(struct store_txn *t, const char *name, struct store_user *out, struct err_text *e);
// Appends a row about a user to the audit, in the same transaction.
PERR_MUST_CHECK int ctl_audit(const struct ctl *c, struct store_txn *t, const char *action, const char *user,
                              const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
