// tls_pair: contexts of a server and of a client who trusts it, once per program, for tests of what runs over TLS.
#ifndef TESTS_UNIT_TLS_PAIR_H
#define TESTS_UNIT_TLS_PAIR_H

#include "net_fixture.h"
#include "tls_fixture.h"

static struct tls *pair_server, *pair_client;

static inline int tls_pair_make(void **state) {
  struct fx_cert ca = fx_make((struct fx_spec){.cn = "ca", .ca = true});
  struct fx_cert gw = fx_make((struct fx_spec){.cn = "gw", .san = "DNS:gw.example.com", .issuer = &ca});
  fx_write("ca", &ca, NULL, NULL);
  fx_write("gw", &gw, NULL, NULL);
  pair_server = fx_server("gw", NULL, NULL);
  pair_client = fx_client((struct tls_client_options){.server_name = "gw.example.com", .ca = "ca.crt"});
  fx_drop(&ca);
  fx_drop(&gw);
  return 0;
}

static inline int tls_pair_drop(void **state) {
  tls_unref(pair_server);
  tls_unref(pair_client);
  return fx_remove_folder(state);
}

#endif
