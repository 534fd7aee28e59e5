// nsp_reverse: reads the opening of a reverse connection. Called by the NSP protocol's layer; owns nothing. Any thread.
#include "postern/wire/nsp.h"
#include "postern/wire/nsp_internal.h"
#include <string.h>

enum { OPENING_BYTE = 0xf9 };

void nsp_reverse_init(struct nsp_reverse_parser *p, const struct nsp_dialect *d) {
  memset(p, 0, sizeof *p);
  p->state = d->reverse_auth ? NSP_REVERSE_TOKEN : NSP_REVERSE_IDS;
  p->need = d->reverse_auth ? 1 : sizeof p->ids;
}

static int malformed(struct nsp_reverse_parser *p, const char *why) {
  p->state = NSP_REVERSE_BAD;
  p->need = 0;
  p->why = why;
  return PERR_PROTOCOL;
}

static int feed_token(struct nsp_reverse_parser *p, struct rd *in) {
  // The first byte is looked at before a second one is waited for.
  for (size_t size; (size = p->have ? nsp_opening_size(p->opening, p->have) : 1) != p->have;) {
    if (size == 0) return malformed(p, "a token that is too long");
    if (!nsp_gather(in, p->opening, &p->have, size)) {
      p->need = size - p->have;
      return PERR_AGAIN;
    }
    if (p->opening[0] != OPENING_BYTE) return malformed(p, "not the opening of a reverse connection");
  }
  nsp_keep_token(p->opening);
  p->state = NSP_REVERSE_IDS;
  p->need = sizeof p->ids;
  p->have = 0;
  return 0;
}

static int feed_ids(struct nsp_reverse_parser *p, struct rd *in) {
  if (!nsp_gather(in, p->ids, &p->have, sizeof p->ids)) {
    p->need = sizeof p->ids - p->have;
    return PERR_AGAIN;
  }
  struct rd r = rd_init(p->ids, sizeof p->ids);
  p->client_id = rd_u16(&r);
  p->app_id = rd_u8(&r);
  p->state = NSP_REVERSE_DONE;
  p->need = 0;
  return 0;
}

int nsp_reverse_feed(struct nsp_reverse_parser *p, const void *data, size_t len, size_t *used) {
  struct rd in = rd_init(data, len);
  int rc = 0;
  switch (p->state) {
  case NSP_REVERSE_TOKEN: rc = feed_token(p, &in); break;
  case NSP_REVERSE_IDS: rc = feed_ids(p, &in); break;
  case NSP_REVERSE_DONE: break;
  case NSP_REVERSE_BAD: rc = PERR_PROTOCOL; break;
  }
  *used = len - in.left;
  return rc;
}

const char *nsp_reverse_token(const struct nsp_reverse_parser *p) {
  return (const char *)p->opening;
}
