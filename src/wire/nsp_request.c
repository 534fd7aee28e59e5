// nsp_request: reads the requests of an NSP client on the control channel, and the token that they share with reverse
// connections. Called by the NSP protocol's layer; owns nothing. Any thread.
//
// A stranger makes it hold one head and one record, never the whole request; who wants to keep apps is told of each.
#include "postern/wire/nsp.h"
#include "postern/wire/nsp_internal.h"
#include <string.h>

// ---- shared with nsp_reverse.c ----

bool nsp_gather(struct rd *in, uint8_t *to, size_t *have, size_t want) {
  size_t n = want - *have < in->left ? want - *have : in->left;
  if (n) memcpy(to + *have, rd_bytes(in, n), n);
  *have += n;
  return *have == want;
}

static size_t token_len(const uint8_t *opening) {
  struct rd r = rd_init(opening + 1, 2);
  return rd_u16(&r);
}

size_t nsp_opening_size(const uint8_t *opening, size_t have) {
  const size_t fixed = 1 + 2;
  if (have < fixed) return fixed;
  size_t len = token_len(opening);
  return len <= NSP_TOKEN_MAX ? fixed + len : 0;
}

bool nsp_printable(const uint8_t *text, size_t len) {
  for (size_t i = 0; i < len; i++)
    if (text[i] < 0x20 || text[i] > 0x7e) return false;
  return true;
}

void nsp_keep_token(uint8_t *opening) {
  size_t len = token_len(opening);
  memmove(opening, opening + 1 + 2, len);
  opening[nsp_printable(opening, len) ? len : 0] = '\0';
}

// ---- the head ----

void nsp_request_init(struct nsp_request_parser *p, const struct nsp_dialect *d) {
  memset(p, 0, sizeof *p);
  p->dialect = d;
  p->need = 1;
}

static int malformed(struct nsp_request_parser *p, const char *why) {
  p->state = NSP_REQUEST_BAD;
  p->need = 0;
  p->why = why;
  return PERR_PROTOCOL;
}

// What stands between the token and the records.
static size_t ids_size(const struct nsp_request_parser *p) {
  bool old_id = p->dialect->old_id_first && p->head[0] == NSP_OP_RECONNECT;
  return (old_id ? 2 : 0) + 2 + 1;
}

static size_t app_request_size(struct nsp_request_parser *p) {
  if (!p->dialect->token) return 1 + ids_size(p);
  size_t opening = nsp_opening_size(p->head, p->have);
  if (opening == 0) p->why = "a token that is too long";
  return opening > p->have || opening == 0 ? opening : opening + ids_size(p);
}

// Bytes of the head as far as those that are there tell: more than these, unless it is complete. 0: `why` is set.
static size_t head_size(struct nsp_request_parser *p) {
  if (p->have == 0) return 1;
  switch (p->head[0]) {
  case NSP_OP_HEARTBEAT:
  case NSP_OP_CLOSE: return 1 + 2;
  case NSP_OP_NEW_APPS:
  case NSP_OP_RECONNECT: return app_request_size(p);
  case NSP_OP_DISCONNECT:
    if (p->dialect->transfer_id_len) return (size_t)1 + p->dialect->transfer_id_len;
    break;
  }
  p->why = "an unknown request";
  return 0;
}

static void decode_ids(struct nsp_request_parser *p, struct rd *r) {
  if (ids_size(p) > 2 + 1) p->request.old_id = rd_u16(r);
  p->request.client_id = rd_u16(r);
  p->request.count = rd_u8(r);
}

