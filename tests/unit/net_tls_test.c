// Server contexts: versions and ciphers, ALPN, resumption also across a reload, client certificates, files that are
// wrong. What clients accept is in net_tls_verify_test.c.
#include "postern/base/clock.h"
#include "tls_fixture.h"
#include <fcntl.h>
#include <sys/stat.h>

static struct fx_cert ca, other_ca, gw, renewed, expired, alice, mallory, lapsed;

static int make_files(void **state) {
  static const char san[] = "DNS:localhost";
  ca = fx_make((struct fx_spec){.cn = "Test CA", .ca = true});
  other_ca = fx_make((struct fx_spec){.cn = "Other CA", .ca = true});
  gw = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca});
  renewed = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca});
  expired = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca, .from_s = -3 * HOUR, .to_s = -HOUR});
  alice = fx_make((struct fx_spec){.cn = "alice", .issuer = &ca});
  mallory = fx_make((struct fx_spec){.cn = "alice", .issuer = &other_ca});
  lapsed = fx_make((struct fx_spec){.cn = "alice", .issuer = &ca, .from_s = -3 * HOUR, .to_s = -HOUR});
  fx_write("ca", &ca, NULL, NULL);
  fx_write("other_ca", &other_ca, NULL, NULL);
  fx_write("gw", &gw, &ca, NULL);
  fx_write("renewed", &renewed, &ca, NULL);
  fx_write("expired", &expired, &ca, NULL);
  fx_write("alice", &alice, NULL, NULL);
  fx_write("mallory", &mallory, NULL, NULL);
  fx_write("lapsed", &lapsed, NULL, NULL);
  return 0;
}

static int drop_files(void **state) {
  struct fx_cert *all[] = {&ca, &other_ca, &gw, &renewed, &expired, &alice, &mallory, &lapsed};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) fx_drop(all[i]);
  return fx_remove_folder(state);
}

static struct tls *plain_client(void) {
  return fx_client((struct tls_client_options){.server_name = "localhost", .ca = "ca.crt"});
}

static struct tls *client_with(const char *crt, const char *key) {
  return fx_client(
      (struct tls_client_options){.server_name = "localhost", .ca = "ca.crt", .certificate = crt, .key = key});
}

static struct tls *server_of(enum tls_version min_version, const char *const *alpn, bool alpn_optional) {
  struct fx_path crt = fx_path("gw.crt"), key = fx_path("gw.key");
  const struct tls_server_options o = {
      .certificate = crt.s, .key = key.s, .min_version = min_version, .alpn = alpn, .alpn_optional = alpn_optional};
  struct tls *t = NULL;
  struct err_text e = {{0}};
  if (tls_server_new(&t, &o, NULL, &e)) fail_msg("%s", e.s);
  return t;
}

// A client of OpenSSL's own making, that offers what ours would not.
struct foreign {
  SSL_CTX *ctx;
  SSL *ssl;
};

static struct foreign foreign_client(int min_version, int max_version) {
  struct foreign f = {.ctx = SSL_CTX_new(TLS_client_method())};
  assert_non_null(f.ctx);
  SSL_CTX_set_security_level(f.ctx, 0);
  assert_int_equal(SSL_CTX_set_cipher_list(f.ctx, "ALL"), 1);
  SSL_CTX_set_min_proto_version(f.ctx, min_version);
  SSL_CTX_set_max_proto_version(f.ctx, max_version);
  f.ssl = SSL_new(f.ctx);
  return f;
}

static void offer(SSL *ssl, const char *wire) {
  assert_int_equal(SSL_set_alpn_protos(ssl, (const unsigned char *)wire, (unsigned)strlen(wire)), 0);
}

// ---- versions and ciphers ----

