/* A path: one (session, channel, link) seen from one end. It packs messages into frames, numbers,
 * seals and sends them, remembers what each frame carried until it is acknowledged, and says which
 * frames were lost. It knows nothing of requests: what a frame carried is a list of items that the
 * owner gave, and the owner is told `acked` or `lost` for each.
 *
 * The mechanism is QUIC's (RFC 9002): a frame is never sent again, its items are, in a new frame with
 * a new number; so acknowledgements are unambiguous and the frame number doubles as the nonce and as
 * the replay guard. Loss is seen by gaps, then by time, last by a probe time-out. The congestion
 * window counts frames, because the scarce thing is a slot in the peer's receive ring. */
#ifndef OR_PATH_H
#define OR_PATH_H

#include "keys.h"
#include "port.h"
#include "super_frames.h"
#include "wire/wire.h"

#define OR_TURN_BYTES (64u << 10) /* of one slot, before it is another one's turn */
#define OR_PATH_RECORDS 1024u     /* frames sent and not yet forgotten */
#define OR_PATH_ITEMS 16384u      /* items in those frames */
#define OR_PATH_WINDOW 1024u      /* bits of the replay window: frames that may arrive this late */

/* What part of the owner's state a message carried. */
struct or_item {
    uint16_t slot; /* or OR_ITEM_PING, OR_ITEM_CREDIT, OR_ITEM_PACKET */
    uint16_t fragment;
    uint32_t sequence;
};
#define OR_ITEM_PING 0xffffu
#define OR_ITEM_CREDIT 0xfffeu
#define OR_ITEM_PACKET 0xfffdu

enum or_record_state { OR_RECORD_IN_FLIGHT, OR_RECORD_LOST, OR_RECORD_ACKED };

struct or_record {
    uint64_t counter, sent_ns;
    uint32_t item_first; /* index into the ring of items */
    uint16_t item_count;
    uint8_t state;
};

struct or_path_owner {
    /* Called from or_path_on_ack and or_path_tick. `lost` items are to be sent again; an item may be
     * reported lost and later acked, when its frame was only late. */
    void (*acked)(void *arg, struct or_item item);
    void (*lost)(void *arg, struct or_item item);
    void *arg;
};

struct or_path {
    struct or_path_owner owner;
    struct or_port *port;
    uint8_t peer_mac[6];
    uint8_t channel, link;
    uint32_t peer_session;
    uint32_t mtu;
    struct or_tx_keys tx_keys;
    struct or_rx_keys rx_keys;

    /* The frame under construction; NULL: none. */
    uint8_t *frame;
    uint64_t frame_ns; /* of its latest message */
    uint32_t used;     /* bytes from the frame header on */
    uint32_t frame_items;
    bool probe; /* the next frame may exceed the window */
    bool want_ping;

    /* Sent frames, oldest first: records[head .. tail), free-running indices. */
    uint64_t next_counter;
    uint32_t head, tail, item_head, item_tail;
    struct or_record *records;
    struct or_item *items;

    /* Loss, congestion, time. */
    uint64_t largest_acked;
    uint64_t recovery_until; /* losses up to this frame belong to the reduction made already */
    uint64_t round_end, round_min_ns;
    uint64_t srtt_ns, rttvar_ns, latest_ns, base_rtt_ns, base_since_ns;
    uint64_t last_sent_ns, loss_deadline;
    uint32_t in_flight, peer_frames, ssthresh, reorder;
    uint32_t cwnd_x16; /* sixteenths of a frame */
    uint32_t pto_count;
    bool limited; /* the window held something back since the last acknowledgement */
    uint32_t jitter;

    struct or_super super;

    /* Received frames. */
    uint64_t rx_largest, rx_largest_ns, rx_last_ns, ack_deadline, acked_to_peer;
    uint64_t waiting_since; /* something was sent and since then nothing was heard; 0: not so */
    uint64_t rx_window[OR_PATH_WINDOW / 64];
    uint32_t ack_pending;
    bool ack_now;

    uint64_t progress_ns; /* when the latest frame that was acknowledged had been sent; 0: none yet */
    uint64_t frames_lost, spurious;
};

struct or_path_config {
    struct or_path_owner owner;
    struct or_port *port;
    const uint8_t *peer_mac;
    uint8_t channel, link, integrity;
    uint32_t peer_session;
    uint32_t mtu;
    uint32_t peer_frames;           /* frames that the peer can take in at once */
    const uint8_t *tx_key, *rx_key; /* 32 bytes each */
    uint32_t phase_frames;          /* frames until the keys change; 0: OR_PHASE_FRAMES */
    uint32_t jitter_seed;
};

/* 0 or -ENOMEM (then closed already). */
int or_path_open(struct or_path *path, const struct or_path_config *config, uint64_t now);
void or_path_close(struct or_path *path);

/* Room for a message of `bytes` in the current frame, or in a new one when it is full; the caller
 * fills it at once. NULL when the window, the port or the rings do not allow more now. */
void *or_path_message(struct or_path *path, uint32_t bytes, struct or_item item, uint64_t now);
/* Ends the frame under construction, if there is one. Another path of the same port that begins one does so too. */
void or_path_end(struct or_path *path);
/* Ends the frame under construction, and sends an acknowledgement alone when one is due. */
void or_path_flush(struct or_path *path, uint64_t now);

/* Frames that may be sent now. */
uint32_t or_path_room(const struct or_path *path);
/* Room for a message of `bytes` in the frame under construction. */
bool or_path_fits(const struct or_path *path, uint32_t bytes);
/* Whether a datagram of `bytes` may go now: it leaves an eighth of the window to requests, so that they need not
 * wait behind datagrams. */
bool or_path_takes_datagram(struct or_path *path, uint32_t bytes);
/* Gives up whatever is in flight: reported lost, now. The path starts again like a new one, but for its
 * numbers. */
void or_path_forfeit(struct or_path *path);
/* The next or_path_flush sends a ping, even beyond the window. */
void or_path_probe(struct or_path *path);

/* The frames travel in envelopes where several wait. */
bool or_path_uses_envelopes(const struct or_path *path);
/* The peer is at this address from now on, behind this port. */
void or_path_move(struct or_path *path, struct or_port *port, const uint8_t mac[6]);

/* A data frame that passed or_wire_check_frame: NONE, REPLAY or DIGEST. After NONE, *header is the frame to
 * read, decrypted if need be, until the next call. It does not count as received yet. */
enum or_refuse or_path_verify(struct or_path *path, const struct or_frame_header **header, uint64_t now);
/* The frame's messages were processed: from now on it counts as received. eliciting: it carried more
 * than acknowledgements. A frame that is verified but not accepted will be sent again by the peer. */
void or_path_accept(struct or_path *path, const struct or_frame_header *header, bool eliciting, uint64_t now);
/* The frame was verified but cannot be taken now: it counts as lost, but as a sign of life, and is answered. */
void or_path_defer(struct or_path *path, uint64_t now);
void or_path_on_ack(struct or_path *path, const struct or_message_ack *ack, uint64_t now);

void or_path_tick(struct or_path *path, uint64_t now);
uint64_t or_path_deadline(const struct or_path *path);
/* How long the peer may take to acknowledge a frame before that is strange, ns. */
uint64_t or_path_patience(const struct or_path *path);
/* When an acknowledgement is due that waits for a frame to ride on; UINT64_MAX: none waits. */
uint64_t or_path_ack_deadline(const struct or_path *path);

#endif
