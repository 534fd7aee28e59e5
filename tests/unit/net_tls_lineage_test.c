// net_tls_lineage_test: which connections have a lineage in common, and that nobody comes by another's.
#include "postern/base/clock.h"
#include "postern/net/tls_tickets.h"
#include "tls_fixture.h"
#include <poll.h>

static struct fx_cert ca, other_ca, gw, alice, anew;

static int make_files(void **state) {
  ca = fx_make((struct fx_spec){.cn = "Test CA", .ca = true});
  other_ca = fx_make((struct fx_spec){.cn = "Other CA", .ca = true});
  gw = fx_make((struct fx_spec){.cn = "gw", .san = "DNS:localhost", .issuer = &ca});
  alice = fx_make((struct fx_spec){.cn = "alice", .issuer = &ca});
  anew = fx_make((struct fx_spec){.cn = "alice", .issuer = &other_ca});
  fx_write("ca", &ca, NULL, NULL);
  fx_write("other_ca", &other_ca, NULL, NULL);
  fx_write("gw", &gw, NULL, NULL);
  fx_write("alice", &alice, NULL, NULL);
  fx_write("anew", &anew, NULL, NULL);
  return 0;
}

static int drop_files(void **state) {
  struct fx_cert *all[] = {&ca, &other_ca, &gw, &alice, &anew};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) fx_drop(all[i]);
  return fx_remove_folder(state);
}

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static struct tls *plain_client(void) {
  return fx_client((struct tls_client_options){.server_name = "localhost", .ca = "ca.crt"});
}

struct lineage {
  uint8_t bytes[TLS_LINEAGE_LEN];
};

static bool same(struct lineage a, struct lineage b) {
  return memcmp(&a, &b, sizeof a) == 0;
}

static struct lineage lineage_of(SSL *server) {
  struct lineage l = {{0}}, again = {{0}};
  assert_int_equal(tls_lineage(server, l.bytes), 0);
  assert_int_equal(tls_lineage(server, again.bytes), 0);
  assert_true(same(l, again));
  assert_false(same(l, (struct lineage){{0}}));
  return l;
}

// A handshake of a client that is ready, with a server's context; takes the client. `session` (may be NULL) is what the
// client could resume by next.
static struct lineage shake_keeping(SSL *client, struct tls *server, bool resumed, SSL_SESSION **session) {
  SSL *s = fx_ssl(server);
  SSL_up_ref(client);
  SSL_up_ref(s);
  struct fx_end end = fx_shake(client, s);
  if (!end.ok) fail_msg("client \"%s\", server \"%s\"", end.client, end.server);
  assert_int_equal(end.resumed, resumed);
  struct lineage l = lineage_of(s);
  if (session) *session = SSL_SESSION_dup(SSL_get0_session(client)); // the end of the connection spoils its own
  SSL_free(client);
  SSL_free(s);
  return l;
}

static struct lineage shake(SSL *client, struct tls *server, bool resumed) {
  return shake_keeping(client, server, resumed, NULL);
}

static struct lineage connect_as(struct tls *client, struct tls *server, int version, bool resumed) {
  SSL *c = fx_ssl(client);
  SSL_set_max_proto_version(c, version);
  return shake(c, server, resumed);
}

static void resumptions_keep_it(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
    struct lineage first = connect_as(client, server, versions[i], false);
    for (int n = 0; n < 5; n++) assert_true(same(connect_as(client, server, versions[i], true), first));
    tls_unref(client);
    tls_unref(server);
  }
}

static void full_handshakes_draw_anew(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *server = fx_server("gw", NULL, NULL), *clients[3];
    struct lineage l[3];
    for (int k = 0; k < 3; k++) {
      clients[k] = plain_client();
      l[k] = connect_as(clients[k], server, versions[i], false);
    }
    assert_false(same(l[0], l[1]) || same(l[0], l[2]) || same(l[1], l[2]));
    for (int k = 2; k >= 0; k--) assert_true(same(connect_as(clients[k], server, versions[i], true), l[k]));
    for (int k = 0; k < 3; k++) tls_unref(clients[k]);
    tls_unref(server);
  }
}

// With the handshakes of the two at the same time, and both tickets' successors going on.
static void one_ticket_serves_twice(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
    struct lineage first = connect_as(client, server, versions[i], false);
    SSL *c[2], *s[2];
    struct fx_end end = {.ok = false};
    bool failed = false;
    for (int k = 0; k < 2; k++) {
      c[k] = fx_ssl(client);
      s[k] = fx_ssl(server);
      SSL_set_max_proto_version(c[k], versions[i]);
      fx_connect(c[k], s[k]);
    }
    for (int n = 0; n < 16; n++) {
      for (int k = 0; k < 2; k++) {
        (void)fx_step(c[k], end.client, &failed);
        (void)fx_step(s[k], end.server, &failed);
      }
    }
    for (int k = 0; k < 2; k++) {
      assert_true(SSL_is_init_finished(s[k]) && SSL_session_reused(s[k]));
      assert_true(same(lineage_of(s[k]), first));
      fx_note(&end, c[k], s[k]);
      SSL_free(c[k]);
      SSL_free(s[k]);
      assert_true(same(connect_as(client, server, versions[i], true), first));
    }
    tls_unref(client);
    tls_unref(server);
  }
}

