/* The dispatcher: a host's sessions with the workers of the I/O hypervisor, and which request goes to which.
 *
 * Each worker is a shard of the I/O hypervisor with sessions of its own; frames say in `channel` for which one they
 * are, and the receiving port steers by that. A device's requests go to one worker at a time, its route:
 *
 *            submit ──> client of the route's worker ──> done
 *                              │ moved (OR_EMOVED), or or_dispatch_move
 *                              v
 *     HOLDING   new requests wait; those without a slot come back from the client; those in slots end,
 *               or come back; then all go, in their old order, to the worker that is named by now ──> submit
 *
 * So the requests of a device are never with two workers at once, and the overlap rule (overlap.h) holds across a move.
 * Which worker has a device is the supervisor's decision, which arrives as or_dispatch_move; a worker that does
 * not have it (any more, or yet) answers that it has moved, and the request is tried again.
 *
 * Sans-I/O and single-threaded, like the client. Paper 000, III.B (dispatcher and workers). */
#ifndef OR_DISPATCH_H
#define OR_DISPATCH_H

#include "client.h"

struct or_dispatch;

struct or_dispatch_config {
    /* Of each session; the ports are shared. channel, link, packet, moved and arg are the dispatcher's own. `document`
     * comes by the session with worker 0, which bears the reports too. */
    struct or_client_config client;
    /* The session with a worker was established or lost. */
    void (*link)(void *arg, uint8_t worker, bool up, const char *why);
    void *arg; /* of link, and of client.link_changed, .document and .packet */
};

/* The worker that a device belongs to. */
struct or_placement {
    uint8_t worker;
    uint32_t number; /* another one each time that the device comes to a worker: see or_export.placement */
};

/* Of one device; the owner's memory. Private but for reading. */
struct or_route {
    struct or_dispatch *dispatch;
    uint32_t device;
    struct or_placement now, target; /* who has its requests, and who is to have them */
    bool holding;
    uint64_t retry_at;
    struct or_list returned, fresh; /* requests that wait: what came back, by order; what is new */
    struct or_list link;
};

struct or_dispatch_stats {
    struct or_client_stats clients; /* of all workers together; the links are those of worker 0 */
    uint64_t moved;                 /* requests that came back */
    uint32_t held;                  /* and wait now */
    struct or_dispatch_worker {
        bool made, up;
        uint32_t in_flight;
        uint64_t srtt_ns;
    } workers[OR_CHANNELS_MAX];
};

/* NULL with *err = -errno when memory is short. */
struct or_dispatch *or_dispatch_create(const struct or_dispatch_config *config, int *err);
/* Requests under way end with OR_EIO, in done(), which must not submit others then. */
void or_dispatch_destroy(struct or_dispatch *dispatch);

/* A route for a device, whose requests and packets go to this worker. 0, -EINVAL (no such worker) or -ENOMEM. */
int or_route_open(struct or_dispatch *dispatch, struct or_route *route, uint32_t device, struct or_placement at);
/* Nothing of the device is under way. */
void or_route_close(struct or_route *route);
/* From now on the device is there. 0, -EINVAL or -ENOMEM. */
int or_route_move(struct or_route *route, struct or_placement to);

/* As of the client (client.h). A request that is held, because its device is being moved, has its timeout from when it
 * is sent on. */
void or_route_submit(struct or_route *route, struct or_req *req, uint64_t now);
enum or_packet_verdict or_route_packet(struct or_route *route, uint32_t generation, const struct or_packet *packet,
                                       uint64_t now);
void or_dispatch_rx(struct or_dispatch *dispatch, const uint8_t *frame, uint32_t length, uint64_t now);
void or_dispatch_tick(struct or_dispatch *dispatch, uint64_t now);
void or_dispatch_flush(struct or_dispatch *dispatch, uint64_t now);
uint64_t or_dispatch_deadline(const struct or_dispatch *dispatch);
void or_dispatch_port_changed(struct or_dispatch *dispatch, const struct or_port *port, uint64_t now);
int or_dispatch_report(struct or_dispatch *dispatch, const void *document, uint32_t length);
void or_dispatch_refused(const struct or_dispatch *dispatch, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6]);
void or_dispatch_stats(const struct or_dispatch *dispatch, struct or_dispatch_stats *out);

#endif
