// audit: what the gateway itself notes in the store's audit: sessions and failed logins. Any thread; rows are written
// lazily by the store thread. Failures are summed up per address, reason and minute: the first one is a row at once,
// those that follow within the minute are one more row with their count.
#ifndef POSTERN_GATEWAY_AUDIT_H
#define POSTERN_GATEWAY_AUDIT_H

#include "postern/base/addr.h"
#include "postern/store/writer.h"

struct audit;

struct audit *audit_new(struct writer *w); // borrows the writer; NULL: no memory
void audit_free(struct audit *a);          // writes what is summed up
void audit_note(struct audit *a, const char *actor, const char *action, const char *user, const char *detail);
void audit_failure(struct audit *a, const struct addr *peer, const char *reason, const char *user);
// Once a second, main thread: writes the sums of minutes that have passed; now and then prunes old rows.
void audit_tick(struct audit *a);

#endif
