// config: what an agent is to do, from agent.json or from one line, in one struct.
#ifndef POSTERN_AGENT_CONFIG_H
#define POSTERN_AGENT_CONFIG_H

#include "postern/agent/options.h"
#include "postern/agent/spec.h"
#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/base/opt.h"
#include "postern/net/tls.h"
#include "postern/wire/control.h"
#include <stdbool.h>
#include <stdint.h>

struct agent_config {
  char *server;     // "HOST:PORT" as it was written
  char *token_file; // NULL: `token` has it
  char *instance;
  char *ca, *server_name, *certificate, *key;
  struct opt_list pin_list;
  json_t *tunnel_list; // NULL once read
  char *file;          // agent.json; NULL: the one-line form
  char *enrol_file;
  char *token; // from the environment or an enrolment line; wiped when freed
  char host[HOST_TEXT];
  uint16_t port;
  uint8_t pins[TLS_MAX_PINS][SHA256_LEN];
  unsigned npins;
  struct tunnel_spec *tunnels;
  size_t ntunnels;
  struct tls *tls;
};

// Reads agent.json (o->config) or the one-line form, checks all of it, reads the token once to see that it is there,
// and makes the TLS context. Heap; agent_config_free. `e` names the file and key, or the option. `o` is borrowed for
// the call.
PERR_MUST_CHECK int agent_config_load(struct agent_config **out, const struct options *o, struct err_text *e);
void agent_config_free(struct agent_config *c); // NULL is fine
// Reads the token anew. `out` holds a secret: wipe it when done.
PERR_MUST_CHECK int agent_config_token(const struct agent_config *c, char out[CONTROL_TOKEN_TEXT], struct err_text *e);
// Logs a warning for each secret file that others can read.
void agent_config_warn(const struct agent_config *c);
// Whether both lead to the same gateway in the same way: server, TLS settings, token's place, instance.
bool agent_config_same_gateway(const struct agent_config *a, const struct agent_config *b);

#endif
