// The ring of ticket keys as the days pass.
#include "postern/net/tls_tickets.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t day = TICKET_DAY_MS;

static enum ticket_use find(struct ticket_ring *r, const struct ticket_key *k, uint64_t now_ms) {
  struct ticket_key found;
  memset(&found, 0, sizeof found);
  enum ticket_use use = ticket_ring_find(r, k->name, now_ms, &found);
  if (use != TICKET_UNKNOWN) assert_memory_equal(&found, k, sizeof found);
  return use;
}

static bool same(const struct ticket_key *a, const struct ticket_key *b) {
  return memcmp(a, b, sizeof *a) == 0;
}

// A key seals for a day, opens for two, and says on the second that a new ticket is due.
static void test_days(void **state) {
  struct ticket_ring *r = ticket_ring_new(5);
  struct ticket_key first, k, second;
  ticket_ring_current(r, 5, &first);
  ticket_ring_current(r, 5 + day - 1, &k);
  assert_true(same(&first, &k));
  assert_int_equal(find(r, &first, 5 + day - 1), TICKET_GOOD);
  ticket_ring_current(r, 5 + day, &second);
  assert_false(same(&first, &second));
  assert_int_equal(find(r, &second, 5 + day), TICKET_GOOD);
  assert_int_equal(find(r, &first, 5 + day), TICKET_RENEW);
  assert_int_equal(find(r, &first, 5 + 2 * day - 1), TICKET_RENEW);
  assert_int_equal(find(r, &first, 5 + 2 * day), TICKET_UNKNOWN);
  assert_int_equal(find(r, &second, 5 + 2 * day), TICKET_RENEW);
  ticket_ring_unref(r);
}

// Nobody came for a long time: the old key does not live on because nothing rotated it.
static void test_long_quiet(void **state) {
  struct ticket_ring *r = ticket_ring_new(0);
  struct ticket_key first, later;
  ticket_ring_current(r, 0, &first);
  assert_int_equal(find(r, &first, 10 * day), TICKET_UNKNOWN);
  ticket_ring_current(r, 10 * day, &later);
  assert_false(same(&first, &later));
  assert_int_equal(find(r, &later, 11 * day), TICKET_RENEW);
  ticket_ring_unref(r);
}

static void test_unknown_name(void **state) {
  struct ticket_ring *r = ticket_ring_new(0), *other = ticket_ring_new(0);
  struct ticket_key k;
  ticket_ring_current(other, 0, &k);
  assert_int_equal(find(r, &k, 0), TICKET_UNKNOWN);
  ticket_ring_unref(r);
  ticket_ring_unref(other);
}

// The last of its holders frees it; the sanitizer tells when one goes too early or none.
static void test_shared(void **state) {
  struct ticket_ring *r = ticket_ring_new(0);
  struct ticket_key before, after;
  ticket_ring_current(r, 0, &before);
  struct ticket_ring *second = ticket_ring_ref(r);
  ticket_ring_unref(r);
  ticket_ring_current(second, 0, &after);
  assert_true(same(&before, &after));
  ticket_ring_unref(second);
  ticket_ring_unref(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_days),
      cmocka_unit_test(test_long_quiet),
      cmocka_unit_test(test_unknown_name),
      cmocka_unit_test(test_shared),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
