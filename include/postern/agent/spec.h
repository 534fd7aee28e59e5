// spec: one tunnel as it is configured, and the rules for its parts.
#ifndef POSTERN_AGENT_SPEC_H
#define POSTERN_AGENT_SPEC_H

#include "postern/base/addr.h"
#include "postern/base/err.h"
#include "postern/wire/control.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TARGET_TEXT = HOST_TEXT + 8 };

struct tunnel_spec {
  char name[NAME_TEXT];
  enum control_protocol protocol;
  char host[HOST_TEXT]; // of the target
  uint16_t target_port;
  uint16_t port; // the public one to ask for; 0: any
  bool strict_port;
  char description[CONTROL_TEXT];
  int64_t idle_s; // udp: until a silent flow ends; 0: as the gateway has it
};

// A burst of a reload that closes and opens all of them stays within the protocol's bound on control messages.
enum { SPEC_MAX = 400 };

// Reads the list "tunnels" of agent.json; *out is on the heap. `e` names the key by its path.
PERR_MUST_CHECK int spec_read_list(const json_t *list, struct tunnel_spec **out, size_t *n, struct err_text *e);

// Parts of the one-line form. `e` says what is wrong with the text.
PERR_MUST_CHECK int spec_set_protocol(struct tunnel_spec *s, const char *text, struct err_text *e);
PERR_MUST_CHECK int spec_set_name(struct tunnel_spec *s, const char *text, struct err_text *e);
PERR_MUST_CHECK int spec_set_target(struct tunnel_spec *s, const char *text, struct err_text *e);
PERR_MUST_CHECK int spec_set_port(struct tunnel_spec *s, const char *text, struct err_text *e);

const char *spec_protocol(const struct tunnel_spec *s); // "tcp", "udp"
// "HOST:PORT" with brackets around an IPv6 address. Returns `out`.
const char *spec_target(const struct tunnel_spec *s, char out[TARGET_TEXT]);
bool spec_equal(const struct tunnel_spec *a, const struct tunnel_spec *b);

#endif
