/* Volumes that come to a domain, and leave it, while guests use them.
 *
 *   come:   held ──> nothing under way ──> exports go through a door ──> what waited goes there
 *   leave:  doors held ──> nothing under way ──> cut, committed ──> nothing of it held ──> exports go to the volume
 * again
 *
 * What guests submit meanwhile waits, in order. The domain has the volume with all that is below it (cache, layers);
 * struct volume keeps it too, for cuts and flushes. A door is for one generation, and shared by all exports of that. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "domains.h"

struct door {
    struct volume *of;
    struct or_volume *volume;
    uint64_t generation;
    uint32_t exports;
    struct or_list link;
};

enum protect_step { COMING, DRAINING, COMMITTING, EMPTYING };

struct protect {
    enum protect_step step;
    struct volume *v;
    struct domain *domain;
    uint64_t id, generation;
    struct or_command *command;
    struct domain_commit commit;
    uint64_t epoch; /* EMPTYING: until this is applied */
    int error;      /* COMMITTING: it has failed */
    bool committed;
    struct or_list link;
};

static struct door *door_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct door, link);
}

/* --- doors -------------------------------------------------------------------------------------------- */

struct or_volume *or_iohv_door_volume(const struct door *door)
{
    return door->volume;
}

uint64_t or_iohv_door_generation(const struct door *door)
{
    return door->generation;
}

static void close_door(struct door *door)
{
    door->volume->ops->close(door->volume);
    or_list_remove(&door->link);
    free(door);
}

/* Those that nobody has any more. An attachment that was given another one may still have something under way. */
static void sweep(struct volume *v)
{
    for (struct or_list *l = v->doors.next, *next; l != &v->doors; l = next) {
        struct door *door = door_of(l);
        next = l->next;
        if (!door->exports && !door->volume->in_flight && !door->volume->held)
            close_door(door);
    }
}

static struct door *make_door(struct volume *v, uint64_t generation, int *err)
{
    struct door *door = calloc(1, sizeof *door);
    *err = -ENOMEM;
    if (door)
        door->volume = or_domain_attach(v->domain->domain, v->domain_volume, generation, err);
    if (!door || !door->volume) {
        free(door);
        return NULL;
    }
    *err = 0;
    door->of = v;
    door->generation = generation;
    door->volume->owner = v;
    or_list_append(&v->doors, &door->link);
    return door;
}

struct door *or_iohv_door(struct volume *v, uint64_t generation, int *err)
{
    struct door *door = NULL;
    *err = v->protecting ? -EBUSY : 0;
    if (*err)
        return NULL;
    sweep(v);
    for (struct or_list *l = v->doors.next; l != &v->doors && !door; l = l->next)
        if (door_of(l)->generation == generation)
            door = door_of(l);
    door = door ? door : make_door(v, generation, err);
    if (door)
        door->exports++;
    return door;
}

void or_iohv_door_leave(struct door *door)
{
    door->exports--;
    sweep(door->of);
}

/* --- coming ------------------------------------------------------------------------------------------- */

static void end_protect(struct protect *p, int err, const char *why)
{
    struct or_engine *e = p->v->volumes->engine;
    p->v->jobs--;
    p->v->protecting = false;
    or_engine_finish(e, p->command, err, "volume %s cannot %s a domain: %s", p->v->name,
                     p->command->domain ? "come to" : "leave", why);
    or_list_remove(&p->link);
    free(p);
}

/* Each export of the volume gets what it goes through: the door, or none. */
static void redirect(struct volume *v, struct door *door)
{
    struct or_iohv_volumes *h = v->volumes;
    for (struct or_list *l = h->exports.next; l != &h->exports; l = l->next) {
        struct export *x = OR_CONTAINER(l, struct export, link);
        if (x->volume != v)
            continue;
        or_server_replace_volume(h->server, x->id, door ? door->volume : v->volume);
        x->door = door;
        if (door)
            door->exports++;
    }
}