static void test_ciphers(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  struct fx_end end = fx_handshake(client, server, 0);
  assert_true(end.ok);
  assert_int_equal(end.version, TLS1_3_VERSION);
  assert_string_equal(end.cipher, "TLS_AES_128_GCM_SHA256");
  assert_string_equal(end.alpn, "postern/1");
  end = fx_handshake(client, server, TLS1_2_VERSION);
  assert_true(end.ok);
  assert_int_equal(end.version, TLS1_2_VERSION);
  assert_string_equal(end.cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
  assert_string_equal(end.alpn, "postern/1");
  tls_unref(client);
  tls_unref(server);
}

// The server's order holds against the client's.
static void test_server_preference(void **state) {
  struct tls *server = fx_server("gw", NULL, NULL);
  struct foreign f = foreign_client(TLS1_3_VERSION, TLS1_3_VERSION);
  offer(f.ssl, "\x09postern/1");
  SSL_set_ciphersuites(f.ssl, "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256");
  struct fx_end end = fx_shake(f.ssl, fx_ssl(server));
  assert_true(end.ok);
  assert_string_equal(end.cipher, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_free(f.ctx);
  tls_unref(server);
}

static void test_group(void **state) {
  struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
  SSL *c = fx_ssl(client), *s = fx_ssl(server);
  SSL_up_ref(c);
  assert_true(fx_shake(c, s).ok);
  assert_int_equal(SSL_get_negotiated_group(c), NID_X25519);
  SSL_free(c);
  tls_unref(client);
  tls_unref(server);
}

static void test_old_versions(void **state) {
  struct tls *any = fx_server("gw", NULL, NULL), *strict = server_of(TLS_1_3, fx_alpn, false);
  struct {
    int max_version;
    struct tls *server;
  } rows[] = {{TLS1_VERSION, any}, {TLS1_1_VERSION, any}, {TLS1_1_VERSION, strict}, {TLS1_2_VERSION, strict}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct foreign f = foreign_client(TLS1_VERSION, rows[i].max_version);
    offer(f.ssl, "\x09postern/1");
    struct fx_end end = fx_shake(f.ssl, fx_ssl(rows[i].server));
    assert_false(end.ok);
    fx_assert_text(end.server, "unsupported protocol");
    fx_assert_text(end.client, "alert protocol version");
    SSL_CTX_free(f.ctx);
  }
  struct foreign f = foreign_client(TLS1_2_VERSION, 0);
  offer(f.ssl, "\x09postern/1");
  assert_true(fx_shake(f.ssl, fx_ssl(strict)).ok);
  SSL_CTX_free(f.ctx);
  tls_unref(any);
  tls_unref(strict);
}

static void test_cbc_is_refused(void **state) {
  struct tls *server = fx_server("gw", NULL, NULL);
  struct foreign f = foreign_client(TLS1_2_VERSION, TLS1_2_VERSION);
  offer(f.ssl, "\x09postern/1");
  assert_int_equal(SSL_set_cipher_list(f.ssl, "ECDHE-ECDSA-AES128-SHA"), 1);
  struct fx_end end = fx_shake(f.ssl, fx_ssl(server));
  assert_false(end.ok);
  fx_assert_text(end.server, "no shared cipher");
  SSL_CTX_free(f.ctx);
  tls_unref(server);
}

static void test_no_renegotiation(void **state) {
  struct tls *server = fx_server("gw", NULL, NULL);
  struct foreign f = foreign_client(TLS1_2_VERSION, TLS1_2_VERSION);
  offer(f.ssl, "\x09postern/1");
  SSL *s = fx_ssl(server);
  SSL_up_ref(f.ssl);
  SSL_up_ref(s);
  assert_true(fx_shake(f.ssl, s).ok);
  char byte;
  assert_int_equal(SSL_renegotiate(f.ssl), 1);
  SSL_do_handshake(f.ssl);
  assert_int_equal(SSL_read(s, &byte, 1), -1);
  ERR_clear_error();
  assert_int_not_equal(SSL_do_handshake(f.ssl), 1);
  fx_assert_text(ERR_reason_error_string(ERR_peek_last_error()), "no renegotiation");
  ERR_clear_error();
  SSL_free(f.ssl);
  SSL_free(s);
  SSL_CTX_free(f.ctx);
  tls_unref(server);
}

// ---- ALPN ----

static const char *const two_names[] = {"postern/1", "nsp/1", NULL};

// `wire` NULL: the client offers nothing. Answers what was agreed, "" for nothing, or NULL for a refusal.
static const char *agreed(struct tls *server, const char *wire, struct fx_end *end) {
  struct foreign f = foreign_client(TLS1_2_VERSION, 0);
  if (wire) offer(f.ssl, wire);
  *end = fx_shake(f.ssl, fx_ssl(server));
  SSL_CTX_free(f.ctx);
  return end->ok ? end->alpn : NULL;
}

static void test_alpn(void **state) {
  struct fx_end end;
  struct tls *server = server_of(TLS_1_2, two_names, false);
  assert_string_equal(agreed(server, "\x09postern/1", &end), "postern/1");
  assert_string_equal(agreed(server, "\x05nsp/1", &end), "nsp/1");
  assert_string_equal(agreed(server, "\x05nsp/1\x09postern/1", &end), "postern/1");
  assert_string_equal(agreed(server, "\x02h2\x05nsp/1", &end), "nsp/1");
  assert_null(agreed(server, "\x02h2\x08http/1.1", &end));
  fx_assert_text(end.server, "offers no application protocol (ALPN) that is spoken here");
  fx_assert_text(end.client, "no application protocol");
  assert_null(agreed(server, NULL, &end));
  fx_assert_text(end.server, "names no application protocol (ALPN)");
  fx_assert_text(end.client, "no application protocol");
  tls_unref(server);
}

static void test_alpn_optional(void **state) {
  struct fx_end end;
  struct tls *server = server_of(TLS_1_2, two_names, true);
  assert_string_equal(agreed(server, NULL, &end), "");
  assert_string_equal(agreed(server, "\x05nsp/1", &end), "nsp/1");
  assert_null(agreed(server, "\x02h2", &end));
  tls_unref(server);
}

static void test_alpn_of_the_client(void **state) {
  struct tls *server = server_of(TLS_1_2, two_names, false);
  struct tls *client = fx_client((struct tls_client_options){.server_name = "localhost", .ca = "ca.crt", .alpn = "h2"});
  struct fx_end end = fx_handshake(client, server, 0);
  assert_false(end.ok);
  fx_assert_text(end.client, "no application protocol");
  tls_unref(client);
  tls_unref(server);
}

// ---- resumption ----

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

// Two handshakes of one client with one server and then another; whether the second one resumed.
static bool resumes(struct tls *client, struct tls *first, struct tls *second, int version) {
  struct fx_end end = fx_handshake(client, first, version);
  if (!end.ok) fail_msg("first: client \"%s\", server \"%s\"", end.client, end.server);
  assert_false(end.resumed);
  assert_int_equal(end.version, version);
  end = fx_handshake(client, second, version);
  if (!end.ok) fail_msg("second: client \"%s\", server \"%s\"", end.client, end.server);
  assert_string_equal(end.alpn, "postern/1");
  return end.resumed;
}

static void test_resumption(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *server = fx_server("gw", NULL, NULL);
    assert_true(resumes(client, server, server, versions[i]));
    for (int again = 0; again < 3; again++) assert_true(fx_handshake(client, server, versions[i]).resumed);
    tls_unref(client);
    tls_unref(server);
  }
}

static void test_resumption_across_reloads(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *first = fx_server("gw", NULL, NULL);
    struct tls *second = fx_server("renewed", NULL, first), *third = fx_server("renewed", NULL, second);
    assert_true(resumes(client, first, third, versions[i]));
    tls_unref(first);
    tls_unref(second);
    assert_true(fx_handshake(client, third, versions[i]).resumed);
    tls_unref(client);
    tls_unref(third);
  }
}

