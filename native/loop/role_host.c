/* The host agent's engine: virtqueues in, requests over the session, replies back into guest memory.
 *
 *   virtqueues ──> vhost_blk ──> client ──> port ══> I/O hypervisor ══> port ──> client ──> vhost_blk */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

#define RX_BATCH 64u

struct device {
    struct or_engine *engine;
    uint32_t id;
    struct or_vhost_blk *blk;
    struct or_command *removal; /* to be answered when the device is gone */
    struct or_list link;
};

struct host {
    struct or_client *client;
    struct or_list devices;
    uint64_t now;
};

static void on_link(void *arg, bool up, const char *why)
{
    struct or_event *event = or_engine_event(arg, up ? OR_EVENT_SESSION_UP : OR_EVENT_SESSION_DOWN, NULL, 0);
    if (!event)
        return;
    strncpy(event->reason, why, OR_WHY_MAX - 1);
    or_engine_emit(arg, event);
}

static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    struct or_event *event = or_engine_event(arg, OR_EVENT_DOCUMENT, document, length);
    if (event)
        or_engine_emit(arg, event);
}

static int host_open(struct or_engine *e, char *why)
{
    int err = -ENOMEM;
    struct host *h = calloc(1, sizeof *h);
    if (h) {
        struct or_client_config config = {
            .port = e->port,
            .env = or_env_system,
            .integrity_min = e->config.integrity_min,
            .link = on_link,
            .document = on_document,
            .arg = e,
        };
        memcpy(config.server_mac, e->config.server_mac, sizeof config.server_mac);
        memcpy(config.name, e->config.name, sizeof config.name);
        memcpy(config.psk, e->config.psk, sizeof config.psk);
        or_list_init(&h->devices);
        h->client = or_client_create(&config, &err);
    }
    if (!h || !h->client) {
        free(h);
        snprintf(why, OR_WHY_MAX, "cannot set up the session: %s", strerror(-err));
        return err;
    }
    e->role_data = h;
    return 0;
}

static void receive(void *arg, const uint8_t *frame, uint32_t length)
{
    struct host *h = arg;
    or_client_rx(h->client, frame, length, h->now);
}

static struct or_vhost_blk *blk_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct device, link)->blk;
}

static uint32_t host_step(struct or_engine *e, uint64_t now)
{
    struct host *h = e->role_data;
    h->now = now;
    uint32_t work = or_port_rx_burst(e->port, RX_BATCH, receive, h);
    struct or_list *next;
    for (struct or_list *l = h->devices.next; l != &h->devices; l = next) {
        next = l->next;
        work += or_vhost_blk_poll(blk_of(l), now);
    }
    if (now >= or_client_deadline(h->client))
        or_client_tick(h->client, now);
    or_client_flush(h->client, now);
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next)
        or_vhost_blk_flush(blk_of(l));
    return work;
}

static uint64_t host_deadline(const struct or_engine *e)
{
    const struct host *h = e->role_data;
    return or_client_deadline(h->client);
}

static bool host_arm(struct or_engine *e)
{
    struct host *h = e->role_data;
    bool work = false;
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next)
        work |= or_vhost_blk_arm(blk_of(l));
    return work;
}

static void host_disarm(struct or_engine *e)
{
    struct host *h = e->role_data;
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next)
        or_vhost_blk_disarm(blk_of(l));
}

/* --- commands ----------------------------------------------------------------------------------- */

static struct device *device_of(const struct host *h, uint32_t id)
{
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next) {
        struct device *d = OR_CONTAINER(l, struct device, link);
        if (d->id == id)
            return d;
    }
    return NULL;
}

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

