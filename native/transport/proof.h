/* The digest of handshake frames, under a key that comes from the pre-shared one: what lets either side
 * refuse a stranger's handshake frame for the price of a short hash. Noise alone would refuse it too, but
 * only after deriving keys (HELLO) or even a Diffie-Hellman (WELCOME).
 *
 * A WELCOME and a RETRY answer one HELLO: its digest goes into theirs, so they are of use for nobody
 * else and at no other time. A HELLO says nothing about time; that is the cookie's task
 * (server_handshake.c). */
#ifndef OR_PROOF_H
#define OR_PROOF_H

#include "wire/wire.h"

struct or_proof {
    uint8_t key[16];
};

/* 0 or -ENOMEM. Overwrite it in the end, as it is a secret. */
int or_proof_open(struct or_proof *proof, const uint8_t psk[32]);

/* Of a HELLO, WELCOME or RETRY that or_wire_check_frame would let through; the frame header's link and what
 * may follow the fixed body are not covered. hello_digest: of the HELLO that is answered; NULL for a HELLO. */
void or_proof_sign(const struct or_proof *proof, struct or_frame_header *header, const uint8_t *hello_digest);
bool or_proof_verify(const struct or_proof *proof, const struct or_frame_header *header, const uint8_t *hello_digest);

#endif
