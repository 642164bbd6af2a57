/* A NIC, as one of a host's devices. */
#include <errno.h>
#include <string.h>

#include "host_device.h"

static void on_state(void *arg, enum or_vhost_state state, const char *reason, uint64_t features)
{
    or_host_device_state(arg, state, reason, features);
}

static enum or_packet_verdict send_packet(void *route, uint32_t device, uint32_t generation,
                                          const struct or_packet *packet, uint64_t now)
{
    (void)device;
    return or_route_packet(route, generation, packet, now);
}

static int create(struct or_host_device *d, const struct or_command *c, int listen_fd)
{
    int err = 0;
    struct or_vhost_net_config config = {
        .packet = send_packet,
        .client = &d->route,
        .listen_fd = listen_fd,
        .epoll_fd = d->engine->epoll_fd,
        .mode = OR_DEVICE_SOCKET_MODE,
        .device = c->id,
        .generation = c->generation,
        .pairs = c->queues,
        .mtu = c->mtu,
        .limit = c->limit,
        .state = on_state,
        .arg = d,
    };
    memcpy(config.path, c->path, sizeof config.path);
    d->net = or_vhost_net_create(&config, &err);
    return err;
}

static void destroy(struct or_host_device *d, void (*gone)(void *device))
{
    or_vhost_net_destroy(d->net);
    gone(d);
}

static void leave(struct or_host_device *d, void (*gone)(void *device))
{
    or_vhost_net_leave(d->net);
    gone(d);
}

static int set(struct or_host_device *d, const struct or_command *c)
{
    if (c->has_timeout)
        return -EOPNOTSUPP;
    if (c->has_limit)
        or_vhost_net_set_limit(d->net, &c->limit);
    return c->has_link ? or_vhost_net_set_link(d->net, c->link_up) : 0;
}

static bool link_up(const struct or_host_device *d)
{
    return or_vhost_net_link(d->net);
}

static void info(const struct or_host_device *d, struct or_device_info *info)
{
    info->state = (uint8_t)or_vhost_net_state(d->net);
    info->features = or_vhost_net_features(d->net);
    info->link_up = or_vhost_net_link(d->net);
    or_vhost_net_stats(d->net, &info->net);
}

static uint32_t poll(struct or_host_device *d, uint64_t now)
{
    return or_vhost_net_poll(d->net, now);
}

static void flush(struct or_host_device *d)
{
    or_vhost_net_flush(d->net);
}

static bool arm(struct or_host_device *d)
{
    return or_vhost_net_arm(d->net);
}

static void disarm(struct or_host_device *d)
{
    or_vhost_net_disarm(d->net);
}

static uint64_t deadline(const struct or_host_device *d)
{
    return or_vhost_net_deadline(d->net);
}

static bool changed(const struct or_host_device *d)
{
    return or_vhost_net_changed(d->net);
}

static bool save(struct or_host_device *d, struct or_keep_snapshot *snapshot)
{
    return or_vhost_net_save(d->net, snapshot);
}

static void saved(struct or_host_device *d)
{
    or_vhost_net_saved(d->net);
}

static const char *resume(struct or_host_device *d, struct or_keep_snapshot *snapshot)
{
    return or_vhost_net_resume(d->net, snapshot);
}

static void drain(struct or_host_device *d)
{
    or_vhost_net_drain(d->net);
}

static void packet(struct or_host_device *d, const uint8_t *packet, uint32_t length)
{
    or_vhost_net_receive(d->net, packet, length);
}

static uint32_t in_flight(const struct or_host_device *d)
{
    (void)d;
    return 0;
}

const struct or_device_ops or_device_net = {
    .kind = OR_DEVICE_NET,
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
    .packet = packet,
};
