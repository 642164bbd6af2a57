#include "gcm.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

enum direction { DECRYPT = 0, ENCRYPT = 1 }; /* as OpenSSL counts */

int or_gcm_open(struct or_gcm *g, const uint8_t key[32])
{
    g->openssl = EVP_CIPHER_CTX_new();
    if (g->openssl && EVP_CipherInit_ex(g->openssl, EVP_aes_256_gcm(), NULL, key, NULL, ENCRYPT))
        return 0;
    or_gcm_close(g);
    return -ENOMEM;
}

void or_gcm_close(struct or_gcm *g)
{
    EVP_CIPHER_CTX_free(g->openssl); /* cleanses the key */
    g->openssl = NULL;
}

/* One direction is the same calls as the other, but for the tag. */
static bool run(struct or_gcm *g, enum direction direction, const uint8_t nonce[12], const void *head,
                size_t head_length, const void *in, size_t length, void *out)
{
    int n;
    return EVP_CipherInit_ex(g->openssl, NULL, NULL, NULL, nonce, direction) &&
           EVP_CipherUpdate(g->openssl, NULL, &n, head, (int)head_length) &&
           EVP_CipherUpdate(g->openssl, out, &n, in, (int)length);
}

void or_gcm_encrypt(struct or_gcm *g, const uint8_t nonce[12], const void *head, size_t head_length, void *body,
                    size_t length, uint8_t tag[OR_GCM_TAG_BYTES])
{
    int n;
    bool ok = run(g, ENCRYPT, nonce, head, head_length, body, length, body) &&
              EVP_CipherFinal_ex(g->openssl, tag, &n) &&
              EVP_CIPHER_CTX_ctrl(g->openssl, EVP_CTRL_AEAD_GET_TAG, OR_GCM_TAG_BYTES, tag);
    assert(ok); /* nothing here can fail once the key is set, and the frame must not go out in the clear */
}

bool or_gcm_decrypt(struct or_gcm *g, const uint8_t nonce[12], const void *head, size_t head_length, const void *body,
                    size_t length, const uint8_t tag[OR_GCM_TAG_BYTES], void *clear)
{
    int n;
    uint8_t nothing[16]; /* GCM has no last block, but OpenSSL wants room for one */
    bool ok = run(g, DECRYPT, nonce, head, head_length, body, length, clear) &&
              EVP_CIPHER_CTX_ctrl(g->openssl, EVP_CTRL_AEAD_SET_TAG, OR_GCM_TAG_BYTES, (void *)(uintptr_t)tag);
    assert(ok);
    ok = EVP_CipherFinal_ex(g->openssl, nothing, &n) > 0;
    if (!ok)
        ERR_clear_error(); /* the queue belongs to the thread, and nobody else would */
    return ok;
}
