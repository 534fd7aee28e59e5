// control: decodes and encodes control messages by one table of fields per type. Called by trunk, gateway and agent;
// owns nothing. Any thread. The error texts never hold a value, which may be a token.
#include "postern/wire/control.h"
#include "postern/base/crypto.h"
#include "postern/wire/frame.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the tables ----

enum kind {
  KIND_INT,      // an unsigned or int64_t member of `size` bytes, between min and max
  KIND_BOOL,     // bool
  KIND_TEXT,     // char[size], UTF-8
  KIND_NAME,     // char[NAME_TEXT], of the form of names and reasons
  KIND_RUN,      // uint8_t[CONTROL_RUN_LEN], in hex
  KIND_CHOICE,   // an enum, by its word
  KIND_FEATURES, // bits, as a list of names
};

struct field {
  const char *key; // NULL ends a table
  enum kind kind;
  size_t offset, size; // of the member in struct control
  int64_t min, max;
  const char *const *words; // NULL-terminated
  bool optional;            // left out where it is 0 or empty
};

enum { SECONDS_MAX = 366 * 24 * 60 * 60, GOAWAY_MAX = 24 * 60 * 60 };

static const char *const previous_words[] = {"none", "lost", "draining", NULL};
static const char *const protocol_words[] = {"tcp", "udp", NULL};
static const char *const feature_words[] = {"udp", NULL}; // word i is bit i

#define AT(member) .offset = offsetof(struct control, member), .size = sizeof((struct control *)0)->member
#define INT(name, member, low, high)                                                                                   \
  { .key = name, .kind = KIND_INT, AT(member), .min = low, .max = high }
#define FIELD(name, what, member)                                                                                      \
  { .key = name, .kind = what, AT(member) }
#define OPTIONAL(name, what, member)                                                                                   \
  { .key = name, .kind = what, AT(member), .max = INT64_MAX, .optional = true }
#define WORD(name, member, list)                                                                                       \
  { .key = name, .kind = KIND_CHOICE, AT(member), .words = list }
#define TUNNEL(member) INT("tunnel", member, 1, UINT32_MAX)
#define IDLE(member)                                                                                                   \
  {                                                                                                                    \
    .key = "idle_seconds", .kind = KIND_INT, AT(member), .min = 1, .max = CONTROL_IDLE_MAX_S, .optional = true         \
  }

static const struct field hello_fields[] = {
    INT("version", hello.version, 0, INT32_MAX),      FIELD("features", KIND_FEATURES, hello.features),
    FIELD("software", KIND_TEXT, hello.software),     FIELD("token", KIND_TEXT, hello.token),
    FIELD("instance", KIND_NAME, hello.instance),     FIELD("run", KIND_RUN, hello.run),
    WORD("previous", hello.previous, previous_words), {0},
};

static const struct field welcome_fields[] = {
    INT("version", welcome.version, 1, INT32_MAX),
    FIELD("features", KIND_FEATURES, welcome.features),
    FIELD("software", KIND_TEXT, welcome.software),
    INT("session", welcome.session, 0, INT64_MAX),
    FIELD("user", KIND_NAME, welcome.user),
    FIELD("resumed", KIND_BOOL, welcome.resumed),
    INT("heartbeat_seconds", welcome.heartbeat_s, 1, SECONDS_MAX),
    INT("dead_seconds", welcome.dead_s, 1, SECONDS_MAX),
    INT("dial_seconds", welcome.dial_s, 1, SECONDS_MAX),
    INT("stall_seconds", welcome.stall_s, 1, SECONDS_MAX),
    {0},
};

static const struct field end_fields[] = {
    FIELD("reason", KIND_NAME, end.reason),
    OPTIONAL("message", KIND_TEXT, end.message),
    OPTIONAL("until", KIND_INT, end.until),
    {0},
};

