// signals: see signals.h.
#include "postern/gateway/signals.h"
#include "postern/base/log.h"
#include "postern/gateway/gateway.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct signals {
  struct event *term, *interrupt, *hup;
};

static void at_once(int sig) { _exit(0); }

static void on_stop(evutil_socket_t sig, short what, void *arg) {
  struct gateway *g = arg;
  // From here on the system's handler, for the loop may not come round again.
  signals_stop(g->signals);
  g->signals = NULL;
  log_line(LOG_INFO, "gateway.stopping", "signal %d: stopping", (int)sig);
  loop_stop(g->loop);
}

static void on_hup(evutil_socket_t sig, short what, void *arg) {
  struct err_text e;
  (void)gateway_reload(arg, &e); // says in the log what came of it
}

static struct event *watch(struct gateway *g, int sig, event_callback_fn fn) {
  struct event *ev = evsignal_new(loop_base(g->loop), sig, fn, g);
  if (ev && evsignal_add(ev, NULL) == 0) return ev;
  if (ev) event_free(ev);
  return NULL;
}

static void drop(struct event *ev) {
  if (ev) event_free(ev);
}

int signals_start(struct signals **out, struct gateway *g) {
  struct signals *s = calloc(1, sizeof *s);
  if (!s) return PERR_NOMEM;
  s->term = watch(g, SIGTERM, on_stop);
  s->interrupt = watch(g, SIGINT, on_stop);
  s->hup = watch(g, SIGHUP, on_hup);
  if (!s->term || !s->interrupt || !s->hup) {
    signals_stop(s);
    return PERR_NOMEM;
  }
  *out = s;
  return 0;
}

void signals_stop(struct signals *s) {
  if (!s) return;
  drop(s->term);
  drop(s->interrupt);
  drop(s->hup);
  free(s);
  signal(SIGTERM, at_once);
  signal(SIGINT, at_once);
  signal(SIGHUP, SIG_IGN);
}
