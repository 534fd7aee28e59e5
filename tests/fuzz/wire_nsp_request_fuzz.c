// NSP requests. The first byte chooses the dialect, the second how large the pieces are: what comes out must not depend
// on them, every taken byte must count, and a request stays within its caps.
#include "postern/wire/nsp.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
  int rc;
  size_t taken;
  struct nsp_request_parser parser;
  struct nsp_app *apps;
};

static void check_text(const char *text, size_t max) {
  size_t len = strlen(text);
  if (len > max) abort();
  for (size_t i = 0; i < len; i++)
    if (text[i] < 0x20 || text[i] > 0x7e) abort();
}

static void check(const struct outcome *o) {
  const struct nsp_request_parser *p = &o->parser;
  if ((o->rc == PERR_PROTOCOL) != (p->state == NSP_REQUEST_BAD) || (o->rc == PERR_PROTOCOL) != (p->why != NULL))
    abort();
  if ((o->rc == PERR_AGAIN) != (p->state == NSP_REQUEST_HEAD || p->state == NSP_REQUEST_APPS)) abort();
  if ((p->need > 0) != (o->rc == PERR_AGAIN)) abort();
  if (p->state == NSP_REQUEST_APPS || p->state == NSP_REQUEST_DONE) check_text(nsp_request_token(p), NSP_TOKEN_MAX);
  if (p->napps > p->request.count) abort();
  for (unsigned i = 0; i < p->napps; i++) {
    check_text(o->apps[i].host, NSP_HOST_LEN);
    if (strlen(o->apps[i].description) > NSP_DESCRIPTION_LEN) abort();
    (void)nsp_app_refusal(p->dialect, &o->apps[i]);
  }
}

static void keep_app(void *ctx, unsigned index, const struct nsp_app *app) {
  struct outcome *o = ctx;
  if (index >= o->parser.request.count) abort();
  o->apps[index] = *app;
}

// Pieces of `piece` bytes, or of what is needed where it is 0. The caller frees the apps.
static void run(struct outcome *o, const struct nsp_dialect *d, const uint8_t *data, size_t size, size_t piece) {
  struct nsp_request_parser *p = &o->parser;
  nsp_request_init(p, d);
  o->apps = NULL;
  o->rc = PERR_AGAIN;
  o->taken = 0;
  while (o->taken < size && o->rc == PERR_AGAIN) {
    size_t left = size - o->taken, want = piece ? piece : p->need, n = want < left ? want : left, used = SIZE_MAX;
    o->rc = nsp_request_feed(p, data + o->taken, n, &used);
    if (used > n || (o->rc == PERR_AGAIN && used != n)) abort();
    if (!piece && o->rc == 0 && used != n) abort();
    o->taken += used;
    if (o->rc != 0 || p->state == NSP_REQUEST_DONE) continue;
    if (p->state != NSP_REQUEST_APPS || p->request.count == 0 || o->apps) abort();
    o->apps = malloc(p->request.count * sizeof *o->apps);
    if (!o->apps) abort();
    p->on_app = keep_app;
    p->ctx = o;
    o->rc = PERR_AGAIN;
  }
  check(o);
}

static void compare(const struct outcome *a, const struct outcome *b) {
  const struct nsp_request *q = &a->parser.request, *r = &b->parser.request;
  if (a->rc != b->rc || a->taken != b->taken || a->parser.need != b->parser.need) abort();
  if (a->parser.state != b->parser.state || a->parser.why != b->parser.why || a->parser.napps != b->parser.napps)
    abort();
  if (q->op != r->op || q->client_id != r->client_id || q->old_id != r->old_id || q->count != r->count) abort();
  if (memcmp(q->transfer_id, r->transfer_id, sizeof q->transfer_id) != 0) abort();
  for (unsigned i = 0; i < a->parser.napps; i++) {
    const struct nsp_app *x = &a->apps[i], *y = &b->apps[i];
    if (x->port != y->port || x->protocol != y->protocol || x->compress != y->compress) abort();
    if (strcmp(x->host, y->host) != 0 || strcmp(x->description, y->description) != 0) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct outcome whole, pieces;
  if (size < 2) return 0;
  const struct nsp_dialect *d = nsp_dialect_at(data[0] % 6);
  run(&whole, d, data + 2, size - 2, size);
  run(&pieces, d, data + 2, size - 2, data[1]);
  compare(&whole, &pieces);
  free(whole.apps);
  free(pieces.apps);
  return 0;
}
