/* The host agent's end of a session: turns requests into frames and survives what happens to them.
 *
 * Guarantees to the caller (docs/architecture.md, "Exactly once"):
 *  - a submitted request ends exactly once, in done(), with the server's status; through loss, a cut
 *    link or a restarted I/O hypervisor it waits and is sent again, for as long as it takes, or until its
 *    timeout is over: then it ends with OR_ETIMEOUT, and may have happened;
 *  - two overlapping requests of which one writes are never in flight together: the later one waits.
 *
 * Sans-I/O and single-threaded: everything happens inside calls made by the owner's thread; `now` is
 * nanoseconds of a monotonic clock and never goes back. */
#ifndef OR_CLIENT_H
#define OR_CLIENT_H

#include "env.h"
#include "link_info.h"
#include "or_types.h"
#include "packets.h"
#include "port.h"
#include "wire/wire.h"

struct or_client;

/* Sessions that a port with a filter must be able to let in. */
#define OR_CLIENT_SESSIONS 1u
/* The types of frames that it takes. */
#define OR_CLIENT_FRAMES (1u << OR_FRAME_DATA | 1u << OR_FRAME_WELCOME | 1u << OR_FRAME_UNKNOWN | 1u << OR_FRAME_RETRY)

struct or_client_config {
    uint8_t channel; /* the worker of the I/O hypervisor */
    /* The links of the session (links.h): the first has the first port and the first MAC; there is a second
     * one when there is a second of either. Ports are borrowed and must outlive the client; NULL and an
     * all-zero MAC: none. */
    struct or_port *ports[OR_LINKS_MAX];
    uint8_t server_macs[OR_LINKS_MAX][6];
    struct or_env env;
    char name[OR_NAME_MAX + 1]; /* the host's name, as the I/O hypervisor knows it */
    uint8_t psk[32];
    uint8_t integrity_min; /* enum or_integrity: refuse a server that offers less */
    uint32_t phase_frames; /* frames until a key changes (keys.h); 0: the default */
    /* Session established (up) or lost. Called from rx/tick. May submit. */
    void (*link)(void *arg, bool up, const char *why);
    /* One of several links went down or came up while the session lives. May be NULL. */
    void (*link_changed)(void *arg, uint32_t link, bool up);
    /* The I/O hypervisor's device document for this host, whole, at every session start and whenever it
     * changes. The bytes are only borrowed. May be NULL: then it is not asked for. */
    void (*document)(void *arg, const uint8_t *document, uint32_t length);
    /* A packet for a NIC of this host (packets.h), verified and whole, of OR_PACKET_MIN to OR_PACKET_MAX bytes,
     * which are only borrowed. Each at most once; those of one device mostly in order. Whether there is such a
     * device and generation is for the callee to see. Called from rx; may send packets and submit. May be NULL. */
    void (*packet)(void *arg, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length);
    /* The worker does not have this request's attachment, and has not executed it: it is the owner's again, as before
     * it was submitted. May be NULL: then such requests end with OR_ENODEV. Must not submit. */
    void (*moved)(void *arg, struct or_req *req);
    void *arg;
};

struct or_client_stats {
    uint64_t requests, replies, bytes_read, bytes_written;
    uint64_t retransmits, frames_lost, sessions, overlap_waits, credit_waits;
    uint64_t timeouts;                               /* requests that ended with OR_ETIMEOUT */
    uint64_t rekeys;                                 /* key changes of our sending direction */
    struct or_packet_stats packets;                  /* of NICs */
    uint64_t refused[OR_REFUSE_MAX];                 /* frames from the wire, by enum or_refuse */
    uint64_t srtt_ns, cwnd_frames, in_flight_frames; /* of the first link that is up */
    uint32_t link_count;                             /* of the session; 0: there is none */
    struct or_link_info links[OR_LINKS_MAX];
};

/* NULL with *err = -errno when memory is short. */
struct or_client *or_client_create(const struct or_client_config *config, int *err);
/* Requests under way end with OR_EIO, in done(), which must not submit others then. */
void or_client_destroy(struct or_client *client);

/* Takes req until req->ops->done. Never refuses; what the credits do not allow waits. */
void or_client_submit(struct or_client *client, struct or_req *req, uint64_t now);

/* Takes back all requests of a device that have no slot in a living session: none of them will be executed any more
 * (but perhaps what an older session sent of them, which ends before a worker lets go of the volume). Calls
 * take(arg, req) for each; req->order tells which is older. Returns how many of the device are left. */
uint32_t or_client_withdraw(struct or_client *client, uint32_t device, void (*take)(void *arg, struct or_req *req),
                            void *arg);

/* Sends a packet of a NIC, at most once. Packets and requests share the session: while both have something to send
 * neither gets more than about half of the bytes. Call it between rx and flush. */
enum or_packet_verdict or_client_packet(struct or_client *client, uint32_t device, uint32_t generation,
                                        const struct or_packet *packet, uint64_t now);

/* A frame from any of the ports. */
void or_client_rx(struct or_client *client, const uint8_t *frame, uint32_t length, uint64_t now);
/* When due (or_client_deadline): retransmission, heartbeats, reconnection, timeouts. */
void or_client_tick(struct or_client *client, uint64_t now);
/* Builds frames out of what is ready and commits them to the port (the caller flushes the port).
 * Call after every batch of rx/submit/packet/tick. */
void or_client_flush(struct or_client *client, uint64_t now);
/* Absolute time of the next or_client_tick; UINT64_MAX: none. */
uint64_t or_client_deadline(const struct or_client *client);

/* A port's `down`, `mtu` or `mac` has changed. */
void or_client_port_changed(struct or_client *client, const struct or_port *port, uint64_t now);

/* Sends a report to the I/O hypervisor (copied; at most OR_REQ_BYTES_MAX): once now, and again at every
 * session start. A newer report replaces one that was not sent yet. 0, -EMSGSIZE or -ENOMEM. */
int or_client_report(struct or_client *client, const void *document, uint32_t length);

bool or_client_up(const struct or_client *client);
/* Requests submitted and not done. */
uint32_t or_client_in_flight(const struct or_client *client);
/* How many frames were refused by each reason, and the address that the last one bore. */
void or_client_refused(const struct or_client *client, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6]);
void or_client_stats(const struct or_client *client, struct or_client_stats *out);

#endif
