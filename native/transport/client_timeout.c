/* Requests with a timeout. One that has not been answered in time ends for its owner, with OR_ETIMEOUT; what
 * that means for the server depends on where it is:
 *
 *  - it waits (for an older one that it overlaps, for a slot, for a session): it is forgotten. An older
 *    session may have sent it; but whatever the server has of that ends before anything of the next session
 *    is executed.
 *  - it has a slot of the living session: the server may execute it at any time. So a stand-in, the ghost,
 *    keeps slot and range, and goes on sending, until the server has answered or the session is over: a
 *    request that overlaps it waits so long. A write's data is copied, because the owner's memory is the
 *    owner's again.
 *
 * So a write that was reported as failed may have happened, but never happens after a later request that
 * overlaps it was executed. */
#include "client_internal.h"

#include <stdlib.h>
#include <string.h>

#include "plant.h"

#define LATER_NS 10000000ull /* without memory for a ghost it is tried again after this time */

struct ghost {
    struct or_req req;
    uint8_t data[];
};

static void ghost_pull(struct or_req *r, uint32_t offset, uint8_t *to, uint32_t length)
{
    memcpy(to, OR_CONTAINER(r, struct ghost, req)->data + offset, length);
}

static void ghost_push(struct or_req *r, uint32_t offset, const uint8_t *from, uint32_t length)
{
    (void)r;
    (void)offset;
    (void)from;
    (void)length; /* nobody reads it any more */
}

static void ghost_done(struct or_req *r)
{
    or_client_free_ghost(r);
}

static const struct or_req_ops ghost_ops = {.pull = ghost_pull, .push = ghost_push, .done = ghost_done};

bool or_client_is_ghost(const struct or_req *r)
{
    return r->ops == &ghost_ops;
}

void or_client_free_ghost(struct or_req *r)
{
    free(OR_CONTAINER(r, struct ghost, req));
}

static struct or_client_slot *slot_of(struct or_client *c, const struct or_req *r)
{
    for (uint32_t i = OR_SLOT_DATA; i < OR_SLOTS_MAX; i++)
        if (c->slots[i].req == r)
            return &c->slots[i];
    return NULL;
}

/* Puts a ghost in the request's place. False when memory is short. */
static bool leave_ghost(struct or_client_slot *s)
{
    struct or_req *r = s->req;
    uint32_t bytes = or_op_sends_data(r->op) ? r->length : 0;
    struct ghost *g = malloc(sizeof *g + bytes);
    if (!g)
        return false;
    g->req = *r;
    g->req.ops = &ghost_ops;
    or_list_init(&g->req.active);
    or_list_init(&g->req.link);
    or_list_init(&g->req.timed);
    if (bytes)
        r->ops->pull(r, 0, g->data, bytes);
    or_overlap_replace(r, &g->req);
    s->req = &g->req;
    return true;
}

void or_client_timed(struct or_client *c, struct or_req *r, uint64_t now)
{
    r->expires_ns = now + r->timeout_ns;
    struct or_list *before = &c->timed; /* mostly the last, as devices mostly have the same timeout */
    while (before->prev != &c->timed && OR_CONTAINER(before->prev, struct or_req, timed)->expires_ns > r->expires_ns)
        before = before->prev;
    or_list_append(before, &r->timed);
}

static void expire(struct or_client *c, struct or_req *r, uint64_t now)
{
    struct or_client_slot *s = slot_of(c, r);
    or_list_remove(&r->timed);
    if (s && OR_PLANTED(OR_PLANT_TIMEOUT_FORGETS)) {
        or_client_vacate(c, s);
        s = NULL;
    }
    if (s && !leave_ghost(s)) {
        uint64_t timeout_ns = r->timeout_ns;
        r->timeout_ns = LATER_NS;
        or_client_timed(c, r, now);
        r->timeout_ns = timeout_ns;
        return;
    }
    if (!s)
        or_client_release(c, r);
    c->count--;
    c->stats.timeouts++;
    r->status = OR_ETIMEOUT;
    r->ops->done(r);
}

void or_client_expire(struct or_client *c, uint64_t now)
{
    while (now >= or_client_expires_at(c))
        expire(c, OR_CONTAINER(c->timed.next, struct or_req, timed), now);
}

uint64_t or_client_expires_at(const struct or_client *c)
{
    return or_list_empty(&c->timed) ? UINT64_MAX : OR_CONTAINER(c->timed.next, struct or_req, timed)->expires_ns;
}
