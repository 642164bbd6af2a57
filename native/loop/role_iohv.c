/* The I/O hypervisor's engine: frames in, requests to the back-ends, replies out; and packets both ways.
 *
 *   port ──> server (verify, order) ──> volume (cache, io_uring, ram, null) ──> server ──> port
 *                            └──> NICs (tap, macvtap, hub) ──> server ──> port */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "engine_internal.h"
#include "nics.h"
#include "reports.h"
#include "volumes.h"

#define RX_BATCH 64u
#define URING_ENTRIES 1024u
#define HOSTS_MAX 1024u
#define EXPORTS_MAX 65536u

struct iohv {
    struct or_server *server;
    struct or_uring *uring;
    struct or_fd_source uring_source;
    struct or_iohv_volumes *volumes;
    struct or_iohv_nics *nics;
    struct or_reports reports;
    uint64_t now;
    uint32_t port; /* on which the frame came that is being received */
    bool closing;
    bool draining;            /* nothing is received any more */
    struct or_command *drain; /* to be answered when nothing executes, or at drain_end */
    uint64_t drain_end;
};

static void uring_ready(struct or_fd_source *source, uint32_t events)
{
    (void)source;
    (void)events; /* the next step reaps */
}

static void on_link(void *arg, const char *host, bool up, const char *why)
{
    struct or_event *event = or_engine_event(arg, up ? OR_EVENT_HOST_UP : OR_EVENT_HOST_DOWN, NULL, 0);
    if (!event)
        return;
    strncpy(event->name, host, OR_NAME_MAX);
    strncpy(event->reason, why, OR_WHY_MAX - 1);
    or_engine_emit(arg, event);
}

static void on_link_changed(void *arg, const char *host, uint32_t link, uint32_t port, bool up)
{
    struct or_engine *e = arg;
    struct or_event *event = or_engine_event(e, up ? OR_EVENT_LINK_UP : OR_EVENT_LINK_DOWN, NULL, 0);
    if (!event)
        return;
    event->id = link;
    strncpy(event->name, host, OR_NAME_MAX);
    memcpy(event->interface, e->config.interfaces[port], sizeof event->interface);
    or_engine_emit(e, event);
}

static void on_report(void *arg, const char *host, const uint8_t *document, uint32_t length)
{
    struct or_engine *e = arg;
    struct iohv *h = e->role_data;
    or_reports_take(&h->reports, e, host, document, length, h->now);
}

/* --- the NICs' way to the sessions --------------------------------------------------------------- */

static void on_packet(void *arg, const uint8_t *packet, uint32_t length)
{
    or_iohv_nics_received(arg, packet, length);
}

static int add_nic(void *arg, uint32_t id, uint32_t generation, const char *host, struct or_nic *nic)
{
    struct iohv *h = arg;
    struct or_nic_export info = {.id = id, .generation = generation, .packet = on_packet, .arg = nic};
    strncpy(info.host, host, OR_NAME_MAX);
    return or_server_add_nic(h->server, &info);
}

static void remove_nic(void *arg, uint32_t id)
{
    struct iohv *h = arg;
    or_server_remove_nic(h->server, id);
}

static enum or_nic_sent send_packet(void *arg, uint32_t id, const uint8_t *bytes, uint32_t length, uint64_t now)
{
    struct iohv *h = arg;
    struct iovec iov = {(void *)bytes, length};
    struct or_packet packet = {.iov = &iov, .count = 1, .length = length};
    switch (or_server_packet(h->server, id, &packet, now)) {
    case OR_PACKET_SENT:
        return OR_NIC_SENT;
    case OR_PACKET_LATER:
        return OR_NIC_LATER;
    default:
        return OR_NIC_DOWN;
    }
}

static uint64_t fenced_packets(void *arg, uint32_t id)
{
    const struct iohv *h = arg;
    return or_server_nic_fenced(h->server, id);
}

/* --- the step ------------------------------------------------------------------------------------ */

static int open_nics(struct or_engine *e, struct iohv *h)
{
    int err;
    struct or_nic_wire wire = {
        .add = add_nic, .remove = remove_nic, .send = send_packet, .fenced = fenced_packets, .arg = h};
    h->nics = or_iohv_nics_create(e, &wire, &err);
    return err;
}

