/* Our GMAC against OpenSSL's, which is also the fall-back: the values must be the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/gmac.h"

static void fill(uint8_t *out, size_t length)
{
    while (length--)
        *out++ = (uint8_t)rand();
}

static void tags_equal_those_of_openssl(void **state)
{
    (void)state;
    static uint8_t data[64 + 70000];
    srand(3);
    fill(data, sizeof data);
    for (int i = 0; i < 3000; i++) {
        uint8_t key[32], nonce[12], fast[16], portable[16];
        struct or_gmac f, p;
        fill(key, sizeof key);
        fill(nonce, sizeof nonce);
        size_t head = (size_t)rand() % 65, at = (size_t)rand() % 16;
        size_t body = i < 600 ? (size_t)i : (size_t)rand() % (rand() % 8 ? 5000 : 65536);
        assert_int_equal(or_gmac_open(&f, key, false), 0);
        assert_int_equal(or_gmac_open(&p, key, true), 0);
        or_gmac_tag(&f, nonce, data + at, head, data + 64 + at, body, fast);
        or_gmac_tag(&p, nonce, data + at, head, data + 64 + at, body, portable);
        assert_memory_equal(fast, portable, sizeof fast);
        or_gmac_close(&f);
        or_gmac_close(&p);
    }
}

/* Test case 13 of the GCM specification (McGrew and Viega): zero key, zero nonce, no data at all. */
static void the_published_empty_case(void **state)
{
    (void)state;
    static const uint8_t want[16] = {0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9,
                                     0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b};
    uint8_t key[32] = {0}, nonce[12] = {0}, tag[16];
    for (int portable = 0; portable < 2; portable++) {
        struct or_gmac g;
        assert_int_equal(or_gmac_open(&g, key, portable), 0);
        or_gmac_tag(&g, nonce, "", 0, "", 0, tag);
        assert_memory_equal(tag, want, sizeof want);
        or_gmac_close(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags_equal_those_of_openssl),
        cmocka_unit_test(the_published_empty_case),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
