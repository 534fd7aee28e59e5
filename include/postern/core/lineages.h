// lineages: which sessions a TLS lineage (net/tls.h) has proven itself to, by a token or what else counts. Any thread,
// one small lock. It forgets what is little used, and is told when a session ends.
#ifndef POSTERN_CORE_LINEAGES_H
#define POSTERN_CORE_LINEAGES_H

#include <stdbool.h>
#include <stdint.h>

enum { LINEAGE_LEN = 16, LINEAGES_PER_SESSION = 32, LINEAGES_SESSIONS = 256 };

struct lineages;

struct lineages *lineages_new(void);    // NULL for want of memory
void lineages_free(struct lineages *l); // NULL is fine

// Makes the pair the most recently used of both. A session keeps its LINEAGES_PER_SESSION most recently used ones, for
// a client that never resumes brings a new one with each connection. A lineage may belong to several sessions (a TLS
// proxy in front of many clients), LINEAGES_SESSIONS of them; again the least recently used gives way. Without memory
// the link is silently not made: the client then falls back to logging in again. Nothing may be linked to a session
// after its lineages_forget, for nobody would forget it.
void lineages_link(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t session);
// A hit makes the pair the most recently used, as linking it does.
bool lineages_linked(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t session);
// The sessions of a lineage, `cap` at most, the most recently used first. Returns their number.
unsigned lineages_sessions(struct lineages *l, const uint8_t lineage[LINEAGE_LEN], uint64_t *out, unsigned cap);
// The session has ended.
void lineages_forget(struct lineages *l, uint64_t session);

#endif
