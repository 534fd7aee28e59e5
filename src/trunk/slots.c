// slots: see slots.h.
#include "postern/trunk/slots.h"

#include <stdlib.h>

enum { FIRST_SLOTS = 64 };

// 1 … 65,535 and round again; 0 says "never used".
static uint16_t next_generation(uint16_t g) { return g == UINT16_MAX ? 1 : (uint16_t)(g + 1); }

static uint32_t index_of(uint32_t id) { return id & 0xffff; }

void slots_init(struct slots *s, bool opener) {
  *s = (struct slots){.free_head = -1, .free_tail = -1, .opener = opener};
}

void slots_fini(struct slots *s) { free(s->at); }

static void append_free(struct slots *s, uint32_t i) {
  s->at[i].next_free = -1;
  if (s->free_tail >= 0) s->at[s->free_tail].next_free = (int32_t)i;
  else s->free_head = (int32_t)i;
  s->free_tail = (int32_t)i;
}

static int reserve(struct slots *s, uint32_t n) {
  if (n <= s->n) return 0;
  if (n > SLOTS_MAX) return PERR_LIMIT;
  uint32_t cap = s->n ? s->n : FIRST_SLOTS;
  while (cap < n) cap *= 2;
  struct slot *grown = realloc(s->at, cap * sizeof *grown);
  if (!grown) return PERR_NOMEM;
  s->at = grown;
  for (uint32_t i = s->n; i < cap; i++) {
    grown[i] = (struct slot){.next_free = -1};
    if (s->opener) append_free(s, i);
  }
  s->n = cap;
  return 0;
}

int slots_take(struct slots *s, void *item, uint32_t *id) {
  if (s->free_head < 0) {
    int code = reserve(s, s->n + 1);
    if (code) return code;
  }
  uint32_t i = (uint32_t)s->free_head;
  struct slot *slot = &s->at[i];
  s->free_head = slot->next_free;
  if (s->free_head < 0) s->free_tail = -1;
  slot->generation = next_generation(slot->generation);
  slot->item = item;
  *id = (uint32_t)slot->generation << 16 | i;
  return 0;
}

int slots_accept(struct slots *s, uint32_t id, void *item) {
  uint32_t i = index_of(id);
  int code = reserve(s, i + 1);
  if (code) return code;
  struct slot *slot = &s->at[i];
  if (slot->item || id >> 16 != next_generation(slot->generation)) return PERR_PROTOCOL;
  slot->generation = (uint16_t)(id >> 16);
  slot->item = item;
  return 0;
}

void slots_free(struct slots *s, uint32_t id) {
  s->at[index_of(id)].item = NULL;
  if (s->opener) append_free(s, index_of(id));
}

enum slots_found slots_find(const struct slots *s, uint32_t id, void **item) {
  uint32_t i = index_of(id);
  uint16_t generation = (uint16_t)(id >> 16), latest = slots_generation(s, id);
  if (latest == 0 || generation == 0) return SLOTS_UNKNOWN;
  *item = latest == generation ? s->at[i].item : NULL;
  if (*item) return SLOTS_LIVE;
  // Half the circle of generations lies in the past, half in the future.
  return (uint16_t)(latest - generation) < 0x8000 ? SLOTS_LATE : SLOTS_UNKNOWN;
}

uint16_t slots_generation(const struct slots *s, uint32_t id) {
  return index_of(id) < s->n ? s->at[index_of(id)].generation : 0;
}
