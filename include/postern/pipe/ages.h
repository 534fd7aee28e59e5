// ages: the order in which flows end. Those that were never answered go first, and soon; then whoever has been silent
// longest. Embedded in the owner of the flows. Whoever floods with new sources so only displaces his own kind.
#ifndef POSTERN_PIPE_AGES_H
#define POSTERN_PIPE_AGES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum { AGES_FRESH_MS = 10000 }; // a flow that was never answered ends after so much silence

struct age {
  TAILQ_ENTRY(age) entry;
  uint64_t used_ms;
  bool answered;
};
TAILQ_HEAD(age_list, age);

struct ages {
  struct age_list fresh, answered; // the longest silent first
  uint32_t count;
};

void ages_init(struct ages *s);
void ages_add(struct ages *s, struct age *a, uint64_t now_ms); // not answered yet
void ages_remove(struct ages *s, struct age *a);
// A datagram passed; `answer`: it came from the target. Once answered, always answered.
void ages_touch(struct ages *s, struct age *a, uint64_t now_ms, bool answer);
// Who makes room for another; NULL when there is none.
struct age *ages_first(const struct ages *s);
// One that has been silent for `idle_ms`, or for AGES_FRESH_MS without ever having been answered; NULL: none.
struct age *ages_expired(const struct ages *s, uint64_t now_ms, uint64_t idle_ms);

#endif
