// A conn with TLS: handshakes and their failures, records that gather, both kinds of end. Both sides are conns; where
// the wire matters, it runs through the test's hands.
#include "tls_conn_fixture.h"

// ---- a wire in the test's hands ----

// Our ends of two socket pairs, whose other ends the conns have.
static int to_server, to_client;

static void start_wired(void) {
  int s[2], c[2];
  nx_pair(s);
  nx_pair(c);
  to_server = s[1];
  to_client = c[1];
  start_server(s[0]);
  start_client(c[0]);
}

static void cut_wire(void) {
  close(to_server);
  close(to_client);
}

// Moves at most `n` bytes from one to the other; how many there were.
static size_t carry(int from, int to, size_t n) {
  static uint8_t buf[256 * 1024];
  ssize_t r = recv(from, buf, n < sizeof buf ? n : sizeof buf, 0);
  if (r <= 0) return 0;
  nx_send(to, buf, (size_t)r);
  return (size_t)r;
}

static void carry_all(void) {
  do nx_settle(loop);
  while (carry(to_server, to_client, SIZE_MAX) + carry(to_client, to_server, SIZE_MAX));
}

// ---- handshakes ----

static void exchange(void) {
  char alpn[32];
  assert_string_equal(conn_alpn(server.conn, alpn), "postern/1");
  assert_string_equal(conn_alpn(client.conn, alpn), "postern/1");
  client.to_send = 50000;
  server.to_send = 60000;
  assert_int_equal(owner_write(&client), 0);
  assert_int_equal(owner_write(&server), 0);
  NX_UNTIL(loop, server.got == 50000 && client.got == 60000);
  assert_int_equal(server.handshakes, 1);
  assert_int_equal(client.handshakes, 1);
  assert_string_equal(conn_tls_error(client.conn), "");
}

static void test_exchange(void **state) {
  start_pair();
  assert_int_equal(SSL_version(conn_ssl(server.conn)), TLS1_3_VERSION);
  exchange();
}

static void test_exchange_1_2(void **state) {
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  start_client(fds[1]);
  SSL_set_max_proto_version(conn_ssl(client.conn), TLS1_2_VERSION);
  shake_hands();
  assert_int_equal(SSL_version(conn_ssl(server.conn)), TLS1_2_VERSION);
  exchange();
}

// A client on a conn that was quiet before: no edge will come for it.
static void test_client_on_a_quiet_conn(void **state) {
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  owner_start(&client, loop, fds[1]);
  nx_settle(loop);
  assert_int_equal(conn_start_tls(client.conn, pair_client), 0);
  nx_settle(loop);
  assert_int_equal(client.handshakes, 1);
  assert_int_equal(client.handshake_result, 0);
  exchange();
}

static void test_client_that_dialled(void **state) {
  int l = nx_listen(), error = 0;
  struct addr a = nx_local(l);
  client.loop = loop;
  client.conn = conn_dial(loop, &a, &owner_ops, &client, &error);
  NX_UNTIL(loop, client.connects);
  assert_int_equal(conn_start_tls(client.conn, pair_client), 0);
  int fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
  close(l);
  start_server(fd);
  shake_hands();
  exchange();
}

static void test_byte_at_a_time(void **state) {
  start_wired();
  nx_await("the last byte");
  client.to_send = 1000;
  server.to_send = 1500;
  bool told[2] = {false};
  while (server.got < 1000 || client.got < 1500) {
    nx_peek(loop);
    carry(to_server, to_client, 1);
    carry(to_client, to_server, 1);
    if (client.handshakes && !told[0]) (void)owner_write(&client);
    if (server.handshakes && !told[1]) (void)owner_write(&server);
    told[0] = client.handshakes;
    told[1] = server.handshakes;
  }
  alarm(0);
  assert_int_equal(client.handshakes, 1);
  assert_int_equal(server.handshakes, 1);
  cut_wire();
}