// Without the ring of the first, and of the other version, a session means a full handshake and no failure.
static void test_sessions_of_others(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *first = fx_server("gw", NULL, NULL), *second = fx_server("gw", NULL, NULL);
    assert_false(resumes(client, first, second, versions[i]));
    struct fx_end end = fx_handshake(client, second, versions[1 - i]);
    assert_true(end.ok);
    assert_false(end.resumed);
    tls_unref(client);
    tls_unref(first);
    tls_unref(second);
  }
}

// A resumption shows no certificate: when it has expired since, the client wants a full handshake.
static void test_no_resumption_past_the_servers_date(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = plain_client(), *server = fx_server("expired", NULL, NULL);
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(tls_ctx(client)),
                                X509_V_FLAG_NO_CHECK_TIME); // as if it were earlier
    assert_false(resumes(client, server, server, versions[i]));
    tls_unref(client);
    tls_unref(server);
  }
}

// ---- client certificates ----

static void test_client_certificate(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = client_with("alice.crt", "alice.key"), *server = fx_server("gw", "ca.crt", NULL);
    struct fx_end end = fx_handshake(client, server, versions[i]);
    assert_true(end.ok);
    assert_string_equal(end.peer, "alice");
    assert_true(llabs(end.peer_not_after - (clock_wall_s() + HOUR)) < 600);
    end = fx_handshake(client, server, versions[i]);
    assert_true(end.ok && end.resumed);
    assert_string_equal(end.peer, "alice"); // from the ticket
    tls_unref(client);
    tls_unref(server);
  }
}

