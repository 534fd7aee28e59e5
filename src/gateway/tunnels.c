// tunnels: what a session publishes: asked for by the agent, given by the allocator, opened once the claim is on disk.
// See session.h.
#include "postern/base/clock.h"
#include "postern/base/log.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/session.h"
#include "postern/net/listener.h"
#include "postern/net/udp.h"
#include "postern/relay/tcp.h"
#include "postern/relay/udp.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// CLAIMING: the port is held and listens, its claim is on its way to the disk. OPEN: visitors are served.
enum tunnel_state { TUNNEL_CLAIMING, TUNNEL_OPEN };

struct tunnel {
  LIST_ENTRY(tunnel) of_session;
  enum tunnel_state state;
  uint64_t attempt;
  struct control_tunnel_open ask;
  uint16_t port;
  int64_t idle_s;            // of UDP, else 0
  int fds[RELAY_MAX_LISTEN]; // while CLAIMING
  unsigned nfds;
  struct relay_tunnel *relay; // when OPEN
};

// A port of an older session, waiting for its tunnel to be asked for by the new one.
struct parked {
  LIST_ENTRY(parked) of_session;
  enum store_kind kind;
  uint16_t port;
  int fds[RELAY_MAX_LISTEN];
  unsigned nfds;
};

static struct ports *ports_of(struct session *s) { return s->worker->gateway->ports; }

// ---- the kinds ----

static struct relay_tunnel *open_tcp(struct session *s, const struct tunnel *t) {
  return tcp_tunnel_new(&s->relay, t->ask.tunnel, t->ask.name, t->port, t->fds, t->nfds);
}

static struct relay_tunnel *open_udp(struct session *s, const struct tunnel *t) {
  return udp_tunnel_new(&s->relay, t->ask.tunnel, t->ask.name, t->port, t->fds, t->nfds, t->idle_s);
}

static const struct kind {
  const char *name;
  enum store_kind ports;
  int (*bind)(const struct addr *a, int *fd);
  struct relay_tunnel *(*open)(struct session *s, const struct tunnel *t); // takes the descriptors
} kinds[] = {
    [CONTROL_TCP] = {"tcp", STORE_TCP, listener_bind, open_tcp},
    [CONTROL_UDP] = {"udp", STORE_UDP, udp_bind, open_udp},
};

static const struct kind *kind_of(const struct tunnel *t) { return &kinds[t->ask.protocol]; }

// ---- answers ----

static void say_opened(struct session *s, const struct tunnel *t) {
  s->ops->tunnel_opened(s, t->ask.tunnel, t->port, t->idle_s);
}

static void say_refused(struct session *s, const struct control_tunnel_open *o, const char *reason, const char *message) {
  log_event(LOG_WARN, "tunnel.refuse", message, LF_STR("user", s->entry->who.user_name), LF_STR("tunnel", o->name),
            LF_STR("reason", reason));
  s->ops->tunnel_refused(s, o->tunnel, reason, message);
}

static void log_tunnel(struct session *s, const struct tunnel *t, const char *event, const char *msg) {
  log_event(LOG_INFO, event, msg, LF_STR("user", s->entry->who.user_name), LF_INT("session", s->id),
            LF_STR("tunnel", t->ask.name), LF_STR("protocol", kind_of(t)->name), LF_INT("port", t->port),
            LF_STR("host", NULL)); // neither kind has one
}

static void count(struct session *s, int by) {
  s->ntunnels += (uint32_t)by;
  atomic_store_explicit(&s->entry->tunnels, s->ntunnels, memory_order_relaxed);
}

// ---- closing ----

static void close_fds(const int *fds, unsigned n) {
  for (unsigned i = 0; i < n; i++) close(fds[i]);
}

static void tunnel_free(struct session *s, struct tunnel *t, enum stream_reason reason) {
  LIST_REMOVE(t, of_session);
  count(s, -1);
  close_fds(t->fds, t->nfds);
  if (t->state == TUNNEL_OPEN) {
    t->relay->ops->close(t->relay, reason);
    log_tunnel(s, t, "tunnel.close", "tunnel closed");
  }
  ports_release(ports_of(s), kind_of(t)->ports, t->port, s->id, clock_wall_s());
  free(t);
}

static struct tunnel *by_number(struct session *s, uint32_t number) {
  struct tunnel *t;
  LIST_FOREACH(t, &s->tunnels, of_session) if (t->ask.tunnel == number) return t;
  return NULL;
}

