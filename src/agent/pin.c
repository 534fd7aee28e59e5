// pin: reads a pinned key as people write it: openssl prints hex with colons, other tools base64. Owns nothing.
#include "postern/agent/pin.h"
#include <string.h>

enum { HEX_LEN = 2 * SHA256_LEN, COLON_LEN = 3 * SHA256_LEN - 1 };

// "AA:BB:…" to "AABB…"; false when a colon is not where it belongs.
static bool drop_colons(const char *text, char hex[HEX_LEN + 1]) {
  for (size_t i = 0; i < COLON_LEN; i++) {
    if ((i % 3 == 2) != (text[i] == ':')) return false;
    if (i % 3 != 2) *hex++ = text[i];
  }
  *hex = '\0';
  return true;
}

int pin_parse(const char *text, uint8_t pin[SHA256_LEN]) {
  char hex[HEX_LEN + 1];
  size_t len = strlen(text);
  if (len == COLON_LEN) return drop_colons(text, hex) ? hex_decode(hex, pin, SHA256_LEN) : PERR_INVALID;
  return len == HEX_LEN ? hex_decode(text, pin, SHA256_LEN) : base64_decode(text, pin, SHA256_LEN);
}
