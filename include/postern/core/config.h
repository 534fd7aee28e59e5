// config: gateway.json, whole and validated (contract: "gateway.json"). Read by the gateway and by posternctl.
#ifndef POSTERN_CORE_CONFIG_H
#define POSTERN_CORE_CONFIG_H

#include "postern/base/addr.h"
#include "postern/base/log.h"
#include "postern/base/opt.h"

enum { CONFIG_MAX_LISTEN = 16 };

struct config_listen {
  struct addr addr[CONFIG_MAX_LISTEN];
  unsigned count;
  bool written; // stood in the file: a family that the machine lacks is then an error, not a warning
};

enum config_min_tls { CONFIG_TLS_1_2, CONFIG_TLS_1_3 };
enum config_unbound_hosts { CONFIG_HOSTS_FIRST, CONFIG_HOSTS_REFUSE };
enum config_dialect { CONFIG_NSP_0_4, CONFIG_NSP_0_8, CONFIG_NSP_HOSTS, CONFIG_NSP_1_0, CONFIG_NSP_1_2, CONFIG_NSP_1_4 };

// Immutable once loaded; shared between threads by config_ref and config_unref. Paths are absolute or relative to the
// working directory, already resolved against the file's folder.
struct config {
  struct config_listen control, reverse, web;
  struct config_listen tunnels; // addresses without port (port 0)
  uint16_t port_low, port_high; // tunnels.ports
  uint16_t http_port, https_port;
  char *host_certificates; // NULL: none
  int unbound_hosts;
  char *certificate, *key, *client_ca; // client_ca NULL: none asked for
  int min_tls;
  char *database;
  bool nsp_enabled;
  int nsp_dialect;
  bool nsp_plaintext; // the listeners below are to be opened
  struct addr plaintext_control, plaintext_reverse, plaintext_web; // len 0: not that one
  bool anonymous;
  int64_t workers; // 0: one per core
  int64_t handshake_s, heartbeat_s, dead_s, dial_s, stall_s, udp_idle_s, http_head_s, http_idle_s, http_target_s, buffer_mib;
  int log_format, log_level;
};

// Loads and validates; `file` appears in the error. One reference for the caller.
PERR_MUST_CHECK int config_load(const char *file, struct config **out, struct err_text *e);
struct config *config_ref(struct config *c);
void config_unref(struct config *c);
// The path of the first key that differs and cannot change while the gateway runs, or NULL.
const char *config_fixed_difference(const struct config *a, const struct config *b);
// What cannot change while the gateway runs becomes in `c`, which nobody shares yet, what it is in `running`.
void config_keep_fixed(struct config *c, const struct config *running);

#endif
