/* `mac` is AES-256-GMAC (gmac.h), `encrypt` AES-256-GCM (gcm.h) with the header as associated data. Their
 * nonce is the frame's (channel, link, counter); counters are never reused under a key, which GCM demands.
 * `crc` is XXH3-64 seeded from the session key: it finds damage and strays, it stops nobody who wants to
 * forge.
 *
 * An encrypted frame is decrypted into other memory, not in place: it costs the same, for what is written
 * stays in the cache, and a frame that does not verify is still what arrived. */
#include "seal.h"

#include <errno.h>
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
    int err = 0;
    *seal = (struct or_seal){.integrity = integrity};
    if (integrity == OR_INTEGRITY_CRC)
        memcpy(&seal->seed, key, sizeof seal->seed);
    else if (integrity == OR_INTEGRITY_MAC)
        err = or_gmac_open(&seal->gmac, key, false);
    else
        err = or_gcm_open(&seal->gcm, key);
    if (err)
        or_seal_close(seal);
    return err;
}

void or_seal_close(struct or_seal *seal)
{
    or_gmac_close(&seal->gmac);
    or_gcm_close(&seal->gcm);
    OPENSSL_cleanse(seal, sizeof *seal);
}

static uint32_t body_bytes(const struct or_frame_header *h)
{
    return h->length - (uint32_t)sizeof *h;
}

static void make_nonce(const struct or_frame_header *h, uint8_t nonce[12])
{
    memset(nonce, 0, 12);
    nonce[0] = h->channel;
    nonce[1] = h->link;
    memcpy(nonce + 4, &h->counter, 8);
}

static void crc(const struct or_seal *seal, const struct or_frame_header *h, uint8_t out[OR_DIGEST_BYTES])
{
    uint64_t body = XXH3_64bits_withSeed(h + 1, body_bytes(h), seal->seed);
    uint64_t sum = XXH3_64bits_withSeed(h, SIGNED_HEADER, body);
    memset(out, 0, OR_DIGEST_BYTES);
    memcpy(out, &sum, sizeof sum);
}

static void mac(struct or_seal *seal, const struct or_frame_header *h, uint8_t out[OR_DIGEST_BYTES])
{
    uint8_t nonce[12];
    make_nonce(h, nonce);
    or_gmac_tag(&seal->gmac, nonce, h, SIGNED_HEADER, h + 1, body_bytes(h), out);
}

static void digest(struct or_seal *seal, const struct or_frame_header *h, uint8_t out[OR_DIGEST_BYTES])
{
    if (seal->integrity == OR_INTEGRITY_CRC)
        crc(seal, h, out);
    else
        mac(seal, h, out);
}

void or_seal_protect(struct or_seal *seal, struct or_frame_header *h)
{
    if (seal->integrity == OR_INTEGRITY_ENCRYPT) {
        uint8_t nonce[12];
        make_nonce(h, nonce);
        or_gcm_encrypt(&seal->gcm, nonce, h, SIGNED_HEADER, h + 1, body_bytes(h), h->digest);
    } else {
        digest(seal, h, h->digest);
    }
}

const struct or_frame_header *or_seal_unprotect(struct or_seal *seal, const struct or_frame_header *h,
                                                struct or_frame_header *clear)
{
    if (seal->integrity == OR_INTEGRITY_ENCRYPT) {
        uint8_t nonce[12];
        make_nonce(h, nonce);
        if (!or_gcm_decrypt(&seal->gcm, nonce, h, SIGNED_HEADER, h + 1, body_bytes(h), h->digest, clear + 1))
            return NULL;
        *clear = *h;
        return clear;
    }
    uint8_t want[OR_DIGEST_BYTES];
    digest(seal, h, want);
    return CRYPTO_memcmp(want, h->digest, sizeof want) == 0 ? h : NULL;
}
