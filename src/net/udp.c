// udp: see udp.h. The buffers are the loop's, for all its sockets: one batch is read at a time, and one waits to be
// sent, which goes out when it is full, when another socket has something to send, or at the end of the batch of events.
#include "postern/net/udp.h"
#include "postern/net/listener.h"
#include "postern/net/loop_internal.h"

#include <errno.h>
#include <event2/event.h>
#include <linux/sock_diag.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  BATCH = 32,          // datagrams per system call, and per wake-up: a flood leaves time for others
  PACKET_MAX = 65536,  // no datagram is longer
  OUT_BYTES = 256 * 1024,
  CONTROL_BYTES = 64,  // room for either packet info
  BOUND_BUFFER = 4 * 1024 * 1024, // wanted of the kernel, for a port that many share
  FLOW_BUFFER = 512 * 1024,       // … for a socket of one peer
};

struct udp {
  struct loop *loop;
  int fd;
  const struct udp_ops *ops;
  void *ctx;
  struct event *event;
  bool bound, paused, closed;
  uint64_t dropped;       // since the last udp_take_drops
  uint32_t kernel_drops;  // the kernel's count, as far as it was taken
};

struct message {
  struct iovec iov;
  struct sockaddr_storage peer;
  _Alignas(struct cmsghdr) uint8_t control[CONTROL_BYTES];
};

struct udp_batch {
  struct loop_task flush;
  struct mmsghdr in[BATCH], out[BATCH];
  struct message in_part[BATCH], out_part[BATCH];
  struct udp_packet packets[BATCH];
  struct udp *sender; // of what waits in `out`; NULL: nothing waits
  unsigned nout;
  size_t out_len;
  uint8_t out_bytes[OUT_BYTES];
  uint8_t in_bytes[BATCH][PACKET_MAX]; // only what comes is ever touched
};

static void on_flush(struct loop_task *t);

// The first socket makes it.
static struct udp_batch *batch_of(struct loop *l) {
  struct udp_batch **b = loop_udp_batch(l);
  if (!*b && (*b = malloc(sizeof **b))) {
    memset(*b, 0, offsetof(struct udp_batch, out_bytes));
    (*b)->flush.fn = on_flush;
  }
  return *b;
}

void udp_batch_free(struct udp_batch *b) { free(b); }

// ---- sockets ----

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

// As large as the system allows: with the right to it beyond its limit.
static void set_buffers(int fd, int bytes) {
  if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes)) set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
  if (set(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes)) set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
}

static int open_socket(const struct addr *a, int buffers, int *out) {
  int fd = socket(a->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return listener_bind_error(errno);
  set_buffers(fd, buffers);
  *out = fd;
  return 0;
}

static int failed(int fd) {
  int code = listener_bind_error(errno);
  close(fd);
  return code;
}

int udp_bind(const struct addr *a, int *out) {
  int fd = -1, code = open_socket(a, BOUND_BUFFER, &fd);
  if (code) return code;
  // Without SO_REUSEADDR, with which two sockets share a UDP port and nobody is told.
  bool ip6 = a->sa.sa_family == AF_INET6;
  int bad = ip6 ? set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) | set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
                : set(fd, IPPROTO_IP, IP_PKTINFO, 1);
  if (bad || bind(fd, &a->sa, a->len)) return failed(fd);
  *out = fd;
  return 0;
}

int udp_connect(const struct addr *to, int *out) {
  int fd = -1, code = open_socket(to, FLOW_BUFFER, &fd);
  if (code) return code;
  if (connect(fd, &to->sa, to->len)) return failed(fd);
  *out = fd;
  return 0;
}

// ---- reading ----

static void ready_in(struct udp_batch *b, bool bound) {
  for (unsigned i = 0; i < BATCH; i++) {
    struct message *m = &b->in_part[i];
    m->iov = (struct iovec){b->in_bytes[i], PACKET_MAX};
    b->in[i].msg_hdr = (struct msghdr){.msg_iov = &m->iov, .msg_iovlen = 1};
    if (!bound) continue;
    b->in[i].msg_hdr.msg_name = &m->peer;
    b->in[i].msg_hdr.msg_namelen = sizeof m->peer;
    b->in[i].msg_hdr.msg_control = m->control;
    b->in[i].msg_hdr.msg_controllen = sizeof m->control;
  }
}

static struct addr local_of(struct msghdr *h) {
  struct addr a = {.len = 0};
  for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      a.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = info.ipi_spec_dst};
      a.len = sizeof a.in;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      a.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = info.ipi6_addr};
      if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) a.in6.sin6_scope_id = info.ipi6_ifindex;
      a.len = sizeof a.in6;
    }
  }
  return a;
}

static void unpack(struct udp_batch *b, bool bound, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    struct udp_packet *p = &b->packets[i];
    *p = (struct udp_packet){.data = b->in_bytes[i], .len = b->in[i].msg_len};
    if (!bound) continue;
    addr_from_sockaddr(&p->peer, (struct sockaddr *)&b->in_part[i].peer, b->in[i].msg_hdr.msg_namelen);
    p->local = local_of(&b->in[i].msg_hdr);
  }
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  struct udp *u = arg;
  struct udp_batch *b = *loop_udp_batch(u->loop);
  ready_in(b, u->bound);
  int n = recvmmsg(fd, b->in, BATCH, MSG_DONTWAIT, NULL);
  if (n < 0) {
    int error = errno;
    if (error != EAGAIN && error != EINTR && u->ops->on_error) u->ops->on_error(u->ctx, u, error);
    return;
  }
  unpack(b, u->bound, (unsigned)n);
  u->ops->on_packets(u->ctx, u, b->packets, (unsigned)n);
}

