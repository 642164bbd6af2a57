/* The overlap rule: of two overlapping requests on one device of which one writes, only the earlier is
 * in flight; the later waits for its end. So requests may be reordered by the network, executed in any
 * order and, after a crash, sent again all together, without an old write landing on a newer one. */
#ifndef OR_OVERLAP_H
#define OR_OVERLAP_H

#include "or_types.h"

#define OR_OVERLAP_BUCKETS 64u
#define OR_OVERLAP_CELLS 2048u
#define OR_OVERLAP_UNIT 4096u    /* bytes */
#define OR_OVERLAP_UNITS_MAX 64u /* a request that covers more is a large one */

/* Devices hash to buckets; a bucket's lists hold requests in order of arrival. Looking through them takes longer the
 * more there are, so cells say first whether that is worth it: a device's units hash to cells, which count the admitted
 * requests that cover them. Where all cells of a request are 0 it overlaps nothing but large requests, which are in no
 * cell. */
struct or_overlap {
    struct or_overlap_bucket {
        struct or_list reads, writes; /* admitted, not ended */
        struct or_list blocked;
        uint32_t large; /* of those admitted */
    } buckets[OR_OVERLAP_BUCKETS];
    struct or_overlap_cell {
        uint32_t reads, writes;
    } cells[OR_OVERLAP_CELLS];
    uint64_t waits; /* requests that had to wait */
};

void or_overlap_init(struct or_overlap *overlap);
/* True: req may go now. False: it is kept and comes out of or_overlap_release later. */
bool or_overlap_admit(struct or_overlap *overlap, struct or_req *req);
/* A request ended, admitted or not: calls go(arg, r) for each request that may go now, oldest first. */
void or_overlap_release(struct or_overlap *overlap, struct or_req *req, void (*go)(void *arg, struct or_req *r),
                        void *arg);
/* Takes an admitted request out for which nothing waits. */
void or_overlap_forget(struct or_overlap *overlap, struct or_req *req);
/* The admitted `stand_in`, with the same device and range, takes the place of req. */
void or_overlap_replace(struct or_req *req, struct or_req *stand_in);
/* Takes out and returns the oldest blocked request of a device, or of any, by 0; NULL when none is left. */
struct or_req *or_overlap_pop_blocked(struct or_overlap *overlap, uint32_t device);

#endif
