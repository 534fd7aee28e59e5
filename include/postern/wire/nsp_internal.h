// nsp_internal: what the parsers of nsp_request.c and nsp_reverse.c share. Not for other layers.
#ifndef POSTERN_WIRE_NSP_INTERNAL_H
#define POSTERN_WIRE_NSP_INTERNAL_H

#include "postern/base/bytes.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Moves bytes of `in` behind the *have that are at `to`, until there are `want`; true when they are.
bool nsp_gather(struct rd *in, uint8_t *to, size_t *have, size_t want);
// Bytes of an opening (first byte, length BE16, token) as far as the `have` bytes of it tell: more than `have`, unless
// it is complete. 0: the token is longer than NSP_TOKEN_MAX.
size_t nsp_opening_size(const uint8_t *opening, size_t have);
// Moves the token of `opening`, which is complete, to the start and ends it with a NUL. One that is not printable ASCII
// becomes "": nobody has such a token, and whoever reads it is to answer so.
void nsp_keep_token(uint8_t *opening);
bool nsp_printable(const uint8_t *text, size_t len);

#endif
