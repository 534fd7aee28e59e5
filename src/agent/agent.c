// agent: puts the parts together, hands what the session hears to the tunnels and visitors, and obeys signals. Called
// by main, whose thread becomes the loop's; the resolvers have a thread each.
#include "postern/agent/agent.h"
#include "postern/agent/flows.h"
#include "postern/agent/session.h"
#include "postern/agent/tunnels.h"
#include "postern/agent/visitors.h"
#include "postern/base/log.h"
#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATUS_FAILED = 1, LEAVE_S = 1 };

static const int watched[] = {SIGTERM, SIGINT, SIGHUP};

enum { SIGNALS = sizeof watched / sizeof watched[0] };

struct agent {
  const struct options *options;
  struct agent_config *cfg;
  struct loop *loop;
  // The targets' own, so that a name of theirs that hangs does not keep the agent from its gateway.
  struct resolver *resolver;
  struct session *session;
  struct tunnels *tunnels;
  struct visitors *visitors;
  struct flows *flows;
  _Atomic uint64_t link_drops; // datagrams
  struct event *signals[SIGNALS];
  bool stopping;
  int status;
};

// ---- what the session hears ----

static void on_welcome(void *ctx, const struct control_welcome *w) {
  struct agent *a = ctx;
  tunnels_set_server(a->tunnels, a->cfg->host);
  visitors_set_dial(a->visitors, w->dial_s);
  tunnels_welcome(a->tunnels, w);
}

static void on_tunnel(void *ctx, const struct control *c) {
  struct agent *a = ctx;
  tunnels_control(a->tunnels, c);
}

static enum stream_reason on_open(void *ctx, struct stream *s, const struct frame_open *open) {
  struct agent *a = ctx;
  return visitors_open(a->visitors, s, open);
}

static enum stream_reason on_flow(void *ctx, struct flow *f, const struct frame_open *open) {
  struct agent *a = ctx;
  return flows_open(a->flows, f, open);
}

static void on_over(void *ctx, int status) {
  struct agent *a = ctx;
  a->status = status;
  loop_stop(a->loop);
}

static const struct session_ops session_ops = {.on_welcome = on_welcome,
                                               .on_tunnel = on_tunnel,
                                               .on_open = on_open,
                                               .on_flow = on_flow,
                                               .on_over = on_over};

static int send_control(void *ctx, const struct control *c) {
  struct agent *a = ctx;
  return session_send(a->session, c);
}

// ---- signals ----

static int apply_tunnels(struct agent *a) {
  int changes = tunnels_apply(a->tunnels, a->cfg->tunnels, a->cfg->ntunnels);
  if (changes < 0) log_line(LOG_ERROR, "config.tunnels", "some tunnels are missing: %s", perr_str(changes));
  return changes;
}

static void reload(struct agent *a) {
  struct err_text e = {""};
  struct agent_config *cfg, *old = a->cfg;
  if (!old->file) {
    log_line(LOG_INFO, "config.reload", "SIGHUP is ignored: there is no configuration file");
    return;
  }
  int rc = agent_config_load(&cfg, a->options, &e);
  if (rc < 0) {
    log_event(LOG_ERROR, "config.reload", "the configuration stays as it was", LF_STR("reason", e.s));
    return;
  }
  bool gateway = !agent_config_same_gateway(old, cfg);
  a->cfg = cfg;
  agent_config_warn(cfg);
  session_configure(a->session, cfg);
  int changes = apply_tunnels(a);
  agent_config_free(old);
  log_event(LOG_INFO, "config.reload",
            gateway ? "reloaded; what changed for the gateway is used at the next connection" : "reloaded",
            LF_STR("file", cfg->file), LF_INT("changes", changes));
}

static void stop(struct agent *a, int number) {
  if (a->stopping) {
    session_abandon(a->session);
    return;
  }
  a->stopping = true;
  log_event(LOG_INFO, "agent.stop", "stopping", LF_STR("signal", strsignal(number)));
  session_stop(a->session);
}

static void on_signal(evutil_socket_t number, short what, void *ctx) {
  struct agent *a = ctx;
  if (number != SIGHUP)
    stop(a, (int)number);
  else if (!a->stopping)
    reload(a);
}

static int watch_signals(struct agent *a) {
  for (unsigned i = 0; i < SIGNALS; i++) {
    a->signals[i] = evsignal_new(loop_base(a->loop), watched[i], on_signal, a);
    if (!a->signals[i] || event_add(a->signals[i], NULL) < 0) return PERR_NOMEM;
  }
  return 0;
}

static void unwatch_signals(struct agent *a) {
  for (unsigned i = 0; i < SIGNALS; i++) {
    if (a->signals[i]) event_free(a->signals[i]);
    a->signals[i] = NULL;
  }
}

static void leave_stopped(int number) {
  _exit(0);
}
static void leave_refused(int number) {
  _exit(SESSION_REFUSED);
}
static void leave_taken_over(int number) {
  _exit(SESSION_TAKEN_OVER);
}

// A look-up that hangs in the system must not hold up the end: from here on the process leaves by itself. No signal
// comes in between, when libevent has put the system's own handling back.
static void leave_soon(struct agent *a) {
  const struct sigaction act = {.sa_handler = a->status == SESSION_REFUSED      ? leave_refused
                                              : a->status == SESSION_TAKEN_OVER ? leave_taken_over
                                                                                : leave_stopped};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  unwatch_signals(a);
  for (unsigned i = 0; i < SIGNALS; i++) sigaction(watched[i], &act, NULL);
  sigaction(SIGALRM, &act, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  alarm(LEAVE_S);
}

// ---- life ----

static int agent_init(struct agent *a) {
  a->loop = loop_new("postern");
  if (!a->loop) return PERR_NOMEM;
  a->resolver = resolver_new(a->loop);
  a->session = session_new(a->loop, a->cfg, &a->link_drops, &session_ops, a);
  if (!a->resolver || !a->session) return PERR_NOMEM;
  a->tunnels = tunnels_new(a->loop, a->resolver, send_control, a);
  if (!a->tunnels) return PERR_NOMEM;
  a->visitors = visitors_new(a->loop, a->tunnels);
  a->flows = flows_new(a->loop, a->tunnels, &a->link_drops);
  return a->visitors && a->flows ? watch_signals(a) : PERR_NOMEM;
}

static void agent_fini(struct agent *a) {
  unwatch_signals(a);
  flows_free(a->flows);
  visitors_free(a->visitors);
  tunnels_free(a->tunnels);
  session_free(a->session);
  if (a->resolver) resolver_free(a->resolver);
  if (a->loop) loop_free(a->loop);
  agent_config_free(a->cfg);
}

int agent_run(struct agent_config *cfg, const struct options *o) {
  struct agent a = {.options = o, .cfg = cfg};
  if (agent_init(&a) < 0) {
    log_line(LOG_ERROR, "agent.start", "cannot start: out of memory, descriptors or threads");
    a.status = STATUS_FAILED;
  } else {
    agent_config_warn(cfg);
    apply_tunnels(&a);
    session_start(a.session);
    loop_run(a.loop);
    session_abandon(a.session);
    leave_soon(&a);
  }
  agent_fini(&a);
  return a.status;
}
