// tally: what one run of the load generator counted: every exchange with its latency, every fault by its kind.
// Called by the modes; owns the latencies. One thread.
#include "tally.h"
#include "net.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOPELESS_FAULTS = 1000 };

static const char *const fault_names[FAULTS] = {"connect", "send", "recv", "eof", "wrong", "timeout"};

void tally_answer(struct tally *t, double seconds) {
  if (t->done == t->room) {
    t->room = t->room ? t->room * 2 : 1u << 16;
    t->latencies_us = realloc(t->latencies_us, t->room * sizeof *t->latencies_us);
    if (!t->latencies_us) die("realloc");
  }
  t->latencies_us[t->done++] = (float)(seconds * 1e6);
}

void tally_fault(struct tally *t, enum fault fault, int cause) {
  if (!tally_errors(t))
    snprintf(t->first_fault, sizeof t->first_fault, "%s%s%s", fault_names[fault], cause ? ": " : "",
             cause ? strerror(cause) : "");
  t->faults[fault]++;
}

uint64_t tally_errors(const struct tally *t) {
  uint64_t sum = 0;
  for (int i = 0; i < FAULTS; i++) sum += t->faults[i];
  return sum;
}

bool tally_hopeless(const struct tally *t) {
  return tally_errors(t) >= HOPELESS_FAULTS;
}

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static double percentile(const struct tally *t, double share) {
  return t->done ? (double)t->latencies_us[(size_t)(share * (double)(t->done - 1))] : 0;
}

static double lost_percent(const struct tally *t) {
  uint64_t all = t->datagrams + t->lost;
  return all ? 100 * (double)t->lost / (double)all : 0;
}

void tally_print(struct tally *t, const char *mode, unsigned connections) {
  double seconds = t->seconds > 0 ? t->seconds : 1;
  if (t->done) qsort(t->latencies_us, t->done, sizeof *t->latencies_us, compare);
  printf("{\"mode\":\"%s\",\"connections\":%u,\"seconds\":%.3f,\"done\":%llu,\"per_s\":%.1f,\"mb_per_s\":%.2f,"
         "\"datagrams_per_s\":%.1f,\"lost_percent\":%.2f,"
         "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"errors\":%llu,\"faults\":{",
         mode, connections, t->seconds, (unsigned long long)t->done, (double)t->done / seconds,
         (double)t->bytes / seconds / 1e6, (double)t->datagrams / seconds, lost_percent(t),
         percentile(t, 0.5), percentile(t, 0.99), percentile(t, 1),
         (unsigned long long)tally_errors(t));
  const char *comma = "";
  for (int i = 0; i < FAULTS; i++) {
    if (!t->faults[i]) continue;
    printf("%s\"%s\":%llu", comma, fault_names[i], (unsigned long long)t->faults[i]);
    comma = ",";
  }
  printf("},\"first_fault\":\"%s\"}\n", t->first_fault);
  free(t->latencies_us);
  t->latencies_us = NULL;
}
