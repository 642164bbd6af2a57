/* `mac` is AES-256-GMAC (gmac.h). The nonce is the frame's
 * (channel, link, counter); counters are never reused under a key, which GCM demands. `crc` is XXH3-64
 * seeded from the session key: it finds damage and strays, it stops nobody who wants to forge. */
#include "seal.h"

#include <openssl/crypto.h>
#include <string.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the same functions, by what the processor can do */
#else
#include <xxhash.h>
#endif

#define SIGNED_HEADER offsetof(struct or_frame_header, digest)

int or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32])
{
    *seal = (struct or_seal){.integrity = integrity};
    if (integrity == OR_INTEGRITY_CRC) {
        memcpy(&seal->seed, key, sizeof seal->seed);
        return 0;
    }
    return or_gmac_open(&seal->gmac, key, false);
}

void or_seal_close(struct or_seal *seal)
{
    or_gmac_close(&seal->gmac);
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
    or_gmac_tag(&seal->gmac, nonce, h, SIGNED_HEADER, h + 1, h->length - sizeof *h, out);
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
