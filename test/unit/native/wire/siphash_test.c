/* SipHash against the vector of its authors and against OpenSSL's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include "wire/siphash.h"

static void tag_of(const uint8_t key[16], const uint8_t *data, size_t first, size_t rest, uint8_t tag[16])
{
    struct or_siphash hash;
    or_siphash_begin(&hash, key);
    or_siphash_add(&hash, data, first);
    or_siphash_add(&hash, data + first, rest);
    or_siphash_end(&hash, tag);
}

static void the_authors_vectors_come_out(void **state)
{
    (void)state;
    /* vectors_sip128 of the reference implementation, for messages of 0 and 8 bytes. */
    const uint8_t empty[16] = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
                               0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93};
    const uint8_t eight[16] = {0x3b, 0x62, 0xa9, 0xba, 0x62, 0x58, 0xf5, 0x61,
                               0x0f, 0x83, 0xe2, 0x64, 0xf3, 0x14, 0x97, 0xb4};
    uint8_t key[16], data[8], tag[16];
    for (uint8_t i = 0; i < 16; i++)
        key[i] = i;
    for (uint8_t i = 0; i < 8; i++)
        data[i] = i;
    tag_of(key, data, 0, 0, tag);
    assert_memory_equal(tag, empty, 16);
    tag_of(key, data, 8, 0, tag);
    assert_memory_equal(tag, eight, 16);
}

static void openssl_computes_the_same(void **state)
{
    (void)state;
    uint8_t key[16], data[512], expected[16], tag[16];
    uint32_t seed = 1;
    size_t length;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
    memcpy(key, data + 100, sizeof key);
    for (size_t bytes = 0; bytes <= sizeof data; bytes += 8) {
        EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
        EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
        assert_true(EVP_MAC_init(ctx, key, sizeof key, NULL) && EVP_MAC_update(ctx, data, bytes) &&
                    EVP_MAC_final(ctx, expected, &length, sizeof expected));
        assert_int_equal(length, 16);
        EVP_MAC_CTX_free(ctx);
        EVP_MAC_free(mac);
        size_t first = bytes / 16 * 8;
        tag_of(key, data, first, bytes - first, tag);
        assert_memory_equal(tag, expected, 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_authors_vectors_come_out),
        cmocka_unit_test(openssl_computes_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
