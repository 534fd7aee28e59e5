// Frame headers and OPEN: what is taken must come out of the encoder as the same bytes, or at least the same value.
#include "postern/wire/frame.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_open(const uint8_t *payload, size_t len) {
  struct frame_open open, again;
  uint8_t out[FRAME_OPEN_MAX];
  if (frame_get_open(payload, len, &open)) return;
  size_t n = frame_put_open(out, &open);
  // An IPv4 address within IPv6 becomes IPv4, and no address has no port.
  if (n > len || frame_get_open(out, n, &again)) abort();
  if (open.tunnel != again.tunnel || open.visitor.len != again.visitor.len) abort();
  if (memcmp(&open.visitor, &again.visitor, sizeof open.visitor) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct frame f;
  const char *why = NULL;
  uint8_t out[FRAME_HEADER];
  if (size < FRAME_HEADER) return 0;
  int rc = frame_get_header(data, &f, &why);
  if ((rc == 0) != (why == NULL)) abort();
  if (rc == 0) {
    if (f.len > FRAME_PAYLOAD_MAX) abort();
    frame_put_header(out, &f);
    if (memcmp(out, data, FRAME_HEADER) != 0) abort();
  }
  check_open(data + FRAME_HEADER, size - FRAME_HEADER);
  return 0;
}
