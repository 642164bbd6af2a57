/* AES-256-GCM against the published values, and against damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/gcm.h"

/* Test cases 13 to 16 of the GCM specification (McGrew and Viega): those with a key of 256 bits and a nonce of
 * 96. */
static const struct {
    const char *key, *nonce, *head, *clear, *cipher, *tag;
} published[] = {
    {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "", "",
     "530f8afbc74536b9a963b4f1c4cb738b"},
    {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "",
     "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888", "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
     "ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0a"
     "bcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
     "ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0a"
     "bcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

static size_t from_hex(const char *hex, uint8_t *out)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return n;
}

static void the_published_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        uint8_t key[32], nonce[12], head[64], body[64], clear[64], cipher[64], want[16], tag[16];
        struct or_gcm gcm;
        from_hex(published[i].key, key);
        from_hex(published[i].nonce, nonce);
        from_hex(published[i].tag, want);
        size_t head_length = from_hex(published[i].head, head), length = from_hex(published[i].clear, body);
        assert_int_equal(from_hex(published[i].cipher, cipher), length);
        assert_int_equal(or_gcm_open(&gcm, key), 0);
        for (int again = 0; again < 2; again++) { /* the key is set once, for both directions */
            from_hex(published[i].clear, body);
            or_gcm_encrypt(&gcm, nonce, head, head_length, body, length, tag);
            assert_memory_equal(body, cipher, length);
            assert_memory_equal(tag, want, sizeof want);
            assert_true(or_gcm_decrypt(&gcm, nonce, head, head_length, body, length, tag, clear));
            from_hex(published[i].clear, body);
            assert_memory_equal(clear, body, length);
        }
        or_gcm_close(&gcm);
        or_gcm_close(&gcm);
    }
}

static void a_failure_leaves_the_key_usable(void **state)
{
    (void)state;
    uint8_t key[32] = {5}, nonce[12] = {6}, head[24] = {7}, body[100] = {8}, before[100], clear[100], tag[16];
    struct or_gcm gcm;
    memcpy(before, body, sizeof body);
    assert_int_equal(or_gcm_open(&gcm, key), 0);
    or_gcm_encrypt(&gcm, nonce, head, sizeof head, body, sizeof body, tag);
    for (int i = 0; i < 16; i++) {
        tag[i] ^= 1;
        assert_false(or_gcm_decrypt(&gcm, nonce, head, sizeof head, body, sizeof body, tag, clear));
        tag[i] ^= 1;
        assert_true(or_gcm_decrypt(&gcm, nonce, head, sizeof head, body, sizeof body, tag, clear));
        assert_memory_equal(clear, before, sizeof before);
    }
    or_gcm_close(&gcm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_cases),
        cmocka_unit_test(a_failure_leaves_the_key_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
