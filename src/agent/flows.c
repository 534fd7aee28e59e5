// flows: one small object per flow, from the gateway's FLOW to either side's end. Called by agent. A flow owns a
// reference to its tunnel and its socket. Loop thread.
//
// The gateway ends a flow that is silent; here one that it has forgotten ends a little later. When descriptors run out
// the first in the order of pipe/ages.h makes room.
#include "postern/agent/flows.h"
#include "postern/base/bucket.h"
#include "postern/base/log.h"
#include "postern/net/udp.h"
#include "postern/pipe/ages.h"
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
  TICK_MS = 1000,
  GRACE_MS = 10000,     // beyond the tunnel's idle time
  HELD_MAX = 16,        // datagrams that wait for a name to be looked up
  DROPS_LOG_MS = 10000, // at most one line in so long
  WARN_PER_S = 1,
  WARN_BURST = 20,
};

struct held {
  struct held *next;
  size_t len;
  uint8_t data[];
};

struct target_flow {
  struct age age;
  struct flows *owner;
  struct tunnel *tunnel;
  struct flow *flow;
  struct udp *udp;      // NULL while the name is looked up
  struct addr_set *set; // of a name; `at` is the one in use
  unsigned at, refused;
  struct target_wait wait;
  struct held *held, **held_tail; // came while there was no socket
  unsigned nheld;
  struct addr peer;
  uint64_t born_ms, bytes_in, bytes_out;
};

struct flows {
  struct loop *loop;
  struct tunnels *tunnels;
  struct loop_timer *tick; // runs while there are flows
  struct ages ages;
  const _Atomic uint64_t *link_drops;
  uint64_t drops, drops_logged, drops_logged_ms;
  struct bucket warnings;
};

static struct target_flow *flow_of_age(struct age *a) { return (struct target_flow *)a; } // its first member

// ---- log ----

static void log_open(const struct target_flow *f) {
  char peer[ADDR_TEXT];
  log_event(LOG_DEBUG, "visitor.open", f->tunnel->spec.name, LF_STR("user", tunnels_user(f->owner->tunnels)),
            LF_STR("tunnel", f->tunnel->spec.name), LF_STR("peer", addr_format(&f->peer, peer)),
            LF_INT("port", f->tunnel->port));
}

static void log_close(const struct target_flow *f, const char *reason) {
  char peer[ADDR_TEXT];
  log_event(LOG_DEBUG, "visitor.close", f->tunnel->spec.name, LF_STR("user", tunnels_user(f->owner->tunnels)),
            LF_STR("tunnel", f->tunnel->spec.name), LF_STR("peer", addr_format(&f->peer, peer)),
            LF_INT("port", f->tunnel->port), LF_STR("reason", reason), LF_INT("bytes_in", f->bytes_in),
            LF_INT("bytes_out", f->bytes_out),
            LF_DBL("seconds", (double)(loop_now_ms(f->owner->loop) - f->born_ms) / 1000));
}

static uint64_t all_drops(const struct flows *fs) {
  return fs->drops + atomic_load_explicit(fs->link_drops, memory_order_relaxed);
}

static void log_drops(struct flows *fs) {
  uint64_t all = all_drops(fs), now = loop_now_ms(fs->loop);
  if (all == fs->drops_logged || (fs->drops_logged_ms && now - fs->drops_logged_ms < DROPS_LOG_MS)) return;
  log_event(LOG_WARN, "datagram.drop", "datagrams were dropped", LF_STR("user", tunnels_user(fs->tunnels)),
            LF_INT("count", all - fs->drops_logged));
  fs->drops_logged = all;
  fs->drops_logged_ms = now;
}

// ---- the end of a flow ----

static void drop_held(struct target_flow *f) {
  struct held *h;
  while ((h = f->held)) {
    f->held = h->next;
    free(h);
  }
  f->held_tail = &f->held;
  f->nheld = 0;
}

static void close_socket(struct target_flow *f) {
  if (f->udp) f->owner->drops += udp_take_drops(f->udp);
  udp_close(f->udp);
  f->udp = NULL;
}

