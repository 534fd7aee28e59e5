// text: names, decimal numbers and secret files. Called while configuration, arguments and messages are read.
#include "postern/base/text.h"
#include "postern/base/crypto.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool name_valid(const char *name) {
  if (!name || !letter_or_digit(name[0])) return false;
  size_t len = 1;
  for (; name[len]; len++)
    if (len == NAME_MAX_LEN || !(letter_or_digit(name[len]) || strchr("._-", name[len]))) return false;
  return true;
}

int decimal_parse(const char *text, size_t len, uint64_t max, uint64_t *value) {
  uint64_t v = 0;
  if (len == 0 || (len > 1 && text[0] == '0')) return PERR_INVALID;
  for (size_t i = 0; i < len; i++) {
    if (text[i] < '0' || text[i] > '9') return PERR_INVALID;
    uint64_t digit = (uint64_t)(text[i] - '0');
    if (v > max / 10 || digit > max - v * 10) return PERR_INVALID;
    v = v * 10 + digit;
  }
  *value = v;
  return 0;
}

static bool mode_is_loose(const struct stat *st) {
  return S_ISREG(st->st_mode) && (st->st_mode & (S_IRGRP | S_IROTH));
}

bool file_is_loose(const char *file) {
  struct stat st;
  return stat(file, &st) == 0 && mode_is_loose(&st);
}

static int system_error(struct err_text *e, const char *what, const char *file) {
  int code = errno == ENOENT ? PERR_NOTFOUND : errno == EACCES ? PERR_DENIED : PERR_IO;
  return err_set(e, code, "%s %s: %s", what, file, strerror(errno));
}

// Reads to the end or until `cap` bytes are there. -1 with errno.
static ssize_t read_all(int fd, char *out, size_t cap) {
  size_t len = 0;
  while (len < cap) {
    ssize_t n = read(fd, out + len, cap - len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    len += (size_t)n;
  }
  return (ssize_t)len;
}

// White space off both ends of the `len` bytes at s, a NUL after what is left, nothing left behind it.
static void trim(char *s, size_t len) {
  static const char space[] = " \t\r\n\v\f";
  size_t start = 0, end = len;
  while (end > 0 && s[end - 1] && strchr(space, s[end - 1])) end--;
  while (start < end && s[start] && strchr(space, s[start])) start++;
  memmove(s, s + start, end - start);
  crypto_wipe(s + (end - start), len + 1 - (end - start));
}

static int check_secret(char *s, size_t len, size_t cap, const char *what, const char *file, struct err_text *e) {
  if (len == cap) return err_set(e, PERR_LIMIT, "%s %s: more than %zu bytes", what, file, cap - 1);
  if (memchr(s, '\0', len)) return err_set(e, PERR_INVALID, "%s %s: not a text file", what, file);
  trim(s, len);
  if (!*s) return err_set(e, PERR_INVALID, "%s %s: empty", what, file);
  if (strpbrk(s, "\r\n")) return err_set(e, PERR_INVALID, "%s %s: more than one line", what, file);
  return 0;
}

int secret_read(const char *file, const char *what, char *out, size_t cap, bool *loose, struct err_text *e) {
  int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return system_error(e, what, file);
  struct stat st;
  int rc;
  ssize_t len = fstat(fd, &st) == 0 ? read_all(fd, out, cap) : -1;
  if (len < 0)
    rc = system_error(e, what, file);
  else
    rc = check_secret(out, (size_t)len, cap, what, file, e);
  close(fd);
  if (rc == 0)
    *loose = mode_is_loose(&st);
  else
    crypto_wipe(out, cap);
  return rc;
}
