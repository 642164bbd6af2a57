/* Reads only wait for writes, so a device that only reads pays one comparison of two pointers. */
#include "overlap.h"

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
    }
    o->waits = 0;
}

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
static bool must_wait(const struct or_overlap_bucket *b, const struct or_list *older, const struct or_req *req)
{
    return !OR_PLANTED(OR_PLANT_OVERLAP_IN_FLIGHT) &&
           (conflicts(&b->writes, &b->writes, req) || (or_op_writes(req->op) && conflicts(&b->reads, &b->reads, req)) ||
            conflicts(&b->blocked, older, req));
}

static void admit(struct or_overlap_bucket *b, struct or_req *req)
{
    or_list_append(or_op_writes(req->op) ? &b->writes : &b->reads, &req->active);
}

bool or_overlap_admit(struct or_overlap *o, struct or_req *req)
{
    struct or_overlap_bucket *b = bucket(o, req->device);
    if (must_wait(b, &b->blocked, req)) {
        or_list_append(&b->blocked, &req->active);
        o->waits++;
        return false;
    }
    admit(b, req);
    return true;
}

void or_overlap_release(struct or_overlap *o, struct or_req *req, void (*go)(void *arg, struct or_req *r), void *arg)
{
    struct or_overlap_bucket *b = bucket(o, req->device);
    or_list_remove(&req->active);
    struct or_list *next;
    for (struct or_list *l = b->blocked.next; l != &b->blocked; l = next) {
        struct or_req *r = OR_CONTAINER(l, struct or_req, active);
        next = l->next;
        /* Only what was in conflict with the ended request can have become free. */
        if (!conflict(req, r) || must_wait(b, l, r))
            continue;
        or_list_remove(l);
        admit(b, r);
        go(arg, r);
    }
}

void or_overlap_replace(struct or_req *req, struct or_req *stand_in)
{
    or_list_append(&req->active, &stand_in->active);
    or_list_remove(&req->active);
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
