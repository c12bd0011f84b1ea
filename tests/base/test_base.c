/* base: bounded buffers, UTF-8, JSON look-ups, hashes, thread teams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/rand.h"
#include "base/team.h"
#include "base/utf8.h"

static void test_buf_limit_is_sticky(void **state) {
    (void)state;
    struct buf buf;
    buf_init(&buf, 8);
    assert_int_equal(buf_append_str(&buf, "12345678"), 0);
    assert_int_equal(buf_append_char(&buf, '9'), -1);
    assert_true(buf.failed);
    assert_int_equal(buf_append(&buf, "", 0), -1);
    assert_string_equal(buf_str(&buf), "12345678");
    assert_null(buf_steal(&buf));
    buf_clear(&buf);
    assert_int_equal(buf_printf(&buf, "%d-%s", 42, "ab"), 0);
    buf_consume(&buf, 3);
    assert_string_equal(buf_str(&buf), "ab");
    buf_finish(&buf);
}

static void check_repair(const char *in, size_t len, const char *wanted) {
    struct buf out;
    buf_init(&out, 1024);
    utf8_append_repaired(&out, in, len);
    assert_string_equal(buf_str(&out), wanted);
    buf_finish(&out);
}

static void test_utf8_repair_as_unicode_3_9(void **state) {
    (void)state;
    check_repair("a\xe4\xbd\xa0z", 5, "a\xe4\xbd\xa0z");
    check_repair("\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", 12,
                 "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x62\xef\xbf\xbd\x63\xef\xbf\xbd\xef\xbf\xbd\x64");
    check_repair("\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* a surrogate */
    check_repair("\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd");                 /* overlong */
    assert_int_equal(utf8_incomplete_tail("a\xf0\x9f\x98", 4), 3);
    assert_int_equal(utf8_incomplete_tail("a\xf0\x9f\x98\x80", 5), 0);
    assert_int_equal(utf8_incomplete_tail("\xff", 1), 0);
    assert_false(utf8_valid("\xf4\x90\x80\x80", 4));
    for (uint32_t cp = 0; cp < 0x110000; cp += cp == 0xd7ff ? 0x801 : 1) {
        char bytes[4];
        uint32_t back;
        int n = utf8_encode(cp, bytes);
        assert_int_equal(utf8_decode(bytes, (size_t)n, &back), n);
        assert_int_equal(back, cp);
    }
}

static void test_json_names_what_is_wrong(void **state) {
    (void)state;
    struct err err;
    int64_t value = 7;
    json_t *object = json_parse("{\"a\": \"x\", \"b\": 12}", 19, &err);
    assert_non_null(object);
    assert_int_equal(json_get_int(object, "a", 0, 0, 9, &value, &err), -1);
    assert_string_equal(err.msg, "'a' should be an integer, but is of type string");
    assert_int_equal(json_get_int(object, "b", 0, 0, 9, &value, &err), -1);
    assert_string_equal(err.msg, "'b' is 12; 0 to 9 are possible");
    assert_int_equal(json_get_int(object, "absent", 5, 0, 9, &value, &err), 0);
    assert_int_equal(value, 5);
    json_decref(object);
    assert_null(json_parse("{\"a\":", 5, &err));
    assert_non_null(strstr(err.msg, "line 1 column 5"));
}

static void test_hash_known_answers(void **state) {
    (void)state;
    char hex[HASH_SHA256_HEX_BYTES];
    uint8_t digest[HASH_SHA256_BYTES];
    struct hash_sha256 *hash = hash_sha256_create();
    hash_sha256_update(hash, "abc", 3);
    hash_sha256_digest(hash, digest);
    hash_sha256_destroy(hash);
    hash_hex(digest, sizeof digest, hex); /* FIPS 180-4 example */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, digest); /* RFC 4231 case 2 */
    hash_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

static void test_progress_bytes_text(void **state) {
    (void)state;
    char text[16];
    assert_string_equal(progress_bytes_text(999, text), "999 B");
    assert_string_equal(progress_bytes_text(1234567, text), "1.23 MB");
    assert_string_equal(progress_bytes_text(93400000000, text), "93.4 GB");
}

static void test_rand_is_a_function_of_seed_and_counter(void **state) {
    (void)state;
    double sum = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double u = rand_ctr_unit(3, i);
        assert_true(u >= 0 && u < 1);
        assert_true(u == rand_ctr_unit(3, i));
        sum += u;
    }
    assert_true(sum > 4800 && sum < 5200);
}

enum { TEAM_ROUNDS = 2000, TEAM_ITEMS = 37 };
struct team_case {
    struct team *team;
    int taken[TEAM_ITEMS];
    int last[TEAM_MAX_THREADS];
    int errors;
};

static void team_body(void *arg, int thread) {
    struct team_case *c = arg;
    for (int round = 0; round < TEAM_ROUNDS; round++) {
        for (int i; (i = team_take(c->team)) < TEAM_ITEMS;)
            c->taken[i]++;
        c->last[thread] = round;
        team_barrier(c->team);
        for (int t = 0; t < team_size(c->team); t++)
            if (c->last[t] != round)
                __atomic_fetch_add(&c->errors, 1, __ATOMIC_RELAXED);
        team_barrier(c->team);
    }
}

static void test_team_barriers_and_items(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 7};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct team_case c = {0};
        struct err err;
        assert_int_equal(team_create(sizes[s], NULL, &c.team, &err), 0);
        team_run(c.team, team_body, &c);
        team_run(c.team, team_body, &c);
        team_destroy(c.team);
        assert_int_equal(c.errors, 0);
        for (int i = 0; i < TEAM_ITEMS; i++)
            assert_int_equal(c.taken[i], 2 * TEAM_ROUNDS);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_limit_is_sticky),  cmocka_unit_test(test_utf8_repair_as_unicode_3_9),
        cmocka_unit_test(test_json_names_what_is_wrong), cmocka_unit_test(test_hash_known_answers),
        cmocka_unit_test(test_progress_bytes_text),  cmocka_unit_test(test_rand_is_a_function_of_seed_and_counter),
        cmocka_unit_test(test_team_barriers_and_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
