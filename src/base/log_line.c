// log_line: one log event as a line. Two lines are written per visitor, so everything is done by hand into one
// buffer. Called by log on the thread that logs; owns nothing.
#include "postern/base/log_line.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

// Room kept behind `end` for the quote that closes a cut string and the end of the line.
enum { TAIL = 20 };

struct out {
  char *p, *end;
  bool cut; // something did not fit; nothing is added any more
};

enum quoting { IN_MESSAGE, IN_TEXT_QUOTES, IN_JSON };

// All of it or nothing.
static void put(struct out *o, const char *s, size_t n) {
  if (o->cut || n > (size_t)(o->end - o->p)) {
    o->cut = true;
    return;
  }
  memcpy(o->p, s, n);
  o->p += n;
}

static void put_str(struct out *o, const char *s) {
  put(o, s, strlen(s));
}

static void put_uint(struct out *o, uint64_t v) {
  char digits[20];
  size_t n = sizeof digits;
  do digits[--n] = (char)('0' + v % 10);
  while (v /= 10);
  put(o, digits + n, sizeof digits - n);
}

static void put_int(struct out *o, int64_t v) {
  if (v < 0) put(o, "-", 1);
  put_uint(o, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

// Up to six decimals, at least one.
static void put_double(struct out *o, double v) {
  if (!(fabs(v) < 1e12)) { // NaN too
    char text[32];
    snprintf(text, sizeof text, "%.17g", v);
    put_str(o, text);
    return;
  }
  uint64_t micro = (uint64_t)(fabs(v) * 1e6 + 0.5);
  char decimals[7] = {'.'};
  size_t n = 7;
  for (uint64_t rest = micro % 1000000, i = 6; i > 0; i--, rest /= 10) decimals[i] = (char)('0' + rest % 10);
  while (n > 2 && decimals[n - 1] == '0') n--;
  if (v < 0 && micro) put(o, "-", 1);
  put_uint(o, micro / 1000000);
  put(o, decimals, n);
}

// The length of the UTF-8 sequence at s and its code point; 0 where it is broken, overlong or a surrogate.
static size_t utf8_decode(const char *s, uint32_t *code) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char first = (unsigned char)*s;
  if (first < 0xc0 || first >= 0xf8) return 0;
  size_t len = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  uint32_t c = first & (0x7fu >> len);
  for (size_t i = 1; i < len; i++) {
    if (((unsigned char)s[i] & 0xc0) != 0x80) return 0; // the NUL at the end stops here too
    c = c << 6 | ((unsigned char)s[i] & 0x3f);
  }
  if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
  *code = c;
  return len;
}

// What moves the cursor, ends the line or turns the direction of a terminal's text: C1, separators, marks, BOM, tags.
static bool code_is_safe(uint32_t c) {
  return !(c < 0xa0 || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
           c == 0x061c || c == 0xfeff || (c >= 0xe0000 && c <= 0xe007f));
}

static bool byte_is_plain(unsigned char c, enum quoting q) {
  return c >= 0x20 && c < 0x7f && c != '\\' && (c != '"' || q == IN_MESSAGE);
}

static void put_hex(struct out *o, const char *prefix, uint32_t v, unsigned digits) {
  char text[16];
  size_t n = strlen(prefix);
  memcpy(text, prefix, n);
  while (digits--) text[n++] = "0123456789abcdef"[v >> 4 * digits & 15];
  put(o, text, n);
}

static void put_ascii_escape(struct out *o, unsigned char c, enum quoting q) {
  switch (c) {
  case '\n': put(o, "\\n", 2); break;
  case '\r': put(o, "\\r", 2); break;
  case '\t': put(o, "\\t", 2); break;
  case '\\': put(o, "\\\\", 2); break;
  case '"': put(o, "\\\"", 2); break;
  default: put_hex(o, q == IN_JSON ? "\\u00" : "\\x", c, 2); break;
  }
}

// A character that is not plain ASCII; returns its length in s.
static size_t put_special(struct out *o, const char *s, enum quoting q) {
  unsigned char c = (unsigned char)*s;
  uint32_t code;
  size_t len = utf8_decode(s, &code);
  if (c < 0x80) {
    put_ascii_escape(o, c, q);
    return 1;
  }
  if (len && code_is_safe(code)) {
    put(o, s, len);
    return len;
  }
  if (len && code <= 0xffff) {
    put_hex(o, "\\u", code, 4);
    return len;
  }
  // JSON has no escape for a byte, so its text shows the one that the text format uses.
  put_hex(o, q == IN_JSON ? "\\\\x" : "\\x", c, 2);
  return 1;
}

static void put_escaped(struct out *o, const char *s, enum quoting q) {
  while (*s && !o->cut) {
    size_t n = 0, room = (size_t)(o->end - o->p);
    while (byte_is_plain((unsigned char)s[n], q)) n++;
    put(o, s, n < room ? n : room);
    if (n > room) o->cut = true;
    s += n;
    if (*s) s += put_special(o, s, q);
  }
}

// The closing quote is written even when the string was cut; TAIL has the room.
static void put_quoted(struct out *o, const char *s, enum quoting q) {
  put(o, "\"", 1);
  if (o->cut) return;
  put_escaped(o, s, q);
  put(o, "\"", 1);
  if (o->cut) *o->p++ = '"';
}

static bool needs_quotes(const char *s) {
  if (!*s) return true;
  for (; *s; s++)
    if (!byte_is_plain((unsigned char)*s, IN_JSON) || *s == ' ' || *s == '=') return true;
  return false;
}

static void put_text_field(struct out *o, const struct log_field *f) {
  char *before = o->p;
  if (f->type == LOG_STR && !f->s) return;
  put(o, " ", 1);
  put_str(o, f->key);
  put(o, "=", 1);
  char *value = o->p;
  if (f->type == LOG_INT)
    put_int(o, f->i);
  else if (f->type == LOG_DOUBLE)
    put_double(o, f->d);
  else if (needs_quotes(f->s))
    put_quoted(o, f->s, IN_TEXT_QUOTES);
  else
    put_escaped(o, f->s, IN_TEXT_QUOTES);
  if (o->cut && (f->type != LOG_STR || o->p == value)) o->p = before;
}

static void put_json_field(struct out *o, const struct log_field *f) {
  char *before = o->p;
  put(o, ",\"", 2);
  put_str(o, f->key);
  put(o, "\":", 2);
  char *value = o->p;
  if (f->type == LOG_INT)
    put_int(o, f->i);
  else if (f->type == LOG_DOUBLE && isfinite(f->d))
    put_double(o, f->d);
  else if (f->type == LOG_STR && f->s)
    put_quoted(o, f->s, IN_JSON);
  else
    put(o, "null", 4);
  bool cut_string = f->type == LOG_STR && f->s && o->p > value;
  if (o->cut && !cut_string) o->p = before; // half a key or a number is no JSON
}

static void put_text(struct out *o, const struct log_record *r) {
  static const char *const names[] = {" ERROR ", " WARN  ", " INFO  ", " DEBUG "};
  put_str(o, r->ts);
  put(o, names[r->level], 7);
  put_escaped(o, r->event, IN_MESSAGE);
  put(o, ":", 1);
  if (r->msg && *r->msg) put(o, " ", 1);
  put_escaped(o, r->msg ? r->msg : "", IN_MESSAGE);
  for (unsigned i = 0; i < r->n && !o->cut; i++) put_text_field(o, &r->fields[i]);
}

static void put_json(struct out *o, const struct log_record *r) {
  static const char *const names[] = {"error", "warn", "info", "debug"};
  const struct log_field head[] = {LF_STR("level", names[r->level]), LF_STR("event", r->event),
                                   LF_STR("msg", r->msg ? r->msg : "")};
  put_str(o, "{\"ts\":");
  put_quoted(o, r->ts, IN_JSON);
  for (size_t i = 0; i < sizeof head / sizeof head[0] && !o->cut; i++) put_json_field(o, &head[i]);
  for (unsigned i = 0; i < r->n && !o->cut; i++) put_json_field(o, &r->fields[i]);
}

size_t log_line_format(char out[LOG_LINE_MAX], enum log_format format, const struct log_record *r) {
  struct out o = {.p = out, .end = out + LOG_LINE_MAX - TAIL};
  if (format == LOG_JSON)
    put_json(&o, r);
  else
    put_text(&o, r);
  const char *end = format == LOG_JSON ? (o.cut ? ",\"cut\":true}\n" : "}\n") : (o.cut ? "...\n" : "\n");
  size_t n = strlen(end);
  memcpy(o.p, end, n);
  return (size_t)(o.p - out) + n;
}
