/* The digest of a frame: what makes a corrupt, forged or foreign frame visible. One or_seal per key,
 * that is per session and direction. It always covers the bytes as they lie in the frame, after they
 * were copied there. */
#ifndef OR_SEAL_H
#define OR_SEAL_H

#include "gmac.h"
#include "wire.h"

struct or_seal {
    uint8_t integrity;   /* enum or_integrity */
    uint64_t seed;       /* crc: mixes the key in, so that frames of another session do not pass */
    struct or_gmac gmac; /* mac */
};

/* key: 32 bytes from the handshake. 0 or -ENOMEM. or_seal_close wipes; it may be called on a zeroed seal. */
int or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32]);
void or_seal_close(struct or_seal *seal);

/* Fills header->digest from the header and the header->length - 40 bytes behind it. */
void or_seal_sign(struct or_seal *seal, struct or_frame_header *header);
bool or_seal_verify(struct or_seal *seal, const struct or_frame_header *header);

#endif
