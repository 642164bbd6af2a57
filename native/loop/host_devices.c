/* Devices of a host, and their hand-over from one engine to the next. */
#include "host_devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/vhost_handover.h"
#include "host_device.h"
#include "keep/link.h"

#define RETRY_NS 10000000ull
#define PLACES 256u /* of the index */

struct or_host_devices {
    struct or_engine *engine;
    struct or_dispatch *dispatch;
    struct or_list list;          /* each step begins with another device */
    struct or_list index[PLACES]; /* by id */
    struct or_keep_link *keep;
    struct or_command *keeping; /* to be answered when the store has given what it had */
    struct or_command *drain;   /* to be answered when nothing is in flight, or at drain_end */
    uint64_t drain_end, retry;  /* retry: not before may snapshots be sent again; 0: they may */
    bool draining;
    uint64_t packets_unknown, packets_fenced;
    struct or_keep_snapshot snapshot;
};

static struct or_host_device *device_at(struct or_list *l)
{
    return OR_CONTAINER(l, struct or_host_device, link);
}

static struct or_host_device *device_of(struct or_host_devices *h, uint32_t id)
{
    struct or_list *place = &h->index[id % PLACES];
    for (struct or_list *l = place->next; l != place; l = l->next) {
        struct or_host_device *d = OR_CONTAINER(l, struct or_host_device, same_place);
        if (d->id == id)
            return d;
    }
    return NULL;
}

/* --- the store ---------------------------------------------------------------------------------- */

static void release(struct or_keep_snapshot *s)
{
    or_keep_close_fds(s);
    free(s);
}

static void answer_keep(struct or_host_devices *h, struct or_command *c, int err)
{
    uint32_t n = or_keep_link_stash(h->keep, NULL, 0);
    c->ids = calloc(n ? n : 1, sizeof *c->ids);
    if (!err && !c->ids)
        err = -ENOMEM;
    if (!err)
        c->count = or_keep_link_stash(h->keep, c->ids, n);
    or_engine_finish(h->engine, c, err, "the supervisor's store went away: %s", strerror(-err));
}

/* What the store had has arrived, or will not. */
static void keep_ended(void *arg, int err)
{
    struct or_host_devices *h = arg;
    struct or_command *c = h->keeping;
    uint32_t epoch;
    /* A store that had us before returns what is ours. */
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next) {
        struct or_keep_snapshot *own = or_keep_link_take(h->keep, device_at(l)->id, &epoch);
        if (own)
            release(own);
    }
    h->keeping = NULL;
    if (c)
        answer_keep(h, c, err);
}

static void keep(struct or_host_devices *h, struct or_command *c)
{
    int rc = or_keep_link_connect(h->keep, c->path);
    if (rc < 0)
        or_engine_finish(h->engine, c, rc, "cannot connect to the supervisor's store at %s: %s", c->path,
                         strerror(-rc));
    else if (rc > 0)
        answer_keep(h, c, 0);
    else
        h->keeping = c;
}

/* Brings the store up to date, as far as it goes now. */
static void send_snapshots(struct or_host_devices *h, uint64_t now)
{
    uint32_t epoch = or_keep_link_epoch(h->keep);
    if (epoch == 0 || now < h->retry)
        return;
    h->retry = 0;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next) {
        struct or_host_device *d = device_at(l);
        if (d->epoch == epoch && !d->ops->changed(d))
            continue;
        if (!d->ops->save(d, &h->snapshot))
            continue;
        int err = or_keep_link_send(h->keep, &h->snapshot);
        if (err) {
            /* A full socket tells when it has room; a lack of memory or descriptors does not. */
            h->retry = err == -EAGAIN ? 0 : now + RETRY_NS;
            return;
        }
        d->ops->saved(d);
        d->epoch = epoch;
    }
}

/* --- devices ------------------------------------------------------------------------------------ */

void or_host_device_state(struct or_host_device *d, enum or_vhost_state state, const char *reason, uint64_t features)
{
    struct or_event *event = or_engine_event(d->engine, OR_EVENT_DEVICE_STATE, NULL, 0);
    if (!event)
        return;
    event->id = d->id;
    event->state = (uint8_t)state;
    event->device_kind = d->ops->kind;
    event->features = features;
    strncpy(event->reason, reason, OR_WHY_MAX - 1);
    or_engine_emit(d->engine, event);
}