static int iohv_open(struct or_engine *e, char *why)
{
    int err = -ENOMEM;
    struct iohv *h = calloc(1, sizeof *h);
    if (!h)
        return err;
    e->role_data = h;
    or_reports_open(&h->reports);
    h->uring = or_uring_create(URING_ENTRIES, &err);
    if (!h->uring) {
        snprintf(why, OR_WHY_MAX, "cannot set up io_uring: %s (is kernel.io_uring_disabled set?)", strerror(-err));
        return err;
    }
    struct or_server_config config = {
        .env = or_env_system,
        .channel = e->config.worker,
        .integrity = e->config.integrity,
        .hosts_max = HOSTS_MAX,
        .exports_max = EXPORTS_MAX,
        .slots = e->config.slots,
        .fifo = e->config.fifo,
        .buffer_bytes = e->config.buffer_bytes,
        .link = on_link,
        .link_changed = on_link_changed,
        .report = on_report,
        .arg = e,
    };
    memcpy(config.ports, e->ports.port, sizeof config.ports);
    h->server = or_server_create(&config, &err);
    if (h->server) {
        uint64_t bytes;
        const void *buffers = or_server_buffers(h->server, &bytes);
        or_uring_lend(h->uring, buffers, bytes);
        h->uring_source = (struct or_fd_source){.ready = uring_ready, .fd = or_uring_fd(h->uring)};
        err = or_fd_source_add(e->epoll_fd, &h->uring_source, EPOLLIN);
    }
    if (!err)
        err = open_nics(e, h);
    if (!err)
        h->volumes = or_iohv_volumes_create(e, h->server, h->uring, &err);
    if (!err)
        or_iohv_volumes_set_nics(h->volumes, h->nics);
    if (err)
        snprintf(why, OR_WHY_MAX, "cannot set up the server: %s", strerror(-err));
    return err;
}

static void receive(void *arg, const uint8_t *frame, uint32_t length)
{
    struct iohv *h = arg;
    if (h->draining)
        return; /* whoever sent it sends it again to our successor */
    or_server_rx(h->server, h->port, frame, length, h->now);
}

/* Requests that the back-ends have. */
static uint32_t executing(const struct iohv *h)
{
    struct or_host_info info;
    uint64_t n = 0;
    for (uint32_t i = 0; or_server_host(h->server, i, &info); i++)
        n += info.in_flight;
    return (uint32_t)n;
}

static void look_whether_drained(struct or_engine *e, uint64_t now)
{
    struct iohv *h = e->role_data;
    struct or_command *c = h->drain;
    c->in_flight = executing(h);
    if (c->in_flight > 0 && now < h->drain_end)
        return;
    h->drain = NULL;
    or_engine_succeed(e, c);
}

static uint32_t iohv_step(struct or_engine *e, uint64_t now)
{
    struct iohv *h = e->role_data;
    h->now = now;
    uint32_t work = 0;
    or_iohv_nics_begin(h->nics, now);
    or_iohv_volumes_poll(h->volumes, now);
    for (h->port = 0; h->port < e->ports.count; h->port++)
        work += or_port_rx_burst(e->ports.port[h->port], RX_BATCH, receive, h);
    work += or_uring_poll(h->uring);
    if (!h->draining)
        work += or_iohv_nics_poll(h->nics);
    if (now >= or_server_deadline(h->server))
        or_server_tick(h->server, now);
    or_server_flush(h->server, now);
    or_iohv_volumes_poll(h->volumes, now);
    work += or_iohv_volumes_work(h->volumes);
    work += or_uring_poll(h->uring); /* what had to wait for its turn, and write-outs that are due */
    or_iohv_volumes_tell(h->volumes, now);
    if (now >= h->reports.due)
        or_reports_tell(&h->reports, e, now);
    if (h->drain)
        look_whether_drained(e, now);
    return work;
}

static uint64_t iohv_deadline(const struct or_engine *e)
{
    const struct iohv *h = e->role_data;
    uint64_t deadline = or_server_deadline(h->server);
    uint64_t nics = or_iohv_nics_deadline(h->nics);
    uint64_t errors = or_iohv_volumes_deadline(h->volumes);
    if (errors < deadline)
        deadline = errors;
    if (nics < deadline && !h->draining)
        deadline = nics;
    if (h->reports.due < deadline)
        deadline = h->reports.due;
    return h->drain && h->drain_end < deadline ? h->drain_end : deadline;
}

static void iohv_port_changed(struct or_engine *e, const struct or_port *port, uint64_t now)
{
    const struct iohv *h = e->role_data;
    or_server_port_changed(h->server, port, now);
}

static bool iohv_arm(struct or_engine *e)
{
    const struct iohv *h = e->role_data;
    return or_uring_arm(h->uring);
}

