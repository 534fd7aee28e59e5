// udp: visitors of UDP tunnels. See udp.h.
//
// A flow is made by a visitor's first datagram and stands in three places: by the visitor's address in `flows`, and by
// age in those of its tunnel and of its source. When the tunnel or the source has as many as it may, the first in that
// order makes room (pipe/ages.h).
#include "postern/relay/udp.h"
#include "postern/base/hash.h"
#include "postern/base/log.h"
#include "postern/core/registry.h"
#include "postern/net/udp.h"
#include "postern/pipe/ages.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// A visitor's address without what sockaddr leaves undefined.
struct visitor_key {
  uint8_t ip[16];
  uint32_t scope;
  uint16_t port, family;
};

struct source_key {
  uint8_t ip[8];
  uint16_t family;
};

// Where visitors come from.
struct source {
  struct source_key key;
  struct ages ages;
  UT_hash_handle hh;
};

struct visitor_flow {
  struct visitor_key key;
  UT_hash_handle hh;
  struct age of_tunnel, of_source;
  struct udp_tunnel *tunnel;
  struct source *source;
  struct flow *flow;
  struct udp *socket; // that he last sent to, and the address there
  struct addr peer, local;
  uint64_t since_ms, bytes_in, bytes_out;
  bool logged;
};

struct udp_tunnel {
  struct relay_tunnel base; // first
  uint32_t number;
  char name[NAME_TEXT];
  uint16_t port;
  uint64_t idle_ms;
  struct udp *sockets[RELAY_MAX_LISTEN];
  unsigned nsockets;
  bool paused, closing;
  struct visitor_flow *flows; // uthash by key
  struct source *sources;     // uthash by key
  struct ages ages;
};

static struct udp_tunnel *udp_of(struct relay_tunnel *t) { return (struct udp_tunnel *)t; }

#define SET(x, v) atomic_store_explicit(&(x), (v), memory_order_relaxed)
#define ADD(x, n) SET(x, atomic_load_explicit(&(x), memory_order_relaxed) + (n))
#define OWNER(type, member, at) ((struct type *)((char *)(at)-offsetof(struct type, member)))

// ---- keys ----

static struct visitor_key key_of(const struct addr *a) {
  struct visitor_key k;
  memset(&k, 0, sizeof k); // it is hashed as bytes
  k.family = a->sa.sa_family;
  k.port = addr_port(a);
  if (k.family == AF_INET6) {
    memcpy(k.ip, &a->in6.sin6_addr, sizeof k.ip);
    k.scope = a->in6.sin6_scope_id;
  } else {
    memcpy(k.ip, &a->in.sin_addr, sizeof a->in.sin_addr);
  }
  return k;
}

static struct source_key source_of(const struct visitor_key *v) {
  struct source_key k;
  memset(&k, 0, sizeof k);
  k.family = v->family;
  memcpy(k.ip, v->ip, sizeof k.ip); // all of IPv4, the network of IPv6
  return k;
}

// ---- log ----