static void refuses_client(const char *crt, const char *key, const char *text) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = crt ? client_with(crt, key) : plain_client(), *server = fx_server("gw", "ca.crt", NULL);
    struct fx_end end = fx_handshake(client, server, versions[i]);
    assert_false(end.ok);
    assert_string_equal(end.peer, "");
    fx_assert_text(end.server, text);
    tls_unref(client);
    tls_unref(server);
  }
}

static void test_client_certificate_refused(void **state) {
  refuses_client(NULL, NULL, "peer did not return a certificate");
  refuses_client("mallory.crt", "mallory.key", "the certificate is not signed by a trusted CA");
  refuses_client("lapsed.crt", "lapsed.key", "the certificate expired on 2");
}

// Nobody who is not asked for a certificate has a name.
static void test_no_name_without_client_ca(void **state) {
  struct tls *client = client_with("alice.crt", "alice.key"), *server = fx_server("gw", NULL, NULL);
  struct fx_end end = fx_handshake(client, server, 0);
  assert_true(end.ok);
  assert_string_equal(end.peer, "");
  assert_int_equal(end.peer_not_after, 0);
  tls_unref(client);
  tls_unref(server);
}

static void test_ca_names_are_sent(void **state) {
  struct tls *client = client_with("alice.crt", "alice.key"), *server = fx_server("gw", "ca.crt", NULL);
  SSL *c = fx_ssl(client);
  SSL_up_ref(c);
  assert_true(fx_shake(c, fx_ssl(server)).ok);
  const STACK_OF(X509_NAME) *names = SSL_get0_peer_CA_list(c);
  assert_int_equal(sk_X509_NAME_num(names), 1);
  assert_int_equal(X509_NAME_cmp(sk_X509_NAME_value(names, 0), X509_get_subject_name(ca.x)), 0);
  SSL_free(c);
  tls_unref(client);
  tls_unref(server);
}

// Another client CA voids the sessions: who was let in by the old one shows a certificate that suits the new one.
static void test_another_client_ca(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = client_with("alice.crt", "alice.key"), *first = fx_server("gw", "ca.crt", NULL);
    struct tls *same = fx_server("gw", "ca.crt", first), *other = fx_server("gw", "other_ca.crt", first);
    struct tls *none = fx_server("gw", NULL, NULL), *begins = fx_server("gw", "ca.crt", none);
    assert_true(resumes(client, first, same, versions[i]));
    struct fx_end end = fx_handshake(client, other, versions[i]);
    assert_false(end.ok);
    fx_assert_text(end.server, "not signed by a trusted CA");
    tls_unref(client);
    client = client_with("alice.crt", "alice.key");
    assert_false(resumes(client, none, begins, versions[i]));
    struct tls *all[] = {client, first, same, other, none, begins};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) tls_unref(all[k]);
  }
}

// A client whose certificate has ended since cannot resume.
static void test_no_resumption_past_the_clients_date(void **state) {
  for (size_t i = 0; i < 2; i++) {
    struct tls *client = client_with("lapsed.crt", "lapsed.key"), *server = fx_server("gw", "ca.crt", NULL);
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(tls_ctx(server));
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_NO_CHECK_TIME); // as if it were earlier
    assert_false(resumes(client, server, server, versions[i]));
    X509_VERIFY_PARAM_clear_flags(param, X509_V_FLAG_NO_CHECK_TIME);
    struct fx_end end = fx_handshake(client, server, versions[i]);
    assert_false(end.ok);
    fx_assert_text(end.server, "the certificate expired on");
    tls_unref(client);
    tls_unref(server);
  }
}

