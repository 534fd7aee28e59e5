// log: events with fields, as text or JSON lines on stderr (contract: "Log events").
//
// Any thread calls log_event; it formats the line and puts it into a bounded ring that the log thread drains, so a
// stalled stderr stops nobody. When the ring is full the line is dropped and counted, and the count is logged once
// there is room. Before log_start and after log_stop lines are written directly. This is the one piece of global
// mutable state in the programs.
#ifndef POSTERN_BASE_LOG_H
#define POSTERN_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

// One field. A NULL string is left out of text and null in JSON. Bytes that are not printable UTF-8 text (controls,
// ANSI, CR, LF, broken UTF-8) are escaped, for a peer may have chosen them. Never pass a secret.
struct log_field {
  const char *key;
  enum { LOG_STR, LOG_INT, LOG_DOUBLE } type;
  union {
    const char *s;
    int64_t i;
    double d;
  };
};

#define LF_STR(k, v) ((struct log_field){.key = (k), .type = LOG_STR, .s = (v)})
#define LF_INT(k, v) ((struct log_field){.key = (k), .type = LOG_INT, .i = (int64_t)(v)})
#define LF_DBL(k, v) ((struct log_field){.key = (k), .type = LOG_DOUBLE, .d = (v)})

void log_set_level(enum log_level level);
void log_set_format(enum log_format format);
// "error|warn|info|debug", "text|json". False for anything else.
bool log_level_parse(const char *text, enum log_level *level);
bool log_format_parse(const char *text, enum log_format *format);
bool log_enabled(enum log_level level);

// Starts and stops the log thread. log_stop drains what is there, for a second at most.
int log_start(void);
void log_stop(void);

// `event` is a name of the contract or of the same form ("link.close"); `msg` is one line for a person.
// Text: `TIME LEVEL event: msg key=value …`; JSON: {"ts":…,"level":…,"event":…,"msg":…,"key":value,…}.
void log_fields(enum log_level level, const char *event, const char *msg, const struct log_field *fields, unsigned n);

#define log_event(level, event, msg, ...)                                                                              \
  do {                                                                                                                 \
    if (log_enabled(level)) {                                                                                          \
      const struct log_field log_fields_[] = {__VA_ARGS__};                                                            \
      log_fields(level, event, msg, log_fields_, sizeof log_fields_ / sizeof log_fields_[0]);                          \
    }                                                                                                                  \
  } while (0)

// A line without fields, printf-formatted.
void log_line(enum log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
