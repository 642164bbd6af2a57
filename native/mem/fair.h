/* Who is next among flows that share something, in proportion to their weights: start-time fair queueing.
 *
 * A clock counts service instead of time. Serving a flow moves its `finish` on by cost / weight; whoever has something
 * to be served `start`s at its finish, or at the clock when it has been idle; the flow with the least start is next,
 * and the clock stands where that one started. So a flow that wants less than its share is served before all that are
 * ahead of theirs, whatever their number, and one that was idle has saved nothing up. (Goyal, Vin, Cheng: Start-time
 * Fair Queuing, SIGCOMM 1996. That it stays fair with a bounded number of requests out at once: Jin, Chase, Kaur:
 * Interposed Proportional Sharing for a Storage Service Utility, SIGMETRICS 2004. Deficit round robin would let a new
 * flow wait for a round of everybody's quanta, and wants quanta as large as the largest request.)
 *
 * The list is kept in order of `start` by walking from its end: its length is the number of flows that wait at once,
 * which the slots of sessions bound. All times are modulo 2^64. */
#ifndef OR_FAIR_H
#define OR_FAIR_H

#include "list.h"

#define OR_FAIR_UNIT (1ull << 24) /* what a cost of 1 is at a weight of 1 */
#define OR_FAIR_COST_MAX (1ull << 22)
#define OR_FAIR_AHEAD_MAX (OR_FAIR_UNIT * OR_FAIR_COST_MAX) /* of a finish, before the clock */

struct or_fair_flow {
    uint64_t start, finish;
    struct or_list link; /* while it waits */
};

struct or_fair {
    uint64_t clock;
    struct or_list waiting; /* flows by start, the least first */
};

static inline void or_fair_init(struct or_fair *fair)
{
    fair->clock = 0;
    or_list_init(&fair->waiting);
}

/* A flow that does not wait, and has not been served here before. */
static inline void or_fair_flow_init(struct or_fair_flow *flow, const struct or_fair *fair)
{
    flow->start = flow->finish = fair->clock;
    or_list_init(&flow->link);
}

static inline bool or_fair_waits(const struct or_fair_flow *flow)
{
    return !or_list_empty(&flow->link);
}

static inline bool or_fair_anyone_waits(const struct or_fair *fair)
{
    return !or_list_empty(&fair->waiting);
}

/* Sets where the flow starts if it is served next. */
static inline void or_fair_begin(const struct or_fair *fair, struct or_fair_flow *flow)
{
    flow->start = flow->finish - fair->clock <= OR_FAIR_AHEAD_MAX ? flow->finish : fair->clock;
}

/* The flow begins to wait. */
static inline void or_fair_enter(struct or_fair *fair, struct or_fair_flow *flow)
{
    or_fair_begin(fair, flow);
    struct or_list *before = fair->waiting.prev;
    while (before != &fair->waiting &&
           (int64_t)(OR_CONTAINER(before, struct or_fair_flow, link)->start - flow->start) > 0)
        before = before->prev;
    or_list_prepend(before, &flow->link);
}

/* It waits no longer. */
static inline void or_fair_leave(struct or_fair_flow *flow)
{
    or_list_remove(&flow->link);
}

/* Who is next; NULL: nobody waits. */
static inline struct or_fair_flow *or_fair_next(const struct or_fair *fair)
{
    return or_list_empty(&fair->waiting) ? NULL : OR_CONTAINER(fair->waiting.next, struct or_fair_flow, link);
}

/* The flow, which has begun and does not wait, is served for `cost` (at most OR_FAIR_COST_MAX). unit: OR_FAIR_UNIT /
 * its weight. */
static inline void or_fair_serve(struct or_fair *fair, struct or_fair_flow *flow, uint64_t cost, uint64_t unit)
{
    if ((int64_t)(flow->start - fair->clock) > 0)
        fair->clock = flow->start; /* others may have been passed over */
    flow->finish = flow->start + cost * unit;
}

#endif
