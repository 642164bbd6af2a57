/* GMAC = GHASH_H(data, lengths) xor AES_K(nonce, 1), with H = AES_K(0).
 *
 * GHASH is computed as POLYVAL, its little-endian twin (RFC 8452, appendix A): byte-reverse every block,
 * multiply H by x once, and the bits lie as PCLMULQDQ wants them. Eight blocks are multiplied by H^8 .. H^1
 * and summed before one reduction (Gueron and Kounavis). Nothing here depends on data or key in its timing. */
#include "gmac.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>

#define ISA __attribute__((target("aes,pclmul,avx")))

static bool have_instructions(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx");
}

/* --- AES-256, one block at a time (FIPS 197; Intel's white paper on AES-NI for the key schedule) ----- */

ISA static __m128i mix(__m128i key, __m128i assist)
{
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, assist);
}

/* Round keys i and, unless it is the last, i + 1. */
#define EXPAND(i, rcon)                                                                                                \
    do {                                                                                                               \
        a = mix(a, _mm_shuffle_epi32(_mm_aeskeygenassist_si128(b, rcon), 0xff));                                       \
        b = mix(b, _mm_shuffle_epi32(_mm_aeskeygenassist_si128(a, 0), 0xaa));                                          \
        k[i] = a;                                                                                                      \
        k[(i) + 1] = b;                                                                                                \
    } while (0)

ISA static void expand_key(struct or_gmac *g, const uint8_t key[32])
{
    __m128i k[16]; /* the last is one more than there are rounds */
    __m128i a = _mm_loadu_si128((const __m128i *)key), b = _mm_loadu_si128((const __m128i *)(key + 16));
    k[0] = a;
    k[1] = b;
    EXPAND(2, 0x01);
    EXPAND(4, 0x02);
    EXPAND(6, 0x04);
    EXPAND(8, 0x08);
    EXPAND(10, 0x10);
    EXPAND(12, 0x20);
    EXPAND(14, 0x40);
    memcpy(g->round_keys, k, sizeof g->round_keys);
    OPENSSL_cleanse(k, sizeof k);
}

ISA static __m128i encrypt(const struct or_gmac *g, __m128i block)
{
    const __m128i *k = (const __m128i *)g->round_keys;
    block = _mm_xor_si128(block, k[0]);
    for (int i = 1; i < 14; i++)
        block = _mm_aesenc_si128(block, k[i]);
    return _mm_aesenclast_si128(block, k[14]);
}

/* --- POLYVAL ---------------------------------------------------------------------------------------- */

ISA static __m128i reverse(__m128i x)
{
    return _mm_shuffle_epi8(x, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* mulX_POLYVAL of RFC 8452, appendix A. */
ISA static __m128i times_x(__m128i s)
{
    __m128i carry = _mm_srli_epi64(s, 63);
    __m128i top = _mm_shuffle_epi32(carry, 0xaa); /* bit 127 in every word */
    __m128i shifted = _mm_or_si128(_mm_slli_epi64(s, 1), _mm_slli_si128(carry, 8));
    __m128i poly = _mm_set_epi32((int)0xc2000000, 0, 0, 1);
    return _mm_xor_si128(shifted, _mm_and_si128(poly, _mm_sub_epi32(_mm_setzero_si128(), top)));
}

/* The sum of products so far: 256 bits in three parts. */
struct product {
    __m128i low, middle, high;
};

ISA static void add_product(struct product *p, __m128i a, __m128i b)
{
    p->low = _mm_xor_si128(p->low, _mm_clmulepi64_si128(a, b, 0x00));
    p->high = _mm_xor_si128(p->high, _mm_clmulepi64_si128(a, b, 0x11));
    p->middle = _mm_xor_si128(p->middle, _mm_clmulepi64_si128(a, b, 0x01));
    p->middle = _mm_xor_si128(p->middle, _mm_clmulepi64_si128(a, b, 0x10));
}

/* Modulo x^128 + x^127 + x^126 + x^121 + 1, divided by x^128. */
ISA static __m128i reduce(const struct product *p)
{
    const __m128i poly = _mm_set_epi64x((long long)0xc200000000000000ull, 1);
    __m128i low = _mm_xor_si128(p->low, _mm_slli_si128(p->middle, 8));
    __m128i high = _mm_xor_si128(p->high, _mm_srli_si128(p->middle, 8));
    low = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, poly, 0x10));
    low = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, poly, 0x10));
    return _mm_xor_si128(high, low);
}

ISA static __m128i dot(__m128i a, __m128i b)
{
    struct product p = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    add_product(&p, a, b);
    return reduce(&p);
}

ISA static __m128i load(const uint8_t *at)
{
    return reverse(_mm_loadu_si128((const __m128i *)at));
}

