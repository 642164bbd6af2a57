/* The product's own path: the host agent's session client over the packet port, driven by the same
 * loop as the engine's worker has, minus the virtqueues. The session copies between the slot's memory
 * and its frames through the two functions below, once each way, as it does with guest memory. */
#include "packets.h"
#include "transport/client.h"
#include "waiter.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RX_BURST 64
#define CONNECT_NS 5000000000u

struct outrigger_request {
    struct or_req req;
    struct slot *slot;
};

struct outrigger_engine {
    struct engine base;
    struct or_port *port;
    struct or_client *client;
    struct outrigger_request *requests; /* by slot index */
    uint64_t now;
    struct waiter waiter;
    uint32_t device, generation;
};

static struct slot *request_slot(struct or_req *req)
{
    return ((struct outrigger_request *)req)->slot;
}

static void request_pull(struct or_req *req, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, request_slot(req)->data + offset, length);
}

static void request_push(struct or_req *req, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(request_slot(req)->data + offset, src, length);
}

static void request_done(struct or_req *req)
{
    load_done(request_slot(req), req->status);
}

static const struct or_req_ops request_ops = {request_pull, request_push, request_done};

/* Said on stderr, so that a run across an outage shows when it was. */
static void on_link(void *arg, bool up, const char *why)
{
    (void)arg;
    fprintf(stderr, "loadgen: session %s%s%s\n", up ? "up" : "down", why && *why ? ": " : "", why ? why : "");
}

static void on_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    struct outrigger_engine *e = arg;
    or_client_rx(e->client, frame, length, e->now);
}

static void outrigger_progress(struct engine *engine)
{
    struct outrigger_engine *e = (struct outrigger_engine *)engine;
    e->now = clock_ns();
    uint32_t got = or_port_rx_burst(e->port, RX_BURST, on_frame, e);
    if (or_client_deadline(e->client) <= e->now)
        or_client_tick(e->client, e->now);
    or_client_flush(e->client, e->now);
    or_port_tx_flush(e->port);
    if (got) {
        waiter_worked(&e->waiter);
        return;
    }
    struct pollfd fds[] = {{.fd = e->port->fd, .events = POLLIN}, {.fd = e->port->handshake_fd, .events = POLLIN}};
    waiter_idle(&e->waiter, fds, 2, e->now, or_client_deadline(e->client));
}

static struct or_client *create_client(const struct options *options, struct or_port *port)
{
    struct or_client_config config = {
        .ports = {port}, .env = or_env_system, .integrity_min = integrity_parse(options->integrity), .link = on_link};
    memcpy(config.server_macs[0], options->server_mac, sizeof config.server_macs[0]);
    if (strlen(options->name) > OR_NAME_MAX)
        die("--name: at most %u bytes", OR_NAME_MAX);
    strcpy(config.name, options->name);
    psk_read(options->psk_file, config.psk);
    int err = 0;
    struct or_client *client = or_client_create(&config, &err);
    if (!client)
        die("session: %s", strerror(-err));
    return client;
}

static struct engine *outrigger_open(const struct options *options, struct slot *slots)
{
    if (!options->size_bytes)
        die("--size is needed: the volume's");
    struct outrigger_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_outrigger;
    e->base.size_bytes = options->size_bytes;
    e->device = (uint32_t)options->device;
    e->generation = (uint32_t)options->generation;
    e->requests = memory_new(options->qd * sizeof *e->requests);
    for (uint64_t i = 0; i < options->qd; i++)
        e->requests[i].slot = &slots[i];
    waiter_init(&e->waiter, options->spin_us);
    e->port = packets_open_session_port(options, OR_CLIENT_FRAMES, OR_CLIENT_SESSIONS);
    e->client = create_client(options, e->port);
    uint64_t give_up = clock_ns() + CONNECT_NS;
    while (!or_client_up(e->client)) {
        outrigger_progress(&e->base);
        if (clock_ns() > give_up)
            die("no session: check --server-mac, --name, --psk-file and that the I/O hypervisor runs");
    }
    return &e->base;
}

static void outrigger_submit(struct engine *engine, struct slot *slot)
{
    struct outrigger_engine *e = (struct outrigger_engine *)engine;
    struct or_req *req = &e->requests[slot->index].req;
    *req = (struct or_req){.ops = &request_ops,
                           .offset = slot->offset,
                           .length = slot->length,
                           .device = e->device,
                           .generation = e->generation,
                           .op = slot->op};
    or_client_submit(e->client, req, slot->started_ns);
}

static void outrigger_close(struct engine *engine)
{
    struct outrigger_engine *e = (struct outrigger_engine *)engine;
    or_client_destroy(e->client);
    or_port_close(e->port);
    free(e->requests);
    free(e);
}

const struct engine_ops engine_outrigger = {
    .name = "outrigger",
    .open = outrigger_open,
    .submit = outrigger_submit,
    .progress = outrigger_progress,
    .close = outrigger_close,
};