// The end of the handshake and what the client says first come in one piece: no other event will tell of it.
static void test_bytes_behind_the_handshake(void **state) {
  start_wired();
  nx_settle(loop);
  carry(to_client, to_server, SIZE_MAX);
  nx_settle(loop);
  carry(to_server, to_client, SIZE_MAX);
  nx_settle(loop);
  assert_int_equal(client.handshakes, 1);
  assert_int_equal(server.handshakes, 0);
  client.to_send = 3000;
  assert_int_equal(owner_write(&client), 0);
  assert_true(carry(to_client, to_server, SIZE_MAX) > 3000);
  nx_settle(loop);
  assert_int_equal(server.handshakes, 1);
  assert_int_equal(server.got, 3000);
  cut_wire();
}

// ---- handshakes that fail ----

static void test_untrusted_server(void **state) {
  struct fx_cert other = fx_make((struct fx_spec){.cn = "other", .ca = true});
  fx_write("other", &other, NULL, NULL);
  fx_drop(&other);
  struct tls *t = fx_client((struct tls_client_options){.server_name = "gw.example.com", .ca = "other.crt"});
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  owner_start(&client, loop, fds[1]);
  assert_int_equal(conn_start_tls(client.conn, t), 0);
  tls_unref(t); // the conn has its own
  client.closes = server.closes = true;
  client.how = CONN_CLOSE; // the alert has gone out by then
  NX_UNTIL(loop, client.handshakes && server.handshakes);
  assert_int_equal(client.handshake_result, PERR_TLS);
  assert_non_null(strstr(client.tls_error, "certificate"));
  assert_int_equal(server.handshake_result, PERR_TLS);
  assert_non_null(strstr(server.tls_error, "unknown ca"));
  nx_settle(loop);
  assert_int_equal(client.handshakes + server.handshakes, 2);
}

static void test_plaintext(void **state) {
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  nx_send(fds[1], "GET / HTTP/1.0\r\n\r\n", 18);
  NX_UNTIL(loop, server.handshakes);
  assert_int_equal(server.handshake_result, PERR_TLS);
  assert_string_equal(conn_tls_error(server.conn), "http request");
  nx_settle(loop);
  assert_int_equal(server.handshakes, 1);
  size_t n;
  uint8_t byte;
  assert_int_equal(conn_read(server.conn, &byte, 1, &n), PERR_CLOSED);
  assert_int_equal(conn_write(server.conn, "x", 1, &n), PERR_CLOSED);
  close(fds[1]);
}

static void test_end_in_the_handshake(void **state) {
  int fds[2];
  nx_pair(fds);
  start_server(fds[0]);
  nx_send(fds[1], "\x16\x03\x01", 3);
  close(fds[1]);
  NX_UNTIL(loop, server.handshakes);
  assert_int_equal(server.handshake_result, PERR_EOF);
}

static void test_abort_in_the_handshake(void **state) {
  int ours, theirs;
  nx_tcp(&ours, &theirs);
  start_client(ours);
  nx_settle(loop);
  nx_reset(theirs);
  NX_UNTIL(loop, client.handshakes);
  assert_int_equal(client.handshake_result, PERR_RESET);
}

// What another part of the program left in OpenSSL's queue of this thread is no failure of ours.
static void test_errors_of_others(void **state) {
  uint8_t byte;
  size_t n;
  start_pair();
  ERR_raise(ERR_LIB_EVP, ERR_R_INTERNAL_ERROR);
  conn_resume(server.conn);
  server.deaf = true;
  NX_UNTIL(loop, server.readables);
  ERR_raise(ERR_LIB_EVP, ERR_R_INTERNAL_ERROR);
  client.to_send = 10;
  assert_int_equal(owner_write(&client), 0);
  assert_int_equal(write_record(&client, 100), 0);
  nx_settle(loop);
  server.deaf = false;
  owner_read(&server);
  assert_int_equal(server.got, 10);
  ERR_raise(ERR_LIB_EVP, ERR_R_INTERNAL_ERROR);
  assert_int_equal(conn_read(server.conn, &byte, 1, &n), PERR_AGAIN);
  ERR_clear_error();
}

// ---- writing ----

