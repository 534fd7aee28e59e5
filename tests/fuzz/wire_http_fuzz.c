// Request heads. The first byte chooses how large the pieces are: what comes out must not depend on them, nor on the
// buffer's place; every slice lies in the head; what counts as complete obeys the rules again.
#include "postern/wire/http.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_slice(const struct http_head *h, struct http_slice s) {
  size_t head = http_head_size(h);
  if (s.p < h->buf || s.len > head || (size_t)(s.p - h->buf) > head - s.len) abort();
  if (s.len && (memchr(s.p, '\r', s.len) || memchr(s.p, '\n', s.len) || memchr(s.p, '\0', s.len))) abort();
}

static void check_target(struct http_slice target) {
  struct http_slice path, query;
  if (!http_target_split(target, &path, &query)) return;
  if (path.p < target.p || path.len + query.len > target.len) abort();
  if (query.p + query.len != target.p + target.len) abort();
  if (path.len && path.p[0] != '/') abort();
}

static void check_done(const struct http_head *h, size_t size) {
  struct http_slice name, value, host;
  size_t head = http_head_size(h);
  if (head < 16 || head > size || head > h->max || memcmp(h->buf + head - 2, "\r\n", 2) != 0) abort();
  check_slice(h, http_method(h));
  check_slice(h, http_target(h));
  check_target(http_target(h));
  for (unsigned i = 0; i < h->nfields; i++) {
    http_field_at(h, i, &name, &value);
    check_slice(h, name);
    check_slice(h, value);
    if (name.len == 0 || memchr(name.p, ' ', name.len) || memchr(name.p, ':', name.len)) abort();
  }
  if (http_field(h, "host", &host) != 1 && h->minor == 1) abort();
  if (h->coded && (h->has_length || h->minor == 0)) abort();
}

static int run(struct http_head *h, const uint8_t *data, size_t size, size_t piece) {
  int rc = PERR_AGAIN;
  http_head_init(h, 4096);
  for (size_t len = piece < size ? piece : size; rc == PERR_AGAIN; len += piece) {
    if (len > size) len = size;
    // Another place each time, with nothing behind the last byte.
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy) abort();
    if (len) memcpy(copy, data, len);
    rc = http_head_parse(h, copy, len);
    free(copy);
    if (len == size) break;
  }
  if ((rc == 0) != (h->state == HTTP_DONE) || (rc != 0 && rc != PERR_AGAIN) != (h->state == HTTP_BAD)) abort();
  if (h->state == HTTP_BAD && (!h->why || h->error != rc)) abort();
  // The same bytes where they stay, for a look at the slices.
  if (rc != PERR_AGAIN && http_head_parse(h, data, size) != rc) abort();
  if (rc == 0) check_done(h, size);
  return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct http_head whole, pieces;
  if (size < 1) return 0;
  const uint8_t *bytes = data + 1;
  size_t len = size - 1;
  if (run(&whole, bytes, len, len ? len : 1) != run(&pieces, bytes, len, 1 + data[0] % 64u)) abort();
  if (whole.state == HTTP_DONE && memcmp(&whole, &pieces, sizeof whole) != 0) abort();
  return 0;
}
