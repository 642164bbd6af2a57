/* The client of tcp-echo: what a request and its payload cost over TCP, with no storage behind. */
#include "stream.h"
#include "waiter.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_TRIES 100
#define CONNECT_PAUSE_US 50000

struct tcp_engine {
    struct engine base;
    struct stream *stream;
    struct slot *slots;
    uint64_t slot_count;
    struct waiter waiter;
};

static uint8_t *reply_place(void *arg, const struct echo_message *m)
{
    struct tcp_engine *e = arg;
    if (!m->is_reply || m->slot >= e->slot_count || m->length > e->slots[m->slot].length)
        return NULL;
    return e->slots[m->slot].data;
}

static void reply_complete(void *arg, const struct echo_message *m)
{
    struct tcp_engine *e = arg;
    load_done(&e->slots[m->slot], OR_OK);
}

static const struct stream_ops reply_ops = {reply_place, reply_complete};

static int connect_with_patience(const struct options *options)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options->tcp_port)};
    if (inet_pton(AF_INET, options->address, &address.sin_addr) != 1)
        die("--address: '%s' is not an IPv4 address", options->address);
    for (int i = 0;; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            die("socket: %s", strerror(errno));
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        if (i == CONNECT_TRIES)
            die("%s port %lu: %s", options->address, options->tcp_port, strerror(errno));
        close(fd);
        usleep(CONNECT_PAUSE_US);
    }
}

static struct engine *tcp_open(const struct options *options, struct slot *slots)
{
    struct tcp_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_tcp_echo;
    e->base.size_bytes = options->size_bytes ? options->size_bytes : ECHO_SIZE_DEFAULT;
    e->slots = slots;
    e->slot_count = options->qd;
    waiter_init(&e->waiter, options->spin_us);
    int fd = connect_with_patience(options);
    stream_prepare_socket(fd);
    e->stream = stream_create(fd, &reply_ops, e);
    return &e->base;
}

static void tcp_submit(struct engine *engine, struct slot *slot)
{
    struct tcp_engine *e = (struct tcp_engine *)engine;
    struct echo_message m = {.op = slot->op, .slot = slot->index, .offset = slot->offset, .total = slot->length};
    m.length = slot->op == OR_OP_WRITE ? slot->length : 0;
    stream_send(e->stream, &m, slot->data);
}

static void tcp_progress(struct engine *engine)
{
    struct tcp_engine *e = (struct tcp_engine *)engine;
    bool open = stream_flush(e->stream);
    int64_t got = open ? stream_receive(e->stream) : -1;
    if (got < 0)
        die("the tcp-echo server closed the connection");
    if (got > 0) {
        waiter_worked(&e->waiter);
        return;
    }
    struct pollfd fd = {.fd = stream_fd(e->stream), .events = POLLIN};
    if (stream_unsent(e->stream))
        fd.events |= POLLOUT;
    waiter_idle(&e->waiter, &fd, 1, clock_ns(), UINT64_MAX);
}

static void tcp_close(struct engine *engine)
{
    struct tcp_engine *e = (struct tcp_engine *)engine;
    stream_destroy(e->stream);
    free(e);
}

const struct engine_ops engine_tcp_echo = {
    .name = "tcp-echo",
    .open = tcp_open,
    .submit = tcp_submit,
    .progress = tcp_progress,
    .close = tcp_close,
};