static void log_open(const struct visitor_flow *f) {
  const struct udp_tunnel *t = f->tunnel;
  char peer[ADDR_TEXT];
  log_event(LOG_INFO, "visitor.open", "visitor came", LF_STR("user", t->base.relay->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_STR("peer", addr_format(&f->peer, peer)), LF_INT("port", t->port));
}

static void log_close(const struct visitor_flow *f, const char *reason) {
  const struct udp_tunnel *t = f->tunnel;
  char peer[ADDR_TEXT];
  double seconds = (double)(loop_now_ms(t->base.relay->loop) - f->since_ms) / 1000;
  log_event(LOG_INFO, "visitor.close", "visitor left", LF_STR("user", t->base.relay->entry->who.user_name),
            LF_STR("tunnel", t->name), LF_STR("peer", addr_format(&f->peer, peer)), LF_INT("port", t->port),
            LF_STR("reason", reason), LF_INT("bytes_in", f->bytes_in), LF_INT("bytes_out", f->bytes_out),
            LF_DBL("seconds", seconds));
}

// ---- the end of a flow ----

static void source_drop(struct udp_tunnel *t, struct source *s) {
  if (s->ages.count) return;
  HASH_DEL(t->sources, s);
  free(s);
}

// The protocol's part has ended, or ends now.
static void forget(struct visitor_flow *f, const char *reason) {
  struct udp_tunnel *t = f->tunnel;
  struct relay *r = t->base.relay;
  if (f->logged) log_close(f, reason);
  HASH_DEL(t->flows, f);
  ages_remove(&t->ages, &f->of_tunnel);
  ages_remove(&f->source->ages, &f->of_source);
  source_drop(t, f->source);
  SET(r->entry->flows, --r->flows);
  loop_reap(r->loop, f, free);
}

static void end_flow(struct visitor_flow *f, enum stream_reason reason, const char *word) {
  f->flow->ops->end(f->flow, reason);
  forget(f, word);
}

static const char *word_of(enum stream_reason reason) { return reason ? stream_reason_str(reason) : "idle"; }

static void on_ended(void *ctx, enum stream_reason reason) { forget(ctx, word_of(reason)); }

// ---- from the agent ----

static void on_datagram(void *ctx, const uint8_t *data, size_t n) {
  struct visitor_flow *f = ctx;
  struct relay *r = f->tunnel->base.relay;
  uint64_t now = loop_now_ms(r->loop);
  ages_touch(&f->tunnel->ages, &f->of_tunnel, now, true);
  ages_touch(&f->source->ages, &f->of_source, now, true);
  f->bytes_out += n;
  ADD(r->entry->bytes_out, n);
  udp_send(f->socket, data, n, &f->peer, &f->local);
}

static const struct flow_end visitor_flow_end = {.datagram = on_datagram, .ended = on_ended};

// ---- from visitors ----

static struct source *find_source(struct udp_tunnel *t, const struct visitor_key *visitor) {
  struct source_key key = source_of(visitor);
  struct source *s;
  HASH_FIND(hh, t->sources, &key, sizeof key, s);
  if (s || !(s = calloc(1, sizeof *s))) return s;
  s->key = key;
  ages_init(&s->ages);
  HASH_ADD(hh, t->sources, key, sizeof s->key, s);
  return s;
}

// Of the source's own flows, or else of all.
static void make_room(struct udp_tunnel *t, const struct visitor_key *visitor) {
  struct source_key key = source_of(visitor);
  struct source *s;
  HASH_FIND(hh, t->sources, &key, sizeof key, s);
  if (s && s->ages.count >= UDP_SOURCE_FLOWS)
    end_flow(OWNER(visitor_flow, of_source, ages_first(&s->ages)), STREAM_LIMIT, "displaced");
  else if (t->ages.count >= UDP_TUNNEL_FLOWS)
    end_flow(OWNER(visitor_flow, of_tunnel, ages_first(&t->ages)), STREAM_LIMIT, "displaced");
}

static void enter(struct udp_tunnel *t, struct source *s, struct visitor_flow *f) {
  struct relay *r = t->base.relay;
  f->tunnel = t;
  f->source = s;
  f->since_ms = loop_now_ms(r->loop);
  f->flow->end = &visitor_flow_end;
  f->flow->end_ctx = f;
  HASH_ADD(hh, t->flows, key, sizeof f->key, f);
  ages_add(&t->ages, &f->of_tunnel, f->since_ms);
  ages_add(&s->ages, &f->of_source, f->since_ms);
  SET(r->entry->flows, ++r->flows);
  f->logged = bucket_take(&r->flow_lines, 1, f->since_ms);
  if (f->logged) log_open(f);
  else r->flows_unlogged++;
  relay_want_tick(r);
}

// NULL: there is no memory, or the link has no room.
static struct visitor_flow *new_flow(struct udp_tunnel *t, const struct visitor_key *key, const struct udp_packet *p) {
  struct relay *r = t->base.relay;
  make_room(t, key);
  struct source *s = find_source(t, key);
  struct visitor_flow *f = s ? calloc(1, sizeof *f) : NULL;
  if (f) f->flow = r->source->open_flow(r->ctx, t->number, &p->peer);
  if (!f || !f->flow) {
    free(f);
    if (s) source_drop(t, s);
    return NULL;
  }
  f->key = *key;
  f->peer = p->peer;
  enter(t, s, f);
  return f;
}

static void on_packet(struct udp_tunnel *t, struct udp *u, const struct udp_packet *p) {
  struct relay *r = t->base.relay;
  struct visitor_key key = key_of(&p->peer);
  struct visitor_flow *f;
  HASH_FIND(hh, t->flows, &key, sizeof key, f);
  if (!f && !(f = new_flow(t, &key, p))) {
    relay_count_drops(r, RELAY_DROP_LIMIT, 1);
    return;
  }
  uint64_t now = loop_now_ms(r->loop);
  ages_touch(&t->ages, &f->of_tunnel, now, false);
  ages_touch(&f->source->ages, &f->of_source, now, false);
  f->socket = u;
  f->local = p->local;
  f->bytes_in += p->len;
  ADD(r->entry->bytes_in, p->len);
  f->flow->ops->send(f->flow, p->data, p->len);
}

static void on_packets(void *ctx, struct udp *u, const struct udp_packet *p, unsigned n) {
  struct udp_tunnel *t = ctx;
  for (unsigned i = 0; i < n && !t->closing; i++)
    if (addr_port(&p[i].peer)) on_packet(t, u, &p[i]); // to port 0 nothing can be answered
}

static const struct udp_ops socket_ops = {.on_packets = on_packets};

// ---- the tunnel ----

static void udp_update(struct relay_tunnel *base) {
  struct udp_tunnel *t = udp_of(base);
  bool pause = base->relay->away;
  if (pause == t->paused) return;
  t->paused = pause;
  for (unsigned i = 0; i < t->nsockets; i++)
    if (pause) udp_pause(t->sockets[i]);
    else udp_resume(t->sockets[i]);
}

static void take_drops(struct udp_tunnel *t) {
  for (unsigned i = 0; i < t->nsockets; i++)
    relay_count_drops(t->base.relay, RELAY_DROP_SOCKET, udp_take_drops(t->sockets[i]));
}

static bool udp_tick(struct relay_tunnel *base) {
  struct udp_tunnel *t = udp_of(base);
  uint64_t now = loop_now_ms(base->relay->loop);
  struct age *a;
  while ((a = ages_expired(&t->ages, now, t->idle_ms)))
    end_flow(OWNER(visitor_flow, of_tunnel, a), STREAM_OK, word_of(STREAM_OK));
  take_drops(t);
  return t->ages.count;
}

static void end_all(struct udp_tunnel *t, enum stream_reason reason) {
  struct age *a;
  while ((a = ages_first(&t->ages)))
    end_flow(OWNER(visitor_flow, of_tunnel, a), reason, stream_reason_str(reason));
}

static unsigned udp_tunnel_release(struct relay_tunnel *base, int *fds) {
  struct udp_tunnel *t = udp_of(base);
  unsigned n = t->nsockets;
  take_drops(t);
  end_all(t, STREAM_SESSION_ENDED); // answers have no way any more
  for (unsigned i = 0; i < n; i++) fds[i] = udp_release(t->sockets[i]);
  t->nsockets = 0;
  t->closing = true;
  return n;
}

static void udp_tunnel_close(struct relay_tunnel *base, enum stream_reason reason) {
  struct udp_tunnel *t = udp_of(base);
  t->closing = true;
  take_drops(t);
  end_all(t, reason);
  for (unsigned i = 0; i < t->nsockets; i++) udp_close(t->sockets[i]);
  t->nsockets = 0;
  LIST_REMOVE(base, of_relay);
  loop_reap(base->relay->loop, t, free);
}

static const struct relay_ops udp_relay_ops = {
    .update = udp_update, .tick = udp_tick, .release = udp_tunnel_release, .close = udp_tunnel_close};

struct relay_tunnel *udp_tunnel_new(struct relay *r, uint32_t number, const char *name, uint16_t port, const int *fds,
                                    unsigned n, int64_t idle_s) {
  struct udp_tunnel *t = calloc(1, sizeof *t);
  if (!t) {
    for (unsigned i = 0; i < n; i++) close(fds[i]);
    return NULL;
  }
  t->base.ops = &udp_relay_ops;
  t->number = number;
  t->port = port;
  t->idle_ms = (uint64_t)idle_s * 1000;
  snprintf(t->name, sizeof t->name, "%s", name);
  ages_init(&t->ages);
  relay_add(r, &t->base);
  t->paused = r->away;
  bool failed = false;
  for (unsigned i = 0; i < n; i++) {
    struct udp *u = udp_new(r->loop, fds[i], t->paused, &socket_ops, t);
    if (u) t->sockets[t->nsockets++] = u;
    else failed = true;
  }
  if (!failed) return &t->base;
  udp_tunnel_close(&t->base, STREAM_INTERNAL);
  return NULL;
}
