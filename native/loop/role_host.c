/* The host agent's engine: virtqueues in, requests over the session, replies back into guest memory.
 *
 *   virtqueues ──> vhost_blk ──> dispatch ──> port ══> I/O hypervisor ══> port ──> dispatch ──> vhost_blk
 *                  vhost_net                                                                    vhost_net */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_devices.h"

#define RX_BATCH 64u

struct host {
    struct or_dispatch *dispatch;
    struct or_host_devices *devices;
    uint64_t now;
};

/* The session that the owner hears of is that with worker 0, over which it and the supervisor of the I/O hypervisor
 * speak. */
static void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    if (worker != 0)
        return;
    struct or_event *event = or_engine_event(arg, up ? OR_EVENT_SESSION_UP : OR_EVENT_SESSION_DOWN, NULL, 0);
    if (!event)
        return;
    strncpy(event->reason, why, OR_WHY_MAX - 1);
    or_engine_emit(arg, event);
}

static void on_link_changed(void *arg, uint32_t link, bool up)
{
    struct or_engine *e = arg;
    struct or_event *event = or_engine_event(e, up ? OR_EVENT_LINK_UP : OR_EVENT_LINK_DOWN, NULL, 0);
    if (!event)
        return;
    event->id = link;
    memcpy(event->interface, e->config.interfaces[link < e->ports.count ? link : 0], sizeof event->interface);
    or_engine_emit(e, event);
}

static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    struct or_event *event = or_engine_event(arg, OR_EVENT_DOCUMENT, document, length);
    if (event)
        or_engine_emit(arg, event);
}

static void on_packet(void *arg, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length)
{
    const struct or_engine *e = arg;
    const struct host *h = e->role_data;
    or_host_devices_packet(h->devices, device, generation, packet, length);
}

static int host_open(struct or_engine *e, char *why)
{
    int err = -ENOMEM;
    struct host *h = calloc(1, sizeof *h);
    if (h) {
        struct or_dispatch_config config = {
            .client =
                {
                    .env = or_env_system,
                    .integrity_min = e->config.integrity_min,
                    .link_changed = on_link_changed,
                    .document = on_document,
                    .packet = on_packet,
                },
            .link = on_link,
            .arg = e,
        };
        memcpy(config.client.ports, e->ports.port, sizeof config.client.ports);
        memcpy(config.client.server_macs, e->config.server_macs, sizeof config.client.server_macs);
        memcpy(config.client.name, e->config.name, sizeof config.client.name);
        memcpy(config.client.psk, e->config.psk, sizeof config.client.psk);
        h->dispatch = or_dispatch_create(&config, &err);
        memset(config.client.psk, 0, sizeof config.client.psk);
    }
    if (h && h->dispatch) {
        h->devices = or_host_devices_create(e, h->dispatch);
        err = -ENOMEM;
    }
    if (!h || !h->devices) {
        if (h && h->dispatch)
            or_dispatch_destroy(h->dispatch);
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
    or_dispatch_rx(h->dispatch, frame, length, h->now);
}

static uint32_t host_step(struct or_engine *e, uint64_t now)
{
    struct host *h = e->role_data;
    h->now = now;
    uint32_t work = 0;
    for (uint32_t i = 0; i < e->ports.count; i++)
        work += or_port_rx_burst(e->ports.port[i], RX_BATCH, receive, h);
    work += or_host_devices_poll(h->devices, now);
    if (now >= or_dispatch_deadline(h->dispatch))
        or_dispatch_tick(h->dispatch, now);
    or_dispatch_flush(h->dispatch, now);
    or_host_devices_flush(h->devices, now);
    return work;
}

static uint64_t host_deadline(const struct or_engine *e)
{
    const struct host *h = e->role_data;
    uint64_t sessions = or_dispatch_deadline(h->dispatch), devices = or_host_devices_deadline(h->devices);
    return sessions < devices ? sessions : devices;
}

static void host_port_changed(struct or_engine *e, const struct or_port *port, uint64_t now)
{
    const struct host *h = e->role_data;
    or_dispatch_port_changed(h->dispatch, port, now);
}

static bool host_arm(struct or_engine *e)
{
    struct host *h = e->role_data;
    return or_host_devices_arm(h->devices);
}

static void host_disarm(struct or_engine *e)
{
    struct host *h = e->role_data;
    or_host_devices_disarm(h->devices);
}

static void host_command(struct or_engine *e, struct or_command *c)
{
    struct host *h = e->role_data;
    int err;
    switch (c->type) {
    case OR_CMD_STATS:
        c->stats = e->stats;
        or_ports_stats(e, &c->stats);
        or_dispatch_stats(h->dispatch, &c->stats.dispatch);
        or_host_devices_stats(h->devices, &c->stats);
        or_engine_succeed(e, c);
        break;
    case OR_CMD_REPORT:
        err = or_dispatch_report(h->dispatch, c->bytes, c->length);
        or_engine_finish(e, c, err, "cannot report to the I/O hypervisor: %s", strerror(-err));
        break;
    default:
        if (!or_host_devices_command(h->devices, c))
            or_engine_finish(e, c, -EOPNOTSUPP, "not a command of a host agent's engine");
    }
}

/* The dispatcher's end is the end of the devices' requests, and only then they are gone. */
static bool host_close(struct or_engine *e)
{
    struct host *h = e->role_data;
    or_host_devices_leave(h->devices);
    or_dispatch_destroy(h->dispatch);
    or_host_devices_destroy(h->devices);
    free(h);
    e->role_data = NULL;
    return true;
}

static void host_refused(const struct or_engine *e, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6])
{
    const struct host *h = e->role_data;
    or_dispatch_refused(h->dispatch, counts, source);
}

const struct or_role_ops or_role_host = {
    .frame_types = OR_CLIENT_FRAMES,
    .sessions_max = OR_CLIENT_SESSIONS * OR_CHANNELS_MAX,
    .all_channels = true,
    .open = host_open,
    .step = host_step,
    .deadline = host_deadline,
    .arm = host_arm,
    .disarm = host_disarm,
    .port_changed = host_port_changed,
    .command = host_command,
    .refused = host_refused,
    .close = host_close,
};
