/* Theory of operation: overlap.h. */
#include "overlap.h"

#include <string.h>

#include "mem/list.h"
#include "plant.h"

static struct or_overlap_bucket *bucket(struct or_overlap *o, uint32_t device)
{
    return &o->buckets[device * 2654435761u >> 26];
}

void or_overlap_init(struct or_overlap *o)
{
    for (uint32_t i = 0; i < OR_OVERLAP_BUCKETS; i++) {
        or_list_init(&o->buckets[i].reads);
        or_list_init(&o->buckets[i].writes);
        or_list_init(&o->buckets[i].blocked);
        o->buckets[i].large = 0;
    }
    memset(o->cells, 0, sizeof o->cells);
    o->waits = 0;
}

/* --- cells -------------------------------------------------------------------------------------- */

/* The units that req covers: from *first on. */
static uint64_t units_of(const struct or_req *req, uint64_t *first)
{
    *first = req->offset / OR_OVERLAP_UNIT;
    return req->length ? (req->offset + req->length - 1) / OR_OVERLAP_UNIT - *first + 1 : 0;
}

/* Eight neighbours share a cache line. */
static struct or_overlap_cell *cell(struct or_overlap *o, uint32_t device, uint64_t unit)
{
    uint64_t hash = (unit / 8 * OR_OVERLAP_BUCKETS + device) * 0x9e3779b97f4a7c15ull >> 32;
    return &o->cells[(hash * 8 + unit % 8) % OR_OVERLAP_CELLS];
}

/* An admitted request comes (by: 1) or goes (-1, that is UINT32_MAX). */
static void count(struct or_overlap *o, const struct or_req *req, uint32_t by)
{
    uint64_t first, units = units_of(req, &first);
    if (units > OR_OVERLAP_UNITS_MAX) {
        bucket(o, req->device)->large += by;
        return;
    }
    for (uint64_t i = 0; i < units; i++) {
        struct or_overlap_cell *c = cell(o, req->device, first + i);
        if (or_op_writes(req->op))
            c->writes += by;
        else
            c->reads += by;
    }
}

/* Whether req may be in conflict with an admitted request; false is certain. */
static bool may_conflict(struct or_overlap *o, const struct or_req *req)
{
    uint64_t first, units = units_of(req, &first);
    if (units > OR_OVERLAP_UNITS_MAX || bucket(o, req->device)->large)
        return true;
    for (uint64_t i = 0; i < units; i++) {
        const struct or_overlap_cell *c = cell(o, req->device, first + i);
        if (c->writes || (c->reads && or_op_writes(req->op)))
            return true;
    }
    return false;
}

/* --- the rule ----------------------------------------------------------------------------------- */

static bool conflict(const struct or_req *a, const struct or_req *b)
{
    return a->device == b->device && (or_op_writes(a->op) || or_op_writes(b->op)) &&
           a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* Does req conflict with an entry of list before `end`? */
static bool conflicts(const struct or_list *list, const struct or_list *end, const struct or_req *req)
{
    for (const struct or_list *l = list->next; l != end; l = l->next)
        if (conflict(OR_CONTAINER(l, struct or_req, active), req))
            return true;
    return false;
}

/* `older`: where in the blocked list req stands, or the list's head when it is not in it. */
static bool must_wait(struct or_overlap *o, const struct or_list *older, const struct or_req *req)
{
    const struct or_overlap_bucket *b = bucket(o, req->device);
    if (OR_PLANTED(OR_PLANT_OVERLAP_IN_FLIGHT))
        return false;
    if (may_conflict(o, req) &&
        (conflicts(&b->writes, &b->writes, req) || (or_op_writes(req->op) && conflicts(&b->reads, &b->reads, req))))
        return true;
    return conflicts(&b->blocked, older, req);
}

static void admit(struct or_overlap *o, struct or_req *req)
{
    struct or_overlap_bucket *b = bucket(o, req->device);
    or_list_append(or_op_writes(req->op) ? &b->writes : &b->reads, &req->active);
    req->admitted = true;
    count(o, req, 1);
}

bool or_overlap_admit(struct or_overlap *o, struct or_req *req)
{
    struct or_overlap_bucket *b = bucket(o, req->device);
    req->admitted = false;
    if (must_wait(o, &b->blocked, req)) {
        or_list_append(&b->blocked, &req->active);
        o->waits++;
        return false;
    }
    admit(o, req);
    return true;
}

void or_overlap_forget(struct or_overlap *o, struct or_req *req)
{
    or_list_remove(&req->active);
    if (req->admitted)
        count(o, req, UINT32_MAX);
    req->admitted = false;
}

void or_overlap_release(struct or_overlap *o, struct or_req *req, void (*go)(void *arg, struct or_req *r), void *arg)
{
    struct or_overlap_bucket *b = bucket(o, req->device);
    or_overlap_forget(o, req);
    struct or_list *next;
    for (struct or_list *l = b->blocked.next; l != &b->blocked; l = next) {
        struct or_req *r = OR_CONTAINER(l, struct or_req, active);
        next = l->next;
        /* Only what was in conflict with the ended request can have become free. */
        if (!conflict(req, r) || must_wait(o, l, r))
            continue;
        or_list_remove(l);
        admit(o, r);
        go(arg, r);
    }
}

void or_overlap_replace(struct or_req *req, struct or_req *stand_in)
{
    or_list_append(&req->active, &stand_in->active);
    or_list_remove(&req->active);
    stand_in->admitted = req->admitted;
    req->admitted = false;
}

struct or_req *or_overlap_pop_blocked(struct or_overlap *o, uint32_t device)
{
    for (uint32_t i = 0; i < OR_OVERLAP_BUCKETS; i++) {
        const struct or_list *blocked = &o->buckets[i].blocked;
        for (struct or_list *l = blocked->next; l != blocked; l = l->next) {
            struct or_req *r = OR_CONTAINER(l, struct or_req, active);
            if (device && r->device != device)
                continue;
            or_list_remove(&r->active);
            return r;
        }
    }
    return NULL;
}
