// hash: SipHash-1-3 under a key that is random per process, behind every hash table. Any thread.
#include "postern/base/hash.h"
#include "postern/base/crypto.h"
#include <endian.h>
#include <pthread.h>

struct sip {
  uint64_t v0, v1, v2, v3;
};

static uint64_t rotate(uint64_t x, unsigned n) {
  return x << n | x >> (64 - n);
}

static inline void sip_round(struct sip *s) {
  s->v0 += s->v1;
  s->v1 = rotate(s->v1, 13) ^ s->v0;
  s->v0 = rotate(s->v0, 32);
  s->v2 += s->v3;
  s->v3 = rotate(s->v3, 16) ^ s->v2;
  s->v0 += s->v3;
  s->v3 = rotate(s->v3, 21) ^ s->v0;
  s->v2 += s->v1;
  s->v1 = rotate(s->v1, 17) ^ s->v2;
  s->v2 = rotate(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t m) {
  s->v3 ^= m;
  sip_round(s);
  s->v0 ^= m;
}

uint64_t hash_siphash13(const uint64_t key[2], const void *data, size_t len) {
  struct sip s = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                  key[1] ^ 0x7465646279746573};
  const uint8_t *p = data;
  size_t left = len;
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    sip_word(&s, le64toh(word));
  }
  uint64_t last = (uint64_t)len << 56;
  for (size_t i = 0; i < left; i++) last |= (uint64_t)p[i] << 8 * i;
  sip_word(&s, last);
  s.v2 ^= 0xff;
  for (int i = 0; i < 3; i++) sip_round(&s);
  return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

// Written once, before the first hash.
static uint64_t process_key[2];
static pthread_once_t process_key_once = PTHREAD_ONCE_INIT;

static void make_process_key(void) {
  crypto_random(process_key, sizeof process_key);
}

uint32_t hash_keyed(const void *data, size_t len) {
  pthread_once(&process_key_once, make_process_key);
  uint64_t h = hash_siphash13(process_key, data, len);
  return (uint32_t)(h ^ h >> 32);
}
