/* What makes a corrupt, forged or foreign frame visible, and keeps an encrypted one from being read: the
 * protection of frames under one key. It always works on the bytes as they lie in the frame, after they
 * were copied there. Which key when: transport/keys.h. */
#ifndef OR_SEAL_H
#define OR_SEAL_H

#include "gcm.h"
#include "gmac.h"
#include "wire.h"

struct or_seal {
    uint8_t integrity;   /* enum or_integrity; 0: not open */
    uint64_t seed;       /* crc: mixes the key in, so that frames of another session do not pass */
    struct or_gmac gmac; /* mac */
    struct or_gcm gcm;   /* encrypt */
};

/* 0 or -ENOMEM (then closed already). or_seal_close wipes; it may be called on a zeroed seal. */
int or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32]);
void or_seal_close(struct or_seal *seal);

/* Fills header->digest from the header and the header->length - 40 bytes behind it; encrypt: and encrypts
 * those bytes where they are. A counter must never be used twice under one key. */
void or_seal_protect(struct or_seal *seal, struct or_frame_header *header);

/* The frame as its sender wrote it, or NULL when it does not verify. mac, crc: the frame itself. encrypt: a
 * copy in `clear`, which has room for header->length bytes; what it holds after NULL must not be looked at.
 * The frame itself is never changed. */
const struct or_frame_header *or_seal_unprotect(struct or_seal *seal, const struct or_frame_header *header,
                                                struct or_frame_header *clear);

#endif
