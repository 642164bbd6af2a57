/* The client of port-echo: our raw port, packed frames and one copy at each end, but no session and no
 * storage. The difference to `outrigger` is what the session costs.
 *
 * The receiver's ring must not overflow, so an operation waits until the frames that its data takes
 * fit a window of the ring. A frame that is lost all the same (nothing is sent again) shows as an
 * error: when nothing has arrived for a while, everything in flight is given up, and a new epoch makes
 * late replies be ignored. */
#include "packets.h"
#include "waiter.h"
#include <stdlib.h>
#include <string.h>

#define LOST_AFTER_NS 300000000u
#define NOT_IN_FLIGHT UINT32_MAX

struct port_engine {
    struct engine base;
    struct or_port *port;
    struct packer packer;
    struct slot *slots;
    uint32_t *received; /* per slot: bytes of the reply, or NOT_IN_FLIGHT */
    uint64_t slot_count;
    struct slot *waiting, **waiting_end; /* for the window, in order */
    uint32_t window_frames, frames_per_io, frames_in_flight;
    uint32_t epoch;
    uint64_t last_rx_ns;
    struct waiter waiter;
};

static struct engine *port_open(const struct options *options, struct slot *slots)
{
    struct port_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_port_echo;
    e->base.size_bytes = options->size_bytes ? options->size_bytes : ECHO_SIZE_DEFAULT;
    e->port = packets_open_port(options);
    e->packer.port = e->port;
    memcpy(e->packer.peer, options->server_mac, 6);
    e->slots = slots;
    e->slot_count = options->qd;
    e->received = memory_new(options->qd * sizeof *e->received);
    memset(e->received, 0xff, options->qd * sizeof *e->received);
    e->waiting_end = &e->waiting;
    uint32_t piece = packets_payload_max(e->port);
    e->frames_per_io = ((uint32_t)options->bs + piece - 1) / piece;
    e->window_frames = e->port->rx_frames * 3 / 4;
    if (e->frames_per_io > e->window_frames)
        die("--bs %lu takes %u frames, the ring takes %u", options->bs, e->frames_per_io, e->window_frames);
    e->last_rx_ns = clock_ns();
    waiter_init(&e->waiter, options->spin_us);
    return &e->base;
}

static void port_submit(struct engine *engine, struct slot *slot)
{
    struct port_engine *e = (struct port_engine *)engine;
    slot->next = NULL;
    *e->waiting_end = slot;
    e->waiting_end = &slot->next;
}

static void send_waiting(struct port_engine *e)
{
    while (e->waiting && e->frames_in_flight + e->frames_per_io <= e->window_frames) {
        struct slot *slot = e->waiting;
        e->waiting = slot->next;
        if (!e->waiting)
            e->waiting_end = &e->waiting;
        struct echo_message m = {.op = slot->op, .slot = slot->index, .epoch = e->epoch, .offset = slot->offset};
        m.total = slot->length;
        e->received[slot->index] = 0;
        e->frames_in_flight += e->frames_per_io;
        packets_put(&e->packer, m, slot->op == OR_OP_WRITE ? slot->data : NULL);
    }
    packets_flush(&e->packer);
}

static void end_slot(struct port_engine *e, uint32_t index, uint8_t status)
{
    e->received[index] = NOT_IN_FLIGHT;
    e->frames_in_flight -= e->frames_per_io;
    load_done(&e->slots[index], status);
}

static void on_reply(void *arg, const struct echo_message *m, const uint8_t *payload)
{
    struct port_engine *e = arg;
    if (!m->is_reply || m->epoch != e->epoch || m->slot >= e->slot_count || e->received[m->slot] == NOT_IN_FLIGHT)
        return;
    struct slot *slot = &e->slots[m->slot];
    if (m->total != slot->length)
        return;
    memcpy(slot->data + m->at, payload, m->length);
    e->received[m->slot] += m->length;
    if (slot->op == OR_OP_WRITE || e->received[m->slot] == slot->length)
        end_slot(e, m->slot, OR_OK);
}

static void on_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    packets_each(frame, length, on_reply, arg);
}

static void give_up_in_flight(struct port_engine *e)
{
    e->epoch++;
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (e->received[i] != NOT_IN_FLIGHT)
            end_slot(e, i, OR_ETIMEOUT);
}

static void port_progress(struct engine *engine)
{
    struct port_engine *e = (struct port_engine *)engine;
    send_waiting(e);
    uint32_t got = or_port_rx_burst(e->port, 64, on_frame, e);
    uint64_t now = clock_ns();
    if (got) {
        e->last_rx_ns = now;
        waiter_worked(&e->waiter);
    } else if (e->frames_in_flight && now - e->last_rx_ns > LOST_AFTER_NS) {
        give_up_in_flight(e);
        e->last_rx_ns = now;
    } else {
        struct pollfd fd = {.fd = e->port->fd, .events = POLLIN};
        waiter_idle(&e->waiter, &fd, 1, now, UINT64_MAX);
    }
}

static void port_close(struct engine *engine)
{
    struct port_engine *e = (struct port_engine *)engine;
    or_port_close(e->port);
    free(e->received);
    free(e);
}

const struct engine_ops engine_port_echo = {
    .name = "port-echo",
    .open = port_open,
    .submit = port_submit,
    .progress = port_progress,
    .close = port_close,
};
