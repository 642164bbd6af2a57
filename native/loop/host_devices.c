/* Devices of a host, and their hand-over from one engine to the next. */
#include "host_devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/vhost_handover.h"
#include "keep/link.h"

#define SOCKET_MODE 0660 /* QEMU may be of the group only */
#define RETRY_NS 10000000ull

struct device {
    struct or_engine *engine;
    uint32_t id;
    struct or_vhost_blk *blk;
    uint32_t epoch;             /* of the connection on which the store got the latest snapshot */
    struct or_command *removal; /* to be answered when the device is gone */
    struct or_list link;
};

struct or_host_devices {
    struct or_engine *engine;
    struct or_client *client;
    struct or_list list;
    struct or_keep_link *keep;
    struct or_command *keeping; /* to be answered when the store has given what it had */
    struct or_command *drain;   /* to be answered when nothing is in flight, or at drain_end */
    uint64_t drain_end, retry;  /* retry: not before may snapshots be sent again; 0: they may */
    bool draining;
    struct or_keep_snapshot snapshot;
};

static struct device *device_at(struct or_list *l)
{
    return OR_CONTAINER(l, struct device, link);
}

static struct device *device_of(const struct or_host_devices *h, uint32_t id)
{
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        if (device_at(l)->id == id)
            return device_at(l);
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
        struct device *d = device_at(l);
        if (d->epoch == epoch && !or_vhost_blk_changed(d->blk))
            continue;
        if (!or_vhost_blk_save(d->blk, &h->snapshot))
            continue;
        int err = or_keep_link_send(h->keep, &h->snapshot);
        if (err) {
            /* A full socket tells when it has room; a lack of memory or descriptors does not. */
            h->retry = err == -EAGAIN ? 0 : now + RETRY_NS;
            return;
        }
        or_vhost_blk_saved(d->blk);
        d->epoch = epoch;
    }
}

/* --- devices ------------------------------------------------------------------------------------ */

static void on_state(void *arg, enum or_vhost_state state, const char *reason)
{
    struct device *d = arg;
    struct or_event *event = or_engine_event(d->engine, OR_EVENT_DEVICE_STATE, NULL, 0);
    if (!event)
        return;
    event->id = d->id;
    event->state = (uint8_t)state;
    strncpy(event->reason, reason, OR_WHY_MAX - 1);
    or_engine_emit(d->engine, event);
}

static void submit(void *client, struct or_req *req, uint64_t now)
{
    or_client_submit(client, req, now);
}

/* On the socket that a predecessor left, or on a new one. */
static struct or_vhost_blk *make_blk(struct or_host_devices *h, struct device *d, const struct or_command *c,
                                     struct or_keep_snapshot *left, int *err)
{
    struct or_vhost_blk_config config = {
        .submit = submit,
        .client = h->client,
        .epoll_fd = h->engine->epoll_fd,
        .device = c->id,
        .generation = c->generation,
        .size = c->size,
        .block_size = c->block_size,
        .physical_block_size = c->physical_block_size,
        .queues_max = c->queues,
        .timeout_ns = c->timeout_ms * 1000000ull,
        .read_only = c->read_only,
        .discard = c->discard,
        .write_zeroes = c->write_zeroes,
        .state = on_state,
        .arg = d,
    };
    memcpy(config.serial, c->serial, sizeof config.serial);
    config.listen_fd = left ? or_vhost_snapshot_listener(left, c->path) : -1;
    if (config.listen_fd < 0)
        config.listen_fd = or_vhost_listen(c->path, SOCKET_MODE);
    if (config.listen_fd < 0) {
        *err = config.listen_fd;
        return NULL;
    }
    struct or_vhost_blk *blk = or_vhost_blk_create(&config, err);
    if (!blk)
        close(config.listen_fd);
    else if (h->draining)
        or_vhost_blk_drain(blk);
    return blk;
}

