// bulk: visitors that move as many bytes as they can for a while. Those of an echo then end their half; the clock runs
// until the last byte of all has arrived, and every byte sent must have. The others just leave, which also a relay that
// knows no half-close does justice to. Called by load's main; owns the visitors. One thread.
#include "bulk.h"
#include "net.h"
#include "target.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 65536, EVENTS = 64, TURN_MS = 20 };

static const double grace_seconds = 30;

struct visitor {
  int fd; // -1 when it is over
  uint64_t sent, received;
  uint64_t confirmed;          // while uploading: the target's latest count
  char word[sizeof(uint64_t)]; // of it, what came of the next
};

struct bulk {
  struct tally *tally;
  char duty; // TARGET_*
  unsigned count, open;
  int poller;
  bool ending; // this half is closed
  struct visitor *visitors;
  char out[CHUNK], in[CHUNK];
};

static void hang_up(struct bulk *b, struct visitor *v) {
  close(v->fd);
  v->fd = -1;
  b->open--;
}

static void fail(struct bulk *b, struct visitor *v, enum fault fault, int cause) {
  tally_fault(b->tally, fault, cause);
  hang_up(b, v);
}

static void on_end(struct bulk *b, struct visitor *v) {
  if (!b->ending) {
    fail(b, v, FAULT_EOF, 0);
  } else if (v->received != v->sent) {
    fail(b, v, FAULT_WRONG, 0);
  } else {
    b->tally->bytes += v->received;
    hang_up(b, v);
  }
}

// The target's counts grow, and are of bytes that were sent.
static bool take_counts(struct visitor *v, const char *data, size_t len) {
  for (size_t i = 0; i < len; i++) {
    uint64_t count;
    size_t at = (v->received + i) % sizeof v->word;
    v->word[at] = data[i];
    if (at + 1 < sizeof v->word) continue;
    memcpy(&count, v->word, sizeof count);
    if (count <= v->confirmed || count > v->sent) return false;
    v->confirmed = count;
  }
  return true;
}

static void on_readable(struct bulk *b, struct visitor *v) {
  ssize_t n = recv(v->fd, b->in, CHUNK, 0);
  if (n > 0) {
    if (b->duty == TARGET_DISCARD && !take_counts(v, b->in, (size_t)n)) {
      fail(b, v, FAULT_WRONG, 0);
      return;
    }
    v->received += (uint64_t)n;
  } else if (n == 0) {
    on_end(b, v);
  } else if (errno != EAGAIN) {
    fail(b, v, v->sent || v->received ? FAULT_RECV : FAULT_CONNECT, errno);
  }
}

static void on_writable(struct bulk *b, struct visitor *v) {
  bool is_request = b->duty == TARGET_SOURCE; // one byte is all that is said
  ssize_t n = send(v->fd, b->out, is_request ? 1 : CHUNK, MSG_NOSIGNAL);
  if (n > 0) {
    v->sent += (uint64_t)n;
    if (is_request) poller_change(b->poller, v->fd, EPOLLIN, v);
  } else if (errno != EAGAIN) {
    fail(b, v, v->sent ? FAULT_SEND : FAULT_CONNECT, errno);
  }
}

static void turn(struct bulk *b) {
  struct epoll_event ready[EVENTS];
  int n = epoll_wait(b->poller, ready, EVENTS, TURN_MS);
  if (n < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < n; i++) {
    struct visitor *v = ready[i].data.ptr;
    if (ready[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_readable(b, v);
    if (v->fd >= 0 && ready[i].events & EPOLLOUT) on_writable(b, v);
  }
}

static void open_all(struct bulk *b, uint16_t port) {
  for (unsigned i = 0; i < b->count; i++) {
    struct visitor *v = &b->visitors[i];
    v->fd = dial_loopback(port);
    if (v->fd < 0) {
      tally_fault(b->tally, FAULT_CONNECT, errno);
      continue;
    }
    b->open++;
    poller_add(b->poller, v->fd, EPOLLIN | EPOLLOUT, v);
  }
}

static void end_halves(struct bulk *b) {
  b->ending = true;
  for (unsigned i = 0; i < b->count; i++) {
    struct visitor *v = &b->visitors[i];
    if (v->fd < 0) continue;
    if (shutdown(v->fd, SHUT_WR))
      fail(b, v, FAULT_CONNECT, errno);
    else
      poller_change(b->poller, v->fd, EPOLLIN, v);
  }
}

// Who moved nothing at all has waited in vain.
static void leave(struct bulk *b) {
  for (unsigned i = 0; i < b->count; i++) {
    struct visitor *v = &b->visitors[i];
    if (v->fd < 0) continue;
    uint64_t moved = b->duty == TARGET_DISCARD ? v->confirmed : v->received;
    b->tally->bytes += moved;
    if (moved)
      hang_up(b, v);
    else
      fail(b, v, FAULT_TIMEOUT, 0);
  }
}

static void drain(struct bulk *b, double deadline) {
  end_halves(b);
  while (b->open && clock_seconds() < deadline) turn(b);
  for (unsigned i = 0; i < b->count; i++)
    if (b->visitors[i].fd >= 0) fail(b, &b->visitors[i], FAULT_TIMEOUT, 0);
}

static void run(struct tally *t, char duty, uint16_t port, unsigned count, double seconds) {
  struct bulk *b = calloc(1, sizeof *b);
  if (!b || !(b->visitors = calloc(count, sizeof *b->visitors))) die("calloc");
  b->tally = t;
  b->duty = duty;
  b->count = count;
  b->poller = poller_new();
  memset(b->out, duty, CHUNK);
  double from = clock_seconds();
  open_all(b, port);
  while (b->open && clock_seconds() < from + seconds) turn(b);
  if (duty == TARGET_ECHO) drain(b, from + seconds + grace_seconds);
  t->seconds = clock_seconds() - from;
  leave(b);
  close(b->poller);
  free(b->visitors);
  free(b);
}

void bulk_pump(struct tally *t, uint16_t port, unsigned count, double seconds) {
  run(t, TARGET_ECHO, port, count, seconds);
}

void bulk_download(struct tally *t, uint16_t port, unsigned count, double seconds) {
  run(t, TARGET_SOURCE, port, count, seconds);
}

void bulk_upload(struct tally *t, uint16_t port, unsigned count, double seconds) {
  run(t, TARGET_DISCARD, port, count, seconds);
}
