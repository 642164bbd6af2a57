/* `mac` is AES-256-GMAC (NIST SP 800-38D: GCM with associated data only). The nonce is the frame's
 * (channel, link, counter); counters are never reused under a key, which GCM demands. `crc` is XXH3-64
 * seeded from the session key: it finds damage and strays, it stops nobody who wants to forge. */
#include "seal.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

#define SIGNED_HEADER offsetof(struct or_frame_header, digest)

int or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32])
{
    *seal = (struct or_seal){.integrity = integrity};
    if (integrity == OR_INTEGRITY_CRC) {
        memcpy(&seal->seed, key, sizeof seal->seed);
        return 0;
    }
    seal->gmac = EVP_CIPHER_CTX_new();
    if (!seal->gmac || !EVP_EncryptInit_ex(seal->gmac, EVP_aes_256_gcm(), NULL, key, NULL)) {
        or_seal_close(seal);
        return -ENOMEM;
    }
    return 0;
}

void or_seal_close(struct or_seal *seal)
{
    EVP_CIPHER_CTX_free(seal->gmac);
    OPENSSL_cleanse(seal, sizeof *seal);
}

static void crc(const struct or_seal *seal, const struct or_frame_header *h, uint8_t out[OR_DIGEST_BYTES])
{
    uint64_t body = XXH3_64bits_withSeed(h + 1, h->length - sizeof *h, seal->seed);
    uint64_t sum = XXH3_64bits_withSeed(h, SIGNED_HEADER, body);
    memset(out, 0, OR_DIGEST_BYTES);
    memcpy(out, &sum, sizeof sum);
}

static void mac(struct or_seal *seal, const struct or_frame_header *h, uint8_t out[OR_DIGEST_BYTES])
{
    uint8_t nonce[12] = {h->channel, h->link};
    memcpy(nonce + 4, &h->counter, 8);
    int n;
    int ok = EVP_EncryptInit_ex(seal->gmac, NULL, NULL, NULL, nonce) &&
             EVP_EncryptUpdate(seal->gmac, NULL, &n, (const uint8_t *)h, SIGNED_HEADER) &&
             EVP_EncryptUpdate(seal->gmac, NULL, &n, (const uint8_t *)(h + 1), (int)(h->length - sizeof *h)) &&
             EVP_EncryptFinal_ex(seal->gmac, out, &n) &&
             EVP_CIPHER_CTX_ctrl(seal->gmac, EVP_CTRL_AEAD_GET_TAG, OR_DIGEST_BYTES, out);
    assert(ok); /* nothing here can fail once the key is set */
}

void or_seal_sign(struct or_seal *seal, struct or_frame_header *h)
{
    if (seal->integrity == OR_INTEGRITY_CRC)
        crc(seal, h, h->digest);
    else
        mac(seal, h, h->digest);
}

bool or_seal_verify(struct or_seal *seal, const struct or_frame_header *h)
{
    uint8_t want[OR_DIGEST_BYTES];
    if (seal->integrity == OR_INTEGRITY_CRC)
        crc(seal, h, want);
    else
        mac(seal, h, want);
    return CRYPTO_memcmp(want, h->digest, sizeof want) == 0;
}
