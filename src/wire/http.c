// http: see http.h. Called for the web port's requests on the handshake thread; any thread, owns nothing.
#include "postern/wire/http.h"
#include "postern/base/text.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

// ---- characters ----

static bool is_alnum(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// tchar, RFC 9110, section 5.6.2.
static bool is_token_char(unsigned char c) { return is_alnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c)); }

static bool is_token(struct http_slice s) {
  for (size_t i = 0; i < s.len; i++)
    if (!is_token_char((unsigned char)s.p[i])) return false;
  return s.len > 0;
}

static bool is_visible(struct http_slice s) {
  for (size_t i = 0; i < s.len; i++)
    if (s.p[i] < 0x21 || s.p[i] > 0x7e) return false;
  return s.len > 0;
}

// field-vchar (with obs-text) and OWS, RFC 9110, section 5.5.
static bool is_allowed_in_line(unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); }

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

bool http_slice_is(struct http_slice s, const char *text) {
  return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

bool http_slice_is_name(struct http_slice s, const char *text) {
  return s.len == strlen(text) && strncasecmp(s.p, text, s.len) == 0;
}

static struct http_slice trim(struct http_slice s) {
  while (s.len && is_blank(s.p[0])) s = (struct http_slice){s.p + 1, s.len - 1};
  while (s.len && is_blank(s.p[s.len - 1])) s.len--;
  return s;
}

// ---- errors ----

static int fail(struct http_head *h, int error, const char *why) {
  h->state = HTTP_BAD;
  h->error = error;
  h->why = why;
  return error;
}

static int malformed(struct http_head *h, const char *why) { return fail(h, PERR_PROTOCOL, why); }

// ---- spans ----

static struct http_slice slice(const struct http_head *h, struct http_span s) {
  return (struct http_slice){h->buf + s.at, s.len};
}

static struct http_span span(const struct http_head *h, struct http_slice s) {
  return (struct http_span){(uint16_t)(s.p - h->buf), (uint16_t)s.len};
}

// ---- the request line (RFC 9112, section 3) ----

static int parse_version(struct http_head *h, struct http_slice v) {
  if (v.len != 8 || memcmp(v.p, "HTTP/", 5) != 0 || v.p[6] != '.' || v.p[5] < '0' || v.p[5] > '9' || v.p[7] < '0' ||
      v.p[7] > '9')
    return malformed(h, "the request line does not end in an HTTP version");
  if (v.p[5] != '1' || v.p[7] > '1') return fail(h, PERR_VERSION, "neither HTTP/1.0 nor HTTP/1.1");
  h->minor = (unsigned)(v.p[7] - '0');
  return 0;
}

static int parse_request_line(struct http_head *h, struct http_slice line) {
  const char *first = memchr(line.p, ' ', line.len), *last = memrchr(line.p, ' ', line.len);
  if (!first || first == last) return malformed(h, "the request line has not three parts");
  struct http_slice method = {line.p, (size_t)(first - line.p)};
  struct http_slice target = {first + 1, (size_t)(last - first - 1)};
  struct http_slice version = {last + 1, line.len - (size_t)(last + 1 - line.p)};
  if (!is_token(method)) return malformed(h, "the method is not a token");
  if (!is_visible(target)) return malformed(h, "the target has a character that belongs into none");
  int code = parse_version(h, version);
  if (code) return code;
  h->method = span(h, method);
  h->target = span(h, target);
  h->state = HTTP_FIELDS;
  return 0;
}

// ---- the fields (RFC 9112, section 5) ----

static int note_length(struct http_head *h, struct http_slice value) {
  uint64_t length = 0;
  if (decimal_parse(value.p, value.len, INT64_MAX, &length)) return malformed(h, "the Content-Length is not a number");
  if (h->has_length && h->length != length) return malformed(h, "two Content-Lengths differ");
  h->has_length = true;
  h->length = length;
  return 0;
}

static void note_connection(struct http_head *h, struct http_slice value) {
  while (value.len) {
    const char *comma = memchr(value.p, ',', value.len);
    size_t len = comma ? (size_t)(comma - value.p) : value.len;
    struct http_slice option = trim((struct http_slice){value.p, len});
    h->close |= http_slice_is_name(option, "close");
    h->keep_alive |= http_slice_is_name(option, "keep-alive");
    size_t used = comma ? len + 1 : len;
    value = (struct http_slice){value.p + used, value.len - used};
  }
}

static int parse_field(struct http_head *h, struct http_slice line) {
  // A fold continues the line before (section 5.2), or hides a field from others (section 2.2).
  if (is_blank(line.p[0])) return malformed(h, "a line begins with a blank");
  const char *colon = memchr(line.p, ':', line.len);
  if (!colon) return malformed(h, "a field has no colon");
  struct http_slice name = {line.p, (size_t)(colon - line.p)};
  struct http_slice value = trim((struct http_slice){colon + 1, line.len - name.len - 1});
  if (!is_token(name)) return malformed(h, "a field's name is not a token");
  if (h->nfields == HTTP_FIELDS_MAX) return fail(h, PERR_LIMIT, "the head has too many fields");
  h->fields[h->nfields].name = span(h, name);
  h->fields[h->nfields++].value = span(h, value);
  if (http_slice_is_name(name, "Content-Length")) return note_length(h, value);
  if (http_slice_is_name(name, "Transfer-Encoding")) h->coded = true;
  if (http_slice_is_name(name, "Connection")) note_connection(h, value);
  return 0;
}

// What only the whole head can tell.
static int finish(struct http_head *h) {
  struct http_slice value;
  unsigned hosts = http_field(h, "Host", &value);
  if (hosts > 1) return malformed(h, "there are two Host fields"); // section 3.2
  if (hosts == 0 && h->minor == 1) return malformed(h, "the Host field is missing");
  if (h->coded && h->minor == 0) return malformed(h, "HTTP/1.0 has no transfer codings"); // section 6.1
  if (h->coded && h->has_length) return malformed(h, "a Content-Length beside a transfer coding"); // section 6.3
  h->state = HTTP_DONE;
  return 0;
}

// ---- lines ----

// One line without its end.
static int parse_line(struct http_head *h, struct http_slice line) {
  if (h->state == HTTP_FIELDS) return line.len ? parse_field(h, line) : finish(h);
  // One empty line before the request line is to be ignored (section 2.2); `line` is 0 only there.
  if (line.len == 0) return h->line == 0 ? 0 : malformed(h, "empty lines before the request line");
  return parse_request_line(h, line);
}

// A bare LF may end a line by section 2.2; here it may not.
static int check_byte(struct http_head *h, const char *buf, size_t at) {
  unsigned char c = (unsigned char)buf[at];
  bool after_cr = at > h->line && buf[at - 1] == '\r';
  if (after_cr) return c == '\n' ? 0 : malformed(h, "a CR without LF");
  if (c == '\n') return malformed(h, "a LF without CR");
  if (c != '\r' && !is_allowed_in_line(c)) return malformed(h, "a control character");
  return 0;
}

void http_head_init(struct http_head *h, size_t max) {
  assert(max <= HTTP_HEAD_MAX);
  memset(h, 0, sizeof *h);
  h->max = max;
}

int http_head_parse(struct http_head *h, const void *data, size_t len) {
  const char *buf = data;
  h->buf = buf;
  while (h->state < HTTP_DONE) {
    if (h->scanned >= h->max) return fail(h, PERR_LIMIT, "the head is too long");
    if (h->scanned >= len) return PERR_AGAIN;
    size_t at = h->scanned++;
    int code = check_byte(h, buf, at);
    if (code == 0 && buf[at] == '\n') {
      code = parse_line(h, (struct http_slice){buf + h->line, at - 1 - h->line});
      h->line = h->scanned;
    }
    if (code) return code;
  }
  return h->state == HTTP_DONE ? 0 : h->error;
}

size_t http_head_size(const struct http_head *h) { return h->state == HTTP_DONE ? h->line : 0; }

// ---- what was read ----

struct http_slice http_method(const struct http_head *h) { return slice(h, h->method); }
struct http_slice http_target(const struct http_head *h) { return slice(h, h->target); }

void http_field_at(const struct http_head *h, unsigned i, struct http_slice *name, struct http_slice *value) {
  *name = slice(h, h->fields[i].name);
  *value = slice(h, h->fields[i].value);
}

unsigned http_field(const struct http_head *h, const char *name, struct http_slice *value) {
  unsigned count = 0;
  for (unsigned i = 0; i < h->nfields; i++) {
    if (!http_slice_is_name(slice(h, h->fields[i].name), name)) continue;
    if (count++ == 0) *value = slice(h, h->fields[i].value);
  }
  return count;
}

bool http_has_body(const struct http_head *h) { return h->coded || (h->has_length && h->length > 0); }

bool http_persists(const struct http_head *h) { return !h->close && (h->minor == 1 || h->keep_alive); }

// ---- targets ----

// The path of an absolute form: what follows its authority, "" where nothing does.
static bool skip_authority(struct http_slice *target) {
  static const char *const schemes[] = {"http://", "https://"};
  for (unsigned i = 0; i < 2; i++) {
    size_t n = strlen(schemes[i]);
    if (target->len < n || strncasecmp(target->p, schemes[i], n) != 0) continue;
    while (n < target->len && !strchr("/?#", target->p[n])) n++;
    *target = (struct http_slice){target->p + n, target->len - n};
    return true;
  }
  return false;
}

bool http_target_split(struct http_slice target, struct http_slice *path, struct http_slice *query) {
  if (target.len == 0 || (target.p[0] != '/' && !skip_authority(&target))) return false;
  size_t end = 0;
  while (end < target.len && !strchr("?#", target.p[end])) end++;
  *path = (struct http_slice){target.p, end};
  *query = (struct http_slice){target.p + target.len, 0};
  if (end < target.len && target.p[end] == '?')
    *query = (struct http_slice){target.p + end + 1, target.len - end - 1};
  return true;
}
