// opt: reads a JSON configuration by an option table. Called by the programs at start and at reload, on the main
// thread; what it fills belongs to the caller, who gives it back to opt_free.
#include "postern/base/opt.h"
#include "postern/base/text.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_TEXT = 256 };

static const char *type_name(const json_t *v) {
  switch (json_typeof(v)) {
  case JSON_OBJECT: return "an object";
  case JSON_ARRAY: return "a list";
  case JSON_STRING: return "a string";
  case JSON_INTEGER: return "an integer";
  case JSON_REAL: return "a fraction";
  case JSON_NULL: return "null";
  default: return "a boolean";
  }
}

static int wrong_type(const char *path, const char *expected, const json_t *v, struct err_text *e) {
  return err_set(e, PERR_INVALID, "%s: expected %s, got %s", path, expected, type_name(v));
}

static int no_memory(struct err_text *e) {
  return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
}

// jansson reads a folder as an empty file.
static FILE *open_file(const char *file, struct err_text *e) {
  FILE *f = fopen(file, "re");
  struct stat st;
  if (f && fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
    fclose(f);
    f = NULL;
    errno = EISDIR;
  }
  if (!f) err_set(e, PERR_IO, "%s: %s", file, strerror(errno));
  return f;
}

int opt_read_file(const char *file, json_t **out, struct err_text *e) {
  FILE *f = open_file(file, e);
  if (!f) return PERR_IO;
  json_error_t error;
  json_t *root = json_loadf(f, JSON_REJECT_DUPLICATES, &error);
  fclose(f);
  if (!root) return err_set(e, PERR_INVALID, "%s:%d: %s", file, error.line, error.text);
  if (!json_is_object(root)) {
    json_decref(root);
    return err_set(e, PERR_INVALID, "%s:1: expected an object, got a list", file);
  }
  *out = root;
  return 0;
}

enum place { PLACE_NONE, PLACE_OPTION, PLACE_SECTION };

// What the table knows at `path`: an option, or a section that holds options.
static enum place place_of(const struct opt *table, size_t n, const char *path) {
  size_t len = strlen(path);
  for (size_t i = 0; i < n; i++) {
    if (strncmp(table[i].path, path, len) != 0) continue;
    if (table[i].path[len] == '\0') return PLACE_OPTION;
    if (table[i].path[len] == '.') return PLACE_SECTION;
  }
  return PLACE_NONE;
}

// Tests every key of `section`, whose path is `prefix` ("" or "limits.").
static int check_keys(const struct opt *table, size_t n, json_t *section, const char *prefix, struct err_text *e) {
  const char *key;
  json_t *value;
  json_object_foreach(section, key, value) {
    char path[PATH_TEXT];
    int len = snprintf(path, sizeof path, "%s%s", prefix, key);
    // A dot within a key is not the dot of a path.
    bool plain = len > 0 && (size_t)len + 1 < sizeof path && *key && !strchr(key, '.');
    enum place place = plain ? place_of(table, n, path) : PLACE_NONE;
    if (place == PLACE_NONE) return err_set(e, PERR_INVALID, "unknown key %s%s", prefix, key);
    if (place == PLACE_OPTION) continue;
    if (!json_is_object(value)) return wrong_type(path, "an object", value, e);
    memcpy(path + len, ".", 2);
    int rc = check_keys(table, n, value, path, e);
    if (rc) return rc;
  }
  return 0;
}

// The value at a path, borrowed, or NULL.
static json_t *find_value(json_t *root, const char *path) {
  char key[PATH_TEXT];
  for (json_t *at = root; at;) {
    size_t len = strcspn(path, ".");
    if (len >= sizeof key) return NULL;
    memcpy(key, path, len);
    key[len] = '\0';
    at = json_object_get(at, key);
    if (path[len] == '\0') return at;
    path += len + 1;
  }
  return NULL;
}

static void *field_of(const struct opt *o, void *config) {
  return (char *)config + o->offset;
}
static const void *field_in(const struct opt *o, const void *config) {
  return (const char *)config + o->offset;
}

static int set_int(const struct opt *o, const json_t *v, int64_t *field, struct err_text *e) {
  if (!json_is_integer(v)) return wrong_type(o->path, "an integer", v, e);
  int64_t number = json_integer_value(v);
  if (number < o->min || number > o->max)
    return err_set(e, PERR_INVALID, "%s: %" PRId64 " is out of range %" PRId64 "..%" PRId64, o->path, number, o->min,
                   o->max);
  *field = number;
  return 0;
}

static int set_bool(const struct opt *o, const json_t *v, bool *field, struct err_text *e) {
  if (!json_is_boolean(v)) return wrong_type(o->path, "true or false", v, e);
  *field = json_is_true(v);
  return 0;
}

static int set_string(const struct opt *o, const json_t *v, char **field, struct err_text *e) {
  if (o->nullable && json_is_null(v)) return 0;
  if (!json_is_string(v)) return wrong_type(o->path, o->nullable ? "a string or null" : "a string", v, e);
  *field = strdup(json_string_value(v));
  return *field ? 0 : no_memory(e);
}

static int set_enum(const struct opt *o, const json_t *v, int *field, struct err_text *e) {
  char known[PATH_TEXT] = "";
  if (!json_is_string(v)) return wrong_type(o->path, "a string", v, e);
  for (int i = 0; o->choices[i]; i++) {
    if (strcmp(o->choices[i], json_string_value(v)) == 0) {
      *field = i;
      return 0;
    }
    size_t len = strlen(known);
    snprintf(known + len, sizeof known - len, "%s\"%s\"", i ? ", " : "", o->choices[i]);
  }
  return err_set(e, PERR_INVALID, "%s: \"%.64s\" is none of %s", o->path, json_string_value(v), known);
}