static struct tunnel *by_name(const struct session *s, const char *name) {
  struct tunnel *t;
  LIST_FOREACH(t, &s->tunnels, of_session) if (strcmp(t->ask.name, name) == 0) return t;
  return NULL;
}

bool tunnels_has_name(const struct session *s, const char *name) { return by_name(s, name); }

void tunnels_on_close(struct session *s, uint32_t number) {
  struct tunnel *t = by_number(s, number);
  if (t) tunnel_free(s, t, STREAM_NO_TUNNEL);
  s->ops->tunnel_closed(s, number, "requested");
}

static void lose(struct session *s, struct tunnel *t, const char *reason) {
  uint32_t number = t->ask.tunnel;
  tunnel_free(s, t, STREAM_NO_TUNNEL);
  s->ops->tunnel_closed(s, number, reason);
}

static struct parked *find_parked(struct session *s, enum store_kind kind, uint16_t port) {
  struct parked *p;
  LIST_FOREACH(p, &s->parked, of_session) if (p->kind == kind && p->port == port) return p;
  return NULL;
}

static void unpark(struct session *s, struct parked *p) {
  LIST_REMOVE(p, of_session);
  close_fds(p->fds, p->nfds);
  ports_release(ports_of(s), p->kind, p->port, s->id, clock_wall_s());
  free(p);
}

void tunnels_lose_port(struct session *s, enum store_kind kind, uint16_t port) {
  struct tunnel *t;
  LIST_FOREACH(t, &s->tunnels, of_session) {
    if (kind != kind_of(t)->ports || t->port != port) continue;
    lose(s, t, "port_lost");
    return;
  }
  struct parked *p = find_parked(s, kind, port);
  if (p) unpark(s, p);
}

void tunnels_trim(struct session *s, uint32_t most) {
  while (s->ntunnels > most) lose(s, LIST_FIRST(&s->tunnels), "limit"); // the list has the newest first
}

void tunnels_close_all(struct session *s) {
  while (!LIST_EMPTY(&s->tunnels)) tunnel_free(s, LIST_FIRST(&s->tunnels), STREAM_SESSION_ENDED);
}

// ---- parking ----

static unsigned release_fds(struct tunnel *t, int *fds) {
  if (t->state == TUNNEL_OPEN) return t->relay->ops->release(t->relay, fds);
  unsigned n = t->nfds;
  memcpy(fds, t->fds, n * sizeof *fds);
  t->nfds = 0;
  return n;
}

void tunnels_park(struct session *from, struct session *to) {
  struct tunnel *t;
  struct parked *p;
  // What was still waiting there, for the older session took over itself just now.
  while ((p = LIST_FIRST(&from->parked))) {
    LIST_REMOVE(p, of_session);
    LIST_INSERT_HEAD(&to->parked, p, of_session);
  }
  ports_move(ports_of(from), from->id, to->id);
  LIST_FOREACH(t, &from->tunnels, of_session) {
    if (!(p = calloc(1, sizeof *p))) {
      // Nothing listens there any more once the older session has ended.
      ports_release(ports_of(to), kind_of(t)->ports, t->port, to->id, clock_wall_s());
      continue;
    }
    p->kind = kind_of(t)->ports;
    p->port = t->port;
    p->nfds = release_fds(t, p->fds);
    LIST_INSERT_HEAD(&to->parked, p, of_session);
  }
}

void tunnels_unpark_all(struct session *s) {
  while (!LIST_EMPTY(&s->parked)) unpark(s, LIST_FIRST(&s->parked));
}

static bool take_parked(struct session *s, struct tunnel *t, uint16_t port) {
  struct parked *p = find_parked(s, kind_of(t)->ports, port);
  if (!p) return false;
  LIST_REMOVE(p, of_session);
  memcpy(t->fds, p->fds, sizeof t->fds);
  t->nfds = p->nfds;
  free(p);
  return true;
}

// ---- opening ----

struct try {
  struct session *session;
  struct tunnel *tunnel;
};

// Free only when it is free on every address.
static int try_port(void *ctx, uint16_t port) {
  struct try *try = ctx;
  struct tunnel *t = try->tunnel;
  if (take_parked(try->session, t, port)) return 0;
  const struct config_listen *at = &try->session->worker->gateway->tunnel_addrs;
  for (unsigned i = 0; i < at->count; i++) {
    struct addr a = at->addr[i];
    addr_set_port(&a, port);
    int code = kind_of(t)->bind(&a, &t->fds[t->nfds]);
    if (code == 0) {
      t->nfds++;
      continue;
    }
    close_fds(t->fds, t->nfds);
    t->nfds = 0;
    return code;
  }
  return 0;
}