static void device_add(struct or_engine *e, struct or_command *c)
{
    struct host *h = e->role_data;
    if (device_of(h, c->id)) {
        or_engine_finish(e, c, -EEXIST, "device %u is there already", c->id);
        return;
    }
    int err = -ENOMEM;
    struct device *d = calloc(1, sizeof *d);
    if (d) {
        *d = (struct device){.engine = e, .id = c->id};
        struct or_vhost_blk_config config = {
            .submit = submit,
            .client = h->client,
            .listen_fd = c->fd,
            .epoll_fd = e->epoll_fd,
            .device = c->id,
            .generation = c->generation,
            .size = c->size,
            .block_size = c->block_size,
            .physical_block_size = c->physical_block_size,
            .queues_max = c->queues,
            .read_only = c->read_only,
            .discard = c->discard,
            .write_zeroes = c->write_zeroes,
            .state = on_state,
            .arg = d,
        };
        memcpy(config.serial, c->serial, sizeof config.serial);
        d->blk = or_vhost_blk_create(&config, &err);
    }
    if (!d || !d->blk) {
        free(d);
        or_engine_finish(e, c, err, "cannot make device %u: %s", c->id, strerror(-err));
        return;
    }
    c->fd = -1; /* the device's from here on */
    or_list_append(&h->devices, &d->link);
    or_engine_succeed(e, c);
}

static void device_gone(void *arg)
{
    struct device *d = arg;
    if (d->removal)
        or_engine_succeed(d->engine, d->removal);
    free(d);
}

static void device_remove(struct or_engine *e, struct or_command *c)
{
    struct device *d = device_of(e->role_data, c->id);
    if (!d) {
        or_engine_finish(e, c, -ENOENT, "no device %u", c->id);
        return;
    }
    d->removal = c;
    or_list_remove(&d->link);
    or_vhost_blk_destroy(d->blk, device_gone, d);
}

static void list_devices(struct or_engine *e, struct or_command *c)
{
    struct host *h = e->role_data;
    uint32_t n = 0;
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next)
        n++;
    c->devices = calloc(n ? n : 1, sizeof *c->devices);
    if (!c->devices) {
        or_engine_finish(e, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = h->devices.next; l != &h->devices; l = l->next) {
        struct device *d = OR_CONTAINER(l, struct device, link);
        struct or_device_info *info = &c->devices[c->count++];
        info->id = d->id;
        info->state = (uint8_t)or_vhost_blk_state(d->blk);
        or_vhost_blk_stats(d->blk, &info->stats);
    }
    or_engine_succeed(e, c);
}

static void host_command(struct or_engine *e, struct or_command *c)
{
    struct host *h = e->role_data;
    int err;
    switch (c->type) {
    case OR_CMD_STATS:
        c->stats = e->stats;
        c->stats.port = e->port->stats;
        or_client_stats(h->client, &c->stats.client);
        or_engine_succeed(e, c);
        break;
    case OR_CMD_DEVICE_ADD:
        device_add(e, c);
        break;
    case OR_CMD_DEVICE_REMOVE:
        device_remove(e, c);
        break;
    case OR_CMD_DEVICES:
        list_devices(e, c);
        break;
    case OR_CMD_REPORT:
        err = or_client_report(h->client, c->bytes, c->length);
        or_engine_finish(e, c, err, "cannot report to the I/O hypervisor: %s", strerror(-err));
        break;
    default:
        or_engine_finish(e, c, -EOPNOTSUPP, "not a command of a host agent's engine");
    }
}

/* The sockets close first, so that no guest sees the end of its requests as an error; then the client
 * ends them, and with them the devices. */
static bool host_close(struct or_engine *e)
{
    struct host *h = e->role_data;
    while (!or_list_empty(&h->devices)) {
        struct device *d = OR_CONTAINER(h->devices.next, struct device, link);
        or_list_remove(&d->link);
        or_vhost_blk_destroy(d->blk, device_gone, d);
    }
    or_client_destroy(h->client);
    free(h);
    e->role_data = NULL;
    return true;
}

const struct or_role_ops or_role_host = {
    .open = host_open,
    .step = host_step,
    .deadline = host_deadline,
    .arm = host_arm,
    .disarm = host_disarm,
    .command = host_command,
    .close = host_close,
};
