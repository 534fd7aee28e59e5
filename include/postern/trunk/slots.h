// slots: the ids of streams, and of flows, on one link (docs/protocol.md, "Streams"): a slot in the low 16 bits and in
// the high 16 the generation that tells its users apart. The opener gives slots out, the longest free one first, so
// that a late frame has the longest time; the other side checks what it is told. For trunk's files only.
#ifndef POSTERN_TRUNK_SLOTS_H
#define POSTERN_TRUNK_SLOTS_H

#include "postern/base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { SLOTS_MAX = 65536 };

struct slot {
  void *item;          // NULL: over
  uint16_t generation; // of the latest item; 0: never used
  int32_t next_free;   // opener: queue of free slots
};

struct slots {
  struct slot *at;
  uint32_t n;
  int32_t free_head, free_tail; // -1: none
  bool opener;
};

enum slots_found { SLOTS_LIVE, SLOTS_LATE, SLOTS_UNKNOWN };

void slots_init(struct slots *s, bool opener); // allocates nothing
void slots_fini(struct slots *s);
// Opener: a slot for `item`; PERR_LIMIT, PERR_NOMEM.
PERR_MUST_CHECK int slots_take(struct slots *s, void *item, uint32_t *id);
// The other side: the id that the opener has chosen; PERR_PROTOCOL when the slot is in use or its turn is another.
PERR_MUST_CHECK int slots_accept(struct slots *s, uint32_t id, void *item);
// The item is over.
void slots_free(struct slots *s, uint32_t id);
// LIVE: *item is set. LATE: what had this id is over. UNKNOWN: the id was never given, or is still to come.
enum slots_found slots_find(const struct slots *s, uint32_t id, void **item);
// The generation that the slot of `id` is at.
uint16_t slots_generation(const struct slots *s, uint32_t id);

#endif