ISA static __m128i update(const struct or_gmac *g, __m128i sum, const uint8_t *at, size_t length)
{
    const __m128i *h = (const __m128i *)g->powers;
    for (; length >= 16 * OR_GMAC_POWERS; length -= 16 * OR_GMAC_POWERS, at += 16 * OR_GMAC_POWERS) {
        struct product p = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
        add_product(&p, _mm_xor_si128(sum, load(at)), h[OR_GMAC_POWERS - 1]);
#pragma GCC unroll 8
        for (int i = 1; i < OR_GMAC_POWERS; i++)
            add_product(&p, load(at + 16 * i), h[OR_GMAC_POWERS - 1 - i]);
        sum = reduce(&p);
    }
    for (; length >= 16; length -= 16, at += 16)
        sum = dot(_mm_xor_si128(sum, load(at)), h[0]);
    if (length) {
        uint8_t last[16] = {0};
        memcpy(last, at, length);
        sum = dot(_mm_xor_si128(sum, load(last)), h[0]);
    }
    return sum;
}

ISA static void set_key(struct or_gmac *g, const uint8_t key[32])
{
    __m128i *h = (__m128i *)g->powers;
    expand_key(g, key);
    h[0] = times_x(reverse(encrypt(g, _mm_setzero_si128())));
    for (int i = 1; i < OR_GMAC_POWERS; i++)
        h[i] = dot(h[i - 1], h[0]);
}

ISA static void tag_fast(const struct or_gmac *g, const uint8_t nonce[12], const void *head, size_t head_length,
                         const void *body, size_t body_length, uint8_t tag[16])
{
    /* The blocks do not end where the head ends: what is left of it starts the body's first block. */
    uint8_t joint[16];
    size_t whole = head_length & ~(size_t)15, rest = head_length - whole, fill = 0;
    __m128i sum = update(g, _mm_setzero_si128(), head, whole);
    if (rest) {
        fill = body_length < 16 - rest ? body_length : 16 - rest;
        memcpy(joint, (const uint8_t *)head + whole, rest);
        memcpy(joint + rest, body, fill);
        sum = update(g, sum, joint, rest + fill);
    }
    sum = update(g, sum, (const uint8_t *)body + fill, body_length - fill);
    /* The length block: bits of associated data, bits of ciphertext (none). */
    sum = dot(_mm_xor_si128(sum, _mm_set_epi64x((long long)(8 * (head_length + body_length)), 0)),
              *(const __m128i *)g->powers);
    uint8_t counter[16] = {0};
    memcpy(counter, nonce, 12);
    counter[15] = 1;
    __m128i mask = encrypt(g, _mm_loadu_si128((const __m128i *)counter));
    _mm_storeu_si128((__m128i *)tag, _mm_xor_si128(mask, reverse(sum)));
}

#else

static bool have_instructions(void)
{
    return false;
}

static void set_key(struct or_gmac *g, const uint8_t key[32])
{
    (void)g;
    (void)key;
}

static void tag_fast(const struct or_gmac *g, const uint8_t nonce[12], const void *head, size_t head_length,
                     const void *body, size_t body_length, uint8_t tag[16])
{
    (void)g, (void)nonce, (void)head, (void)head_length, (void)body, (void)body_length, (void)tag;
}

#endif

static void tag_openssl(struct or_gmac *g, const uint8_t nonce[12], const void *head, size_t head_length,
                        const void *body, size_t body_length, uint8_t tag[16])
{
    int n;
    int ok = EVP_EncryptInit_ex(g->openssl, NULL, NULL, NULL, nonce) &&
             EVP_EncryptUpdate(g->openssl, NULL, &n, head, (int)head_length) &&
             EVP_EncryptUpdate(g->openssl, NULL, &n, body, (int)body_length) &&
             EVP_EncryptFinal_ex(g->openssl, tag, &n) &&
             EVP_CIPHER_CTX_ctrl(g->openssl, EVP_CTRL_AEAD_GET_TAG, OR_GMAC_TAG_BYTES, tag);
    assert(ok); /* nothing here can fail once the key is set */
}

int or_gmac_open(struct or_gmac *g, const uint8_t key[32], bool portable)
{
    memset(g, 0, sizeof *g);
    if (!portable && have_instructions()) {
        set_key(g, key);
        return 0;
    }
    g->openssl = EVP_CIPHER_CTX_new();
    if (!g->openssl || !EVP_EncryptInit_ex(g->openssl, EVP_aes_256_gcm(), NULL, key, NULL)) {
        or_gmac_close(g);
        return -ENOMEM;
    }
    return 0;
}

void or_gmac_close(struct or_gmac *g)
{
    EVP_CIPHER_CTX_free(g->openssl);
    OPENSSL_cleanse(g, sizeof *g);
}

void or_gmac_tag(struct or_gmac *g, const uint8_t nonce[12], const void *head, size_t head_length, const void *body,
                 size_t body_length, uint8_t tag[16])
{
    if (g->openssl)
        tag_openssl(g, nonce, head, head_length, body, body_length, tag);
    else
        tag_fast(g, nonce, head, head_length, body, body_length, tag);
}