/* Goes on where the predecessor was. */
static void resume(struct device *d, struct or_command *c, struct or_keep_snapshot *left, uint32_t epoch)
{
    const char *why = or_vhost_blk_resume(d->blk, left);
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
    int err = -ENOMEM;
    uint32_t epoch;
    struct or_keep_snapshot *left = or_keep_link_take(h->keep, c->id, &epoch);
    struct device *d = calloc(1, sizeof *d);
    if (d) {
        *d = (struct device){.engine = h->engine, .id = c->id};
        d->blk = make_blk(h, d, c, left, &err);
    }
    if (d && d->blk) {
        if (left)
            resume(d, c, left, epoch);
        or_list_append(&h->list, &d->link);
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
    struct device *d = device_of(h, c->id);
    if (d)
        or_vhost_blk_set_timeout(d->blk, c->timeout_ms * 1000000ull);
    or_engine_finish(h->engine, c, d ? 0 : -ENOENT, "no device %u", c->id);
}

static void device_gone(void *arg)
{
    struct device *d = arg;
    if (d->removal)
        or_engine_succeed(d->engine, d->removal);
    free(d);
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
    struct device *d = device_of(h, c->id);
    if (!d) {
        or_engine_finish(h->engine, c, remove_left(h, c->id) ? 0 : -ENOENT, "no device %u", c->id);
        return;
    }
    d->removal = c;
    or_list_remove(&d->link);
    or_vhost_blk_destroy(d->blk, device_gone, d);
    or_keep_link_forget(h->keep, c->id);
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
        struct device *d = device_at(l);
        struct or_device_info *info = &c->devices[c->count++];
        info->id = d->id;
        info->state = (uint8_t)or_vhost_blk_state(d->blk);
        or_vhost_blk_stats(d->blk, &info->stats);
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
        or_vhost_blk_drain(device_at(l)->blk);
}

static void look_whether_drained(struct or_host_devices *h, uint64_t now)
{
    struct or_command *c = h->drain;
    c->in_flight = 0;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        c->in_flight += or_vhost_blk_in_flight(device_at(l)->blk);
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
        struct device *d = device_at(h->list.next);
        or_list_remove(&d->link);
        or_vhost_blk_leave(d->blk, device_gone, d);
    }
}

void or_host_devices_destroy(struct or_host_devices *h)
{
    or_keep_link_destroy(h->keep);
    if (h->drain)
        or_engine_finish(h->engine, h->drain, -ECANCELED, "the engine ends");
    free(h);
}

struct or_host_devices *or_host_devices_create(struct or_engine *engine, struct or_client *client)
{
    struct or_host_devices *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->engine = engine;
    h->client = client;
    or_list_init(&h->list);
    h->keep = or_keep_link_create(engine->epoll_fd, keep_ended, h);
    if (!h->keep) {
        free(h);
        return NULL;
    }
    return h;
}

/* --- a step ------------------------------------------------------------------------------------- */

uint32_t or_host_devices_poll(struct or_host_devices *h, uint64_t now)
{
    uint32_t work = 0;
    struct or_list *next;
    for (struct or_list *l = h->list.next; l != &h->list; l = next) {
        next = l->next;
        work += or_vhost_blk_poll(device_at(l)->blk, now);
    }
    return work;
}

void or_host_devices_flush(struct or_host_devices *h, uint64_t now)
{
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        or_vhost_blk_flush(device_at(l)->blk);
    send_snapshots(h, now);
    if (h->drain)
        look_whether_drained(h, now);
}

uint64_t or_host_devices_deadline(const struct or_host_devices *h)
{
    uint64_t deadline = h->drain ? h->drain_end : UINT64_MAX;
    return h->retry && h->retry < deadline ? h->retry : deadline;
}

bool or_host_devices_arm(struct or_host_devices *h)
{
    bool work = false;
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        work |= or_vhost_blk_arm(device_at(l)->blk);
    return work;
}

void or_host_devices_disarm(struct or_host_devices *h)
{
    for (struct or_list *l = h->list.next; l != &h->list; l = l->next)
        or_vhost_blk_disarm(device_at(l)->blk);
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
