/* AES-256-GMAC (NIST SP 800-38D, GCM with associated data only) of a frame: about 60 ns and 0.1 ns per
 * byte, where OpenSSL's general interface takes some 300 ns before it begins. Needs AES-NI and PCLMULQDQ;
 * without them OpenSSL computes the same value (test/unit/native/wire/gmac_test.c compares the two). */
#ifndef OR_GMAC_H
#define OR_GMAC_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OR_GMAC_POWERS 8
#define OR_GMAC_TAG_BYTES 16

struct evp_cipher_ctx_st;

struct or_gmac {
    alignas(16) uint8_t round_keys[15][16];
    alignas(16) uint8_t powers[OR_GMAC_POWERS][16]; /* H^1 .. H^8 */
    struct evp_cipher_ctx_st *openssl;              /* instead of the above; NULL: not needed */
};

/* portable: use OpenSSL even where the instructions are there. 0 or -ENOMEM. */
int or_gmac_open(struct or_gmac *gmac, const uint8_t key[32], bool portable);
/* Wipes; may be called on a zeroed structure. */
void or_gmac_close(struct or_gmac *gmac);

/* The tag of head followed by body. head_length is at most 64. A nonce must never be used twice for
 * different data under one key. */
void or_gmac_tag(struct or_gmac *gmac, const uint8_t nonce[12], const void *head, size_t head_length, const void *body,
                 size_t body_length, uint8_t tag[OR_GMAC_TAG_BYTES]);

#endif