static int add_item(const struct opt *o, struct opt_list *list, const json_t *v, struct err_text *e) {
  if (!json_is_string(v)) {
    char path[PATH_TEXT];
    snprintf(path, sizeof path, "%s[%zu]", o->path, list->count);
    return wrong_type(path, "a string", v, e);
  }
  list->items[list->count] = strdup(json_string_value(v));
  return list->items[list->count++] ? 0 : no_memory(e);
}

static int set_list(const struct opt *o, const json_t *v, struct opt_list *list, struct err_text *e) {
  bool scalar = o->scalar_ok && json_is_string(v);
  if (o->nullable && json_is_null(v)) return 0;
  if (!scalar && !json_is_array(v))
    return wrong_type(o->path, o->scalar_ok ? "a string or a list of strings" : "a list of strings", v, e);
  size_t n = scalar ? 1 : json_array_size(v);
  list->items = calloc(n ? n : 1, sizeof *list->items);
  if (!list->items) return no_memory(e);
  for (size_t i = 0; i < n; i++) {
    int rc = add_item(o, list, scalar ? v : json_array_get(v, i), e);
    if (rc) return rc;
  }
  return 0;
}

static int set_value(const struct opt *o, json_t *v, void *config, struct err_text *e) {
  void *field = field_of(o, config);
  switch (o->type) {
  case OPT_INT: return set_int(o, v, field, e);
  case OPT_BOOL: return set_bool(o, v, field, e);
  case OPT_STRING: return set_string(o, v, field, e);
  case OPT_ENUM: return set_enum(o, v, field, e);
  case OPT_LIST: return set_list(o, v, field, e);
  case OPT_JSON: *(json_t **)field = json_is_null(v) ? NULL : json_incref(v); return 0;
  }
  return err_set(e, PERR_INVALID, "%s: no such type of option", o->path);
}

static int set_default(const struct opt *o, void *config, struct err_text *e) {
  if (!o->preset) return err_set(e, PERR_INVALID, "%s: missing", o->path);
  json_error_t error;
  json_t *v = json_loads(o->preset, JSON_DECODE_ANY, &error);
  if (!v) return err_set(e, PERR_INVALID, "%s: its default does not parse: %s", o->path, error.text);
  int rc = set_value(o, v, config, e);
  json_decref(v);
  return rc;
}

int opt_load(const struct opt *table, size_t n, json_t *root, void *config, struct err_text *e) {
  if (!json_is_object(root)) return err_set(e, PERR_INVALID, "expected an object, got %s", type_name(root));
  int rc = check_keys(table, n, root, "", e);
  for (size_t i = 0; i < n && rc == 0; i++) {
    json_t *v = find_value(root, table[i].path);
    rc = v ? set_value(&table[i], v, config, e) : set_default(&table[i], config, e);
  }
  if (rc) opt_free(table, n, config);
  return rc;
}

static void free_list(struct opt_list *list) {
  for (size_t i = 0; i < list->count; i++) free(list->items[i]);
  free(list->items);
  *list = (struct opt_list){0};
}

void opt_free(const struct opt *table, size_t n, void *config) {
  for (size_t i = 0; i < n; i++) {
    void *field = field_of(&table[i], config);
    if (table[i].type == OPT_STRING) {
      free(*(char **)field);
      *(char **)field = NULL;
    } else if (table[i].type == OPT_LIST) {
      free_list(field);
    } else if (table[i].type == OPT_JSON) {
      json_decref(*(json_t **)field);
      *(json_t **)field = NULL;
    }
  }
}

static bool same_string(const char *a, const char *b) {
  return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_list(const struct opt_list *a, const struct opt_list *b) {
  if (a->count != b->count) return false;
  for (size_t i = 0; i < a->count; i++)
    if (strcmp(a->items[i], b->items[i]) != 0) return false;
  return true;
}

static bool same_json(const json_t *a, const json_t *b) {
  return a && b ? json_equal(a, b) : a == b;
}

static bool same_value(const struct opt *o, const void *a, const void *b) {
  const void *x = field_in(o, a), *y = field_in(o, b);
  switch (o->type) {
  case OPT_INT: return *(const int64_t *)x == *(const int64_t *)y;
  case OPT_BOOL: return *(const bool *)x == *(const bool *)y;
  case OPT_STRING: return same_string(*(char *const *)x, *(char *const *)y);
  case OPT_ENUM: return *(const int *)x == *(const int *)y;
  case OPT_LIST: return same_list(x, y);
  case OPT_JSON: return same_json(*(json_t *const *)x, *(json_t *const *)y);
  }
  return false;
}

const struct opt *opt_fixed_difference(const struct opt *table, size_t n, const void *a, const void *b) {
  for (size_t i = 0; i < n; i++)
    if (!table[i].reloadable && !same_value(&table[i], a, b)) return &table[i];
  return NULL;
}

char *opt_resolve_path(const char *file, const char *path) {
  const char *slash = strrchr(file, '/');
  char *joined;
  if (path[0] == '/' || !slash) return strdup(path);
  return asprintf(&joined, "%.*s/%s", (int)(slash - file), file, path) < 0 ? NULL : joined;
}

static int port_parse(const char *text, size_t len, uint16_t *port) {
  uint64_t number;
  if (decimal_parse(text, len, UINT16_MAX, &number) || number == 0) return PERR_INVALID;
  *port = (uint16_t)number;
  return 0;
}

int port_range_parse(const char *text, uint16_t *low, uint16_t *high) {
  size_t first = strcspn(text, "-");
  const char *second = text[first] ? text + first + 1 : text;
  uint16_t from, to;
  if (port_parse(text, first, &from) || port_parse(second, strlen(second), &to) || from > to) return PERR_INVALID;
  *low = from;
  *high = to;
  return 0;
}
