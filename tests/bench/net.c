// net: sockets of the loopback interface, the clock and the way out. Called by every part of the benchmark's programs;
// the caller owns each descriptor. One thread.
#include "net.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Closed connections keep their pair of ports for a minute; visitors from many addresses do not run out of pairs.
enum { SOURCES = 64, BACKLOG = 4096 };

double clock_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void die(const char *what) {
  fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
  exit(1);
}

void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit)) die("setrlimit");
}

static struct sockaddr_in loopback(uint32_t offset, uint16_t port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK + offset)};
}

int listen_loopback(uint16_t *port) {
  struct sockaddr_in address = loopback(0, 0);
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, BACKLOG)) die("listen");
  if (getsockname(fd, (struct sockaddr *)&address, &size)) die("getsockname");
  *port = ntohs(address.sin_port);
  return fd;
}

int dial_loopback(uint16_t port) {
  static uint32_t dialled;
  const int on = 1;
  struct sockaddr_in from = loopback(1 + dialled++ % SOURCES, 0), to = loopback(0, port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) &&
      !setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) &&
      !bind(fd, (struct sockaddr *)&from, sizeof from) &&
      (!connect(fd, (struct sockaddr *)&to, sizeof to) || errno == EINPROGRESS))
    return fd;
  int cause = errno;
  close(fd);
  errno = cause;
  return -1;
}

int poller_new(void) {
  int poller = epoll_create1(EPOLL_CLOEXEC);
  if (poller < 0) die("epoll_create1");
  return poller;
}

static void control(int poller, int operation, int fd, uint32_t events, void *of) {
  struct epoll_event wish = {.events = events, .data.ptr = of};
  if (epoll_ctl(poller, operation, fd, &wish)) die("epoll_ctl");
}

void poller_add(int poller, int fd, uint32_t events, void *of) {
  control(poller, EPOLL_CTL_ADD, fd, events, of);
}

void poller_change(int poller, int fd, uint32_t events, void *of) {
  control(poller, EPOLL_CTL_MOD, fd, events, of);
}