static void test_records_gather(void **state) {
  start_pair();
  server.deaf = true;
  for (int i = 0; i < 3; i++) assert_int_equal(write_record(&client, 100), 0);
  nx_settle(loop);
  assert_int_equal(bytes_at(server.conn), 0);
  assert_int_equal(conn_flush(client.conn), 0);
  assert_true(bytes_at(server.conn) > 300);
  assert_int_equal(conn_flush(client.conn), 0);
  server.deaf = false;
  nx_settle(loop);
  assert_int_equal(server.got, 300);
}

// All or nothing, up to a bound above what the kernel holds.
static void test_output_is_bounded(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[1], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = true;
  int code = 0;
  while (code == 0) code = write_record(&client, 16384);
  assert_int_equal(code, PERR_AGAIN);
  assert_false(conn_may_write(client.conn));
  uint64_t waiting = client.sent - (uint64_t)bytes_at(server.conn);
  assert_in_range(waiting, CONN_OUT_HIGH - 1024, CONN_OUT_HIGH + 16384 + 1024);
  assert_int_equal(conn_flush(client.conn), PERR_AGAIN);
  assert_int_equal(client.writables, 0);
  server.deaf = false;
  conn_resume(server.conn);
  client.to_send = client.sent;
  NX_UNTIL(loop, server.got == client.to_send);
  assert_true(client.writables > 0);
  assert_true(conn_may_write(client.conn));
}

static void test_much_both_ways(void **state) {
  int fds[2];
  nx_pair(fds);
  for (int i = 0; i < 2; i++) nx_small(fds[i], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.read_once = 1000;
  client.to_send = 1024 * 1024;
  server.to_send = 1000 * 1000;
  assert_int_equal(owner_write(&client), PERR_AGAIN);
  assert_int_equal(owner_write(&server), PERR_AGAIN);
  NX_UNTIL(loop, server.got == client.to_send && client.got == server.to_send);
}

// ---- ends ----

static void test_half_close(void **state) {
  start_pair();
  client.to_send = 20000;
  assert_int_equal(owner_write(&client), 0);
  assert_int_equal(conn_shutdown(client.conn), 0);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, 20000);
  assert_int_equal(server.end, PERR_EOF);
  assert_int_equal(write_record(&client, 1), PERR_CLOSED);
  server.to_send = 200000;
  (void)owner_write(&server);
  NX_UNTIL(loop, client.got == server.to_send);
  assert_int_equal(conn_shutdown(server.conn), 0);
  NX_UNTIL(loop, client.end);
  assert_int_equal(client.end, PERR_EOF);
}

// With the output full the end waits its turn, and goes out by itself.
static void test_shutdown_of_a_full_conn(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[1], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = true;
  while (write_record(&client, 16384) == 0) continue;
  assert_int_equal(conn_shutdown(client.conn), 0);
  server.deaf = false;
  conn_resume(server.conn);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, client.sent);
  assert_int_equal(server.end, PERR_EOF);
  assert_int_equal(client.writables, 0); // nothing may be written any more
  uint8_t byte;
  assert_int_equal(recv(conn_fd(server.conn), &byte, 1, 0), 0); // a FIN behind the close_notify
}

static void test_truncation(void **state) {
  start_pair();
  client.to_send = 1000;
  assert_int_equal(owner_write(&client), 0);
  shutdown(conn_fd(client.conn), SHUT_WR); // a FIN without close_notify
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, 1000);
  assert_int_equal(server.end, PERR_TRUNCATED);
}

static void test_truncation_within_a_record(void **state) {
  start_wired();
  carry_all();
  client.to_send = 1000;
  assert_int_equal(owner_write(&client), 0);
  assert_int_equal(carry(to_client, to_server, 500), 500);
  shutdown(to_server, SHUT_WR);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, 0);
  assert_int_equal(server.end, PERR_TRUNCATED);
  cut_wire();
}

static void test_abort(void **state) {
  start_tcp_pair();
  owner_close(&client, CONN_ABORT);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.end, PERR_RESET);
}

static void test_damage(void **state) {
  uint8_t buf[2048];
  start_wired();
  carry_all();
  client.to_send = 1000;
  assert_int_equal(owner_write(&client), 0);
  ssize_t n = recv(to_client, buf, sizeof buf, 0);
  assert_true(n > 1000);
  buf[n / 2] ^= 1;
  nx_send(to_server, buf, (size_t)n);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, 0);
  assert_int_equal(server.end, PERR_TLS);
  assert_true(strlen(conn_tls_error(server.conn)) > 0);
  cut_wire();
}

