// clock: the monotonic clock for intervals, the wall clock for dates that people and tokens know.
#ifndef POSTERN_BASE_CLOCK_H
#define POSTERN_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t clock_mono_ms(void);
uint64_t clock_mono_us(void);
int64_t clock_wall_s(void);  // seconds since 1970, UTC
int64_t clock_wall_ms(void);

enum { CLOCK_TEXT = 32 };
// RFC 3339 in UTC: "2026-01-31T23:59:59Z" from seconds, "…59.123Z" from milliseconds. Return `out`.
const char *clock_format_s(int64_t wall_s, char out[CLOCK_TEXT]);
const char *clock_format_ms(int64_t wall_ms, char out[CLOCK_TEXT]);

// "90s", "15m", "2h", "30d" (a bare number is seconds) to seconds; 1 s to 100 years. Returns 0 or PERR_INVALID.
int duration_parse(const char *text, int64_t *seconds);

#endif
