// nsp: the table of dialects, and the messages from the gateway to an NSP client. Called by the NSP protocol's layer;
// owns nothing. Any thread.
#include "postern/wire/nsp.h"
#include "postern/base/bytes.h"
#include <string.h>

// ---- dialects ----

static const struct nsp_dialect dialects[] = {
    {.name = "0.4", .old_id_first = true, .adds_apps = true},
    {.name = "0.8", .token = true, .reverse_auth = true},
    {.name = "hosts", .protocol_len = 1, .host_len = NSP_HOST_LEN, .token = true, .reverse_auth = true},
    {.name = "1.0",
     .protocol_len = 1,
     .host_len = NSP_HOST_LEN,
     .description_len = NSP_DESCRIPTION_LEN,
     .token = true,
     .reverse_auth = true},
    {.name = "1.2",
     .protocol_len = 1,
     .compress_len = 1,
     .host_len = NSP_HOST_LEN,
     .description_len = NSP_DESCRIPTION_LEN,
     .token = true,
     .reverse_auth = true,
     .keepalive = true,
     .udp_to_client = NSP_ORDER_BE,
     .udp_from_client = NSP_ORDER_BE,
     .compression = NSP_COMPRESSION_UNFRAMED},
    {.name = "1.4",
     .protocol_len = 1,
     .compress_len = 1,
     .host_len = NSP_HOST_LEN,
     .description_len = NSP_DESCRIPTION_LEN,
     .token = true,
     .reverse_auth = true,
     .transfer_id_len = NSP_TRANSFER_ID,
     .keepalive = true,
     .force_close = true,
     .control_len = NSP_CONTROL_MAX,
     .udp_to_client = NSP_ORDER_LE, // its reader and its writer disagree
     .udp_from_client = NSP_ORDER_BE,
     .compression = NSP_COMPRESSION_FRAMED},
};

enum { DIALECTS = sizeof dialects / sizeof *dialects };

const struct nsp_dialect *nsp_dialect_find(const char *name) {
  for (size_t i = 0; i < DIALECTS; i++)
    if (strcmp(dialects[i].name, name) == 0) return &dialects[i];
  return NULL;
}

const struct nsp_dialect *nsp_dialect_at(size_t index) {
  return index < DIALECTS ? &dialects[index] : NULL;
}

size_t nsp_record_len(const struct nsp_dialect *d) {
  return (size_t)2 + d->protocol_len + d->compress_len + d->host_len + d->description_len;
}

const char *nsp_app_refusal(const struct nsp_dialect *d, const struct nsp_app *a) {
  switch (a->protocol) {
  case NSP_TCP:
  case NSP_HTTP:
    if (a->compress && d->compression != NSP_COMPRESSION_FRAMED) return "this client's compressed blocks have no frame";
    return NULL;
  case NSP_UDP: // never compressed, whatever is asked for
    return d->udp_to_client == NSP_ORDER_NONE ? "this client has no UDP" : NULL;
  default: return "an unknown protocol";
  }
}

// ---- answers ----

size_t nsp_put_answer(uint8_t out[NSP_ANSWER_MAX], uint16_t client_id, const struct nsp_assignment *apps,
                      size_t count) {
  struct wr w = wr_init(out, NSP_ANSWER_MAX);
  wr_u16(&w, client_id);
  for (size_t i = 0; i < count && !w.bad; i++) {
    wr_u8(&w, apps[i].app_id);
    wr_u16(&w, apps[i].port);
  }
  return w.bad ? 0 : w.len;
}

// ---- control messages ----

static size_t put_control(const struct nsp_dialect *d, enum nsp_control what, const uint8_t *id, size_t id_len,
                          uint8_t out[NSP_CONTROL_MAX]) {
  struct wr w = wr_init(out, NSP_CONTROL_MAX);
  wr_u8(&w, (uint8_t)what);
  wr_bytes(&w, id, id_len);
  while (w.len < d->control_len) wr_u8(&w, 0);
  return w.len;
}

size_t nsp_put_transfer(const struct nsp_dialect *d, const uint8_t id[NSP_TRANSFER_ID], uint8_t out[NSP_CONTROL_MAX]) {
  return put_control(d, NSP_CONTROL_TRANSFER, id, d->transfer_id_len, out);
}

size_t nsp_put_keepalive(const struct nsp_dialect *d, uint8_t out[NSP_CONTROL_MAX]) {
  return d->keepalive ? put_control(d, NSP_CONTROL_KEEPALIVE, NULL, 0, out) : 0;
}

size_t nsp_put_force_close(const struct nsp_dialect *d, uint8_t out[NSP_CONTROL_MAX]) {
  return d->force_close ? put_control(d, NSP_CONTROL_FORCE_CLOSE, NULL, 0, out) : 0;
}

// ---- blocks ----

void nsp_put_block_header(uint8_t out[NSP_BLOCK_HEADER], uint32_t len) {
  for (unsigned i = 0; i < NSP_BLOCK_HEADER; i++) out[i] = (uint8_t)(len >> 8 * i);
}

int nsp_get_block_header(const uint8_t in[NSP_BLOCK_HEADER], uint32_t *len) {
  uint32_t v = 0;
  for (unsigned i = NSP_BLOCK_HEADER; i-- > 0;) v = v << 8 | in[i];
  if (v == 0) return PERR_EOF;
  if (v > NSP_BLOCK_MAX) return PERR_PROTOCOL;
  *len = v;
  return 0;
}
