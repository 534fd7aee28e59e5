// ages: see ages.h.
#include "postern/pipe/ages.h"

#include <stddef.h>

void ages_init(struct ages *s) {
  TAILQ_INIT(&s->fresh);
  TAILQ_INIT(&s->answered);
  s->count = 0;
}

static struct age_list *list_of(struct ages *s, const struct age *a) { return a->answered ? &s->answered : &s->fresh; }

void ages_add(struct ages *s, struct age *a, uint64_t now_ms) {
  a->used_ms = now_ms;
  a->answered = false;
  TAILQ_INSERT_TAIL(&s->fresh, a, entry);
  s->count++;
}

void ages_remove(struct ages *s, struct age *a) {
  TAILQ_REMOVE(list_of(s, a), a, entry);
  s->count--;
}

void ages_touch(struct ages *s, struct age *a, uint64_t now_ms, bool answer) {
  TAILQ_REMOVE(list_of(s, a), a, entry);
  a->used_ms = now_ms;
  a->answered |= answer;
  TAILQ_INSERT_TAIL(list_of(s, a), a, entry);
}

struct age *ages_first(const struct ages *s) {
  struct age *fresh = TAILQ_FIRST(&s->fresh);
  return fresh ? fresh : TAILQ_FIRST(&s->answered);
}

static bool is_over(const struct age *a, uint64_t now_ms, uint64_t idle_ms) {
  return a && now_ms - a->used_ms >= idle_ms;
}

struct age *ages_expired(const struct ages *s, uint64_t now_ms, uint64_t idle_ms) {
  struct age *fresh = TAILQ_FIRST(&s->fresh), *answered = TAILQ_FIRST(&s->answered);
  if (is_over(fresh, now_ms, idle_ms < AGES_FRESH_MS ? idle_ms : AGES_FRESH_MS)) return fresh;
  return is_over(answered, now_ms, idle_ms) ? answered : NULL;
}