static int add(struct volume *v, struct domain *d, uint64_t id)
{
    int err = or_domain_add_volume(d->domain, id, v->volume);
    if (err)
        return err;
    v->domain = d;
    v->domain_volume = id;
    return 0;
}

/* Nothing of it is under way. */
static void come(struct protect *p)
{
    struct volume *v = p->v;
    struct or_list waiting;
    or_list_init(&waiting);
    or_volume_reclaim(v->volume, &waiting); /* before the domain writes to it */
    int err = add(v, p->domain, p->id);
    struct door *door = !err && v->exports ? make_door(v, p->generation, &err) : NULL;
    if (err && v->domain)
        or_iohv_volume_leave(v);
    if (door)
        redirect(v, door);
    or_volume_submit_all(door ? door->volume : v->volume, &waiting);
    end_protect(p, err, err == -ESTALE ? "that generation is not reached yet" : strerror(-err));
}

/* --- leaving ------------------------------------------------------------------------------------------ */

static bool doors_idle(const struct volume *v)
{
    for (struct or_list *l = v->doors.next; l != &v->doors; l = l->next)
        if (door_of(l)->volume->in_flight)
            return false;
    return true;
}

static void hold_doors(struct volume *v)
{
    sweep(v);
    for (struct or_list *l = v->doors.next; l != &v->doors; l = l->next)
        or_volume_hold(door_of(l)->volume);
}

static void release_doors(struct volume *v)
{
    for (struct or_list *l = v->doors.next; l != &v->doors; l = l->next)
        or_volume_release(door_of(l)->volume, door_of(l)->volume);
}

static void leave_failed(struct protect *p, int err, const char *why)
{
    release_doors(p->v);
    end_protect(p, err, why);
}

void or_iohv_volume_leave(struct volume *v)
{
    while (!or_list_empty(&v->doors))
        close_door(door_of(v->doors.next));
    or_domain_take_volume(v->domain->domain, v->domain_volume);
    v->domain = NULL;
}

/* Nothing of it is held any more. */
static void leave(struct protect *p)
{
    struct volume *v = p->v;
    struct or_list waiting;
    or_list_init(&waiting);
    for (struct or_list *l = v->doors.next; l != &v->doors; l = l->next)
        or_volume_reclaim(door_of(l)->volume, &waiting);
    redirect(v, NULL);
    or_iohv_volume_leave(v);
    or_volume_submit_all(v->volume, &waiting);
    end_protect(p, 0, "");
}

/* Why it cannot leave. */
static const char *stuck(const struct volume *v)
{
    struct or_domain_info info;
    or_domain_read_info(v->domain->domain, &info);
    if (v->exports && v->volume->synchronous)
        return "it is in memory, and exported";
    if (info.state != OR_DOMAIN_RUNNING)
        return "the domain waits for a reset";
    for (struct or_list *l = v->doors.next; l != &v->doors; l = l->next)
        if (door_of(l)->exports && door_of(l)->generation != info.generation)
            return "it has an attachment that is fenced";
    return NULL;
}

/* A fence may have come since it was asked for: then the volume below would be what fenced exports go to. */
static bool may_leave(struct protect *p)
{
    const char *why = stuck(p->v);
    if (why)
        leave_failed(p, -EBUSY, why);
    return !why;
}

static void left_committed(struct domain_commit *c, int err)
{
    struct protect *p = OR_CONTAINER(c, struct protect, commit);
    p->error = err;
    p->committed = true;
}

