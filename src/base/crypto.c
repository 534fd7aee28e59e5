// crypto: random bytes, digests, constant-time comparison, hex and base64url. Any thread; owns nothing.
// A primitive that fails ends the process: no caller could go on safely.
#include "postern/base/crypto.h"
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void crypto_random(void *out, size_t len) {
  uint8_t *p = out;
  while (len) {
    ssize_t n = getrandom(p, len, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) abort();
    p += n;
    len -= (size_t)n;
  }
}

void crypto_sha256(const void *data, size_t len, uint8_t out[SHA256_LEN]) {
  if (EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) != 1) abort();
}

bool crypto_equal(const void *a, const void *b, size_t len) {
  return CRYPTO_memcmp(a, b, len) == 0;
}

void crypto_wipe(void *data, size_t len) {
  OPENSSL_cleanse(data, len);
}

void hex_encode(const void *data, size_t len, char *out) {
  static const char digits[] = "0123456789abcdef";
  const uint8_t *p = data;
  for (size_t i = 0; i < len; i++) {
    *out++ = digits[p[i] >> 4];
    *out++ = digits[p[i] & 15];
  }
  *out = '\0';
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int hex_decode(const char *text, void *out, size_t len) {
  uint8_t *p = out;
  if (strlen(text) != 2 * len) return PERR_INVALID;
  for (size_t i = 0; i < len; i++) {
    int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return PERR_INVALID;
    p[i] = (uint8_t)(high << 4 | low);
  }
  return 0;
}

void base64_encode(const void *data, size_t len, char *out) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const uint8_t *p = data;
  uint32_t bits = 0;
  unsigned have = 0;
  for (size_t i = 0; i < len; i++) {
    bits = bits << 8 | p[i];
    for (have += 8; have >= 6; have -= 6) *out++ = digits[bits >> (have - 6) & 63];
  }
  if (have) *out++ = digits[bits << (6 - have) & 63];
  *out = '\0';
}

static int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '-' || c == '+') return 62;
  if (c == '_' || c == '/') return 63;
  return -1;
}

// After the digits: nothing, or what fills the last group of four.
static bool padding_valid(const char *text, size_t digits) {
  size_t pad = (4 - digits % 4) % 4;
  return text[0] == '\0' || (strspn(text, "=") == pad && text[pad] == '\0');
}

int base64_decode(const char *text, void *out, size_t len) {
  uint8_t *p = out;
  size_t digits = BASE64_LEN(len);
  uint32_t bits = 0;
  unsigned have = 0;
  if (strlen(text) < digits || !padding_valid(text + digits, digits)) return PERR_INVALID;
  for (size_t i = 0; i < digits; i++) {
    int digit = base64_digit(text[i]);
    if (digit < 0) return PERR_INVALID;
    bits = bits << 6 | (uint32_t)digit;
    have += 6;
    if (have >= 8) {
      have -= 8;
      *p++ = (uint8_t)(bits >> have);
    }
  }
  // One text per value: the bits of the last digit that belong to no byte are zero.
  return bits & ((1u << have) - 1) ? PERR_INVALID : 0;
}
