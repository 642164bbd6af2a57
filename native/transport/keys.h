/* The keys of one direction of a path over time. A key is used for a bounded number of frames and a bounded
 * time: then comes the next phase, with the next key. What QUIC does (RFC 9001, section 6), with each
 * direction on its own:
 *
 * - A bit in the frame header, the phase, tells the receiver which key to take. Nothing is negotiated.
 * - secret 0 comes from the handshake; key n || secret n+1 = HKDF-SHA-256(secret n) (RFC 5869). So a key that
 *   becomes known tells nothing of the others.
 * - The sender moves on when its phase is used up, but not before the peer has acknowledged a frame of it: so
 *   the receiver is never more than one phase behind, and one bit is enough.
 * - The receiver has the next key ready before it is needed. A frame with the other bit is of the next phase
 *   when its number is above the lowest of the present phase, else a late one of the phase before. So every
 *   frame costs one verification, whatever bit an attacker sets, and only a frame that verifies under the
 *   next key moves the receiver on. The key before is kept for a second, for late frames. */
#ifndef OR_KEYS_H
#define OR_KEYS_H

#include "wire/seal.h"

#define OR_SECRET_BYTES 32u
/* AES-GCM is good for more: RFC 9001 (6.6) allows 2^23 frames of up to 16 KiB. */
#define OR_PHASE_FRAMES (1u << 22)
#define OR_PHASE_NS (600 * 1000000000ull)
#define OR_OLD_PHASE_NS (1000 * 1000000ull) /* how long late frames of the phase before still count */

struct or_tx_keys {
    struct or_seal seals[2];         /* by phase modulo 2: the present one is open */
    uint8_t secret[OR_SECRET_BYTES]; /* of the next phase */
    uint64_t phase;
    uint64_t first;    /* number of the phase's first frame */
    uint64_t since_ns; /* when the phase began */
    uint32_t frames_max;
    uint8_t integrity;
};

struct or_rx_keys {
    struct or_seal seals[3];         /* by phase modulo 3: the one before (while it is kept), the present, the next */
    uint8_t secret[OR_SECRET_BYTES]; /* of the phase after the next */
    uint64_t phase;
    uint64_t first;                /* lowest number of the frames verified in this phase; UINT64_MAX: none yet */
    uint64_t drop_at;              /* when the key of the phase before goes; UINT64_MAX: it is gone */
    struct or_frame_header *clear; /* encrypt: room for a decrypted frame */
    uint8_t integrity;
};

/* `secret` is one direction's key from the handshake. frames_max: frames of a phase, 0 for OR_PHASE_FRAMES.
 * 0 or -ENOMEM (then closed already). Closing wipes; it may be done to a zeroed structure. */
int or_tx_keys_open(struct or_tx_keys *keys, uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES],
                    uint32_t frames_max, uint64_t now);
void or_tx_keys_close(struct or_tx_keys *keys);
int or_rx_keys_open(struct or_rx_keys *keys, uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES]);
void or_rx_keys_close(struct or_rx_keys *keys);

/* Sets the header's phase and protects the frame. largest_acked: of this path's frames, 0 for none. */
void or_tx_keys_protect(struct or_tx_keys *keys, struct or_frame_header *header, uint64_t largest_acked, uint64_t now);
/* The frame as its sender wrote it, valid until the next call, or NULL when it does not verify. Frames whose
 * counter was accepted before must have been refused already. */
const struct or_frame_header *or_rx_keys_unprotect(struct or_rx_keys *keys, const struct or_frame_header *header,
                                                   uint64_t now);

/* Whether a session's first frame verifies under this secret: for a receiver that keeps no more than the secret
 * until then. */
bool or_keys_prove(uint8_t integrity, const uint8_t secret[OR_SECRET_BYTES], const struct or_frame_header *header);

#endif
