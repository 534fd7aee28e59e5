// tally: what one run of the load generator counted, and its line of JSON.
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fault {
  FAULT_CONNECT, // not connected, refused included
  FAULT_SEND,    // a send failed, or took a small message only in part
  FAULT_RECV,    // a receive failed: mostly a reset
  FAULT_EOF,     // ended before it was asked to
  FAULT_WRONG,   // other bytes, or another number of them, than were sent
  FAULT_TIMEOUT, // no answer within the time of grace
  FAULTS
};

struct tally {
  uint64_t done;  // exchanges counted
  uint64_t bytes; // bulk bytes that reached their end
  uint64_t datagrams, lost; // that reached their end, or did not
  double seconds; // the time counted
  uint64_t faults[FAULTS];
  char first_fault[80];
  float *latencies_us; // `done` of them, owned
  size_t room;
};

// One exchange that took so long.
void tally_answer(struct tally *t, double seconds);

// One fault; `cause` is errno's value, or 0.
void tally_fault(struct tally *t, enum fault fault, int cause);

uint64_t tally_errors(const struct tally *t);

// So many faults that the run should end.
bool tally_hopeless(const struct tally *t);

// Prints the line and frees what the tally owns.
void tally_print(struct tally *t, const char *mode, unsigned connections);

#endif
