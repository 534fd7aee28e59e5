// bulk: visitors that move as many bytes as they can.
#ifndef BENCH_BULK_H
#define BENCH_BULK_H
#include "tally.h"
#include <stdint.h>

// Sends to an echo and reads it at the same time; the bytes that came back count.
void bulk_pump(struct tally *t, uint16_t port, unsigned count, double seconds);

// Reads what the target sends in that time.
void bulk_download(struct tally *t, uint16_t port, unsigned count, double seconds);

// Sends; the bytes that the target has confirmed in that time count.
void bulk_upload(struct tally *t, uint16_t port, unsigned count, double seconds);

#endif