// The head is complete: takes it apart and leaves the token at its start.
static void decode_head(struct nsp_request_parser *p) {
  struct nsp_request *q = &p->request;
  struct rd r = rd_init(p->head + 1, p->have - 1);
  q->op = (enum nsp_op)p->head[0];
  switch (q->op) {
  case NSP_OP_HEARTBEAT:
  case NSP_OP_CLOSE: q->client_id = rd_u16(&r); break;
  case NSP_OP_DISCONNECT: memcpy(q->transfer_id, p->head + 1, p->dialect->transfer_id_len); break;
  case NSP_OP_NEW_APPS:
  case NSP_OP_RECONNECT:
    if (p->dialect->token) rd_bytes(&r, rd_u16(&r));
    decode_ids(p, &r);
    if (p->dialect->token) {
      nsp_keep_token(p->head);
      return;
    }
  }
  p->head[0] = '\0';
}

static int feed_head(struct nsp_request_parser *p, struct rd *in) {
  for (size_t size; (size = head_size(p)) != p->have;) {
    if (size == 0) return malformed(p, p->why);
    if (nsp_gather(in, p->head, &p->have, size)) continue;
    p->need = size - p->have;
    return PERR_AGAIN;
  }
  decode_head(p);
  p->state = p->request.count ? NSP_REQUEST_APPS : NSP_REQUEST_DONE;
  p->need = p->request.count ? nsp_record_len(p->dialect) : 0;
  p->have = 0;
  return 0;
}

const char *nsp_request_token(const struct nsp_request_parser *p) {
  return (const char *)p->head;
}

// ---- the records ----

// A text of up to `len` bytes that NULs fill up.
static size_t take_text(struct rd *r, size_t len, char *out) {
  const uint8_t *bytes = rd_bytes(r, len);
  size_t n = bytes ? strnlen((const char *)bytes, len) : 0;
  if (n) memcpy(out, bytes, n);
  out[n] = '\0';
  return n;
}

// Leaves out a last character of UTF-8 that the end of its field has cut.
static void drop_cut_character(char *text, size_t len) {
  size_t tail = 0;
  while (tail < len && tail < 3 && ((unsigned char)text[len - 1 - tail] & 0xc0) == 0x80) tail++;
  if (tail == len) return;
  char *first = &text[len - 1 - tail];
  unsigned char c = (unsigned char)*first;
  size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
  if (tail + 1 < whole) *first = '\0';
}

static const char *decode_app(const struct nsp_dialect *d, const uint8_t *record, struct nsp_app *a) {
  struct rd r = rd_init(record, nsp_record_len(d));
  a->port = rd_u16(&r);
  a->protocol = d->protocol_len ? rd_u8(&r) : NSP_TCP;
  uint8_t compress = d->compress_len ? rd_u8(&r) : 0;
  a->compress = compress == 1;
  size_t host = take_text(&r, d->host_len, a->host);
  size_t description = take_text(&r, d->description_len, a->description);
  drop_cut_character(a->description, description);
  if (compress > 1) return "an app that is neither compressed nor not; is this another dialect?";
  if (!nsp_printable((const uint8_t *)a->host, host)) return "a host that is not printable ASCII";
  return NULL;
}

static int feed_apps(struct nsp_request_parser *p, struct rd *in) {
  size_t len = nsp_record_len(p->dialect);
  while (p->napps < p->request.count) {
    struct nsp_app app;
    if (!nsp_gather(in, p->record, &p->have, len)) {
      p->need = len - p->have;
      return PERR_AGAIN;
    }
    const char *why = decode_app(p->dialect, p->record, &app);
    if (why) return malformed(p, why);
    if (p->on_app) p->on_app(p->ctx, p->napps, &app);
    p->napps++;
    p->have = 0;
  }
  p->state = NSP_REQUEST_DONE;
  p->need = 0;
  return 0;
}

int nsp_request_feed(struct nsp_request_parser *p, const void *data, size_t len, size_t *used) {
  struct rd in = rd_init(data, len);
  int rc = 0;
  switch (p->state) {
  case NSP_REQUEST_HEAD: rc = feed_head(p, &in); break;
  case NSP_REQUEST_APPS: rc = feed_apps(p, &in); break;
  case NSP_REQUEST_DONE: break;
  case NSP_REQUEST_BAD: rc = PERR_PROTOCOL; break;
  }
  *used = len - in.left;
  return rc;
}
