// tries: how often something happened of late, for each of many keys, within bounded memory. One owner, no lock.
#ifndef POSTERN_GATEWAY_TRIES_H
#define POSTERN_GATEWAY_TRIES_H

#include "postern/base/addr.h"
#include <stdbool.h>
#include <stdint.h>

struct tries;

enum { TRIES_MOST = 16, TRIES_KEY_TEXT = 65 };

// At most `most` (TRIES_MOST at the utmost) within any `window_ms`. Of more than `keys` keys the one that has been
// noted least recently is forgotten. NULL: no memory.
struct tries *tries_new(unsigned most, uint64_t window_ms, unsigned keys);
void tries_free(struct tries *t); // NULL is fine
// Whether the key has had its share. A key is cut at TRIES_KEY_TEXT - 1 bytes.
bool tries_spent(const struct tries *t, const char *key, uint64_t now_ms);
// Notes one; for want of memory it is not noted.
void tries_note(struct tries *t, const char *key, uint64_t now_ms);

// The key of an address: its IP, of IPv6 the /64, for a host has all of that at its command.
const char *tries_addr_key(const struct addr *a, char out[TRIES_KEY_TEXT]);

#endif