static const struct field tunnel_open_fields[] = {
    TUNNEL(tunnel_open.tunnel),
    FIELD("name", KIND_NAME, tunnel_open.name),
    WORD("protocol", tunnel_open.protocol, protocol_words),
    INT("port", tunnel_open.port, 0, UINT16_MAX),
    FIELD("strict_port", KIND_BOOL, tunnel_open.strict_port),
    OPTIONAL("description", KIND_TEXT, tunnel_open.description),
    IDLE(tunnel_open.idle_s),
    {0},
};

static const struct field tunnel_opened_fields[] = {
    TUNNEL(tunnel_opened.tunnel),
    INT("port", tunnel_opened.port, 1, UINT16_MAX),
    IDLE(tunnel_opened.idle_s),
    {0},
};

static const struct field tunnel_refused_fields[] = {
    TUNNEL(tunnel_refused.tunnel),
    FIELD("reason", KIND_NAME, tunnel_refused.reason),
    OPTIONAL("message", KIND_TEXT, tunnel_refused.message),
    {0},
};

static const struct field tunnel_close_fields[] = {
    TUNNEL(tunnel_close.tunnel),
    {0},
};

static const struct field tunnel_closed_fields[] = {
    TUNNEL(tunnel_closed.tunnel),
    FIELD("reason", KIND_NAME, tunnel_closed.reason),
    {0},
};

static const struct field goaway_fields[] = {
    FIELD("reason", KIND_NAME, goaway.reason),
    INT("deadline_seconds", goaway.deadline_s, 0, GOAWAY_MAX),
    {0},
};

static const struct message {
  const char *name;
  const struct field *fields;
} messages[] = {
    [CONTROL_HELLO] = {"hello", hello_fields},
    [CONTROL_WELCOME] = {"welcome", welcome_fields},
    [CONTROL_END] = {"end", end_fields},
    [CONTROL_TUNNEL_OPEN] = {"tunnel_open", tunnel_open_fields},
    [CONTROL_TUNNEL_OPENED] = {"tunnel_opened", tunnel_opened_fields},
    [CONTROL_TUNNEL_REFUSED] = {"tunnel_refused", tunnel_refused_fields},
    [CONTROL_TUNNEL_CLOSE] = {"tunnel_close", tunnel_close_fields},
    [CONTROL_TUNNEL_CLOSED] = {"tunnel_closed", tunnel_closed_fields},
    [CONTROL_GOAWAY] = {"goaway", goaway_fields},
};

enum { MESSAGES = sizeof messages / sizeof *messages };

// ---- members by their size ----

static void *member_of(struct control *c, const struct field *f) {
  return (char *)c + f->offset;
}

static const void *const_member_of(const struct control *c, const struct field *f) {
  return (const char *)c + f->offset;
}

static void store_int(void *member, size_t size, int64_t value) {
  uint16_t v16 = (uint16_t)value;
  uint32_t v32 = (uint32_t)value;
  memcpy(member, size == sizeof v16 ? (const void *)&v16 : size == sizeof v32 ? (const void *)&v32 : &value, size);
}

static int64_t load_int(const void *member, size_t size) {
  uint16_t v16;
  uint32_t v32;
  int64_t v64;
  switch (size) {
  case sizeof v16: return memcpy(&v16, member, size), v16;
  case sizeof v32: return memcpy(&v32, member, size), v32;
  default: return memcpy(&v64, member, sizeof v64), v64;
  }
}

// ---- decoding ----

// A peer's word in an error text, up to a quotation mark: printable ASCII, and no longer than a key of ours, so that a
// token in the wrong place shows no more than its id.
enum { QUOTE_MAX = 17 };

struct quoted {
  char s[QUOTE_MAX + 4];
};

