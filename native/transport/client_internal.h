/* What client.c (requests, slots, replies) and client_session.c (handshake, frames, time) share. */
#ifndef OR_CLIENT_INTERNAL_H
#define OR_CLIENT_INTERNAL_H

#include "client.h"
#include "links.h"
#include "mem/bitmap.h"
#include "mem/fair.h"
#include "noise.h"
#include "overlap.h"
#include "proof.h"

struct or_client_slot {
    struct or_req *req; /* NULL: free */
    uint32_t sequence;
    uint32_t fragments;     /* of the request */
    struct or_bitmap todo;  /* fragments to be sent */
    uint32_t unsent;        /* bytes of their messages */
    struct or_bitmap acked; /* fragments that the server has */
    uint32_t reply_total;   /* bytes; valid when received.count > 0 */
    struct or_bitmap received;
    struct or_list sending; /* in client.sending while todo.count > 0 */
};

/* What the requests of a device occupy, so that one whose volume hangs leaves something to the others; and what they
 * got of the session, so that it is shared evenly. Devices whose ids are equal modulo OR_CLIENT_TURNS count as one. */
#define OR_CLIENT_TURNS 64u
struct or_client_share {
    uint32_t slots;
    uint64_t bytes;
    struct or_list pending;   /* requests that wait for a slot */
    struct or_fair_flow flow; /* waits while any do */
};

/* A control request and its memory: the long poll for the document, the report. */
struct or_client_control {
    struct or_req req;
    uint8_t *data;
    uint32_t length; /* bytes in data */
};

enum or_client_state { OR_CLIENT_DOWN, OR_CLIENT_UP };

struct or_client {
    struct or_client_config config;
    uint32_t link_count;
    enum or_client_state state;

    /* Handshake; hello.session is 0 when none is under way. It may run beside a living session. */
    struct or_noise noise;
    struct or_hello hello;
    uint32_t hello_mtu, hello_link; /* offered; to be tried next */
    uint8_t hello_digest[OR_DIGEST_BYTES];
    struct or_proof proof;
    uint8_t cookie[OR_COOKIE_BYTES]; /* for the next HELLO */
    uint64_t instance, hello_since, hello_at, hello_interval;
    uint64_t doubt_rest_until;

    /* Session. */
    uint32_t session;              /* our index */
    uint32_t session_mtu, own_mtu; /* own: what the ports had when it began */
    struct or_links links;
    struct or_packets packets;
    uint32_t fragment_bytes;
    uint32_t slots_granted, credit_epoch;
    uint64_t bytes_granted, bytes_out;
    struct or_client_slot slots[OR_SLOTS_MAX];
    uint64_t free_slots[OR_SLOTS_MAX / 64];
    struct or_list sending;

    /* Requests. */
    struct or_overlap overlap;
    struct or_client_share shares[OR_CLIENT_TURNS];
    struct or_fair fair;  /* whose request gets the next slot */
    uint64_t unsent;      /* bytes of messages in the slots' `todo` */
    struct or_list timed; /* requests with a timeout, those that end first first */
    uint32_t count;
    uint64_t next_order;

    struct or_client_control get, put;
    uint64_t document_version;
    uint8_t *report; /* the latest; NULL: none */
    uint32_t report_length;
    bool report_unsent;

    struct or_client_stats stats;
    uint8_t refused_source[6]; /* of the last frame that was refused */
};

/* client.c */
void or_client_acked(void *client, struct or_item item);
void or_client_lost(void *client, struct or_item item);
enum or_refuse or_client_on_reply(struct or_client *client, const struct or_message_reply *message);
/* The session is up: asks for the document, sends the report that waits. */
void or_client_begin(struct or_client *client);
/* The session is over: takes all requests out of the slots, data requests back to pending, ahead of those
 * that wait. */
void or_client_take_back(struct or_client *client);

/* or_packets.requests */
bool or_client_send_requests(void *client, uint64_t now);

/* A request of this client ended, or will not be sent: gives what waits for it free. */
void or_client_release(struct or_client *client, struct or_req *req);
void or_client_vacate(struct or_client *client, struct or_client_slot *slot);

/* client_timeout.c */
void or_client_timed(struct or_client *client, struct or_req *req, uint64_t now);
/* Ends what is older than its timeout; when that is next due. */
void or_client_expire(struct or_client *client, uint64_t now);
uint64_t or_client_expires_at(const struct or_client *client);
/* A stand-in for a request that ended before its slot was answered. */
bool or_client_is_ghost(const struct or_req *req);
void or_client_free_ghost(struct or_req *req);

/* client_session.c */
/* Starts handshakes. */
void or_client_connect(struct or_client *client, uint64_t now);
/* The ports let no frames of the session in any more. */
void or_client_disallow(struct or_client *client);
/* Once, at creation: how many links the configuration makes. */
void or_client_count_links(struct or_client *client);

#endif