// The protocol's part has ended, or ends now.
static void flow_over(struct target_flow *f, const char *reason) {
  log_close(f, reason);
  ages_remove(&f->owner->ages, &f->age);
  target_forget(&f->wait);
  close_socket(f);
  drop_held(f);
  addr_set_unref(f->set);
  tunnel_unref(f->tunnel);
  loop_reap(f->owner->loop, f, free);
}


static const char *word_of(enum stream_reason reason) {
  return reason ? stream_reason_str(reason) : "idle";
}

static void flow_end(struct target_flow *f, enum stream_reason reason) {
  f->flow->ops->end(f->flow, reason);
  flow_over(f, word_of(reason));
}

static void on_ended(void *ctx, enum stream_reason reason) {
  flow_over(ctx, word_of(reason));
}

// ---- from the target ----

static void on_packets(void *ctx, struct udp *u, const struct udp_packet *p, unsigned n) {
  struct target_flow *f = ctx;
  ages_touch(&f->owner->ages, &f->age, loop_now_ms(f->owner->loop), true);
  for (unsigned i = 0; i < n; i++) {
    f->bytes_out += p[i].len;
    f->flow->ops->send(f->flow, p[i].data, p[i].len);
  }
}

static void open_socket(struct target_flow *f);

// Nobody listens there, at least now. A name may have another address that answers.
static void on_error(void *ctx, struct udp *u, int error) {
  struct target_flow *f = ctx;
  if (error != ECONNREFUSED || !f->set || f->age.answered || ++f->refused >= f->set->n) return;
  addr_set_prefer(f->set, ++f->at);
  close_socket(f);
  open_socket(f);
}

static const struct udp_ops socket_ops = {.on_packets = on_packets, .on_error = on_error};

// ---- to the target ----

// Another flow ends: the first in the order, but not the one that needs the descriptor.
static bool make_room(struct target_flow *f) {
  struct ages *ages = &f->owner->ages;
  ages_remove(ages, &f->age);
  struct age *first = ages_first(ages);
  ages_add(ages, &f->age, loop_now_ms(f->owner->loop));
  if (first) flow_end(flow_of_age(first), STREAM_LIMIT);
  return first;
}

static int connect_to(struct target_flow *f, const struct addr *to) {
  int fd = -1, code = udp_connect(to, &fd);
  if (code == PERR_LIMIT && make_room(f)) code = udp_connect(to, &fd);
  if (code) return code;
  f->udp = udp_new(f->owner->loop, fd, false, &socket_ops, f);
  return f->udp ? 0 : PERR_NOMEM;
}

static void open_socket(struct target_flow *f) {
  int code = connect_to(f, f->set ? addr_set_at(f->set, f->at) : target_literal(&f->tunnel->target));
  if (code) {
    flow_end(f, code == PERR_LIMIT || code == PERR_NOMEM ? STREAM_INTERNAL : STREAM_UNREACHABLE);
    return;
  }
  for (const struct held *h = f->held; h; h = h->next) udp_send(f->udp, h->data, h->len, NULL, NULL);
  drop_held(f);
}

static void hold(struct target_flow *f, const uint8_t *data, size_t n) {
  struct held *h = f->nheld < HELD_MAX ? malloc(sizeof *h + n) : NULL;
  if (!h) {
    f->owner->drops++;
    return;
  }
  *h = (struct held){.len = n};
  if (n) memcpy(h->data, data, n);
  *f->held_tail = h;
  f->held_tail = &h->next;
  f->nheld++;
}

static void on_datagram(void *ctx, const uint8_t *data, size_t n) {
  struct target_flow *f = ctx;
  ages_touch(&f->owner->ages, &f->age, loop_now_ms(f->owner->loop), false);
  f->bytes_in += n;
  if (f->udp) udp_send(f->udp, data, n, NULL, NULL);
  else hold(f, data, n);
}

static const struct flow_end target_flow_end = {.datagram = on_datagram, .ended = on_ended};

