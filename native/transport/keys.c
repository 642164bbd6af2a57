#include "keys.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"

#define KEY_BYTES 32u
#define CLEAR_BYTES ((OR_MTU_MAX + 63u) & ~63u) /* any frame that a port can take in */

static EVP_KDF *hkdf; /* fetched once: looking it up takes longer than using it */

static void fetch_hkdf(void)
{
    hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    if (!hkdf)
        abort(); /* an OpenSSL without it cannot serve at all */
}

/* key || next secret = HKDF-SHA-256 of the secret: RFC 5869 with empty salt. 0 or -ENOMEM. */
static int expand(const uint8_t secret[OR_SECRET_BYTES], uint8_t out[KEY_BYTES + OR_SECRET_BYTES])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static char digest[] = "SHA256", info[] = "outrigger phase";
    uint8_t input[OR_SECRET_BYTES];
    pthread_once(&once, fetch_hkdf);
    memcpy(input, secret, sizeof input);
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, input, sizeof input),
                           OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info - 1),
                           OSSL_PARAM_END};
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(hkdf);
    bool ok = ctx && EVP_KDF_derive(ctx, out, KEY_BYTES + OR_SECRET_BYTES, params) == 1;
    EVP_KDF_CTX_free(ctx);
    OPENSSL_cleanse(input, sizeof input);
    if (!ok)
        ERR_clear_error();
    return ok ? 0 : -ENOMEM;
}

/* Opens the seal of the phase whose secret this is; the secret becomes the next phase's. On failure both are
 * as before. */
static int derive(struct or_seal *seal, uint8_t integrity, uint8_t secret[OR_SECRET_BYTES])
{
    uint8_t out[KEY_BYTES + OR_SECRET_BYTES];
    int err = expand(secret, out);
    if (!err)
        err = or_seal_open(seal, integrity, out);
    if (!err)
        memcpy(secret, out + KEY_BYTES, OR_SECRET_BYTES);
    OPENSSL_cleanse(out, sizeof out);
    return err;
}

static uint8_t phase_bit(uint64_t phase)
{
    return phase % 2 ? OR_FRAME_PHASE : 0;
}

/* --- sending ------------------------------------------------------------------------------------ */

int or_tx_keys_open(struct or_tx_keys *k, uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES], uint32_t frames_max,
                    uint64_t now)
{
    *k = (struct or_tx_keys){
        .first = 1,
        .since_ns = now,
        .frames_max = frames_max ? frames_max : OR_PHASE_FRAMES,
        .integrity = integrity,
    };
    memcpy(k->secret, secret, sizeof k->secret);
    int err = derive(&k->seals[0], integrity, k->secret);
    if (err)
        or_tx_keys_close(k);
    return err;
}

void or_tx_keys_close(struct or_tx_keys *k)
{
    for (uint32_t i = 0; i < 2; i++)
        or_seal_close(&k->seals[i]);
    OPENSSL_cleanse(k, sizeof *k);
}

static bool used_up(const struct or_tx_keys *k, uint64_t counter, uint64_t largest_acked, uint64_t now)
{
    bool old = counter - k->first >= k->frames_max || now - k->since_ns >= OR_PHASE_NS;
    return old && (largest_acked >= k->first || OR_PLANTED(OR_PLANT_HASTY_PHASE));
}

void or_tx_keys_protect(struct or_tx_keys *k, struct or_frame_header *h, uint64_t largest_acked, uint64_t now)
{
    /* Without memory for it, the next phase begins with a later frame. */
    if (used_up(k, h->counter, largest_acked, now) &&
        derive(&k->seals[(k->phase + 1) % 2], k->integrity, k->secret) == 0) {
        or_seal_close(&k->seals[k->phase % 2]);
        k->phase++;
        k->first = h->counter;
        k->since_ns = now;
    }
    h->flags = phase_bit(k->phase);
    or_seal_protect(&k->seals[k->phase % 2], h);
}

/* --- receiving ---------------------------------------------------------------------------------- */

int or_rx_keys_open(struct or_rx_keys *k, uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES])
{
    *k = (struct or_rx_keys){.first = UINT64_MAX, .drop_at = UINT64_MAX, .integrity = integrity};
    memcpy(k->secret, secret, sizeof k->secret);
    int err = 0;
    if (integrity == OR_INTEGRITY_ENCRYPT && !(k->clear = aligned_alloc(64, CLEAR_BYTES)))
        err = -ENOMEM;
    for (uint32_t phase = 0; phase < 2 && !err; phase++)
        err = derive(&k->seals[phase], integrity, k->secret);
    if (err)
        or_rx_keys_close(k);
    return err;
}

void or_rx_keys_close(struct or_rx_keys *k)
{
    for (uint32_t i = 0; i < 3; i++)
        or_seal_close(&k->seals[i]);
    free(k->clear);
    OPENSSL_cleanse(k, sizeof *k);
}

/* ahead: -1 for the phase before, 0 for the present one, 1 for the next. */
static struct or_seal *seal_of(struct or_rx_keys *k, int ahead)
{
    return &k->seals[(k->phase + 3 + (uint64_t)ahead) % 3];
}

/* Which phase the frame claims to be of, counted as in seal_of. */
static int claimed_phase(const struct or_rx_keys *k, const struct or_frame_header *h)
{
    if ((h->flags & OR_FRAME_PHASE) == phase_bit(k->phase))
        return 0;
    return h->counter > k->first ? 1 : -1;
}

/* A frame of the next phase has verified. */
static void move_on(struct or_rx_keys *k, uint64_t counter, uint64_t now)
{
    k->phase++;
    k->first = counter;
    k->drop_at = now + OR_OLD_PHASE_NS;
    or_seal_close(seal_of(k, 1));
    (void)derive(seal_of(k, 1), k->integrity, k->secret); /* without memory: when it is needed */
}

const struct or_frame_header *or_rx_keys_unprotect(struct or_rx_keys *k, const struct or_frame_header *h, uint64_t now)
{
    if (now >= k->drop_at) {
        or_seal_close(seal_of(k, -1));
        k->drop_at = UINT64_MAX;
    }
    int ahead = claimed_phase(k, h);
    struct or_seal *seal = seal_of(k, ahead);
    if (!seal->integrity && (ahead < 1 || derive(seal, k->integrity, k->secret)))
        return NULL; /* a phase that is gone */
    if (ahead == 1 && OR_PLANTED(OR_PLANT_UNVERIFIED_PHASE)) {
        move_on(k, h->counter, now);
        ahead = 0;
    }
    const struct or_frame_header *clear = or_seal_unprotect(seal, h, k->clear);
    if (clear && ahead == 1)
        move_on(k, h->counter, now);
    else if (clear && ahead == 0 && h->counter < k->first)
        k->first = h->counter;
    return clear;
}

bool or_keys_prove(uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES], const struct or_frame_header *h)
{
    struct or_seal seal;
    uint8_t next[OR_SECRET_BYTES];
    struct or_frame_header *clear = malloc(h->length);
    memcpy(next, secret, sizeof next);
    bool proved = false;
    if (clear && derive(&seal, integrity, next) == 0) {
        proved = or_seal_unprotect(&seal, h, clear) != NULL;
        or_seal_close(&seal);
    }
    OPENSSL_cleanse(next, sizeof next);
    free(clear);
    return proved;
}
