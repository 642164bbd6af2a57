/* When a request that has arrived begins, so that exports get the server in proportion to their weights (mem/fair.h).
 *
 *   arrived ──> nothing waits, and there is room ─────────────────────────> begins at once
 *           └─> export.waiting ──> its session's lane ──> the server's lane ──> begins in or_schedule
 *                                  (among its exports)    (among sessions)
 *
 * Room, which makes that queue the one where requests wait, is bounded in three ways:
 *  - volumes that answer later: so many requests and bytes are out at once, of all of them together;
 *  - volumes that answer at once (in memory): so much is done in a step, so that what arrives meanwhile is looked at;
 *  - every session: replies that are not in frames yet. Beyond that its requests wait, and other sessions go on.
 * Each of the two kinds of volumes has its own lanes, so that memory never waits for a disk. Of a cached volume, reads
 * that are in memory begin at once, unless others of the same export wait.
 *
 * A session counts with the weights of those of its exports that wait, so it does not matter behind which host a VM
 * is. Control requests, acknowledgements and handshakes do not come by here: they never wait.
 *
 * A volume of which nothing has ended for a while (a dead disk, a server that does not answer) would keep its room
 * from the others. So it does not count then, and begins nothing more, until something of it ends. */
#ifndef OR_SCHEDULE_H
#define OR_SCHEDULE_H

#include "mem/fair.h"

/* Cost of the requests in memory that begin in a step. */
#define OR_SCHEDULE_STEP_COST (1u << 20)
/* Bytes of a session's replies that go into frames in a step. */
#define OR_SCHEDULE_STEP_BYTES (256u << 10)
/* Out at once: what keeps a good disk busy. More would only wait in the disk, where the order is no more ours. */
#define OR_SCHEDULE_OUT_REQUESTS 128u
#define OR_SCHEDULE_OUT_BYTES (4ull << 20)
#define OR_SCHEDULE_STALL_NS 100000000ull

struct or_server;
struct or_server_export;
struct or_server_slot;
struct or_session;

enum or_lane_kind { OR_LANE_MEMORY, OR_LANE_STORAGE, OR_LANE_KINDS };

/* A session's exports of one kind. */
struct or_lane {
    struct or_fair_flow flow; /* of the session, among others; waits while the session may begin something */
    struct or_fair exports;   /* those of which requests wait */
    uint32_t weight;          /* of those together */
};

void or_schedule_open(struct or_server *server);
void or_schedule_open_session(struct or_session *session);
/* An export's weight, at its beginning and later. */
void or_schedule_weigh(struct or_server_export *export, uint32_t weight);

/* Nobody waits whom a request of this session to this export would overtake. */
bool or_schedule_is_idle(const struct or_session *session, const struct or_server_export *export);
/* It may begin at once. */
bool or_schedule_takes(const struct or_session *session, const struct or_server_export *export);
/* It does. */
void or_schedule_at_once(struct or_server_slot *slot, struct or_server_export *export);
/* A read that the volume's memory answers, though the volume mostly answers later: it takes part in nothing that
 * storage has, so it waits for nobody there, only for room in memory. May it begin at once? It does. */
bool or_schedule_takes_hit(const struct or_session *session, const struct or_server_export *export);
void or_schedule_hit(struct or_server_slot *slot);
/* What waits at the export has changed, or what it waits for. */
void or_schedule_look(struct or_server_export *export);
/* The back-end got something of a volume that answers later, or has ended it. */
void or_schedule_out(struct or_server_export *export, const struct or_server_slot *slot);
void or_schedule_in(struct or_server_export *export, const struct or_server_slot *slot);
/* More, or less, of the session's replies wait for frames. */
void or_schedule_unsent(struct or_session *session, int64_t bytes);

/* Begins what may. False: nothing did. */
bool or_schedule(struct or_server *server, uint64_t now);
/* When to call that, if nothing arrives; 0: at once; UINT64_MAX: not. */
uint64_t or_schedule_deadline(const struct or_server *server);

#endif