// A common name that is doubtful is none.
static void test_doubtful_names(void **state) {
  char longest[66];
  memset(longest, 'a', 65);
  longest[64] = '\0';
  struct fx_cert fits = fx_make((struct fx_spec){.cn = longest, .issuer = &ca});
  struct fx_cert none = fx_make((struct fx_spec){.issuer = &ca}), two = fx_make((struct fx_spec){.cn = "alice"});
  X509_NAME_add_entry_by_txt(X509_get_subject_name(two.x), "CN", MBSTRING_UTF8, (const unsigned char *)"bob", -1, -1,
                             0);
  X509_set_issuer_name(two.x, X509_get_subject_name(ca.x));
  assert_true(X509_sign(two.x, ca.key, EVP_sha256()) > 0);
  struct fx_cert nul = fx_make((struct fx_spec){.issuer = &ca});
  X509_NAME_add_entry_by_txt(X509_get_subject_name(nul.x), "CN", MBSTRING_UTF8, (const unsigned char *)"alice\0x", 7,
                             -1, 0);
  assert_true(X509_sign(nul.x, ca.key, EVP_sha256()) > 0);
  struct {
    struct fx_cert *cert;
    const char *name;
  } rows[] = {{&fits, longest}, {&none, ""}, {&two, ""}, {&nul, ""}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    fx_write("doubtful", rows[i].cert, NULL, NULL);
    struct tls *client = client_with("doubtful.crt", "doubtful.key"), *server = fx_server("gw", "ca.crt", NULL);
    struct fx_end end = fx_handshake(client, server, 0);
    if (!end.ok) fail_msg("%zu: %s", i, end.server);
    assert_string_equal(end.peer, rows[i].name);
    tls_unref(client);
    tls_unref(server);
    fx_drop(rows[i].cert);
  }
}

// ---- life, pins ----

// A connection outlives the contexts that it was made from, as it does after a reload.
static void test_ssl_outlives_its_context(void **state) {
  struct tls *client = client_with("alice.crt", "alice.key"), *server = fx_server("gw", "ca.crt", NULL);
  SSL *c = fx_ssl(client), *s = fx_ssl(server);
  tls_unref(tls_ref(client));
  tls_unref(client);
  tls_unref(server);
  struct fx_end end = fx_shake(c, s);
  assert_true(end.ok);
  assert_string_equal(end.peer, "alice");
  tls_unref(NULL);
}

static void test_server_pins(void **state) {
  struct tls *server = fx_server("gw", NULL, NULL);
  uint8_t pins[TLS_MAX_PINS][SHA256_LEN], expected[SHA256_LEN];
  assert_int_equal(tls_server_pins(server, pins), 2);
  fx_pin(&gw, expected);
  assert_memory_equal(pins[0], expected, SHA256_LEN);
  fx_pin(&ca, expected);
  assert_memory_equal(pins[1], expected, SHA256_LEN);
  tls_unref(server);
}

// ---- files that are wrong ----

static void assert_refused(const char *crt, const char *key, const char *client_ca, const char *format,
                           const char *file) {
  struct fx_path crt_path = fx_path(crt), key_path = fx_path(key), ca_path = fx_path(client_ca ? client_ca : "");
  const struct tls_server_options o = {
      .certificate = crt_path.s, .key = key_path.s, .client_ca = client_ca ? ca_path.s : NULL, .alpn = fx_alpn};
  struct tls *t = NULL;
  struct err_text e = {{0}};
  int rc = tls_server_new(&t, &o, NULL, &e);
  assert_true(rc < 0);
  assert_null(t);
  fx_assert_text(e.s, fx_path(file).s);
  fx_assert_text(e.s, format);
}

static void test_bad_files(void **state) {
  fx_write_text("empty.pem", "");
  fx_write_text("text.pem", "this is not PEM\n");
  mkdir(fx_path("folder").s, 0700);
  assert_refused("none.crt", "gw.key", NULL, "certificate /", "none.crt: No such file or directory");
  assert_refused("gw.crt", "none.key", NULL, "key /", "none.key: No such file or directory");
  assert_refused("gw.crt", "gw.key", "none.pem", "client_ca /", "none.pem: No such file or directory");
  assert_refused("folder", "gw.key", NULL, "certificate /", "folder: Is a directory");
  assert_refused("empty.pem", "gw.key", NULL, "holds no certificate in PEM form", "empty.pem");
  assert_refused("text.pem", "gw.key", NULL, "holds no certificate in PEM form", "text.pem");
  assert_refused("gw.key", "gw.key", NULL, "holds no certificate in PEM form", "gw.key");
  assert_refused("gw.crt", "text.pem", NULL, "holds no private key in PEM form", "text.pem");
  assert_refused("gw.crt", "gw.crt", NULL, "holds no private key in PEM form", "gw.crt");
  assert_refused("gw.crt", "gw.key", "text.pem", "holds no certificate in PEM form", "text.pem");
  assert_refused("gw.crt", "alice.key", NULL, "not the key of the first certificate in /", "alice.key");
}

