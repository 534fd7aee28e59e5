// gateway_tls: see gateway_tls.h.
#include "postern/gateway/gateway_tls.h"
#include "postern/base/log.h"
#include "postern/base/text.h"

#include <string.h>

static const char *const trunk_alpn[] = {"postern/1", NULL};
static const char *const both_alpn[] = {"postern/1", "nsp/1", NULL};
static const char *const nsp_alpn[] = {"nsp/1", NULL};
static const char *const web_alpn[] = {"http/1.1", NULL};

static struct tls_server_options control_options(const struct config *c) {
  return (struct tls_server_options){.certificate = c->certificate,
                                     .key = c->key,
                                     .client_ca = c->client_ca,
                                     .min_version = c->min_tls == CONFIG_TLS_1_3 ? TLS_1_3 : TLS_1_2,
                                     .alpn = c->nsp_enabled ? both_alpn : trunk_alpn,
                                     .alpn_optional = c->nsp_enabled}; // NSP clients know nothing of ALPN
}

static int make_all(struct gateway_tls *out, const struct config *c, const struct gateway_tls *previous,
                    struct err_text *e) {
  struct tls_server_options o = control_options(c);
  int code = tls_server_new(&out->control, &o, previous ? previous->control : NULL, e);
  o.alpn_optional = true;
  o.alpn = nsp_alpn;
  if (code == 0) code = tls_server_new(&out->reverse, &o, out->control, e);
  o.client_ca = NULL;
  o.alpn = web_alpn;
  if (code == 0) code = tls_server_new(&out->web, &o, previous ? previous->web : NULL, e);
  return code;
}

int gateway_tls_make(struct gateway_tls *out, const struct config *c, const char *file,
                     const struct gateway_tls *previous, struct err_text *e) {
  if (file_is_loose(c->key)) log_event(LOG_WARN, "gateway.loose", "others can read the key file", LF_STR("file", c->key));
  *out = (struct gateway_tls){0};
  int code = make_all(out, c, previous, e);
  if (code) gateway_tls_unref(out);
  if (code == 0 || code == PERR_NOMEM || code == PERR_TLS) return code;
  return err_set(e, PERR_INVALID, "%s: tls.%s", file, e->s); // a file that is not what its key is for
}

struct gateway_tls gateway_tls_ref(const struct gateway_tls *t) {
  return (struct gateway_tls){tls_ref(t->control), tls_ref(t->reverse), tls_ref(t->web)};
}

void gateway_tls_unref(struct gateway_tls *t) {
  tls_unref(t->control);
  tls_unref(t->reverse);
  tls_unref(t->web);
}

void gateway_tls_warn_of_pins(const struct gateway_tls *was, const struct gateway_tls *is) {
  uint8_t old[TLS_MAX_PINS][SHA256_LEN], new[TLS_MAX_PINS][SHA256_LEN];
  unsigned nold = tls_server_pins(was->control, old), nnew = tls_server_pins(is->control, new);
  for (unsigned i = 0; i < nold; i++) {
    bool kept = false;
    for (unsigned j = 0; j < nnew; j++) kept |= memcmp(old[i], new[j], SHA256_LEN) == 0;
    if (kept) continue;
    char pin[2 * SHA256_LEN + 1];
    hex_encode(old[i], SHA256_LEN, pin);
    log_event(LOG_WARN, "gateway.key_changed", "a key that agents may have pinned is no longer in the chain",
              LF_STR("pin_sha256", pin), LF_STR("of", i ? "a CA certificate" : "the gateway's certificate"));
  }
}
