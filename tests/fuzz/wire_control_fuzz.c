// Control messages: what is taken goes out again, and decoding that gives the same message.
#include "postern/wire/control.h"
#include "postern/wire/frame.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct control first, second;
  static uint8_t out[FRAME_PAYLOAD_MAX];
  struct err_text e = {{0}};
  size_t len = 0;
  if (size > FRAME_PAYLOAD_MAX) return 0;
  if (control_decode(data, size, &first, &e)) {
    if (!e.s[0]) abort();
    return 0;
  }
  // The encoder writes no longer than the shortest form of what came in.
  if (control_encode(&first, out, sizeof out, &len)) abort();
  if (control_decode(out, len, &second, &e)) abort();
  if (memcmp(&first, &second, sizeof first) != 0) abort();
  return 0;
}