static void test_damaged_chain(void **state) {
  char text[16384];
  FILE *f = fopen(fx_path("gw.crt").s, "r");
  assert_non_null(f);
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = '\0';
  char *second = strstr(text + 1, "-----BEGIN");
  assert_non_null(second);
  memset(second + 60, '!', 8);
  fx_write_text("damaged.crt", text);
  assert_refused("damaged.crt", "gw.key", NULL, "certificate 2 of the file is damaged", "damaged.crt");
}

static void test_encrypted_key(void **state) {
  FILE *f = fopen(fx_path("locked.key").s, "w");
  assert_non_null(f);
  const unsigned char secret[] = "secret";
  assert_int_equal(PEM_write_PrivateKey(f, gw.key, EVP_aes_256_cbc(), secret, 6, NULL, NULL), 1);
  fclose(f);
  assert_refused("gw.crt", "locked.key", NULL, "encrypted; a key without a passphrase is needed", "locked.key");
}

static void test_huge_file(void **state) {
  FILE *f = fopen(fx_path("huge.pem").s, "w");
  assert_non_null(f);
  assert_int_equal(ftruncate(fileno(f), 1024 * 1024 + 1), 0);
  fclose(f);
  assert_refused("huge.pem", "gw.key", NULL, "more than 1048576 bytes", "huge.pem");
}

// An expired certificate is the operator's to know and no reason not to start.
static void test_expired_certificate_warns(void **state) {
  char line[1024] = "";
  fflush(stderr);
  int saved = dup(STDERR_FILENO), file = open(fx_path("log").s, O_CREAT | O_RDWR | O_TRUNC, 0600);
  assert_true(saved >= 0 && file >= 0);
  dup2(file, STDERR_FILENO);
  tls_unref(fx_server("expired", NULL, NULL));
  dup2(saved, STDERR_FILENO);
  assert_true(pread(file, line, sizeof line - 1, 0) > 0);
  close(saved);
  close(file);
  fx_assert_text(line, "WARN");
  fx_assert_text(line, fx_path("expired.crt: expired on 2").s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ciphers),
      cmocka_unit_test(test_server_preference),
      cmocka_unit_test(test_group),
      cmocka_unit_test(test_old_versions),
      cmocka_unit_test(test_cbc_is_refused),
      cmocka_unit_test(test_no_renegotiation),
      cmocka_unit_test(test_alpn),
      cmocka_unit_test(test_alpn_optional),
      cmocka_unit_test(test_alpn_of_the_client),
      cmocka_unit_test(test_resumption),
      cmocka_unit_test(test_resumption_across_reloads),
      cmocka_unit_test(test_sessions_of_others),
      cmocka_unit_test(test_no_resumption_past_the_servers_date),
      cmocka_unit_test(test_client_certificate),
      cmocka_unit_test(test_client_certificate_refused),
      cmocka_unit_test(test_no_name_without_client_ca),
      cmocka_unit_test(test_ca_names_are_sent),
      cmocka_unit_test(test_another_client_ca),
      cmocka_unit_test(test_no_resumption_past_the_clients_date),
      cmocka_unit_test(test_doubtful_names),
      cmocka_unit_test(test_ssl_outlives_its_context),
      cmocka_unit_test(test_server_pins),
      cmocka_unit_test(test_bad_files),
      cmocka_unit_test(test_damaged_chain),
      cmocka_unit_test(test_encrypted_key),
      cmocka_unit_test(test_huge_file),
      cmocka_unit_test(test_expired_certificate_warns),
  };
  return cmocka_run_group_tests(tests, make_files, drop_files);
}
