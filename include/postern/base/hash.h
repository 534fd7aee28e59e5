// hash: uthash with a keyed hash (SipHash-1-3), so that peers who choose names cannot choose collisions.
// Include this and never <uthash.h>. The key is random per process and set at the first use.
#ifndef POSTERN_BASE_HASH_H
#define POSTERN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint32_t hash_keyed(const void *data, size_t len);
// The hash under a key that the caller knows; hash_keyed is this under the process's own.
uint64_t hash_siphash13(const uint64_t key[2], const void *data, size_t len);

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = hash_keyed((keyptr), (keylen)))
#define uthash_fatal(msg) abort()
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#endif
