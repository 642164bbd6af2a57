/* AES-256-GCM (NIST SP 800-38D) by OpenSSL: encryption and authentication of a frame under one key. The
 * key is set once; a frame costs some 350 ns and 0.3 ns per byte. */
#ifndef OR_GCM_H
#define OR_GCM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OR_GCM_TAG_BYTES 16

struct evp_cipher_ctx_st;

struct or_gcm {
    struct evp_cipher_ctx_st *openssl;
};

/* 0 or -ENOMEM. */
int or_gcm_open(struct or_gcm *gcm, const uint8_t key[32]);
/* Wipes; may be called on a zeroed structure. */
void or_gcm_close(struct or_gcm *gcm);

/* Encrypts the body where it is; the tag covers head and body. A nonce must never be used twice under one
 * key, not even for the same data. */
void or_gcm_encrypt(struct or_gcm *gcm, const uint8_t nonce[12], const void *head, size_t head_length, void *body,
                    size_t body_length, uint8_t tag[OR_GCM_TAG_BYTES]);
/* Decrypts into `clear`, which has room for body_length bytes. False: forged or damaged; then `clear` holds
 * bytes that mean nothing and must not be looked at. */
bool or_gcm_decrypt(struct or_gcm *gcm, const uint8_t nonce[12], const void *head, size_t head_length, const void *body,
                    size_t body_length, const uint8_t tag[OR_GCM_TAG_BYTES], void *clear);

#endif
