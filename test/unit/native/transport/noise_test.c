/* The handshake against published vectors, and against whoever lacks the key or meddles with messages.
 *
 * The vector is "Noise_NNpsk0_25519_ChaChaPoly_SHA256" of vectors/cacophony.txt in the repository
 * haskell-cryptography/cacophony (revision 36c1e5c3); the same file is tests/vectors/cacophony.txt of
 * mcginty/snow. Its messages 1 and 2 are the handshake, 3 to 6 are sent alternately under the two
 * session keys, which proves those without a vector for the keys themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <openssl/evp.h>

#include "transport/env.h"
#include "transport/noise.h"

static const char prologue_hex[] = "4a6f686e2047616c74";
static const char psk_hex[] = "54686973206973206d7920417573747269616e20706572737065637469766521";
static const char initiator_ephemeral_hex[] = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
static const char responder_ephemeral_hex[] = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";

static const struct {
    const char *payload, *ciphertext;
} vector[] = {
    {"4c756477696720766f6e204d69736573", "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
                                         "79b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54"},
    {"4d757272617920526f746862617264", "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
                                       "d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3"},
    {"462e20412e20486179656b", "e632c3763d7669067383433197a3baddf146e9e70ad4b4e9e59e0f"},
    {"4361726c204d656e676572", "64c6bee32ea91c8474bb4c21d7a700109ad45af77b29764ba5eb1e"},
    {"4a65616e2d426170746973746520536179", "e2fa0bed0603b62d3ccac2ecabbf3fe33f3e86514909b323361626266cb2471cc8"},
    {"457567656e2042f6686d20766f6e2042617765726b",
     "0c01dc9cec1fe4ddd692e8dd32188aa351088dc91183639a53b57aa4692b5ebdef8b8ca111"},
};

static size_t unhex(const char *hex, uint8_t *out)
{
    size_t length = strlen(hex) / 2;
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return length;
}

struct pair {
    struct or_noise initiator, responder;
};

static void start(struct or_noise *noise, bool initiator)
{
    uint8_t prologue[16], psk[32], ephemeral[32];
    size_t prologue_length = unhex(prologue_hex, prologue);
    unhex(psk_hex, psk);
    unhex(initiator ? initiator_ephemeral_hex : responder_ephemeral_hex, ephemeral);
    assert_int_equal(or_noise_init(noise, initiator, prologue, prologue_length, psk, ephemeral), 0);
}

static struct pair start_pair(void)
{
    struct pair pair;
    start(&pair.initiator, true);
    start(&pair.responder, false);
    return pair;
}

/* A transport message of the vector: ChaCha20-Poly1305, the nonce a little-endian counter after four
 * zero bytes, no additional data. */
static void assert_sealed(const uint8_t key[32], uint8_t counter, const char *payload_hex, const char *ciphertext_hex)
{
    uint8_t payload[64], expected[64], sealed[64], nonce[12] = {[4] = counter};
    int length = (int)unhex(payload_hex, payload), n;
    size_t sealed_length = unhex(ciphertext_hex, expected);
    assert_int_equal(sealed_length, length + 16);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    assert_true(EVP_EncryptInit_ex2(ctx, EVP_chacha20_poly1305(), key, nonce, NULL));
    assert_true(EVP_EncryptUpdate(ctx, sealed, &n, payload, length));
    assert_true(EVP_EncryptFinal_ex(ctx, sealed + length, &n));
    assert_true(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, sealed + length));
    EVP_CIPHER_CTX_free(ctx);
    assert_memory_equal(sealed, expected, sealed_length);
}

static void the_published_vector_is_reproduced(void **state)
{
    (void)state;
    struct pair pair = start_pair();
    for (int i = 0; i < 2; i++) {
        struct or_noise *from = i == 0 ? &pair.initiator : &pair.responder;
        struct or_noise *to = i == 0 ? &pair.responder : &pair.initiator;
        uint8_t payload[64], expected[128], message[128], received[64];
        size_t length = unhex(vector[i].payload, payload);
        size_t message_length = unhex(vector[i].ciphertext, expected);

        assert_int_equal(or_noise_write(from, payload, length, message, sizeof(message)), message_length);
        assert_memory_equal(message, expected, message_length);
        assert_int_equal(or_noise_read(to, message, message_length, received, sizeof(received)), length);
        assert_memory_equal(received, payload, length);
    }

    uint8_t keys[2][32], keys_of_responder[2][32];
    assert_int_equal(or_noise_split(&pair.initiator, keys[0], keys[1]), 0);
    assert_int_equal(or_noise_split(&pair.responder, keys_of_responder[0], keys_of_responder[1]), 0);
    assert_memory_equal(keys, keys_of_responder, sizeof(keys));
    assert_memory_equal(pair.initiator.hash, pair.responder.hash, 32);
    for (unsigned i = 2; i < 6; i++)
        assert_sealed(keys[i % 2], (uint8_t)(i / 2 - 1), vector[i].payload, vector[i].ciphertext);
}

