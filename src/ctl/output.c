// output: what posternctl prints. Called by main and the print functions of the commands; owns nothing.
#include "postern/ctl/output.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Columns that a text takes on the terminal: its characters of UTF-8.
static size_t text_width(const char *text) {
  size_t n = 0;
  for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

static bool is_utf8(const char *text) {
  json_t *s = json_string(text);
  json_decref(s);
  return s != NULL;
}

// A copy without controls (C0, DEL and C1), and without bytes above 127 where the text is not UTF-8. Heap.
static char *escape(const char *text) {
  char *out = malloc(4 * strlen(text) + 1), *p = out;
  if (!out) abort();
  bool utf8 = is_utf8(text);
  for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
    bool c1 = utf8 && s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0;
    if (c1) s++;
    if (c1 || *s < 0x20 || *s == 0x7f || (!utf8 && *s >= 0x80))
      p += sprintf(p, "\\x%02x", *s);
    else
      *p++ = (char)*s;
  }
  *p = '\0';
  return out;
}

json_t *output_string(const char *text) {
  json_t *s = json_string(text);
  if (s) return s;
  char *clean = escape(text);
  s = json_string(clean);
  free(clean);
  return s;
}

int output_check(const char *option, const char *text, size_t cap, struct err_text *e) {
  if (!text) return 0;
  if (strlen(text) >= cap) return err_set(e, PERR_INVALID, "%s: the text is longer than %zu bytes", option, cap - 1);
  char *clean = escape(text);
  bool same = strcmp(clean, text) == 0;
  free(clean);
  return same ? 0 : err_set(e, PERR_INVALID, "%s: the text is not UTF-8 or holds control characters", option);
}

void output_json(const json_t *value) {
  if (!value)
    printf("null");
  else
    json_dumpf(value, stdout, JSON_ENCODE_ANY);
  putchar('\n');
}

void output_text(const char *text, size_t width) {
  char *clean = escape(text);
  fputs(clean, stdout);
  for (size_t n = text_width(clean); n < width; n++) putchar(' ');
  free(clean);
}

void output_error(const char *line) {
  char *clean = escape(line);
  fprintf(stderr, "posternctl: %s\n", clean);
  free(clean);
}

int output_finish(struct err_text *e) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
  return err_set(e, PERR_IO, "cannot write the output: %s", strerror(errno));
}

static char *join_list(const json_t *list);

// What a person sees of a value. Heap.
static char *value_text(const json_t *value) {
  char *text = NULL;
  int n = 0;
  if (json_string_length(value))
    return escape(json_string_value(value));
  else if (json_is_array(value))
    return join_list(value);
  else if (json_is_integer(value))
    n = asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else if (json_is_real(value))
    n = asprintf(&text, "%.3f", json_real_value(value));
  else if (json_is_boolean(value))
    n = asprintf(&text, "%s", json_is_true(value) ? "yes" : "no");
  else if (json_is_object(value))
    text = json_dumps(value, 0);
  else
    n = asprintf(&text, "-");
  if (n < 0 || !text) abort();
  return text;
}

static char *join_list(const json_t *list) {
  char *text = NULL;
  size_t size = 0, i;
  FILE *f = open_memstream(&text, &size);
  if (!f) abort();
  const json_t *item;
  json_array_foreach(list, i, item) {
    char *one = value_text(item);
    fprintf(f, "%s%s", i ? " " : "", one);
    free(one);
  }
  if (json_array_size(list) == 0) fputc('-', f);
  if (fclose(f) != 0) abort();
  return text;
}

// "a.b" leads from an object through "a" to its "b".
static const json_t *value_at(const json_t *object, const char *key) {
  const char *dot = strchr(key, '.');
  if (!dot) return json_object_get(object, key);
  char first[32];
  snprintf(first, sizeof first, "%.*s", (int)(dot - key), key);
  return json_object_get(json_object_get(object, first), dot + 1);
}

static void print_cell(const char *text, size_t width, bool last) {
  printf("%s", text);
  for (size_t w = text_width(text); !last && w < width + 2; w++) putchar(' ');
  if (last) putchar('\n');
}

void output_table(const json_t *list, const struct output_column *columns, size_t n) {
  size_t rows = json_array_size(list), row, *width = calloc(n, sizeof *width);
  char **cells = calloc(rows * n + 1, sizeof *cells);
  if (!width || !cells) abort();
  for (size_t i = 0; i < n; i++) width[i] = text_width(columns[i].title);
  const json_t *item;
  json_array_foreach(list, row, item) {
    for (size_t i = 0; i < n; i++) {
      char *text = cells[row * n + i] = value_text(value_at(item, columns[i].key));
      if (text_width(text) > width[i]) width[i] = text_width(text);
    }
  }
  for (size_t i = 0; i < n; i++) print_cell(columns[i].title, width[i], i + 1 == n);
  for (size_t i = 0; i < rows * n; i++) {
    print_cell(cells[i], width[i % n], i % n + 1 == n);
    free(cells[i]);
  }
  free(cells);
  free(width);
}

static void print_line(const char *title, const json_t *value, size_t width) {
  char *text = value_text(value);
  print_cell(title, width, false);
  print_cell(text, 0, true);
  free(text);
}

void output_record(const json_t *object, const struct output_column *columns, size_t n) {
  size_t width = 0;
  for (size_t i = 0; i < n; i++)
    if (text_width(columns[i].title) > width) width = text_width(columns[i].title);
  for (size_t i = 0; i < n; i++) print_line(columns[i].title, value_at(object, columns[i].key), width);
}

void output_object(const json_t *object) {
  json_t *borrowed = json_incref((json_t *)(uintptr_t)object);
  size_t width = 0;
  const char *key;
  json_t *value;
  json_object_foreach(borrowed, key, value) if (text_width(key) > width) width = text_width(key);
  json_object_foreach(borrowed, key, value) print_line(key, value, width);
  json_decref(borrowed);
}