struct claim_wait {
  struct worker *worker;
  uint64_t session, attempt;
  uint32_t tunnel;
};

static void on_claimed(void *arg, int result) { // the store thread
  struct claim_wait *w = arg;
  worker_claimed(w->worker, w->session, w->tunnel, w->attempt, result);
  free(w);
}

static const char *refusal(int code) {
  switch (code) {
  case PERR_IN_USE: return "port_in_use";
  case PERR_DENIED: return "port_denied";
  case PERR_LIMIT: return "no_port";
  default: return "unavailable";
  }
}

static void acquire(struct session *s, struct tunnel *t, struct claim_wait *wait) {
  struct try try = {s, t};
  struct ports_request q = {.kind = kind_of(t)->ports,
                            .owner = {.user = s->entry->who.user, .session = s->id},
                            .limits = &s->entry->who.limits,
                            .want = t->ask.port,
                            .strict = t->ask.strict_port,
                            .try_port = try_port,
                            .ctx = &try,
                            .now = clock_wall_s(),
                            .claimed = on_claimed,
                            .claimed_arg = wait};
  snprintf(q.owner.instance, sizeof q.owner.instance, "%s", s->entry->instance);
  snprintf(q.owner.tunnel, sizeof q.owner.tunnel, "%s", t->ask.name);
  struct err_text e;
  int code = ports_acquire(ports_of(s), &q, &t->port, &e);
  if (code == 0) {
    LIST_INSERT_HEAD(&s->tunnels, t, of_session);
    count(s, +1);
    return;
  }
  free(wait);
  close_fds(t->fds, t->nfds); // opened, but not to be kept
  say_refused(s, &t->ask, refusal(code), e.s);
  free(t);
}

static bool same_tunnel(const struct control_tunnel_open *a, const struct control_tunnel_open *b) {
  return a->protocol == b->protocol && strcmp(a->name, b->name) == 0;
}

void tunnels_on_open(struct session *s, const struct control_tunnel_open *o) {
  struct tunnel *t = by_number(s, o->tunnel);
  if (t && same_tunnel(&t->ask, o)) {
    if (t->state == TUNNEL_OPEN) say_opened(s, t); // asked again after a resume
    return;
  }
  if (t || by_name(s, o->name)) {
    say_refused(s, o, "name_in_use", "another tunnel of this session has that name or number");
    return;
  }
  if (o->protocol == CONTROL_UDP && !s->udp) {
    say_refused(s, o, "unsupported", "the agent has not announced that it carries UDP");
    return;
  }
  if (s->ntunnels >= s->entry->who.limits.tunnels) {
    say_refused(s, o, "limit", "the user's limit of tunnels is reached");
    return;
  }
  t = calloc(1, sizeof *t);
  struct claim_wait *wait = malloc(sizeof *wait);
  if (!t || !wait) {
    free(t);
    free(wait);
    say_refused(s, o, "unavailable", "out of memory");
    return;
  }
  t->ask = *o;
  if (o->protocol == CONTROL_UDP) t->idle_s = o->idle_s ? o->idle_s : s->worker->config->udp_idle_s;
  t->attempt = ++s->next_attempt;
  *wait = (struct claim_wait){.worker = s->worker, .session = s->id, .attempt = t->attempt, .tunnel = o->tunnel};
  acquire(s, t, wait);
}

static void drop_refused(struct session *s, struct tunnel *t, const char *message) {
  struct control_tunnel_open ask = t->ask;
  tunnel_free(s, t, STREAM_INTERNAL);
  say_refused(s, &ask, "unavailable", message);
}

void tunnels_claimed(struct session *s, uint32_t number, uint64_t attempt, int result) {
  struct tunnel *t = by_number(s, number);
  if (!t || t->attempt != attempt || t->state != TUNNEL_CLAIMING) return;
  if (result) {
    drop_refused(s, t, "the store cannot be written");
    return;
  }
  t->relay = kind_of(t)->open(s, t);
  t->nfds = 0;
  if (!t->relay) {
    drop_refused(s, t, "out of memory");
    return;
  }
  t->state = TUNNEL_OPEN;
  log_tunnel(s, t, "tunnel.open", "tunnel opened");
  say_opened(s, t);
}