static bool same_ticket(const SSL_SESSION *a, const SSL_SESSION *b) {
  const unsigned char *ticket[2];
  size_t len[2];
  SSL_SESSION_get0_ticket(a, &ticket[0], &len[0]);
  SSL_SESSION_get0_ticket(b, &ticket[1], &len[1]);
  assert_true(len[0] > 0 && len[1] > 0);
  return len[0] == len[1] && memcmp(ticket[0], ticket[1], len[0]) == 0;
}

// In TLS 1.3 a client may use a ticket once: it has a new one from every connection.
static void each_resumption_brings_a_ticket(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  SSL_SESSION *before = NULL, *now;
  struct lineage first = shake_keeping(fx_ssl(client), server, false, &before);
  for (int n = 0; n < 3; n++) {
    assert_true(same(shake_keeping(fx_ssl(client), server, true, &now), first));
    assert_false(same_ticket(before, now));
    SSL_SESSION_free(before);
    before = now;
  }
  SSL_SESSION_free(before);
  tls_unref(client);
  tls_unref(server);
}

static void reloads_keep_it(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *first = fx_server("gw", NULL, NULL);
    struct tls *second = fx_server("gw", NULL, first), *third = fx_server("gw", NULL, second);
    struct lineage l = connect_as(client, first, versions[i], false);
    tls_unref(first);
    tls_unref(second);
    for (int n = 0; n < 2; n++) assert_true(same(connect_as(client, third, versions[i], true), l));
    tls_unref(client);
    tls_unref(third);
  }
}

static void another_client_ca_ends_it(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *first = fx_server("gw", "ca.crt", NULL), *other = fx_server("gw", "other_ca.crt", first);
    struct tls_client_options o = {
        .server_name = "localhost", .ca = "ca.crt", .certificate = "alice.crt", .key = "alice.key"};
    struct tls *client = fx_client(o);
    o.certificate = "anew.crt";
    o.key = "anew.key";
    struct tls *later = fx_client(o);
    struct lineage l = connect_as(client, first, versions[i], false);
    assert_true(same(connect_as(client, first, versions[i], true), l));
    SSL *c = fx_ssl(later);
    SSL_set_max_proto_version(c, versions[i]);
    assert_int_equal(SSL_set_session(c, client->session), 1);
    assert_false(same(shake(c, other, false), l));
    struct tls *all[] = {client, later, first, other};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) tls_unref(all[k]);
  }
}

// ---- the day's change of keys ----

// Makes the server's ring one whose key is a day old in `left_ms`.
static void use_old_ring(struct tls *server, uint64_t left_ms, struct ticket_key *k) {
  ticket_ring_unref(server->ring);
  server->ring = ticket_ring_new(clock_mono_ms() + left_ms - TICKET_DAY_MS);
  assert_non_null(server->ring);
  ticket_ring_current(server->ring, clock_mono_ms(), k);
}

static bool is_current(struct tls *server, const struct ticket_key *k) {
  struct ticket_key now;
  ticket_ring_current(server->ring, clock_mono_ms(), &now);
  return memcmp(now.name, k->name, sizeof now.name) == 0;
}

// Whether the session's ticket is sealed by this key, whose name it begins with.
static bool sealed_by(const SSL_SESSION *session, const struct ticket_key *k) {
  const unsigned char *ticket;
  size_t len;
  SSL_SESSION_get0_ticket(session, &ticket, &len);
  return len > sizeof k->name && memcmp(ticket, k->name, sizeof k->name) == 0;
}

// Resumes by the newest ticket there is: OpenSSL tells our clients of a renewed one in TLS 1.3 only.
static struct lineage resume(struct tls *client, struct tls *server, int version, SSL_SESSION **session) {
  SSL_SESSION *copy = SSL_SESSION_dup(*session), *next;
  SSL *c = fx_ssl(client);
  SSL_set_max_proto_version(c, version);
  assert_int_equal(SSL_set_session(c, copy), 1);
  struct lineage l = shake_keeping(c, server, true, &next);
  SSL_SESSION_free(copy);
  bool renewed = SSL_SESSION_is_resumable(next);
  SSL_SESSION_free(renewed ? *session : next);
  if (renewed) *session = next;
  return l;
}

