// tls_verify: the verdict on a peer's certificates, and its words. Called by OpenSSL during handshakes, on any thread;
// the struct tls that it reads does not change.
#include "postern/net/tls_verify.h"
#include "postern/base/clock.h"
#include "postern/net/tls_files.h"
#include "postern/net/tls_internal.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NAMES_SHOWN = 3, NAME_SHOWN = 64 };

// A text of bounded length that is put together piece by piece; what does not fit is cut.
struct text {
  char s[TLS_TEXT];
  size_t len;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = vsnprintf(t->s + t->len, sizeof t->s - t->len, format, args);
  va_end(args);
  if (n > 0) t->len += (size_t)n;
  if (t->len >= sizeof t->s) t->len = sizeof t->s - 1;
}

// ---- pins ----

static bool pinned(const struct tls *t, const X509 *x) {
  uint8_t pin[SHA256_LEN];
  if (!tls_pin_of(x, pin)) return false;
  for (unsigned i = 0; i < t->npins; i++)
    if (memcmp(pin, t->pins[i], SHA256_LEN) == 0) return true;
  return false;
}

static bool chain_pinned(const struct tls *t, const STACK_OF(X509) * chain) {
  for (int i = 0; i < sk_X509_num(chain); i++)
    if (pinned(t, sk_X509_value(chain, i))) return true;
  return false;
}

// Those of the sent certificates that are a CA's and pinned; borrowed. NULL for want of memory.
static STACK_OF(X509) * pinned_cas(const struct tls *t, const STACK_OF(X509) * sent) {
  STACK_OF(X509) *cas = sk_X509_new_null();
  for (int i = 0; cas && i < sk_X509_num(sent); i++) {
    X509 *x = sk_X509_value(sent, i);
    if ((X509_get_extension_flags(x) & EXFLAG_CA) && pinned(t, x)) sk_X509_push(cas, x);
  }
  return cas;
}

// ---- the verdict ----

static bool chain_holds(X509_STORE_CTX *x) {
  int ok = X509_verify_cert(x);
  if (ok < 0 && X509_STORE_CTX_get_error(x) == X509_V_OK) X509_STORE_CTX_set_error(x, X509_V_ERR_UNSPECIFIED);
  return ok == 1;
}

static bool no_pin_matches(X509_STORE_CTX *x) {
  X509_STORE_CTX_set_error(x, X509_V_ERR_APPLICATION_VERIFICATION);
  return false;
}

// Without a trust store: the pinned leaf is trusted as it is, a pinned CA is the only root.
static bool pins_hold(const struct tls *t, X509_STORE_CTX *x) {
  if (pinned(t, X509_STORE_CTX_get0_cert(x))) {
    X509_STORE_CTX_set_error(x, X509_V_OK);
    return true;
  }
  STACK_OF(X509) *roots = pinned_cas(t, X509_STORE_CTX_get0_untrusted(x));
  bool ok;
  if (sk_X509_num(roots) > 0) {
    X509_STORE_CTX_set0_trusted_stack(x, roots);
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(x), X509_V_FLAG_PARTIAL_CHAIN);
    ok = chain_holds(x);
  } else {
    ok = no_pin_matches(x);
  }
  sk_X509_free(roots);
  return ok;
}

static bool peer_holds(const struct tls *t, X509_STORE_CTX *x) {
  if (t->npins == 0) return chain_holds(x);
  if (!t->has_ca) return pins_hold(t, x);
  return chain_holds(x) && (chain_pinned(t, X509_STORE_CTX_get0_chain(x)) || no_pin_matches(x));
}

// ---- the words ----

// The peer chose these bytes.
static void add_peer_bytes(struct text *out, const uint8_t *data, int len) {
  for (int i = 0; i < len && i < NAME_SHOWN; i++) add(out, "%c", data[i] >= 0x20 && data[i] < 0x7f ? data[i] : '?');
}

static void add_name(struct text *out, const GENERAL_NAME *name) {
  int type;
  const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
  const uint8_t *data = ASN1_STRING_get0_data(value);
  int len = ASN1_STRING_length(value);
  if (type == GEN_DNS) {
    add_peer_bytes(out, data, len);
    return;
  }
  char ip[ADDR_TEXT] = "?";
  struct addr a;
  struct sockaddr_in in = {.sin_family = AF_INET};
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
  if (len == sizeof in.sin_addr) {
    memcpy(&in.sin_addr, data, sizeof in.sin_addr);
    addr_from_sockaddr(&a, (const struct sockaddr *)&in, sizeof in);
    addr_format_ip(&a, ip);
  } else if (len == sizeof in6.sin6_addr) {
    memcpy(&in6.sin6_addr, data, sizeof in6.sin6_addr);
    addr_from_sockaddr(&a, (const struct sockaddr *)&in6, sizeof in6);
    addr_format_ip(&a, ip);
  }
  add(out, "%s", ip);
}

