/* The server of port-echo: one thread on one port, no session, no storage. It answers whoever asks, so
 * it only belongs on a bench's own wire. */
#include "packets.h"
#include "waiter.h"
#include <stdlib.h>
#include <string.h>

struct port_server {
    struct or_port *port;
    struct packer packer;
    uint8_t *memory;
    uint32_t received[SLOTS_LIMIT]; /* bytes of the write under way, per slot */
    uint32_t epoch[SLOTS_LIMIT];
};

static void on_request(void *arg, const struct echo_message *m, const uint8_t *payload)
{
    struct port_server *server = arg;
    if (m->is_reply || m->slot >= SLOTS_LIMIT)
        return;
    struct echo_message reply = *m;
    reply.is_reply = 1;
    if (m->op == OR_OP_READ) {
        reply.at = 0;
        packets_put(&server->packer, reply, echo_place(server->memory, &reply));
        return;
    }
    if (server->epoch[m->slot] != m->epoch || m->at == 0) { /* on a wire, pieces arrive in order */
        server->epoch[m->slot] = m->epoch;
        server->received[m->slot] = 0;
    }
    memcpy(echo_place(server->memory, m), payload, m->length);
    server->received[m->slot] += m->length;
    if (server->received[m->slot] == m->total)
        packets_put(&server->packer, reply, NULL);
}

static void on_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    struct port_server *server = arg;
    if (length >= OR_ETH_HEADER)
        memcpy(server->packer.peer, frame + 6, 6);
    packets_each(frame, length, on_request, arg);
}

int serve_port_echo(const struct options *options)
{
    struct port_server *server = memory_new(sizeof *server);
    server->port = server->packer.port = packets_open_port(options);
    server->memory = memory_map(ECHO_MEMORY_BYTES);
    struct waiter waiter;
    waiter_init(&waiter, options->spin_us);
    serve_catch_signals();
    serve_ready();
    while (!serve_stopped()) {
        uint32_t got = or_port_rx_burst(server->port, 64, on_frame, server);
        if (got) {
            packets_flush(&server->packer);
            waiter_worked(&waiter);
            continue;
        }
        struct pollfd fd = {.fd = server->port->fd, .events = POLLIN};
        waiter_idle(&waiter, &fd, 1, clock_ns(), UINT64_MAX);
    }
    or_port_close(server->port);
    free(server);
    return 0;
}
