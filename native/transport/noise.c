/* The NNpsk0 pattern is two lines:
 *
 *     -> psk, e
 *     <- e, ee
 *
 * Each token stirs something into the state: `psk` the pre-shared key, `e` a public ephemeral key, `ee`
 * the Diffie-Hellman secret of both. What is secret goes into the chaining key (mix_key), what was
 * sent goes into the hash (mix_hash), and each message ends with its payload, encrypted under a key
 * derived from the one and authenticated together with the other. So a payload verifies only for who
 * has seen the same messages and holds the same secrets. Function names are those of the specification.
 *
 * Two simplifications that the pattern allows. Every payload directly follows a mix_key, which resets
 * the nonce, so the nonce is always zero and is not kept. And `psk`, first of all, is processed in
 * or_noise_init, so the pre-shared key is not kept either.
 *
 * OpenSSL does the primitives. Fetching an algorithm by name takes longer than hashing with it, so the
 * three that are used by the dozen are fetched once per process. */
#include "noise.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#define KEY OR_NOISE_KEY_BYTES
#define TAG 16u

static const char protocol_name[] = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";

static struct {
    EVP_MD *sha256;
    EVP_CIPHER *chacha20_poly1305;
    EVP_MAC_CTX *hmac_sha256; /* a template: duplicated, then given a key */
} algorithms;

static void fetch_algorithms(void)
{
    algorithms.sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    algorithms.chacha20_poly1305 = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    algorithms.hmac_sha256 = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    EVP_MAC_free(hmac);
    OSSL_PARAM digest[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, "SHA256", 0), OSSL_PARAM_END};
    /* An OpenSSL without these cannot serve at all: there is nothing to go on with. */
    if (!algorithms.sha256 || !algorithms.chacha20_poly1305 || !algorithms.hmac_sha256 ||
        !EVP_MAC_CTX_set_params(algorithms.hmac_sha256, digest))
        abort();
}

/* out = SHA-256(a || b); out may be a. */
static int hash2(uint8_t out[KEY], const void *a, size_t a_length, const void *b, size_t b_length)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex2(ctx, algorithms.sha256, NULL) && EVP_DigestUpdate(ctx, a, a_length) &&
              EVP_DigestUpdate(ctx, b, b_length) && EVP_DigestFinal_ex(ctx, out, NULL);
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

static int hmac2(uint8_t out[KEY], const uint8_t key[KEY], const void *a, size_t a_length, const void *b,
                 size_t b_length)
{
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(algorithms.hmac_sha256);
    bool ok = ctx && EVP_MAC_init(ctx, key, KEY, NULL) && EVP_MAC_update(ctx, a, a_length) &&
              EVP_MAC_update(ctx, b, b_length) && EVP_MAC_final(ctx, out, NULL, KEY);
    EVP_MAC_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

/* The specification's HKDF: output[i] = HMAC(secret, output[i - 1] || i + 1), for two or three outputs. */
static int hkdf(const uint8_t chaining_key[KEY], const void *input, size_t length, uint8_t output[][KEY], int outputs)
{
    uint8_t secret[KEY];
    int rc = hmac2(secret, chaining_key, input, length, "", 0);
    for (uint8_t i = 0; i < outputs && rc == 0; i++) {
        uint8_t number = i + 1;
        rc = hmac2(output[i], secret, i > 0 ? output[i - 1] : secret, i > 0 ? KEY : 0, &number, 1);
    }
    OPENSSL_cleanse(secret, sizeof(secret));
    return rc;
}

static int mix_hash(struct or_noise *noise, const void *data, size_t length)
{
    return hash2(noise->hash, noise->hash, KEY, data, length);
}

static int mix_key(struct or_noise *noise, const uint8_t input[KEY])
{
    uint8_t output[2][KEY];
    int rc = hkdf(noise->chaining_key, input, KEY, output, 2);
    if (rc == 0) {
        memcpy(noise->chaining_key, output[0], KEY);
        memcpy(noise->cipher_key, output[1], KEY);
    }
    OPENSSL_cleanse(output, sizeof(output));
    return rc;
}

/* The token `psk`. */
static int mix_key_and_hash(struct or_noise *noise, const uint8_t psk[KEY])
{
    uint8_t output[3][KEY];
    int rc = hkdf(noise->chaining_key, psk, KEY, output, 3);
    if (rc == 0) {
        memcpy(noise->chaining_key, output[0], KEY);
        memcpy(noise->cipher_key, output[2], KEY);
        rc = mix_hash(noise, output[1], KEY);
    }
    OPENSSL_cleanse(output, sizeof(output));
    return rc;
}

/* The token `e`, which in a psk handshake goes into the key as well (section 9.2). */
static int mix_ephemeral(struct or_noise *noise, const uint8_t public[KEY])
{
    int rc = mix_hash(noise, public, KEY);
    return rc ? rc : mix_key(noise, public);
}

/* The token `ee`. -EBADMSG for a peer's key of low order, whose secret would be all zeroes: X25519 in
 * OpenSSL fails for those, and for nothing else that a peer can choose. */
static int mix_secret(struct or_noise *noise, EVP_PKEY *ephemeral)
{
    uint8_t secret[KEY];
    size_t length = KEY;
    EVP_PKEY *remote = EVP_PKEY_new_raw_public_key_ex(NULL, "X25519", NULL, noise->remote_public, KEY);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, ephemeral, NULL);
    int rc = -ENOMEM;
    if (remote && ctx && EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, remote) == 1)
        rc = EVP_PKEY_derive(ctx, secret, &length) == 1 ? mix_key(noise, secret) : -EBADMSG;
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(remote);
    OPENSSL_cleanse(secret, sizeof(secret));
    return rc;
}

