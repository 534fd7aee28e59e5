// opt: option tables. One table names each option of a JSON configuration with its type, range and default; the
// loader, `--check`, reload and the documentation read it. Unknown keys, wrong types and values out of range are
// errors that name the file and the key by its path ("limits.dead_seconds").
#ifndef POSTERN_BASE_OPT_H
#define POSTERN_BASE_OPT_H

#include "postern/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum opt_type {
  OPT_INT,    // int64_t, between min and max
  OPT_BOOL,   // bool
  OPT_STRING, // char *, heap; `nullable` ones may be null (NULL)
  OPT_ENUM,   // int, index into `choices`
  OPT_LIST,   // struct opt_list of strings; a single string counts as a list of one where `scalar_ok`
  OPT_JSON,   // json_t * (a new reference) or NULL, checked by its owner afterwards
};

struct opt_list {
  char **items;
  size_t count;
};

struct opt {
  const char *path; // "limits.dead_seconds"
  enum opt_type type;
  size_t offset; // in the configuration struct
  int64_t min, max;
  const char *preset; // the default as JSON text; NULL: the key is required
  const char *const *choices; // OPT_ENUM, NULL-terminated
  bool nullable, scalar_ok, reloadable;
  const char *help;
};

// Reads a file into a JSON object; duplicates keys and bad syntax are errors naming file and line. New reference.
PERR_MUST_CHECK int opt_read_file(const char *file, json_t **out, struct err_text *e);
// Fills the struct at `config` from `root` by the table (n rows); what is missing gets its default. The struct must
// be zeroed. On error nothing needs freeing but opt_free is allowed. `root` is borrowed.
PERR_MUST_CHECK int opt_load(const struct opt *table, size_t n, json_t *root, void *config, struct err_text *e);
void opt_free(const struct opt *table, size_t n, void *config);
// The first row with reloadable == false whose value differs between a and b, or NULL.
const struct opt *opt_fixed_difference(const struct opt *table, size_t n, const void *a, const void *b);

// `path` relative to the folder of `file`, unless it is absolute. Heap, caller frees.
char *opt_resolve_path(const char *file, const char *path);

// "20000-29999" or "2222": 1..65535, low <= high.
PERR_MUST_CHECK int port_range_parse(const char *text, uint16_t *low, uint16_t *high);

#endif
