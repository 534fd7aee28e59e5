// NSP's length of a compressed block: what is taken goes back into the same bytes.
#include "postern/wire/nsp.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t out[NSP_BLOCK_HEADER];
  uint32_t len = 0;
  if (size < NSP_BLOCK_HEADER) return 0;
  int rc = nsp_get_block_header(data, &len);
  if (rc == PERR_EOF && memcmp(data, "\0\0\0\0", NSP_BLOCK_HEADER) != 0) abort();
  if (rc) return 0;
  if (len == 0 || len > NSP_BLOCK_MAX) abort();
  nsp_put_block_header(out, len);
  if (memcmp(out, data, NSP_BLOCK_HEADER) != 0) abort();
  return 0;
}