static EVP_PKEY *own_ephemeral(const struct or_noise *noise)
{
    return EVP_PKEY_new_raw_private_key_ex(NULL, "X25519", NULL, noise->ephemeral_private, KEY);
}

/* ChaCha20-Poly1305 with the hash as additional data. sealed = ciphertext || tag. */
static int encrypt(const struct or_noise *noise, const uint8_t *payload, int length, uint8_t *sealed)
{
    static const uint8_t nonce[12];
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx && EVP_EncryptInit_ex2(ctx, algorithms.chacha20_poly1305, noise->cipher_key, nonce, NULL) &&
              EVP_EncryptUpdate(ctx, NULL, &n, noise->hash, KEY) &&
              EVP_EncryptUpdate(ctx, sealed, &n, payload, length) && EVP_EncryptFinal_ex(ctx, sealed + length, &n) &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, sealed + length);
    EVP_CIPHER_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

static int decrypt(const struct or_noise *noise, const uint8_t *sealed, int length, uint8_t *payload)
{
    static const uint8_t nonce[12];
    int n;
    uint8_t tag[TAG];
    memcpy(tag, sealed + length, TAG);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int rc = -ENOMEM;
    if (ctx && EVP_DecryptInit_ex2(ctx, algorithms.chacha20_poly1305, noise->cipher_key, nonce, NULL) &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag) &&
        EVP_DecryptUpdate(ctx, NULL, &n, noise->hash, KEY) && EVP_DecryptUpdate(ctx, payload, &n, sealed, length))
        rc = EVP_DecryptFinal_ex(ctx, tag, &n) == 1 ? 0 : -EBADMSG; /* writes nothing, wants a buffer */
    EVP_CIPHER_CTX_free(ctx);
    return rc;
}

/* Message 1 goes from the initiator to the responder, message 2 back. */
static bool writes_next(const struct or_noise *noise)
{
    return noise->initiator == (noise->messages == 0);
}

/* What the tokens of the next message do to the state; `public` is the key in the message, `ephemeral`
 * our own, which only message 2 needs. */
static int process_tokens(struct or_noise *noise, const uint8_t public[KEY], EVP_PKEY *ephemeral)
{
    int rc = mix_ephemeral(noise, public);
    if (rc == 0 && noise->messages == 1)
        rc = mix_secret(noise, ephemeral);
    return rc;
}

/* A step either succeeds as a whole or leaves the caller's state as it was. OpenSSL's error queue is
 * emptied: it belongs to the thread, and nobody else would. */