/* On the socket that a predecessor left, or on a new one. */
static int make(struct or_host_devices *h, struct or_host_device *d, const struct or_command *c,
                struct or_keep_snapshot *left)
{
    bool listens = d->ops->kind == OR_DEVICE_BLK || c->link_up;
    int fd = left && listens ? or_vhost_snapshot_listener(left, c->path) : -1;
    if (listens && fd < 0) {
        fd = or_vhost_listen(c->path, OR_DEVICE_SOCKET_MODE);
        if (fd < 0)
            return fd;
    }
    int err = or_route_open(h->dispatch, &d->route, c->id, c->placement);
    if (!err && (err = d->ops->create(d, c, fd)) != 0)
        or_route_close(&d->route);
    if (err && fd >= 0)
        close(fd);
    if (!err && h->draining)
        d->ops->drain(d);
    return err;
}

/* Goes on where the predecessor was. */
static void resume(struct or_host_device *d, struct or_command *c, struct or_keep_snapshot *left, uint32_t epoch)
{
    const char *why = d->ops->resume(d, left);
    c->restored = !why;
    if (why)
        snprintf(c->why, sizeof c->why, "%s", why);
    else
        d->epoch = epoch;
}

static void device_add(struct or_host_devices *h, struct or_command *c)
{
    if (device_of(h, c->id)) {
        or_engine_finish(h->engine, c, -EEXIST, "device %u is there already", c->id);
        return;
    }
    uint32_t epoch;
    struct or_keep_snapshot *left = or_keep_link_take(h->keep, c->id, &epoch);
    struct or_host_device *d = calloc(1, sizeof *d);
    int err = -ENOMEM;
    if (d) {
        d->ops = c->device_kind == OR_DEVICE_NET ? &or_device_net : &or_device_blk;
        d->engine = h->engine;
        d->id = c->id;
        d->generation = c->generation;
        err = make(h, d, c, left);
    }
    if (!err) {
        if (left)
            resume(d, c, left, epoch);
        if (left && !d->ops->link(d))
            or_keep_link_forget(h->keep, d->id);
        or_list_append(&h->list, &d->link);
        or_list_append(&h->index[d->id % PLACES], &d->same_place);
        or_engine_succeed(h->engine, c);
    } else {
        free(d);
        if (left)
            or_vhost_snapshot_end(left);
        or_engine_finish(h->engine, c, err, "cannot make device %u with the socket %s: %s", c->id, c->path,
                         strerror(-err));
    }
    if (left)
        release(left);
}

static void device_set(struct or_host_devices *h, struct or_command *c)
{
    struct or_host_device *d = device_of(h, c->id);
    if (!d) {
        or_engine_finish(h->engine, c, -ENOENT, "no device %u", c->id);
        return;
    }
    bool kept = d->ops->link(d);
    int err = d->ops->set(d, c);
    if (!err && c->has_placement)
        err = or_route_move(&d->route, c->placement);
    if (kept && !d->ops->link(d))
        or_keep_link_forget(h->keep, d->id);
    or_engine_finish(h->engine, c, err, "cannot change device %u: %s", c->id, strerror(-err));
}

static void device_gone(void *arg)
{
    struct or_host_device *d = arg;
    or_route_close(&d->route);
    if (d->removal)
        or_engine_succeed(d->engine, d->removal);
    free(d);
}

static void unlist(struct or_host_device *d)
{
    or_list_remove(&d->link);
    or_list_remove(&d->same_place);
}

/* A device that a predecessor left and that nobody wants any more. */
static bool remove_left(struct or_host_devices *h, uint32_t id)
{
    uint32_t epoch;
    struct or_keep_snapshot *left = or_keep_link_take(h->keep, id, &epoch);
    if (!left)
        return false;
    or_vhost_snapshot_end(left);
    release(left);
    or_keep_link_forget(h->keep, id);
    return true;
}

static void device_remove(struct or_host_devices *h, struct or_command *c)
{
    struct or_host_device *d = device_of(h, c->id);
    if (!d) {
        or_engine_finish(h->engine, c, remove_left(h, c->id) ? 0 : -ENOENT, "no device %u", c->id);
        return;
    }
    d->removal = c;
    unlist(d);
    or_keep_link_forget(h->keep, c->id);
    d->ops->destroy(d, device_gone);
}

static void list_devices(struct or_host_devices *h, struct or_command *c)
{
    uint32_t n = 0;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        n++;
    c->devices = calloc(n ? n : 1, sizeof *c->devices);
    if (!c->devices) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next) {
        struct or_host_device *d = device_at(l);
        struct or_device_info *info = &c->devices[c->count++];
        info->id = d->id;
        info->kind = d->ops->kind;
        d->ops->info(d, info);
    }
    or_engine_succeed(h->engine, c);
}

/* --- the end ------------------------------------------------------------------------------------ */

