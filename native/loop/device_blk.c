/* A disk, as one of a host's devices. */
#include <errno.h>
#include <string.h>

#include "host_device.h"

static void on_state(void *arg, enum or_vhost_state state, const char *reason)
{
    or_host_device_state(arg, state, reason, 0);
}

static void submit(void *route, struct or_req *req, uint64_t now)
{
    or_route_submit(route, req, now);
}

static int create(struct or_host_device *d, const struct or_command *c, int listen_fd)
{
    int err = 0;
    struct or_vhost_blk_config config = {
        .submit = submit,
        .client = &d->route,
        .listen_fd = listen_fd,
        .epoll_fd = d->engine->epoll_fd,
        .device = c->id,
        .generation = c->generation,
        .size = c->size,
        .block_size = c->block_size,
        .physical_block_size = c->physical_block_size,
        .queues_max = c->queues,
        .timeout_ns = c->timeout_ms * 1000000ull,
        .limit = c->limit,
        .read_only = c->read_only,
        .discard = c->discard,
        .write_zeroes = c->write_zeroes,
        .state = on_state,
        .arg = d,
    };
    memcpy(config.serial, c->serial, sizeof config.serial);
    d->blk = or_vhost_blk_create(&config, &err);
    return err;
}

static void destroy(struct or_host_device *d, void (*gone)(void *device))
{
    or_vhost_blk_destroy(d->blk, gone, d);
}

static void leave(struct or_host_device *d, void (*gone)(void *device))
{
    or_vhost_blk_leave(d->blk, gone, d);
}

static int set(struct or_host_device *d, const struct or_command *c)
{
    if (c->has_link)
        return -EOPNOTSUPP;
    if (c->has_timeout)
        or_vhost_blk_set_timeout(d->blk, c->timeout_ms * 1000000ull);
    if (c->has_limit)
        or_vhost_blk_set_limit(d->blk, &c->limit);
    return 0;
}

static bool link_up(const struct or_host_device *d)
{
    (void)d;
    return true;
}

static void info(const struct or_host_device *d, struct or_device_info *info)
{
    info->state = (uint8_t)or_vhost_blk_state(d->blk);
    or_vhost_blk_stats(d->blk, &info->blk);
}

static uint32_t poll(struct or_host_device *d, uint64_t now)
{
    return or_vhost_blk_poll(d->blk, now);
}

static void flush(struct or_host_device *d)
{
    or_vhost_blk_flush(d->blk);
}

static bool arm(struct or_host_device *d)
{
    return or_vhost_blk_arm(d->blk);
}

static void disarm(struct or_host_device *d)
{
    or_vhost_blk_disarm(d->blk);
}

static uint64_t deadline(const struct or_host_device *d)
{
    return or_vhost_blk_deadline(d->blk);
}

static bool changed(const struct or_host_device *d)
{
    return or_vhost_blk_changed(d->blk);
}

static bool save(struct or_host_device *d, struct or_keep_snapshot *snapshot)
{
    return or_vhost_blk_save(d->blk, snapshot);
}

static void saved(struct or_host_device *d)
{
    or_vhost_blk_saved(d->blk);
}

static const char *resume(struct or_host_device *d, struct or_keep_snapshot *snapshot)
{
    return or_vhost_blk_resume(d->blk, snapshot);
}

static void drain(struct or_host_device *d)
{
    or_vhost_blk_drain(d->blk);
}

static uint32_t in_flight(const struct or_host_device *d)
{
    return or_vhost_blk_in_flight(d->blk);
}

const struct or_device_ops or_device_blk = {
    .kind = OR_DEVICE_BLK,
    .create = create,
    .destroy = destroy,
    .leave = leave,
    .set = set,
    .link = link_up,
    .info = info,
    .poll = poll,
    .flush = flush,
    .arm = arm,
    .disarm = disarm,
    .deadline = deadline,
    .changed = changed,
    .save = save,
    .saved = saved,
    .resume = resume,
    .drain = drain,
    .in_flight = in_flight,
};
