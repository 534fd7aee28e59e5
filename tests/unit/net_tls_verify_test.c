// What a client accepts and refuses: CA, pins, name and date, each refusal with words of its own.
#include "tls_fixture.h"

// The files of the folder: two authorities, and for gw.example.com and 192.0.2.1 one certificate of each kind.
static struct fx_cert ca, other_ca, inter, good, by_other, old, early, self, by_inter, by_old_ca, old_ca, common, many;

static int make_files(void **state) {
  static const char san[] = "DNS:gw.example.com,DNS:*.wild.example.com,IP:192.0.2.1,IP:2001:db8::1";
  ca = fx_make((struct fx_spec){.cn = "Test CA", .ca = true});
  other_ca = fx_make((struct fx_spec){.cn = "Other CA", .ca = true});
  old_ca = fx_make((struct fx_spec){.cn = "Old CA", .ca = true, .from_s = -2 * HOUR, .to_s = -HOUR});
  inter = fx_make((struct fx_spec){.cn = "Middle CA", .ca = true, .issuer = &ca});
  good = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca});
  by_other = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &other_ca});
  old = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca, .from_s = -2 * HOUR, .to_s = -HOUR});
  early = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &ca, .from_s = HOUR, .to_s = 2 * HOUR});
  self = fx_make((struct fx_spec){.cn = "gw", .san = san});
  by_inter = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &inter});
  by_old_ca = fx_make((struct fx_spec){.cn = "gw", .san = san, .issuer = &old_ca});
  common = fx_make((struct fx_spec){.cn = "plain.example.com", .issuer = &ca});
  many = fx_make((struct fx_spec){.san = "DNS:a.test,DNS:b.test,DNS:c.test,DNS:d.test,DNS:e.test", .issuer = &ca});
  fx_write("ca", &ca, NULL, NULL);
  fx_write("other_ca", &other_ca, NULL, NULL);
  fx_write("old_ca", &old_ca, NULL, NULL);
  fx_write("inter", &inter, NULL, NULL);
  fx_write("good", &good, &ca, NULL);
  fx_write("good_alone", &good, NULL, NULL);
  fx_write("by_other", &by_other, &other_ca, NULL);
  fx_write("old", &old, &ca, NULL);
  fx_write("early", &early, &ca, NULL);
  fx_write("self", &self, NULL, NULL);
  fx_write("by_inter", &by_inter, &inter, &ca);
  fx_write("by_old_ca", &by_old_ca, &old_ca, NULL);
  fx_write("common", &common, &ca, NULL);
  fx_write("many", &many, &ca, NULL);
  // Impostors: the chain holds a certificate that may be pinned, but the leaf is not signed by it.
  fx_write("impostor", &by_other, &other_ca, &ca);
  fx_write("impostor_leaf", &by_other, &other_ca, &good);
  return 0;
}

static int drop_files(void **state) {
  struct fx_cert *all[] = {&ca,   &other_ca, &inter,     &good,   &by_other, &old, &early,
                           &self, &by_inter, &by_old_ca, &old_ca, &common,   &many};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) fx_drop(all[i]);
  return fx_remove_folder(state);
}

// A client's options with up to two pins.
static struct tls_client_options options(const char *name, const char *ca_file, const struct fx_cert *pin,
                                         const struct fx_cert *pin2) {
  struct tls_client_options o = {.server_name = name, .ca = ca_file};
  if (pin) fx_pin(pin, o.pins[o.npins++]);
  if (pin2) fx_pin(pin2, o.pins[o.npins++]);
  return o;
}

static struct fx_end meet(struct tls_client_options o, const char *server_files, int max_version) {
  struct tls *client = fx_client(o), *server = fx_server(server_files, NULL, NULL);
  struct fx_end end = fx_handshake(client, server, max_version);
  tls_unref(client);
  tls_unref(server);
  return end;
}

static void accepts(struct tls_client_options o, const char *server_files) {
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    struct fx_end end = meet(o, server_files, version);
    if (!end.ok) fail_msg("%s refused: %s", server_files, end.client);
    assert_string_equal(end.client, "");
  }
}

static void refuses(struct tls_client_options o, const char *server_files, const char *text) {
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    struct fx_end end = meet(o, server_files, version);
    assert_false(end.ok);
    fx_assert_text(end.client, text);
  }
}

#define NAME       "gw.example.com"
#define NOT_SIGNED "the certificate is not signed by a trusted CA ("
#define NO_PIN     "no certificate of the chain matches the pinned key"

// ---- a CA ----