// The last words reach one who is still talking.
static void test_linger(void **state) {
  start_tcp_pair();
  server.deaf = true;
  client.to_send = 1024 * 1024;
  (void)owner_write(&client);
  server.to_send = 16384;
  assert_int_equal(owner_write(&server), 0);
  owner_close(&server, CONN_LINGER);
  NX_UNTIL(loop, client.end);
  assert_int_equal(client.got, 16384);
  assert_int_equal(client.end, PERR_EOF);
}

// … also when the output is full: then they are taken beyond the bound.
static void test_last_words_of_a_full_conn(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[1], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = true;
  while (write_record(&client, 16384) == 0) continue;
  uint8_t last[16384];
  nx_fill(last, sizeof last, client.sent);
  assert_int_equal(conn_write_last(client.conn, last, sizeof last), 0);
  owner_close(&client, CONN_LINGER);
  server.deaf = false;
  conn_resume(server.conn);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, client.sent + sizeof last);
  assert_int_equal(server.end, PERR_EOF);
}

// What waits for long keeps its bytes and their order, and more can follow.
static void test_trimmed(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[1], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = true;
  for (int i = 0; i < 3; i++) {
    for (int n = 0; n < 2; n++) (void)write_record(&client, 5000);
    assert_int_equal(conn_flush(client.conn), PERR_AGAIN);
    size_t unsent = conn_unsent(client.conn);
    conn_trim(client.conn);
    conn_trim(client.conn);
    assert_int_equal(conn_unsent(client.conn), unsent);
  }
  server.deaf = false;
  conn_resume(server.conn);
  NX_UNTIL(loop, server.got == client.sent);
  assert_int_equal(conn_unsent(client.conn), 0);
}

// A peer that has said its last may still be reading.
static void test_lingering_with_a_peer_that_has_ended(void **state) {
  int fds[2];
  nx_pair(fds);
  nx_small(fds[1], SO_SNDBUF);
  start_server(fds[0]);
  start_client(fds[1]);
  shake_hands();
  server.deaf = true;
  assert_int_equal(conn_shutdown(server.conn), 0);
  NX_UNTIL(loop, client.end);
  while (write_record(&client, 16384) == 0) continue;
  owner_close(&client, CONN_LINGER);
  nx_settle(loop);
  server.deaf = false;
  conn_resume(server.conn);
  NX_UNTIL(loop, server.end);
  assert_int_equal(server.got, client.sent);
  assert_int_equal(server.end, PERR_EOF);
}

static void test_closing_in_on_handshake(void **state) {
  start_wired();
  server.closes = true;
  carry_all();
  assert_int_equal(server.handshakes, 1);
  assert_null(server.conn);
  assert_int_equal(server.closed_in, 0);
  cut_wire();
}

static void test_closing_a_handshake(void **state) {
  start_wired();
  owner_close(&server, CONN_LINGER);
  owner_close(&client, CONN_LINGER);
  carry_all();
  assert_int_equal(server.handshakes + client.handshakes, 0);
  cut_wire();
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(exchange),
      T(exchange_1_2),
      T(client_on_a_quiet_conn),
      T(client_that_dialled),
      T(byte_at_a_time),
      T(bytes_behind_the_handshake),
      T(untrusted_server),
      T(plaintext),
      T(end_in_the_handshake),
      T(abort_in_the_handshake),
      T(errors_of_others),
      T(records_gather),
      T(output_is_bounded),
      T(much_both_ways),
      T(half_close),
      T(shutdown_of_a_full_conn),
      T(truncation),
      T(truncation_within_a_record),
      T(abort),
      T(damage),
      T(linger),
      T(last_words_of_a_full_conn),
      T(trimmed),
      T(lingering_with_a_peer_that_has_ended),
      T(closing_in_on_handshake),
      T(closing_a_handshake),
  };
  return cmocka_run_group_tests(tests, tls_pair_make, tls_pair_drop);
}
