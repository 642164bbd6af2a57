/* The I/O hypervisor's end of all sessions: verifies, orders and executes requests exactly once.
 *
 * Guarantees (docs/architecture.md, "Exactly once" and "Nothing late"):
 *  - within a session a request executes at most once, whatever is duplicated, delayed or replayed;
 *  - a request of a new session executes on an attachment only after everything that an older session
 *    gave to the back-end has ended;
 *  - a request with another generation than the attachment's current one is refused with OR_EFENCED.
 * Requests of one session may execute in any order: which begins when there is more than one is in schedule.h.
 *
 * Sans-I/O and single-threaded, like the client. Frames are hostile until verified; whatever is wrong
 * with them is counted by reason (enum or_refuse) and changes nothing else. */
#ifndef OR_SERVER_H
#define OR_SERVER_H

#include "backend/backend.h"
#include "env.h"
#include "link_info.h"
#include "packets.h"
#include "port.h"
#include "wire/wire.h"

struct or_server;

/* Sessions that a port with a filter must be able to let in at once, for each host: one, and those that are
 * being made. */
#define OR_SERVER_SESSIONS_PER_HOST 5u
/* The types of frames that it takes. */
#define OR_SERVER_FRAMES (1u << OR_FRAME_DATA | 1u << OR_FRAME_HELLO)

/* Of an export, beside others (schedule.h). */
#define OR_WEIGHT_MAX 1000u
#define OR_WEIGHT_DEFAULT 100u

struct or_server_config {
    struct or_port *ports[OR_LINKS_MAX]; /* borrowed; the first is required, NULL: no more */
    struct or_env env;
    uint8_t channel;       /* the worker's number */
    uint8_t integrity;     /* enum or_integrity */
    uint32_t phase_frames; /* frames until a key changes (keys.h); 0: the default */
    uint32_t hosts_max;    /* known hosts; each has at most one live and one half-open session */
    uint32_t exports_max;  /* exports, and again so many NICs */
    uint32_t slots;        /* requests in flight per session, at most OR_SLOTS_MAX */
    uint64_t buffer_bytes; /* request buffers of all sessions together; shared fairly */
    /* What volumes that answer later have at once (schedule.h); 0: the default. */
    uint32_t out_requests;
    uint64_t out_bytes;
    bool fifo; /* requests begin in the order in which they arrive, whoever's they are: to measure what that costs */
    /* A host's session came up or was lost. */
    void (*link)(void *arg, const char *host, bool up, const char *why);
    /* A link of a host's session went down or came up while the session lives; port: the index of ours on
     * which it arrives. May be NULL. */
    void (*link_changed)(void *arg, const char *host, uint32_t link, uint32_t port, bool up);
    /* A host reported (OR_OP_CONTROL_PUT). The bytes are only borrowed. */
    void (*report)(void *arg, const char *host, const uint8_t *document, uint32_t length);
    void *arg;
};

/* An attachment as the server sees it: this host may use this volume under this generation. */
struct or_export {
    uint32_t id; /* attachment id, not 0 */
    uint32_t generation;
    /* Of the volume: another number each time that it comes to a worker. A request that bears another one may be older
     * than what other workers have executed since: it is answered with OR_EMOVED. */
    uint32_t placement;
    char host[OR_NAME_MAX + 1];
    bool read_only;
    uint32_t weight; /* its share of the server beside others, 1 to OR_WEIGHT_MAX; 0: OR_WEIGHT_DEFAULT */
    /* Borrowed until or_server_remove_export's callback. NULL: it cannot be opened yet; requests wait until
     * or_server_add_export is called again with it. */
    struct or_volume *volume;
};

/* A NIC's attachment as the server sees it: this host may send and receive its packets under this generation. */
struct or_nic_export {
    uint32_t id; /* attachment id, not 0; no export has the same */
    uint32_t generation;
    char host[OR_NAME_MAX + 1];
    /* A packet from the guest (packets.h), verified and whole, of OR_PACKET_MIN to OR_PACKET_MAX bytes, which are
     * only borrowed. Each at most once; mostly in order. Called from or_server_rx; may send packets, and add and
     * remove NICs. */
    void (*packet)(void *arg, const uint8_t *packet, uint32_t length);
    void *arg;
};

struct or_server_stats {
    uint64_t requests, bytes_read, bytes_written, sessions, handshakes;
    uint64_t duplicates; /* requests or fragments that had been received before */
    uint64_t queued;     /* requests that waited for their turn, for an older session's I/O, or for their volume */
    uint64_t stalled;    /* times that a volume was too silent to be waited for (schedule.h) */
    uint64_t retransmits, frames_lost;
    uint64_t rekeys;                /* key changes of our sending direction, all sessions */
    struct or_packet_stats packets; /* of NICs, all hosts that are known */
    uint64_t packets_unknown;       /* of no NIC of the host that sent them: dropped */
    uint64_t packets_fenced;        /* of another generation than their NIC's: dropped */
    uint64_t refused[OR_REFUSE_MAX];
};

struct or_host_info {
    char name[OR_NAME_MAX + 1];
    uint8_t mac[6];
    bool up;
    uint64_t since_ns, srtt_ns, requests, in_flight;
    uint32_t mtu, link_count;
    struct or_link_info links[OR_LINKS_MAX];
};