static void test_ca(void **state) {
  accepts(options(NAME, "ca.crt", NULL, NULL), "good");
  accepts(options(NAME, "ca.crt", NULL, NULL), "good_alone");
  accepts(options(NAME, "ca.crt", NULL, NULL), "by_inter");
  accepts(options(NAME, "inter.crt", NULL, NULL), "by_inter");
  accepts(options(NAME, "self.crt", NULL, NULL), "self");
  refuses(options(NAME, "ca.crt", NULL, NULL), "by_other", NOT_SIGNED "self-signed certificate in certificate chain)");
  refuses(options(NAME, "ca.crt", NULL, NULL), "self", NOT_SIGNED "self-signed certificate)");
  refuses(options(NAME, "other_ca.crt", NULL, NULL), "good_alone",
          NOT_SIGNED "unable to get local issuer certificate)");
}

static void test_name(void **state) {
  accepts(options("GW.example.com", "ca.crt", NULL, NULL), "good");
  accepts(options("gw.example.com.", "ca.crt", NULL, NULL), "good");
  accepts(options("x.wild.example.com", "ca.crt", NULL, NULL), "good");
  accepts(options("plain.example.com", "ca.crt", NULL, NULL), "common");
  refuses(options("other.example.com", "ca.crt", NULL, NULL), "good",
          "the certificate is for gw.example.com, *.wild.example.com, 192.0.2.1 and 1 more, not for other.example.com");
  refuses(options("x.y.wild.example.com", "ca.crt", NULL, NULL), "good", ", not for x.y.wild.example.com");
  refuses(options("other.example.com", "ca.crt", NULL, NULL), "common",
          "the certificate is for plain.example.com, not for other.example.com");
  refuses(options("f.test", "ca.crt", NULL, NULL), "many", "is for a.test, b.test, c.test and 2 more, not for f.test");
}

static void test_ip(void **state) {
  accepts(options("192.0.2.1", "ca.crt", NULL, NULL), "good");
  accepts(options("2001:db8::1", "ca.crt", NULL, NULL), "good");
  accepts(options("[2001:db8::1]", "ca.crt", NULL, NULL), "good");
  refuses(options("192.0.2.2", "ca.crt", NULL, NULL), "good", ", not for 192.0.2.2");
  refuses(options("192.0.2.1", "ca.crt", NULL, NULL), "many", ", not for 192.0.2.1");
}

static void test_sni(void **state) {
  assert_string_equal(meet(options(NAME, "ca.crt", NULL, NULL), "good", 0).sni, NAME);
  assert_string_equal(meet(options(NAME ".", "ca.crt", NULL, NULL), "good", 0).sni, NAME);
  assert_string_equal(meet(options("192.0.2.1", "ca.crt", NULL, NULL), "good", 0).sni, "");
  assert_string_equal(meet(options("2001:db8::1", "ca.crt", NULL, NULL), "good", 0).sni, "");
}

static void test_dates(void **state) {
  char expected[64], date[32];
  struct tm tm;
  assert_int_equal(ASN1_TIME_to_tm(X509_get0_notAfter(old.x), &tm), 1);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &tm);
  snprintf(expected, sizeof expected, "the certificate expired on %s", date);
  refuses(options(NAME, "ca.crt", NULL, NULL), "old", expected);
  refuses(options(NAME, "ca.crt", NULL, NULL), "early", "the certificate is not yet valid, not before 2");
  refuses(options(NAME, "old_ca.crt", NULL, NULL), "by_old_ca", "the CA certificate of Old CA expired on 2");
}

// ---- a CA and pins: both must hold ----

static void test_ca_and_pins(void **state) {
  accepts(options(NAME, "ca.crt", &good, NULL), "good");
  accepts(options(NAME, "ca.crt", &ca, NULL), "good");
  accepts(options(NAME, "ca.crt", &other_ca, &good), "good");
  accepts(options(NAME, "ca.crt", &inter, NULL), "by_inter");
  refuses(options(NAME, "ca.crt", &other_ca, NULL), "good", NO_PIN);
  refuses(options(NAME, "ca.crt", &other_ca, &self), "good", NO_PIN "s");
  refuses(options(NAME, "ca.crt", &by_other, NULL), "by_other", NOT_SIGNED);
  refuses(options(NAME, "ca.crt", &self, NULL), "self", NOT_SIGNED);
  refuses(options("other.example.com", "ca.crt", &good, NULL), "good", "not for other.example.com");
  refuses(options(NAME, "ca.crt", &old, NULL), "old", "expired on");
}

// A pin counts for the chain that was verified, not for whatever else the peer sends.
static void test_pin_outside_the_verified_chain(void **state) {
  refuses(options(NAME, "other_ca.crt", &ca, NULL), "impostor", NO_PIN);
}

// ---- pins alone ----

static void test_pinned_leaf(void **state) {
  accepts(options(NAME, NULL, &good, NULL), "good");
  accepts(options("other.example.com", NULL, &good, NULL), "good");
  accepts(options("192.0.2.99", NULL, &self, NULL), "self");
  accepts(options(NAME, NULL, &old, NULL), "old");
  accepts(options(NAME, NULL, &ca, &early), "early");
}