static struct quoted quote(const char *text) {
  struct quoted q = {{0}};
  size_t n = strcspn(text, "\"");
  for (size_t i = 0; i < n && i < QUOTE_MAX; i++) q.s[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
  if (n > QUOTE_MAX) memcpy(q.s + QUOTE_MAX, "...", 4);
  return q;
}

// Each answers NULL or what the value must be.
typedef const char *(*decode_fn)(const struct field *f, const json_t *value, void *member);

static const char *decode_int(const struct field *f, const json_t *value, void *member) {
  if (!json_is_integer(value)) return "an integer";
  json_int_t v = json_integer_value(value);
  if (v < f->min || v > f->max) return "within its range";
  store_int(member, f->size, v);
  return NULL;
}

static const char *decode_bool(const struct field *f, const json_t *value, void *member) {
  if (!json_is_boolean(value)) return "true or false";
  *(bool *)member = json_is_true(value);
  return NULL;
}

static const char *decode_text(const struct field *f, const json_t *value, void *member) {
  if (!json_is_string(value)) return "a string";
  size_t len = json_string_length(value);
  if (len >= f->size) return "a shorter string";
  memcpy(member, json_string_value(value), len + 1);
  return NULL;
}

static const char *decode_name(const struct field *f, const json_t *value, void *member) {
  if (!json_is_string(value) || !name_valid(json_string_value(value)))
    return "1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit";
  return decode_text(f, value, member);
}

static const char *decode_run(const struct field *f, const json_t *value, void *member) {
  if (!json_is_string(value) || hex_decode(json_string_value(value), member, f->size)) return "32 hex digits";
  return NULL;
}

static const char *decode_choice(const struct field *f, const json_t *value, void *member) {
  for (int64_t i = 0; json_is_string(value) && f->words[i]; i++) {
    if (strcmp(json_string_value(value), f->words[i]) != 0) continue;
    store_int(member, f->size, i);
    return NULL;
  }
  return "one of its words";
}

// Names that are not known here are left out: the peer may be newer.
static const char *decode_features(const struct field *f, const json_t *value, void *member) {
  static const char must[] = "a list of names";
  const json_t *item;
  size_t at;
  uint32_t bits = 0;
  if (!json_is_array(value)) return must;
  json_array_foreach(value, at, item) {
    if (!json_is_string(item) || !name_valid(json_string_value(item))) return must;
    for (unsigned bit = 0; feature_words[bit]; bit++)
      if (strcmp(json_string_value(item), feature_words[bit]) == 0) bits |= UINT32_C(1) << bit;
  }
  memcpy(member, &bits, sizeof bits);
  return NULL;
}

static const decode_fn decoders[] = {
    [KIND_INT] = decode_int,           [KIND_BOOL] = decode_bool, [KIND_TEXT] = decode_text,
    [KIND_NAME] = decode_name,         [KIND_RUN] = decode_run,   [KIND_CHOICE] = decode_choice,
    [KIND_FEATURES] = decode_features,
};

static const struct field *find_field(const struct field *fields, const char *key) {
  for (; fields->key; fields++)
    if (strcmp(fields->key, key) == 0) return fields;
  return NULL;
}

static int decode_fields(const struct message *m, json_t *root, struct control *out, struct err_text *e) {
  const char *key;
  json_t *value;
  json_object_foreach(root, key, value) {
    const struct field *f = find_field(m->fields, key);
    if (!f && strcmp(key, "type") == 0) continue;
    if (!f) return err_set(e, PERR_PROTOCOL, "%s: unknown key \"%s\"", m->name, quote(key).s);
    const char *must = decoders[f->kind](f, value, member_of(out, f));
    if (!must) continue;
    if (f->kind == KIND_INT && json_is_integer(value))
      return err_set(e, PERR_PROTOCOL, "%s: \"%s\" must be %" PRId64 " to %" PRId64, m->name, f->key, f->min, f->max);
    return err_set(e, PERR_PROTOCOL, "%s: \"%s\" must be %s", m->name, f->key, must);
  }
  for (const struct field *f = m->fields; f->key; f++)
    if (!f->optional && !json_object_get(root, f->key))
      return err_set(e, PERR_PROTOCOL, "%s: \"%s\" is missing", m->name, f->key);
  return 0;
}

static int decode_object(json_t *root, struct control *out, struct err_text *e) {
  if (!json_is_object(root)) return err_set(e, PERR_PROTOCOL, "a control message is a JSON object");
  const char *type = json_string_value(json_object_get(root, "type"));
  if (!type) return err_set(e, PERR_PROTOCOL, "a control message needs a \"type\", a string");
  for (int i = 0; i < MESSAGES; i++) {
    if (strcmp(type, messages[i].name) != 0) continue;
    out->type = (enum control_type)i;
    return decode_fields(&messages[i], root, out, e);
  }
  return err_set(e, PERR_PROTOCOL, "unknown type of control message \"%s\"", quote(type).s);
}

// The parser's own text quotes the message, which may hold a token; of a duplicate key it quotes the key alone, and
// that only when it is short.
static int duplicate_key(const json_error_t *je, struct err_text *e) {
  const char *key = strchr(je->text, '"');
  if (!key) return err_set(e, PERR_PROTOCOL, "a duplicate key, at byte %d", je->position);
  return err_set(e, PERR_PROTOCOL, "duplicate key \"%s\"", quote(key + 1).s);
}

static int syntax_error(const json_error_t *je, struct err_text *e) {
  if (json_error_code(je) == json_error_duplicate_key) return duplicate_key(je, e);
  if (json_error_code(je) == json_error_out_of_memory) return err_set(e, PERR_NOMEM, "out of memory");
  return err_set(e, PERR_PROTOCOL, "a control message that is not JSON, at byte %d", je->position);
}

int control_decode(const uint8_t *data, size_t len, struct control *out, struct err_text *e) {
  json_error_t je;
  memset(out, 0, sizeof *out);
  json_t *root = json_loadb((const char *)data, len, JSON_REJECT_DUPLICATES, &je);
  if (!root) return syntax_error(&je, e);
  int rc = decode_object(root, out, e);
  json_decref(root);
  return rc;
}

// ---- encoding ----

// Text that is not UTF-8, such as one that was cut within a character, goes out with its odd bytes replaced.
static json_t *encode_text(const char *text) {
  json_t *value = json_string(text);
  if (value) return value;
  char *copy = strdup(text);
  if (!copy) return NULL;
  for (char *p = copy; *p; p++)
    if ((unsigned char)*p >= 0x80) *p = '?';
  value = json_string(copy);
  crypto_wipe(copy, strlen(copy));
  free(copy);
  return value;
}

static json_t *encode_features(uint32_t bits) {
  json_t *list = json_array();
  for (unsigned bit = 0; feature_words[bit]; bit++)
    if (bits & UINT32_C(1) << bit) json_array_append_new(list, json_string(feature_words[bit]));
  return list;
}

static json_t *encode_field(const struct field *f, const void *member) {
  char hex[2 * CONTROL_RUN_LEN + 1];
  switch (f->kind) {
  case KIND_INT: return json_integer(load_int(member, f->size));
  case KIND_BOOL: return json_boolean(*(const bool *)member);
  case KIND_TEXT:
  case KIND_NAME: return encode_text(member);
  case KIND_RUN: return hex_encode(member, f->size, hex), json_string(hex);
  case KIND_CHOICE: return json_string(f->words[load_int(member, f->size)]);
  case KIND_FEATURES: return encode_features((uint32_t)load_int(member, f->size));
  }
  return NULL;
}

static bool is_unset(const struct field *f, const void *member) {
  return f->optional && (f->kind == KIND_INT ? load_int(member, f->size) == 0 : *(const char *)member == '\0');
}

int control_encode(const struct control *c, uint8_t *out, size_t cap, size_t *len) {
  const struct message *m = &messages[c->type];
  json_t *root = json_object();
  bool ok = root && json_object_set_new(root, "type", json_string(m->name)) == 0;
  for (const struct field *f = m->fields; ok && f->key; f++) {
    const void *member = const_member_of(c, f);
    ok = is_unset(f, member) || json_object_set_new(root, f->key, encode_field(f, member)) == 0;
  }
  size_t need = ok ? json_dumpb(root, (char *)out, cap, JSON_COMPACT) : 0;
  json_decref(root);
  if (need == 0) return PERR_NOMEM;
  if (need > cap) return PERR_FULL;
  *len = need;
  return 0;
}