static void iohv_disarm(struct or_engine *e)
{
    const struct iohv *h = e->role_data;
    or_uring_disarm(h->uring);
}

/* --- commands ----------------------------------------------------------------------------------- */

static void list_hosts(struct or_engine *e, struct or_command *c)
{
    struct iohv *h = e->role_data;
    struct or_host_info info;
    uint32_t n = 0;
    while (or_server_host(h->server, n, &info))
        n++;
    c->hosts = calloc(n ? n : 1, sizeof *c->hosts);
    if (!c->hosts) {
        or_engine_finish(e, c, -ENOMEM, "out of memory");
        return;
    }
    for (c->count = 0; c->count < n; c->count++)
        or_server_host(h->server, c->count, &c->hosts[c->count]);
    or_engine_succeed(e, c);
}

static void drain(struct or_engine *e, struct or_command *c)
{
    struct iohv *h = e->role_data;
    if (h->draining) {
        or_engine_finish(e, c, -EALREADY, "the engine drains already");
        return;
    }
    h->draining = true;
    h->drain = c;
    h->drain_end = or_clock_ns() + c->timeout_ms * 1000000ull;
}

static void iohv_command(struct or_engine *e, struct or_command *c)
{
    struct iohv *h = e->role_data;
    int err;
    switch (c->type) {
    case OR_CMD_STATS:
        c->stats = e->stats;
        or_ports_stats(e, &c->stats);
        or_server_stats(h->server, &c->stats.server);
        c->stats.uring = or_uring_stats(h->uring);
        or_engine_succeed(e, c);
        break;
    case OR_CMD_HOST_ADD:
        err = or_server_add_host(h->server, c->name, c->key);
        if (!err)
            or_server_admit_host(h->server, c->name, false);
        or_engine_finish(e, c, err, "cannot add host %s: %s", c->name, strerror(-err));
        break;
    case OR_CMD_HOST_ADMIT:
        err = or_server_admit_host(h->server, c->name, true);
        or_engine_finish(e, c, err, "cannot admit host %s: %s", c->name, strerror(-err));
        break;
    case OR_CMD_HOST_REMOVE:
        err = or_server_remove_host(h->server, c->name);
        if (!err)
            or_reports_forget(&h->reports, c->name);
        or_engine_finish(e, c, err, "cannot remove host %s: %s", c->name, strerror(-err));
        break;
    case OR_CMD_HOSTS:
        list_hosts(e, c);
        break;
    case OR_CMD_DRAIN:
        drain(e, c);
        break;
    case OR_CMD_DOCUMENT_SET:
        err = or_server_set_document(h->server, c->name, c->bytes, c->length);
        or_engine_finish(e, c, err, "cannot send host %s its devices: %s", c->name, strerror(-err));
        break;
    default:
        if (!or_iohv_volumes_command(h->volumes, c) && !or_iohv_nics_command(h->nics, c))
            or_engine_finish(e, c, -EOPNOTSUPP, "not a command of an I/O hypervisor's engine");
    }
}

/* --- end ---------------------------------------------------------------------------------------- */

static bool iohv_close(struct or_engine *e)
{
    struct iohv *h = e->role_data;
    if (!h->closing) {
        h->closing = true;
        or_server_bye(h->server, h->now);
        or_ports_flush(e);
    }
    if (!or_iohv_volumes_drained(h->volumes))
        return false; /* the back-ends still have something */
    if (h->drain)
        or_engine_finish(e, h->drain, -ECANCELED, "the engine ends");
    or_iohv_nics_destroy(h->nics);
    or_server_destroy(h->server);
    or_reports_close(&h->reports);
    or_iohv_volumes_destroy(h->volumes);
    or_fd_source_remove(e->epoll_fd, &h->uring_source);
    or_uring_destroy(h->uring);
    free(h);
    e->role_data = NULL;
    return true;
}

static void iohv_refused(const struct or_engine *e, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6])
{
    const struct iohv *h = e->role_data;
    or_server_refused(h->server, counts, source);
}

const struct or_role_ops or_role_iohv = {
    .frame_types = OR_SERVER_FRAMES,
    .sessions_max = HOSTS_MAX * OR_SERVER_SESSIONS_PER_HOST,
    .open = iohv_open,
    .step = iohv_step,
    .deadline = iohv_deadline,
    .arm = iohv_arm,
    .disarm = iohv_disarm,
    .port_changed = iohv_port_changed,
    .command = iohv_command,
    .refused = iohv_refused,
    .close = iohv_close,
};
