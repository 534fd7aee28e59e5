// cmd_store: reads the audit and copies the store. Called through the command table.
#include "postern/ctl/cmd_store.h"
#include "postern/base/clock.h"
#include "postern/ctl/output.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- audit ----

enum { AUDIT_BATCH = 1000 };

// The audit is read in batches, each in a short transaction, so that a pager that waits holds no snapshot of the
// store. A batch begins at the time of the last row printed; `skip` rows of exactly that time are known already.
struct batch {
  int64_t since_ms;
  unsigned skip, seen; // seen: rows at since_ms met in this batch
  struct store_audit *rows;
  unsigned count;
};

static bool collect_row(void *ctx, const struct store_audit *row) {
  struct batch *b = ctx;
  if (row->at_ms == b->since_ms && b->seen++ < b->skip) return true;
  b->rows[b->count++] = *row;
  return b->count < AUDIT_BATCH;
}

static int read_batch(struct ctl *c, struct batch *b, struct err_text *e) {
  struct store_txn *t;
  int rc = ctl_read(c, &t, e);
  if (rc < 0) return rc;
  b->seen = b->count = 0;
  rc = store_audit_each(t, b->since_ms, collect_row, b);
  return ctl_end(t, rc, e);
}

static void advance(struct batch *b) {
  int64_t last = b->rows[b->count - 1].at_ms;
  unsigned same = 0;
  while (same < b->count && b->rows[b->count - 1 - same].at_ms == last) same++;
  b->skip = last == b->since_ms ? b->skip + same : same;
  b->since_ms = last;
}

static json_t *row_json(const struct store_audit *row) {
  char at[CLOCK_TEXT];
  return json_pack("{s:s, s:o, s:o, s:o, s:o, s:i}", "at", clock_format_ms(row->at_ms, at), "actor",
                   output_string(row->actor), "action", output_string(row->action), "user",
                   row->user[0] ? output_string(row->user) : json_null(), "detail", output_string(row->detail), "count",
                   (int)row->count);
}

static void print_row(const struct store_audit *row) {
  char at[CLOCK_TEXT];
  printf("%-24s  ", clock_format_ms(row->at_ms, at));
  output_text(row->actor, 16);
  printf("  ");
  output_text(row->action, 14);
  printf("  ");
  output_text(row->user[0] ? row->user : "-", 12);
  printf("  ");
  output_text(row->detail, 0);
  if (row->count > 1) printf(" (%u times)", (unsigned)row->count);
  printf("\n");
}

static void print_json_row(const struct store_audit *row, bool first) {
  json_t *object = row_json(row);
  if (!first) printf(", ");
  json_dumpf(object, stdout, 0);
  json_decref(object);
}

static int print_rows(struct ctl *c, struct batch *b, struct err_text *e) {
  bool first = true;
  int rc = read_batch(c, b, e);
  if (rc == 0 && c->json) printf("[");
  while (rc == 0 && b->count) {
    for (unsigned i = 0; i < b->count; i++, first = false) {
      if (c->json)
        print_json_row(&b->rows[i], first);
      else
        print_row(&b->rows[i]);
    }
    advance(b);
    rc = read_batch(c, b, e);
  }
  if (rc == 0 && c->json) printf("]\n");
  return rc;
}

int cmd_audit(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  const char *since = args_option(a, "--since");
  int64_t seconds = 0;
  if (since && duration_parse(since, &seconds) < 0)
    return err_set(e, PERR_INVALID, "--since: '%s' is no time; write 15m, 1h or 7d", since);
  struct batch b = {.since_ms = since ? clock_wall_ms() - seconds * 1000 : 0};
  b.rows = calloc(AUDIT_BATCH, sizeof *b.rows);
  if (!b.rows) return err_set(e, PERR_NOMEM, "%s", perr_str(PERR_NOMEM));
  int rc = print_rows(c, &b, e);
  free(b.rows);
  return rc;
}

// ---- backup ----

int cmd_backup(struct ctl *c, const struct args *a, json_t **data, struct err_text *e) {
  const char *file = a->words[0];
  int rc = ctl_open(c, e);
  if (rc == 0) rc = store_backup(c->store, file, e);
  if (rc < 0) {
    if (c->uid == 0 && geteuid() != 0) err_prefix(e, "acting as uid %u, the owner of %s", (unsigned)geteuid(), c->dir);
    return rc;
  }
  struct stat st;
  if (stat(file, &st) < 0) return err_set(e, PERR_IO, "%s: %s", file, strerror(errno));
  *data = json_pack("{s:o, s:I}", "file", output_string(file), "bytes", (json_int_t)st.st_size);
  return 0;
}

void cmd_backup_print(const json_t *data) {
  printf("%" JSON_INTEGER_FORMAT " bytes in ", json_integer_value(json_object_get(data, "bytes")));
  output_text(json_string_value(json_object_get(data, "file")), 0);
  printf("\n");
}