/* Runs a handshake with whatever the two states are; the responder must refuse message 1. */
static void assert_refused(struct pair *pair)
{
    uint8_t message[128], payload[64];
    int length = or_noise_write(&pair->initiator, "hello", 5, message, sizeof(message));
    assert_int_equal(length, 5 + OR_NOISE_OVERHEAD_BYTES);
    assert_int_equal(or_noise_read(&pair->responder, message, (size_t)length, payload, sizeof(payload)), -EBADMSG);
}

static void another_pre_shared_key_is_refused(void **state)
{
    (void)state;
    uint8_t psk[32], ephemeral[32] = {1};
    unhex(psk_hex, psk);
    for (int bit = 0; bit < 256; bit++) {
        struct pair pair = start_pair();
        psk[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(or_noise_init(&pair.responder, false, "John Galt", 9, psk, ephemeral), 0);
        assert_refused(&pair);
        psk[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void another_prologue_is_refused(void **state)
{
    (void)state;
    static const char *const others[] = {"", "John Gal", "john Galt", "John Galt!"};
    uint8_t psk[32], ephemeral[32] = {1};
    unhex(psk_hex, psk);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct pair pair = start_pair();
        assert_int_equal(or_noise_init(&pair.responder, false, others[i], strlen(others[i]), psk, ephemeral), 0);
        assert_refused(&pair);
    }
}

/* Every single-bit change and every other length of `message` is refused by `reader`; the true message
 * is accepted afterwards, as though nothing had happened. */
static void assert_only_true_message_accepted(struct or_noise *reader, uint8_t *message, size_t length)
{
    uint8_t payload[256];
    for (size_t bit = 0; bit < 8 * length; bit++) {
        message[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(or_noise_read(reader, message, length, payload, sizeof(payload)), -EBADMSG);
        message[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t shorter = 0; shorter < length; shorter++)
        assert_int_equal(or_noise_read(reader, message, shorter, payload, sizeof(payload)), -EBADMSG);
    message[length] = 0;
    assert_int_equal(or_noise_read(reader, message, length + 1, payload, sizeof(payload)), -EBADMSG);
    assert_int_equal(or_noise_read(reader, message, length, payload, sizeof(payload)),
                     length - OR_NOISE_OVERHEAD_BYTES);
}

static void meddled_messages_are_refused_and_change_nothing(void **state)
{
    (void)state;
    struct pair pair = start_pair();
    uint8_t message[129], keys[2][2][32];

    int length = or_noise_write(&pair.initiator, "who I am", 8, message, sizeof(message) - 1);
    assert_only_true_message_accepted(&pair.responder, message, (size_t)length);
    length = or_noise_write(&pair.responder, "and I", 5, message, sizeof(message) - 1);
    assert_only_true_message_accepted(&pair.initiator, message, (size_t)length);

    assert_int_equal(or_noise_split(&pair.initiator, keys[0][0], keys[0][1]), 0);
    assert_int_equal(or_noise_split(&pair.responder, keys[1][0], keys[1][1]), 0);
    assert_memory_equal(keys[0], keys[1], sizeof(keys[0]));
    assert_memory_not_equal(keys[0][0], keys[0][1], 32);
}

/* With a public key of low order the shared secret would not depend on ours: the holder of the
 * pre-shared key could make sessions without a secret. The peer here is a true one but for the key. */
static void public_keys_of_low_order_are_refused(void **state)
{
    (void)state;
    static const char *const low_order[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    };
    for (size_t i = 0; i < sizeof(low_order) / sizeof(low_order[0]); i++) {
        struct pair pair = start_pair();
        uint8_t message[128], payload[64];
        int length = or_noise_write(&pair.initiator, "", 0, message, sizeof(message));
        assert_int_equal(or_noise_read(&pair.responder, message, (size_t)length, payload, sizeof(payload)), 0);
        unhex(low_order[i], pair.responder.remote_public);
        assert_int_equal(or_noise_write(&pair.responder, "", 0, message, sizeof(message)), -EBADMSG);

        unhex(low_order[i], message);
        assert_int_equal(or_noise_read(&pair.initiator, message, (size_t)length, payload, sizeof(payload)), -EBADMSG);
    }
}

static void lengths_are_checked(void **state)
{
    (void)state;
    static uint8_t payload[OR_NOISE_MESSAGE_BYTES_MAX], message[OR_NOISE_MESSAGE_BYTES_MAX], got[sizeof(payload)];
    const size_t largest = OR_NOISE_MESSAGE_BYTES_MAX - OR_NOISE_OVERHEAD_BYTES;
    struct pair pair = start_pair();
    memset(payload, 0x5a, sizeof(payload));

    assert_int_equal(or_noise_write(&pair.initiator, payload, largest + 1, message, sizeof(message)), -EMSGSIZE);
    assert_int_equal(or_noise_write(&pair.initiator, payload, largest, message, sizeof(message) - 1), -EMSGSIZE);
    assert_int_equal(or_noise_write(&pair.initiator, payload, SIZE_MAX, message, sizeof(message)), -EMSGSIZE);
    assert_int_equal(or_noise_write(&pair.initiator, payload, largest, message, sizeof(message)), sizeof(message));
    assert_int_equal(or_noise_read(&pair.responder, message, sizeof(message), got, largest - 1), -EMSGSIZE);
    assert_int_equal(or_noise_read(&pair.responder, message, sizeof(message), got, largest), largest);
    assert_memory_equal(got, payload, largest);

    /* No payload and no prologue are as good as any. */
    assert_int_equal(or_noise_write(&pair.responder, NULL, 0, message, sizeof(message)), OR_NOISE_OVERHEAD_BYTES);
    assert_int_equal(or_noise_read(&pair.initiator, message, OR_NOISE_OVERHEAD_BYTES, NULL, 0), 0);
}

static void every_handshake_has_its_own_keys(void **state)
{
    (void)state;
    uint8_t psk[32], last[2][32] = {{0}};
    unhex(psk_hex, psk);
    for (int i = 0; i < 10; i++) {
        struct or_noise initiator, responder;
        uint8_t ephemeral[2][32], message[64], keys[2][32];
        or_env_system.random(or_env_system.arg, ephemeral, sizeof(ephemeral));
        assert_int_equal(or_noise_init(&initiator, true, NULL, 0, psk, ephemeral[0]), 0);
        assert_int_equal(or_noise_init(&responder, false, NULL, 0, psk, ephemeral[1]), 0);
        assert_int_equal(or_noise_write(&initiator, NULL, 0, message, sizeof(message)), OR_NOISE_OVERHEAD_BYTES);
        assert_int_equal(or_noise_read(&responder, message, OR_NOISE_OVERHEAD_BYTES, NULL, 0), 0);
        assert_int_equal(or_noise_write(&responder, NULL, 0, message, sizeof(message)), OR_NOISE_OVERHEAD_BYTES);
        assert_int_equal(or_noise_read(&initiator, message, OR_NOISE_OVERHEAD_BYTES, NULL, 0), 0);
        assert_int_equal(or_noise_split(&responder, keys[0], keys[1]), 0);
        assert_memory_not_equal(keys[0], last[0], 32);
        assert_memory_not_equal(keys[1], last[1], 32);
        memcpy(last, keys, sizeof(last));
    }
}

static void wiping_leaves_no_secret(void **state)
{
    (void)state;
    static const struct or_noise zeroes;
    struct or_noise noise;
    start(&noise, true);
    assert_memory_not_equal(&noise, &zeroes, sizeof(noise));
    or_noise_wipe(&noise);
    assert_memory_equal(&noise, &zeroes, sizeof(noise));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_vector_is_reproduced),
        cmocka_unit_test(another_pre_shared_key_is_refused),
        cmocka_unit_test(another_prologue_is_refused),
        cmocka_unit_test(meddled_messages_are_refused_and_change_nothing),
        cmocka_unit_test(public_keys_of_low_order_are_refused),
        cmocka_unit_test(lengths_are_checked),
        cmocka_unit_test(every_handshake_has_its_own_keys),
        cmocka_unit_test(wiping_leaves_no_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