struct or_server *or_server_create(const struct or_server_config *config, int *err);
/* Nothing that a back-end has may call back any more: remove the exports first (or, in a simulated
 * crash, cut the back-end off). */
void or_server_destroy(struct or_server *server);

/* 0, -EEXIST, -ENOSPC, -ENOMEM. */
int or_server_add_host(struct or_server *server, const char *name, const uint8_t psk[32]);
/* A host that is not admitted (it is, after or_server_add_host) can make no session: so its exports can
 * be put in place before it finds some missing. 0 or -ENOENT. */
int or_server_admit_host(struct or_server *server, const char *name, bool admit);
/* Ends the host's session. 0, -ENOENT, -EBUSY while it has exports or NICs. */
int or_server_remove_host(struct or_server *server, const char *name);

/* Another volume in the place of this export's, with which requests go on: they are the old one's, held, and the
 * caller gives them to the new one (or_volume_release). It may not be removed or given away. 0 or -ENOENT. */
int or_server_replace_volume(struct or_server *server, uint32_t id, struct or_volume *volume);
/* 0, -EEXIST (id), -ENOENT (host), -ENOSPC. An existing id with the same volume and a higher
 * generation is replaced: older requests are refused from then on, wherever they are queued, and newer
 * ones wait until those that the back-end has already have ended. */
int or_server_add_export(struct or_server *server, const struct or_export *info);
/* Another worker executes this attachment's requests: from now on each is answered with OR_EMOVED here, until
 * or_server_add_export says that it is here (again). Calls drained(arg) when the last one the back-end has has ended
 * (possibly before returning); the volume is not borrowed any more then. An attachment that is not known is added
 * (info->volume is ignored). 0, -EBUSY (this is under way already), or as or_server_add_export. */
int or_server_elsewhere(struct or_server *server, const struct or_export *info, void (*drained)(void *arg), void *arg);
/* Another share, at once. 0 or -ENOENT. */
int or_server_set_weight(struct or_server *server, uint32_t id, uint32_t weight);
/* Refuses new requests at once (OR_ENODEV) and calls drained(arg) when the last one the back-end has
 * has ended (possibly before returning). 0 or -ENOENT. */
int or_server_remove_export(struct or_server *server, uint32_t id, void (*drained)(void *arg), void *arg);

/* What an attachment has asked for since it is exported here, and what the back-end has of it. */
struct or_export_load {
    uint64_t requests, bytes;
    uint32_t in_flight;
};
/* False: no such attachment. */
bool or_server_load(const struct or_server *server, uint32_t id, struct or_export_load *out);

/* 0, -EEXIST (id), -ENOENT (host), -ENOSPC, -ENOMEM. An existing NIC is replaced by one of a higher generation:
 * packets of the older one are dropped from then on. */
int or_server_add_nic(struct or_server *server, const struct or_nic_export *info);
/* At once: no packet after this. 0 or -ENOENT. */
int or_server_remove_nic(struct or_server *server, uint32_t id);
/* Packets of this NIC that were dropped for having another generation; 0 when there is no such NIC. */
uint64_t or_server_nic_fenced(const struct or_server *server, uint32_t id);
/* Sends a packet to the NIC's guest, at most once. Shares the session with replies as in or_client_packet. Call it
 * between rx and flush, or from inside rx. */
enum or_packet_verdict or_server_packet(struct or_server *server, uint32_t id, const struct or_packet *packet,
                                        uint64_t now);

/* Sets the device document of a host (JSON text, at most OR_REQ_BYTES_MAX; copied): the answer to its
 * OR_OP_CONTROL_GET, which waits until the version differs from the one the host has.
 * 0, -ENOENT, -EMSGSIZE, -ENOMEM. */
int or_server_set_document(struct or_server *server, const char *host, const void *document, uint32_t length);

/* A frame that came in on config.ports[port]. */
void or_server_rx(struct or_server *server, uint32_t port, const uint8_t *frame, uint32_t length, uint64_t now);
void or_server_tick(struct or_server *server, uint64_t now);
void or_server_flush(struct or_server *server, uint64_t now);
uint64_t or_server_deadline(const struct or_server *server);

/* A port's `down`, `mtu` or `mac` has changed. */
void or_server_port_changed(struct or_server *server, const struct or_port *port, uint64_t now);
/* Says goodbye to all hosts and lets none in any more, so that what is taken down now is nobody's error:
 * clients look for another server at once. The caller flushes the ports. */
void or_server_bye(struct or_server *server, uint64_t now);

/* How many frames were refused by each reason, and the address that the last one bore. */
void or_server_refused(const struct or_server *server, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6]);
void or_server_stats(const struct or_server *server, struct or_server_stats *out);
/* Where the request buffers lie, which back-ends read into and write from: a multiple of 2 MiB. Until
 * or_server_destroy. */
const void *or_server_buffers(const struct or_server *server, uint64_t *bytes);
/* The index-th known host; false past the end. */
bool or_server_host(const struct or_server *server, uint32_t index, struct or_host_info *out);

#endif
