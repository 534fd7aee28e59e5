// clock: monotonic and wall time, dates as RFC 3339, durations as people type them. Any thread; owns nothing.
#include "postern/base/clock.h"
#include "postern/base/err.h"
#include "postern/base/text.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

// RFC 3339 has four digits for the year.
#define YEAR_0    INT64_C(-62167219200)
#define YEAR_9999 INT64_C(253402300799)

static struct timespec now(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return t;
}

uint64_t clock_mono_ms(void) {
  struct timespec t = now(CLOCK_MONOTONIC);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t clock_mono_us(void) {
  struct timespec t = now(CLOCK_MONOTONIC);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int64_t clock_wall_s(void) {
  return now(CLOCK_REALTIME).tv_sec;
}

int64_t clock_wall_ms(void) {
  struct timespec t = now(CLOCK_REALTIME);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// "2026-01-31T23:59:59", 19 characters; a time outside the years 0 to 9999 becomes the nearest inside.
static size_t format_second(int64_t wall_s, char out[CLOCK_TEXT]) {
  time_t t = wall_s < YEAR_0 ? YEAR_0 : wall_s > YEAR_9999 ? YEAR_9999 : wall_s;
  struct tm tm;
  gmtime_r(&t, &tm);
  return strftime(out, CLOCK_TEXT, "%4Y-%m-%dT%H:%M:%S", &tm);
}

const char *clock_format_s(int64_t wall_s, char out[CLOCK_TEXT]) {
  size_t len = format_second(wall_s, out);
  memcpy(out + len, "Z", 2);
  return out;
}

const char *clock_format_ms(int64_t wall_ms, char out[CLOCK_TEXT]) {
  int64_t seconds = wall_ms / 1000;
  unsigned ms = (unsigned)((wall_ms % 1000 + 1000) % 1000);
  if (wall_ms % 1000 < 0) seconds--;
  size_t len = format_second(seconds, out);
  snprintf(out + len, CLOCK_TEXT - len, ".%03uZ", ms);
  return out;
}

int duration_parse(const char *text, int64_t *seconds) {
  static const struct {
    char name;
    uint64_t seconds;
  } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
  const uint64_t longest = UINT64_C(100) * 365 * 86400;
  size_t digits = strspn(text, "0123456789");
  uint64_t unit = text[digits] == '\0' ? 1 : 0, number;
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
    if (text[digits] == units[i].name && text[digits + 1] == '\0') unit = units[i].seconds;
  if (unit == 0 || decimal_parse(text, digits, longest / unit, &number) || number == 0) return PERR_INVALID;
  *seconds = (int64_t)(number * unit);
  return 0;
}