static void renewed_tickets_keep_it(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = NULL, *server = fx_server("gw", NULL, NULL);
    struct ticket_key k;
    struct lineage l;
    uint64_t left_ms = 100;
    do { // until the handshake was done before the key was too old
      tls_unref(client);
      client = plain_client();
      use_old_ring(server, left_ms *= 2, &k);
      l = connect_as(client, server, versions[i], false);
    } while (!sealed_by(client->session, &k));
    SSL_SESSION *session = client->session;
    SSL_SESSION_up_ref(session);
    while (is_current(server, &k)) poll(NULL, 0, 5);
    assert_true(same(resume(client, server, versions[i], &session), l));
    assert_false(sealed_by(session, &k));
    for (int n = 0; n < 2; n++) assert_true(same(resume(client, server, versions[i], &session), l));
    SSL_SESSION_free(session);
    tls_unref(client);
    tls_unref(server);
  }
}

// ---- tickets that are not resumed ----

static int seal_nothing(SSL *ssl, void *arg) {
  return 1;
}

static int seal_too_much(SSL *ssl, void *arg) {
  return SSL_SESSION_set1_ticket_appdata(SSL_get0_session(ssl), "seventeen bytes..", TLS_LINEAGE_LEN + 1);
}

static void ticket_without_a_lineage_is_not_resumed(void **state) {
  int (*const seals[])(SSL *, void *) = {seal_nothing, seal_too_much};
  for (size_t i = 0; i < 4; i++) {
    struct tls *client = plain_client(), *first = fx_server("gw", NULL, NULL), *second = fx_server("gw", NULL, first);
    assert_int_equal(SSL_CTX_set_session_ticket_cb(tls_ctx(first), seals[i / 2], NULL, NULL), 1);
    (void)connect_as(client, first, versions[i % 2], false);
    assert_non_null(client->session);
    struct lineage l = connect_as(client, second, versions[i % 2], false);
    assert_true(same(connect_as(client, second, versions[i % 2], true), l));
    tls_unref(client);
    tls_unref(first);
    tls_unref(second);
  }
}

// The ticket opens well, and then the suite that the two have in common is of another hash: nobody had to show the
// secret of the session, so nothing of it may stick.
static void ticket_that_openssl_turns_down_leaves_nothing(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  struct lineage l = connect_as(client, server, TLS1_3_VERSION, false);
  SSL *c = fx_ssl(client);
  assert_int_equal(SSL_set_ciphersuites(c, "TLS_AES_256_GCM_SHA384"), 1);
  assert_false(same(shake(c, server, false), l));
  tls_unref(client);
  tls_unref(server);
}

static int seal_long_ago(SSL *ssl, void *arg) {
  SSL_SESSION_set_time(SSL_get0_session(ssl), (long)clock_wall_s() - 24 * HOUR);
  return tls_lineage_seal(ssl);
}

// Out of time is decided by OpenSSL too, after the ticket was opened.
static void old_session_is_not_resumed(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *first = fx_server("gw", NULL, NULL), *second = fx_server("gw", NULL, first);
    assert_int_equal(SSL_CTX_set_session_ticket_cb(tls_ctx(first), seal_long_ago, NULL, NULL), 1);
    struct lineage l = connect_as(client, first, versions[i], false);
    assert_false(same(connect_as(client, second, versions[i], false), l));
    tls_unref(client);
    tls_unref(first);
    tls_unref(second);
  }
}

// A client that takes no ticket has a lineage of its own each time, and no other way to resume: no session id.
static void client_without_tickets_never_resumes(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  SSL_CTX_set_options(tls_ctx(client), SSL_OP_NO_TICKET);
  SSL *c = fx_ssl(client);
  SSL_set_max_proto_version(c, TLS1_2_VERSION);
  SSL_up_ref(c);
  struct lineage l = shake(c, server, false);
  unsigned len = 1;
  SSL_SESSION_get_id(SSL_get0_session(c), &len);
  assert_int_equal(len, 0);
  SSL_free(c);
  assert_false(same(connect_as(client, server, TLS1_2_VERSION, false), l));
  tls_unref(client);
  tls_unref(server);
}

static void early_data_is_off(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  (void)connect_as(client, server, TLS1_3_VERSION, false);
  assert_non_null(client->session);
  assert_int_equal(SSL_SESSION_get_max_early_data(client->session), 0);
  assert_int_equal(SSL_CTX_get_session_cache_mode(tls_ctx(server)), SSL_SESS_CACHE_OFF);
  tls_unref(client);
  tls_unref(server);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(resumptions_keep_it),
      cmocka_unit_test(full_handshakes_draw_anew),
      cmocka_unit_test(one_ticket_serves_twice),
      cmocka_unit_test(each_resumption_brings_a_ticket),
      cmocka_unit_test(reloads_keep_it),
      cmocka_unit_test(another_client_ca_ends_it),
      cmocka_unit_test(renewed_tickets_keep_it),
      cmocka_unit_test(ticket_without_a_lineage_is_not_resumed),
      cmocka_unit_test(ticket_that_openssl_turns_down_leaves_nothing),
      cmocka_unit_test(old_session_is_not_resumed),
      cmocka_unit_test(client_without_tickets_never_resumes),
      cmocka_unit_test(early_data_is_off),
  };
  return cmocka_run_group_tests(tests, make_files, drop_files);
}