static void on_looked_up(struct target_wait *w, struct addr_set *set) {
  struct target_flow *f = (struct target_flow *)((char *)w - offsetof(struct target_flow, wait));
  if (!set) {
    flow_end(f, STREAM_UNREACHABLE);
    return;
  }
  f->set = set;
  f->at = set->first;
  open_socket(f);
}

// ---- the clock ----

static bool forgotten(const struct target_flow *f, uint64_t now) {
  return now - f->age.used_ms > (uint64_t)f->tunnel->idle_s * 1000 + GRACE_MS;
}

static void end_forgotten(struct age_list *list, uint64_t now) {
  struct age *a, *next;
  for (a = TAILQ_FIRST(list); a; a = next) {
    next = TAILQ_NEXT(a, entry);
    struct target_flow *f = flow_of_age(a);
    if (f->udp) f->owner->drops += udp_take_drops(f->udp);
    if (forgotten(f, now)) flow_end(f, STREAM_OK);
  }
}

static void on_tick(void *ctx) {
  struct flows *fs = ctx;
  uint64_t now = loop_now_ms(fs->loop);
  end_forgotten(&fs->ages.fresh, now);
  end_forgotten(&fs->ages.answered, now);
  log_drops(fs);
  if (fs->ages.count) loop_timer_set(fs->tick, TICK_MS);
}

// ---- start ----

// Where a peer could make the agent log for every frame, the lines are limited.
static enum stream_reason refuse(struct flows *fs, uint32_t number, const struct tunnel *t) {
  if (t && t->state == TUNNEL_CLOSING) return STREAM_NO_TUNNEL; // the withdrawal crossed the visitor on the way
  if (bucket_take(&fs->warnings, 1, loop_now_ms(fs->loop)))
    log_event(LOG_WARN, "visitor.refuse", "the gateway opened a flow to a tunnel that is not offered",
              LF_INT("number", number), LF_STR("tunnel", t ? t->spec.name : NULL));
  return STREAM_NO_TUNNEL;
}

static struct target_flow *flow_new(struct flows *fs, struct flow *wire, struct tunnel *t, const struct addr *peer) {
  struct target_flow *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->owner = fs;
  f->tunnel = tunnel_ref(t);
  f->flow = wire;
  f->peer = *peer;
  f->born_ms = loop_now_ms(fs->loop);
  f->held_tail = &f->held;
  f->wait.fn = on_looked_up;
  wire->end = &target_flow_end;
  wire->end_ctx = f;
  if (fs->ages.count == 0) loop_timer_set(fs->tick, TICK_MS);
  ages_add(&fs->ages, &f->age, f->born_ms);
  return f;
}

enum stream_reason flows_open(struct flows *fs, struct flow *wire, const struct frame_open *open) {
  struct tunnel *t = tunnels_find(fs->tunnels, open->tunnel);
  if (!t || t->state != TUNNEL_OPEN || t->spec.protocol != CONTROL_UDP) return refuse(fs, open->tunnel, t);
  struct target_flow *f = flow_new(fs, wire, t, &open->visitor);
  if (!f) return STREAM_INTERNAL;
  log_open(f);
  if (target_literal(&t->target)) {
    open_socket(f);
    return STREAM_OK;
  }
  struct addr_set *set = target_look_up(&t->target, &f->wait);
  if (set) on_looked_up(&f->wait, set);
  return STREAM_OK;
}

struct flows *flows_new(struct loop *l, struct tunnels *tunnels, const _Atomic uint64_t *link_drops) {
  struct flows *fs = calloc(1, sizeof *fs);
  if (!fs) return NULL;
  *fs = (struct flows){.loop = l, .tunnels = tunnels, .link_drops = link_drops};
  ages_init(&fs->ages);
  bucket_init(&fs->warnings, WARN_PER_S, WARN_BURST, loop_now_ms(l));
  fs->tick = loop_timer_new(l, on_tick, fs);
  if (fs->tick) return fs;
  free(fs);
  return NULL;
}

void flows_free(struct flows *fs) {
  if (!fs) return;
  assert(fs->ages.count == 0);
  loop_timer_free(fs->tick);
  free(fs);
}