static void drain(struct or_host_devices *h, struct or_command *c)
{
    if (h->draining) {
        or_engine_finish(h->engine, c, -EALREADY, "the engine drains already");
        return;
    }
    h->draining = true;
    h->drain = c;
    h->drain_end = or_clock_ns() + c->timeout_ms * 1000000ull;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        device_at(l)->ops->drain(device_at(l));
}

static void look_whether_drained(struct or_host_devices *h, uint64_t now)
{
    struct or_command *c = h->drain;
    c->in_flight = 0;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        c->in_flight += device_at(l)->ops->in_flight(device_at(l));
    if (c->in_flight > 0 && now < h->drain_end)
        return;
    h->drain = NULL;
    or_engine_succeed(h->engine, c);
}

/* The sockets close first, so that no guest sees the end of its requests as an error. */
void or_host_devices_leave(struct or_host_devices *h)
{
    send_snapshots(h, UINT64_MAX);
    while (!or_list_empty(&h->list)) {
        struct or_host_device *d = device_at(h->list.next);
        unlist(d);
        d->ops->leave(d, device_gone);
    }
}

void or_host_devices_destroy(struct or_host_devices *h)
{
    or_keep_link_destroy(h->keep);
    if (h->drain)
        or_engine_finish(h->engine, h->drain, -ECANCELED, "the engine ends");
    free(h);
}

struct or_host_devices *or_host_devices_create(struct or_engine *engine, struct or_dispatch *dispatch)
{
    struct or_host_devices *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->engine = engine;
    h->dispatch = dispatch;
    or_list_init(&h->list);
    for (uint32_t i = 0; i < PLACES; i++)
        or_list_init(&h->index[i]);
    h->keep = or_keep_link_create(engine->epoll_fd, keep_ended, h);
    if (!h->keep) {
        free(h);
        return NULL;
    }
    return h;
}

/* --- a step ------------------------------------------------------------------------------------- */

void or_host_devices_packet(struct or_host_devices *h, uint32_t id, uint32_t generation, const uint8_t *packet,
                            uint32_t length)
{
    struct or_host_device *d = device_of(h, id);
    if (!d || !d->ops->packet)
        h->packets_unknown++;
    else if (d->generation != generation)
        h->packets_fenced++;
    else
        d->ops->packet(d, packet, length);
}

void or_host_devices_stats(const struct or_host_devices *h, struct or_engine_stats *out)
{
    out->packets_unknown = h->packets_unknown;
    out->packets_fenced = h->packets_fenced;
}

/* Whoever is the first takes what room there is in the session: the next time it is another. */
static void take_turns(struct or_host_devices *h)
{
    struct or_list *second = h->list.next->next;
    if (second == &h->list)
        return;
    or_list_remove(&h->list);
    or_list_append(second, &h->list);
}

uint32_t or_host_devices_poll(struct or_host_devices *h, uint64_t now)
{
    uint32_t work = 0;
    struct or_list *next;
    if (!or_list_empty(&h->list))
        take_turns(h);
    for (struct or_list *l = h->list.next; l != &h->list; l = next) {
        next = l->next;
        work += device_at(l)->ops->poll(device_at(l), now);
    }
    return work;
}

void or_host_devices_flush(struct or_host_devices *h, uint64_t now)
{
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        device_at(l)->ops->flush(device_at(l));
    send_snapshots(h, now);
    if (h->drain)
        look_whether_drained(h, now);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t or_host_devices_deadline(const struct or_host_devices *h)
{
    uint64_t deadline = h->drain ? h->drain_end : UINT64_MAX;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        deadline = sooner(deadline, device_at(l)->ops->deadline(device_at(l)));
    return h->retry ? sooner(deadline, h->retry) : deadline;
}

bool or_host_devices_arm(struct or_host_devices *h)
{
    bool work = false;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        work |= device_at(l)->ops->arm(device_at(l));
    return work;
}

void or_host_devices_disarm(struct or_host_devices *h)
{
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        device_at(l)->ops->disarm(device_at(l));
}

bool or_host_devices_command(struct or_host_devices *h, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_KEEP:
        keep(h, c);
        return true;
    case OR_CMD_DRAIN:
        drain(h, c);
        return true;
    case OR_CMD_DEVICE_ADD:
        device_add(h, c);
        return true;
    case OR_CMD_DEVICE_SET:
        device_set(h, c);
        return true;
    case OR_CMD_DEVICE_REMOVE:
        device_remove(h, c);
        return true;
    case OR_CMD_DEVICES:
        list_devices(h, c);
        return true;
    default:
        return false;
    }
}