static void add_common_name(struct text *out, const X509 *x) {
  const X509_NAME *subject = X509_get_subject_name(x);
  int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  const ASN1_STRING *value = at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  if (value)
    add_peer_bytes(out, ASN1_STRING_get0_data(value), ASN1_STRING_length(value));
  else
    add(out, "no name");
}

static void add_names(struct text *out, const X509 *x) {
  GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
  int shown = 0, more = 0;
  for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
    if (shown == NAMES_SHOWN) {
      more++;
      continue;
    }
    if (shown++) add(out, ", ");
    add_name(out, name);
  }
  if (more) add(out, " and %d more", more);
  if (!shown) add_common_name(out, x);
  GENERAL_NAMES_free(names);
}

// "the certificate", or which of the others in the chain it is about.
static void add_subject(struct text *out, X509_STORE_CTX *x) {
  const X509 *at = X509_STORE_CTX_get_current_cert(x);
  if (X509_STORE_CTX_get_error_depth(x) == 0 || !at) {
    add(out, "the certificate");
    return;
  }
  add(out, "the CA certificate of ");
  add_common_name(out, at);
}

static void add_date(struct text *out, const ASN1_TIME *t) {
  char date[CLOCK_TEXT];
  add(out, "%s", clock_format_s(tls_wall_time(t), date));
}

static void describe(struct text *out, const struct tls *t, X509_STORE_CTX *x) {
  int error = X509_STORE_CTX_get_error(x);
  const X509 *at = X509_STORE_CTX_get_current_cert(x);
  switch (error) {
  case X509_V_ERR_APPLICATION_VERIFICATION:
    add(out, "no certificate of the chain matches the pinned key%s", t->npins > 1 ? "s" : "");
    break;
  case X509_V_ERR_CERT_HAS_EXPIRED:
    add_subject(out, x);
    add(out, " expired on ");
    add_date(out, X509_get0_notAfter(at));
    break;
  case X509_V_ERR_CERT_NOT_YET_VALID:
    add_subject(out, x);
    add(out, " is not yet valid, not before ");
    add_date(out, X509_get0_notBefore(at));
    break;
  case X509_V_ERR_HOSTNAME_MISMATCH:
  case X509_V_ERR_IP_ADDRESS_MISMATCH:
    add(out, "the certificate is for ");
    add_names(out, X509_STORE_CTX_get0_cert(x));
    add(out, ", not for %s", t->server_name);
    break;
  case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
  case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
  case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
  case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
  case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
  case X509_V_ERR_CERT_SIGNATURE_FAILURE:
  case X509_V_ERR_CERT_UNTRUSTED:
    add(out, "the certificate is not signed by a trusted CA (%s)", X509_verify_cert_error_string(error));
    break;
  default: add_subject(out, x); add(out, " cannot be accepted (%s)", X509_verify_cert_error_string(error));
  }
}

static int on_verify(X509_STORE_CTX *x, void *arg) {
  const struct tls *t = arg;
  if (peer_holds(t, x)) return 1;
  SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
  struct text text = {.len = 0};
  describe(&text, t, x);
  tls_set_text(ssl, text.s);
  return 0;
}

void tls_verify_use(struct tls *t) {
  SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
  SSL_CTX_set_cert_verify_callback(t->ctx, on_verify, t);
}

int tls_verify_trust(struct tls *t, const char *what, const char *file, unsigned char *hash, struct err_text *e) {
  STACK_OF(X509) * cas;
  X509_STORE *store = SSL_CTX_get_cert_store(t->ctx);
  int rc = tls_files_certificates(what, file, &cas, hash, e);
  if (rc) return rc;
  for (int i = 0; !rc && i < sk_X509_num(cas); i++) {
    bool ok = X509_STORE_add_cert(store, sk_X509_value(cas, i)) == 1;
    if (ok && !t->client) ok = SSL_CTX_add_client_CA(t->ctx, sk_X509_value(cas, i)) == 1; // its name is sent
    if (!ok) rc = err_set(e, PERR_INVALID, "%s %s: %s", what, file, tls_library_error());
  }
  // What the file holds is trusted, an intermediate CA too.
  X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
  sk_X509_pop_free(cas, X509_free);
  return rc;
}