static int finish(struct or_noise *noise, struct or_noise *next, int rc)
{
    if (rc >= 0) {
        next->messages++;
        *noise = *next;
    }
    or_noise_wipe(next);
    ERR_clear_error();
    return rc;
}

int or_noise_init(struct or_noise *noise, bool initiator, const void *prologue, size_t prologue_length,
                  const uint8_t psk[KEY], const uint8_t ephemeral_private[KEY])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_algorithms);

    *noise = (struct or_noise){.initiator = initiator};
    memcpy(noise->ephemeral_private, ephemeral_private, KEY);
    int rc = hash2(noise->hash, protocol_name, strlen(protocol_name), "", 0);
    memcpy(noise->chaining_key, noise->hash, KEY);
    if (rc == 0)
        rc = mix_hash(noise, prologue, prologue_length);
    if (rc == 0)
        rc = mix_key_and_hash(noise, psk);
    return rc;
}

int or_noise_write(struct or_noise *noise, const void *payload, size_t length, uint8_t *out, size_t out_size)
{
    assert(noise->messages < 2 && writes_next(noise));
    if (length > OR_NOISE_MESSAGE_BYTES_MAX - OR_NOISE_OVERHEAD_BYTES || length + OR_NOISE_OVERHEAD_BYTES > out_size)
        return -EMSGSIZE;

    struct or_noise next = *noise;
    size_t public_length = KEY;
    EVP_PKEY *ephemeral = own_ephemeral(noise);
    int rc = ephemeral && EVP_PKEY_get_raw_public_key(ephemeral, out, &public_length) == 1 ? 0 : -ENOMEM;
    if (rc == 0)
        rc = process_tokens(&next, out, ephemeral);
    EVP_PKEY_free(ephemeral);
    if (rc == 0)
        rc = encrypt(&next, payload, (int)length, out + KEY);
    if (rc == 0)
        rc = mix_hash(&next, out + KEY, length + TAG);
    return finish(noise, &next, rc ? rc : (int)(length + OR_NOISE_OVERHEAD_BYTES));
}

int or_noise_read(struct or_noise *noise, const uint8_t *message, size_t length, uint8_t *payload, size_t payload_size)
{
    assert(noise->messages < 2 && !writes_next(noise));
    if (length < OR_NOISE_OVERHEAD_BYTES || length > OR_NOISE_MESSAGE_BYTES_MAX)
        return -EBADMSG;
    size_t payload_length = length - OR_NOISE_OVERHEAD_BYTES;
    if (payload_length > payload_size)
        return -EMSGSIZE;

    struct or_noise next = *noise;
    memcpy(next.remote_public, message, KEY);
    /* Message 1 needs no key of ours: a responder refuses forged ones before any curve arithmetic. */
    EVP_PKEY *ephemeral = noise->messages == 1 ? own_ephemeral(noise) : NULL;
    int rc = process_tokens(&next, next.remote_public, ephemeral);
    EVP_PKEY_free(ephemeral);
    if (rc == 0)
        rc = decrypt(&next, message + KEY, (int)payload_length, payload);
    if (rc == 0)
        rc = mix_hash(&next, message + KEY, payload_length + TAG);
    return finish(noise, &next, rc ? rc : (int)payload_length);
}

int or_noise_split(const struct or_noise *noise, uint8_t initiator_to_responder[KEY],
                   uint8_t responder_to_initiator[KEY])
{
    assert(noise->messages == 2);
    uint8_t output[2][KEY];
    int rc = hkdf(noise->chaining_key, "", 0, output, 2);
    if (rc == 0) {
        memcpy(initiator_to_responder, output[0], KEY);
        memcpy(responder_to_initiator, output[1], KEY);
    }
    OPENSSL_cleanse(output, sizeof(output));
    return rc;
}

int or_noise_link_key(const uint8_t session_key[KEY], uint8_t link, uint8_t out[KEY])
{
    /* HKDF-Expand of RFC 5869, one block: HMAC(key, info || 1). */
    static const char label[] = "outrigger link ";
    const uint8_t end[] = {link, 1};
    return hmac2(out, session_key, label, sizeof(label) - 1, end, sizeof(end));
}

void or_noise_wipe(struct or_noise *noise)
{
    OPENSSL_cleanse(noise, sizeof(*noise));
}
