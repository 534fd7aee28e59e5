// output: JSON for programs, aligned tables for people. Text that a peer may have chosen is escaped.
#ifndef POSTERN_CTL_OUTPUT_H
#define POSTERN_CTL_OUTPUT_H

#include "postern/base/err.h"
#include <jansson.h>
#include <stddef.h>

// A column of a table or a line of a record. `key` may lead into an object: "limits.tunnels".
struct output_column {
  const char *title, *key;
};

void output_json(const json_t *value); // on one line; NULL is null
// Nothing but the titles for an empty list.
void output_table(const json_t *list, const struct output_column *columns, size_t n);
void output_record(const json_t *object, const struct output_column *columns, size_t n);
// Every key of an object in its order.
void output_object(const json_t *object);
// Text with what is not printable escaped; `width` columns at least.
void output_text(const char *text, size_t width);
// "posternctl: LINE" on stderr.
void output_error(const char *line);
// Flushes stdout; an error when not everything could be written.
PERR_MUST_CHECK int output_finish(struct err_text *e);

// A JSON string of any bytes: what is not UTF-8 is escaped. New reference.
json_t *output_string(const char *text);
// Whether a text typed for an option may be kept: UTF-8 without controls, less than `cap` bytes. NULL is fine.
PERR_MUST_CHECK int output_check(const char *option, const char *text, size_t cap, struct err_text *e);

#endif