static void begin_commit(struct protect *p)
{
    struct domain *d = p->domain;
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    if (!may_leave(p) || info.fencing)
        return; /* until the fence is done */
    p->epoch = info.open - 1;
    int err = or_domain_dirty(d->domain) ? or_domain_cut(d->domain, info.generation, &p->epoch) : 0;
    if (err == -EAGAIN)
        return; /* until an epoch is free */
    if (err) {
        leave_failed(p, err, strerror(-err));
        return;
    }
    or_domain_expose(d->domain); /* by what it holds, and then by what is written to the volume */
    p->step = COMMITTING;
    p->committed = p->epoch <= info.committed;
    p->commit = (struct domain_commit){.base = {.epoch = p->epoch}, .done = left_committed};
    if (p->committed)
        return;
    or_iohv_domain_commit(d, &p->commit);
}

static bool is_applied(const struct protect *p)
{
    struct or_domain_info info;
    or_domain_read_info(p->domain->domain, &info);
    return info.applied >= p->epoch && info.released >= p->epoch && or_domain_may_take(p->domain->domain, p->id);
}

static bool work_on(struct protect *p)
{
    switch (p->step) {
    case COMING:
        if (p->v->volume->in_flight)
            return false;
        come(p);
        return true;
    case DRAINING:
        if (doors_idle(p->v))
            begin_commit(p);
        else
            or_iohv_domain_commit_own(p->domain); /* a write may wait for room */
        return false;
    case COMMITTING:
        if (!p->committed)
            return false;
        if (p->error)
            leave_failed(p, p->error, "its domain cannot commit");
        else
            p->step = EMPTYING;
        return true;
    default:
        if (!is_applied(p))
            return false;
        if (may_leave(p))
            leave(p);
        return true;
    }
}

uint32_t or_iohv_protects_work(struct or_iohv_volumes *h)
{
    uint32_t work = 0;
    for (struct or_list *l = h->protects.next, *next; l != &h->protects; l = next) {
        next = l->next;
        work += work_on(OR_CONTAINER(l, struct protect, link));
    }
    return work;
}

void or_iohv_protects_halt(struct or_iohv_volumes *h)
{
    while (!or_list_empty(&h->protects)) {
        struct protect *p = OR_CONTAINER(h->protects.next, struct protect, link);
        if (p->step == COMING)
            or_volume_release(p->v->volume, p->v->volume);
        else
            release_doors(p->v);
        if (p->step == COMMITTING && !p->committed)
            or_list_remove(&p->commit.base.link);
        end_protect(p, -ECANCELED, "the engine ends");
    }
}

/* --- the command -------------------------------------------------------------------------------------- */

/* Why it cannot come; NULL: it can. */
static const char *obstacle(const struct volume *v, const struct domain *d)
{
    if (!d)
        return "that domain is not open here";
    if (v->domain)
        return "it is in one already";
    if (v->volume->read_only)
        return "it is read-only";
    if (v->exports && v->volume->synchronous)
        return "it is in memory, and exported already";
    return NULL;
}

void or_iohv_volume_protect(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_for(h, c);
    if (!v)
        return;
    struct domain *d = c->domain ? or_iohv_domain(h, c->domain) : v->domain;
    if (c->domain ? d && v->domain == d && v->domain_volume == c->content : !v->domain) {
        or_engine_succeed(h->engine, c); /* it is so already */
        return;
    }
    const char *why = v->jobs ? "it is being cut, flushed or moved" : c->domain ? obstacle(v, d) : stuck(v);
    struct protect *p = why ? NULL : calloc(1, sizeof *p);
    if (!p) {
        or_engine_finish(h->engine, c, why ? -EBUSY : -ENOMEM, "volume %s cannot %s a domain: %s", c->name,
                         c->domain ? "come to" : "leave", why ? why : "out of memory");
        return;
    }
    *p = (struct protect){.step = c->domain ? COMING : DRAINING,
                          .v = v,
                          .domain = d,
                          .id = c->domain ? c->content : v->domain_volume,
                          .generation = c->domain_generation,
                          .command = c};
    v->jobs++;
    v->protecting = true;
    or_list_append(&h->protects, &p->link);
    if (c->domain)
        or_volume_hold(v->volume);
    else
        hold_doors(v);
}
