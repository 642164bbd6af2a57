#include "proof.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "wire/siphash.h"

int or_proof_open(struct or_proof *proof, const uint8_t psk[32])
{
    static const char label[] = "outrigger handshake proof";
    uint8_t out[32];
    if (!HMAC(EVP_sha256(), psk, 32, (const uint8_t *)label, sizeof label - 1, out, NULL))
        return -ENOMEM;
    memcpy(proof->key, out, sizeof proof->key);
    OPENSSL_cleanse(out, sizeof out);
    return 0;
}

static size_t body_bytes(uint8_t type)
{
    switch (type) {
    case OR_FRAME_HELLO:
        return sizeof(struct or_hello);
    case OR_FRAME_WELCOME:
        return sizeof(struct or_welcome);
    default:
        assert(type == OR_FRAME_RETRY);
        return sizeof(struct or_retry);
    }
}

static void digest(const struct or_proof *proof, const struct or_frame_header *h, const uint8_t *hello_digest,
                   uint8_t out[OR_DIGEST_BYTES])
{
    const uint32_t head[2] = {h->version | (uint32_t)h->type << 8 | (uint32_t)h->channel << 16, h->session};
    struct or_siphash hash;
    or_siphash_begin(&hash, proof->key);
    or_siphash_add(&hash, head, sizeof head);
    or_siphash_add(&hash, h + 1, body_bytes(h->type));
    if (hello_digest)
        or_siphash_add(&hash, hello_digest, OR_DIGEST_BYTES);
    or_siphash_end(&hash, out);
}

void or_proof_sign(const struct or_proof *proof, struct or_frame_header *h, const uint8_t *hello_digest)
{
    digest(proof, h, hello_digest, h->digest);
}

bool or_proof_verify(const struct or_proof *proof, const struct or_frame_header *h, const uint8_t *hello_digest)
{
    uint8_t expected[OR_DIGEST_BYTES];
    digest(proof, h, hello_digest, expected);
    return CRYPTO_memcmp(expected, h->digest, sizeof expected) == 0;
}