static void test_pinned_ca(void **state) {
  accepts(options(NAME, NULL, &ca, NULL), "good");
  accepts(options(NAME, NULL, &ca, NULL), "by_inter");
  accepts(options(NAME, NULL, &inter, NULL), "by_inter");
  accepts(options("192.0.2.1", NULL, &other_ca, &ca), "good");
  refuses(options("other.example.com", NULL, &ca, NULL), "good", "not for other.example.com");
  refuses(options("192.0.2.99", NULL, &ca, NULL), "good", "not for 192.0.2.99");
  refuses(options(NAME, NULL, &ca, NULL), "old", "the certificate expired on");
  refuses(options(NAME, NULL, &ca, NULL), "early", "not yet valid");
  refuses(options(NAME, NULL, &old_ca, NULL), "by_old_ca", "the CA certificate of Old CA expired on");
}

static void test_pins_that_do_not_match(void **state) {
  refuses(options(NAME, NULL, &other_ca, NULL), "good", NO_PIN);
  refuses(options(NAME, NULL, &good, NULL), "self", NO_PIN);
  refuses(options(NAME, NULL, &ca, NULL), "good_alone", NO_PIN); // the CA was not sent
}

// Sending a pinned certificate is not having its key.
static void test_impostors(void **state) {
  refuses(options(NAME, NULL, &ca, NULL), "impostor", NOT_SIGNED);
  refuses(options(NAME, NULL, &good, NULL), "impostor_leaf", NO_PIN); // pinned, but neither the leaf nor a CA
}

// ---- neither: the system's store, which OpenSSL lets the environment name ----

static void test_system_store(void **state) {
  setenv("SSL_CERT_FILE", fx_path("ca.crt").s, 1);
  setenv("SSL_CERT_DIR", fx_path("none").s, 1);
  accepts(options(NAME, NULL, NULL, NULL), "good");
  refuses(options(NAME, NULL, NULL, NULL), "by_other", NOT_SIGNED);
  refuses(options("other.example.com", NULL, NULL, NULL), "good", "not for other.example.com");
  // A CA or a pin of our own replaces it.
  refuses(options(NAME, "other_ca.crt", NULL, NULL), "good", NOT_SIGNED);
  refuses(options(NAME, NULL, &other_ca, NULL), "good", NO_PIN);
  unsetenv("SSL_CERT_FILE");
  unsetenv("SSL_CERT_DIR");
}

// ---- bytes that the peer chose ----

static void test_hostile_name(void **state) {
  struct fx_cert hostile = fx_make((struct fx_spec){.cn = "a\r\n\x1b[31m<b>", .issuer = &ca});
  fx_write("hostile", &hostile, &ca, NULL);
  refuses(options(NAME, "ca.crt", NULL, NULL), "hostile", "the certificate is for a???[31m<b>, not for " NAME);
  fx_drop(&hostile);
}

// ---- options that make no context ----

static void assert_invalid(struct tls_client_options o, const char *text) {
  struct tls *t = NULL;
  struct err_text e = {{0}};
  assert_int_not_equal(tls_client_new(&t, &o, &e), 0);
  assert_null(t);
  fx_assert_text(e.s, text);
}

static void test_bad_options(void **state) {
  char missing[FX_PATH + 64], name[300];
  snprintf(missing, sizeof missing, "CA %s: No such file or directory", fx_path("none.crt").s);
  assert_invalid(options(NAME, fx_path("none.crt").s, NULL, NULL), missing);
  assert_invalid(options("", NULL, &ca, NULL), "server name \"\"");
  memset(name, 'a', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  assert_invalid(options(name, NULL, &ca, NULL), "not a name");
  struct tls_client_options o = options(NAME, NULL, &ca, NULL);
  o.certificate = fx_path("good.crt").s;
  assert_invalid(o, "go together");
  o = options(NAME, NULL, &ca, NULL);
  o.npins = TLS_MAX_PINS + 1;
  assert_invalid(o, "more than 8 pins");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ca),
      cmocka_unit_test(test_name),
      cmocka_unit_test(test_ip),
      cmocka_unit_test(test_sni),
      cmocka_unit_test(test_dates),
      cmocka_unit_test(test_ca_and_pins),
      cmocka_unit_test(test_pin_outside_the_verified_chain),
      cmocka_unit_test(test_pinned_leaf),
      cmocka_unit_test(test_pinned_ca),
      cmocka_unit_test(test_pins_that_do_not_match),
      cmocka_unit_test(test_impostors),
      cmocka_unit_test(test_system_store),
      cmocka_unit_test(test_hostile_name),
      cmocka_unit_test(test_bad_options),
  };
  return cmocka_run_group_tests(tests, make_files, drop_files);
}