// ---- sending ----

// Sends what waits. An error is about one datagram, or about an earlier one that the peer has refused: that is tried
// once more.
static void flush(struct udp_batch *b) {
  struct udp *u = b->sender;
  unsigned done = 0;
  bool retried = false;
  while (u && done < b->nout) {
    int n = sendmmsg(u->fd, b->out + done, b->nout - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      done += (unsigned)n;
      retried = false;
    } else if (errno == EAGAIN || errno == ENOBUFS) {
      u->dropped += b->nout - done;
      break;
    } else if (errno == ECONNREFUSED && !retried) {
      retried = true;
    } else if (errno != EINTR) {
      u->dropped++;
      done++;
      retried = false;
    }
  }
  b->sender = NULL;
  b->nout = 0;
  b->out_len = 0;
}

static void on_flush(struct loop_task *t) { flush((struct udp_batch *)t); } // its first member

static size_t put_local(uint8_t *control, const struct addr *local) {
  struct cmsghdr *c = (struct cmsghdr *)control;
  if (local->sa.sa_family == AF_INET) {
    struct in_pktinfo info = {.ipi_spec_dst = local->in.sin_addr};
    *c = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO, .cmsg_len = CMSG_LEN(sizeof info)};
    memcpy(CMSG_DATA(c), &info, sizeof info);
    return CMSG_SPACE(sizeof info);
  }
  struct in6_pktinfo info = {.ipi6_addr = local->in6.sin6_addr, .ipi6_ifindex = local->in6.sin6_scope_id};
  *c = (struct cmsghdr){.cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO, .cmsg_len = CMSG_LEN(sizeof info)};
  memcpy(CMSG_DATA(c), &info, sizeof info);
  return CMSG_SPACE(sizeof info);
}

void udp_send(struct udp *u, const uint8_t *data, size_t len, const struct addr *to, const struct addr *local) {
  struct udp_batch *b = *loop_udp_batch(u->loop);
  if (b->sender && (b->sender != u || b->nout == BATCH || len > OUT_BYTES - b->out_len)) flush(b);
  struct message *m = &b->out_part[b->nout];
  struct msghdr *h = &b->out[b->nout].msg_hdr;
  uint8_t *copy = b->out_bytes + b->out_len;
  if (len) memcpy(copy, data, len);
  m->iov = (struct iovec){copy, len};
  *h = (struct msghdr){.msg_iov = &m->iov, .msg_iovlen = 1};
  if (to) {
    memcpy(&m->peer, &to->sa, to->len);
    h->msg_name = &m->peer;
    h->msg_namelen = to->len;
  }
  if (local && local->len) {
    h->msg_control = m->control;
    h->msg_controllen = put_local(m->control, local);
  }
  b->sender = u;
  b->nout++;
  b->out_len += len;
  loop_defer(u->loop, &b->flush);
}

uint64_t udp_take_drops(struct udp *u) {
  uint32_t info[SK_MEMINFO_VARS] = {0};
  socklen_t len = sizeof info;
  uint64_t n = u->dropped;
  u->dropped = 0;
  if (getsockopt(u->fd, SOL_SOCKET, SO_MEMINFO, info, &len) == 0) {
    n += info[SK_MEMINFO_DROPS] - u->kernel_drops; // it wraps, and so does this
    u->kernel_drops = info[SK_MEMINFO_DROPS];
  }
  return n;
}

// ---- life ----

static void apply(struct udp *u) {
  if (u->paused) event_del(u->event);
  else event_add(u->event, NULL);
}

struct udp *udp_new(struct loop *l, int fd, bool paused, const struct udp_ops *ops, void *ctx) {
  struct udp *u = batch_of(l) ? calloc(1, sizeof *u) : NULL;
  if (!u) {
    close(fd);
    return NULL;
  }
  struct sockaddr_storage peer;
  socklen_t len = sizeof peer;
  *u = (struct udp){.loop = l, .fd = fd, .paused = paused, .ops = ops, .ctx = ctx};
  u->bound = getpeername(fd, (struct sockaddr *)&peer, &len) != 0;
  (void)udp_take_drops(u); // those of a former owner
  u->event = event_new(loop_base(l), fd, EV_READ | EV_PERSIST, on_readable, u);
  if (!u->event) {
    udp_close(u);
    return NULL;
  }
  apply(u);
  return u;
}

void udp_pause(struct udp *u) {
  u->paused = true;
  apply(u);
}

void udp_resume(struct udp *u) {
  u->paused = false;
  apply(u);
}

int udp_release(struct udp *u) {
  struct udp_batch *b = *loop_udp_batch(u->loop);
  int fd = u->fd;
  if (b->sender == u) flush(b);
  u->closed = true;
  if (u->event) event_free(u->event);
  loop_reap(u->loop, u, free); // it may be reading further up the stack
  return fd;
}

void udp_close(struct udp *u) {
  if (u && !u->closed) close(udp_release(u));
}
