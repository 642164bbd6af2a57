/* The handshake: Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise Protocol Framework, revision 34).
 *
 * Both sides hold a 32-byte pre-shared key. One message goes each way, each with a payload that only
 * the holder of the key can write and read; then both derive the same two session keys, which a later
 * theft of the pre-shared key does not reveal (the ephemeral keys are gone).
 *
 *     initiator                          responder
 *     or_noise_init                      or_noise_init
 *     or_noise_write  ── message 1 ──>   or_noise_read
 *     or_noise_read   <── message 2 ──   or_noise_write
 *     or_noise_split                     or_noise_split
 *
 * Sans-I/O, and the state holds no memory: it may be copied and abandoned (after or_noise_wipe).
 * Functions may run on any threads, one at a time for one state. Calling them in another order than
 * the picture's is a fault of the caller and asserted.
 *
 * Message 1 alone can be replayed by who overheard it: only what arrives under the session keys
 * proves that the initiator is alive. */
#ifndef OR_NOISE_H
#define OR_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OR_NOISE_KEY_BYTES 32u
#define OR_NOISE_OVERHEAD_BYTES 48u /* of a message over its payload: ephemeral public key and tag */
#define OR_NOISE_MESSAGE_BYTES_MAX 65535u

struct or_noise {
    uint8_t chaining_key[OR_NOISE_KEY_BYTES];
    uint8_t hash[OR_NOISE_KEY_BYTES];       /* of everything both sides have seen so far */
    uint8_t cipher_key[OR_NOISE_KEY_BYTES]; /* encrypts one payload, always with nonce 0 */
    uint8_t ephemeral_private[OR_NOISE_KEY_BYTES];
    uint8_t remote_public[OR_NOISE_KEY_BYTES];
    bool initiator;
    uint8_t messages; /* written or read so far: 2 is the end */
};

/* Starts a handshake. Both sides must give the same prologue (what was agreed in the clear before)
 * and psk. `ephemeral_private` is 32 fresh random bytes for this handshake alone. 0 or -ENOMEM. */
int or_noise_init(struct or_noise *noise, bool initiator, const void *prologue, size_t prologue_length,
                  const uint8_t psk[OR_NOISE_KEY_BYTES], const uint8_t ephemeral_private[OR_NOISE_KEY_BYTES]);

/* Writes the next message with this payload to `out`. Returns its length (length +
 * OR_NOISE_OVERHEAD_BYTES), -EMSGSIZE when out_size or OR_NOISE_MESSAGE_BYTES_MAX is less than that,
 * -EBADMSG when the peer's public key is of no use, -ENOMEM. */
int or_noise_write(struct or_noise *noise, const void *payload, size_t length, uint8_t *out, size_t out_size);

/* Reads the peer's next message and writes its payload. Returns the payload's length, -EBADMSG for a
 * message that does not verify, -EMSGSIZE when payload_size is too small, -ENOMEM. A message that is
 * refused changes nothing: the true one may still come. */
int or_noise_read(struct or_noise *noise, const uint8_t *message, size_t length, uint8_t *payload, size_t payload_size);

/* After both messages: the session keys of the two directions. 0 or -ENOMEM. */
int or_noise_split(const struct or_noise *noise, uint8_t initiator_to_responder[OR_NOISE_KEY_BYTES],
                   uint8_t responder_to_initiator[OR_NOISE_KEY_BYTES]);

/* The key of one link out of the session key of a direction; the links of a session share no key, so a
 * frame of one says nothing about another. 0 or -ENOMEM. */
int or_noise_link_key(const uint8_t session_key[OR_NOISE_KEY_BYTES], uint8_t link, uint8_t out[OR_NOISE_KEY_BYTES]);

/* Overwrites the secrets. */
void or_noise_wipe(struct or_noise *noise);

#endif
