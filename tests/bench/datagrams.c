// datagrams: the sender and the counter of datagrams. Called by load's main and by target; one thread.
#include "datagrams.h"
#include "net.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  SIZE = 200,
  BATCH = 32,
  UNDER_WAY = 2048,
  BUFFER = 4 << 20,
  PATIENCE_MS = 20,
  LAST_TRIES = 100,
  PACE = 60000,
};

static const double warm_up_share = 0.1;

// What each datagram begins with; one with `asks` is sent back with the count.
struct head {
  uint64_t sent, came; // by this visitor, as of this datagram
  double at;
  uint8_t asks, counting; // what comes while the sender counts
};

// ---- the target ----

int datagrams_bind(uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = BUFFER;
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  if (bind(fd, (struct sockaddr *)&a, sizeof a)) die("bind");
  return fd;
}

static void count(int fd, const uint8_t *data, size_t len, const struct sockaddr_storage *peer, socklen_t peer_len) {
  static uint64_t came; // of the run that is counted
  struct head head;
  if (len < sizeof head) return;
  memcpy(&head, data, sizeof head);
  came = head.counting ? came + 1 : 0;
  if (!head.asks) return;
  head.came = came;
  sendto(fd, &head, sizeof head, 0, (const struct sockaddr *)peer, peer_len);
}

void datagrams_take(int fd) {
  static uint8_t data[BATCH][SIZE];
  static struct sockaddr_storage peers[BATCH];
  struct iovec iov[BATCH];
  struct mmsghdr m[BATCH] = {0};
  for (int i = 0; i < BATCH; i++) {
    iov[i] = (struct iovec){data[i], SIZE};
    m[i].msg_hdr = (struct msghdr){
        .msg_iov = &iov[i], .msg_iovlen = 1, .msg_name = &peers[i], .msg_namelen = sizeof peers[i]};
  }
  int n = recvmmsg(fd, m, BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < n; i++) count(fd, data[i], m[i].msg_len, &peers[i], m[i].msg_hdr.msg_namelen);
}

// ---- the visitors ----

struct sender {
  struct tally *tally;
  int *fds;
  unsigned count, next;
  uint64_t sent, confirmed; // confirmed: had been sent when the latest answer was asked for
  uint64_t counted_from;    // `sent` when counting began
  uint64_t came;            // of those counted, by the latest answer
  double came_at;           // … which was asked for then
  bool counting;
  double pace; // datagrams a second; 0: as fast as they arrive
};

// A batch from one visitor; the last of it asks.
static void send_batch(struct sender *s) {
  static uint8_t data[BATCH][SIZE];
  struct iovec iov[BATCH];
  struct mmsghdr m[BATCH] = {0};
  for (unsigned i = 0; i < BATCH; i++) {
    struct head head = {
        .sent = s->sent + i + 1, .at = clock_seconds(), .asks = i == BATCH - 1, .counting = s->counting};
    memcpy(data[i], &head, sizeof head);
    iov[i] = (struct iovec){data[i], SIZE};
    m[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
  }
  int n = sendmmsg(s->fds[s->next], m, BATCH, 0);
  if (n < 0 && errno != EAGAIN && errno != ECONNREFUSED) tally_fault(s->tally, FAULT_SEND, errno);
  s->sent += BATCH;
  s->next = (s->next + 1) % s->count;
}

static void take_answers(struct sender *s) {
  struct head head;
  for (unsigned i = 0; i < s->count; i++) {
    while (recv(s->fds[i], &head, sizeof head, MSG_DONTWAIT) == (ssize_t)sizeof head) {
      if (head.sent > s->confirmed) s->confirmed = head.sent;
      if (!s->counting || !head.counting) continue;
      tally_answer(s->tally, clock_seconds() - head.at);
      if (head.came > s->came) s->came = head.came;
      s->came_at = clock_seconds();
    }
  }
}

// Too many are under way: waits for an answer, or takes them for lost.
static void wait_for_room(struct sender *s, struct pollfd *polled) {
  while (s->sent - s->confirmed >= UNDER_WAY) {
    if (poll(polled, s->count, PATIENCE_MS) == 0) s->confirmed = s->sent;
    take_answers(s);
  }
}

// Until the pace allows the next batch.
static void wait_for_turn(const struct sender *s, double began, uint64_t before) {
  double due = began + (double)(s->sent - before) / s->pace, now = clock_seconds();
  if (due > now) usleep((useconds_t)((due - now) * 1e6));
}

static void run_until(struct sender *s, struct pollfd *polled, double end) {
  double began = clock_seconds();
  uint64_t before = s->sent;
  while (clock_seconds() < end) {
    if (s->pace > 0) wait_for_turn(s, began, before);
    wait_for_room(s, polled);
    send_batch(s);
    take_answers(s);
  }
}

static int open_visitor(uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) die("connect");
  return fd;
}

static void send_for(struct tally *t, uint16_t port, unsigned visitors, double seconds, double pace) {
  struct sender s = {.tally = t, .count = visitors, .fds = calloc(visitors, sizeof *s.fds), .pace = pace};
  struct pollfd *polled = calloc(visitors, sizeof *polled);
  if (!s.fds || !polled) die("calloc");
  for (unsigned i = 0; i < visitors; i++) {
    s.fds[i] = open_visitor(port);
    polled[i] = (struct pollfd){.fd = s.fds[i], .events = POLLIN};
  }
  run_until(&s, polled, clock_seconds() + seconds * warm_up_share);
  s.counting = true;
  s.counted_from = s.sent;
  double began = clock_seconds();
  run_until(&s, polled, began + seconds * (1 - warm_up_share));
  for (int i = 0; i < LAST_TRIES && poll(polled, visitors, PATIENCE_MS) > 0; i++) take_answers(&s);
  t->seconds = s.came_at - began;
  t->datagrams = s.came;
  t->lost = s.sent - s.counted_from - s.came;
  t->bytes = s.came * SIZE;
  if (!s.came) tally_fault(t, FAULT_TIMEOUT, 0);
  for (unsigned i = 0; i < visitors; i++) close(s.fds[i]);
  free(s.fds);
  free(polled);
}

void datagrams_send(struct tally *t, uint16_t port, unsigned visitors, double seconds) {
  send_for(t, port, visitors, seconds, 0);
}

void datagrams_send_paced(struct tally *t, uint16_t port, unsigned visitors, double seconds) {
  send_for(t, port, visitors, seconds, PACE);
}
