/* The server of tcp-echo: one connection at a time, one thread, no storage. It answers a read with a
 * header and bytes from its memory, a write with a header after taking its payload. */
#include "stream.h"
#include "waiter.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct tcp_server {
    struct stream *stream;
    uint8_t *memory;
};

static uint8_t *request_place(void *arg, const struct echo_message *m)
{
    struct tcp_server *server = arg;
    return echo_valid(m) && !m->is_reply ? echo_place(server->memory, m) : NULL;
}

static void request_complete(void *arg, const struct echo_message *m)
{
    struct tcp_server *server = arg;
    struct echo_message reply = *m;
    reply.is_reply = 1;
    reply.length = m->op == OR_OP_READ ? m->total : 0;
    stream_send(server->stream, &reply, echo_place(server->memory, m));
}

static const struct stream_ops request_ops = {request_place, request_complete};

static int listen_on(uint64_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0)
        die("port %lu: %s", port, strerror(errno));
    return fd;
}

static void serve_connection(struct tcp_server *server, double spin_us)
{
    struct waiter waiter;
    waiter_init(&waiter, spin_us);
    while (!serve_stopped()) {
        int64_t got = stream_receive(server->stream);
        if (got < 0 || !stream_flush(server->stream))
            return;
        if (got > 0) {
            waiter_worked(&waiter);
            continue;
        }
        struct pollfd fd = {.fd = stream_fd(server->stream), .events = POLLIN};
        if (stream_unsent(server->stream))
            fd.events |= POLLOUT;
        waiter_idle(&waiter, &fd, 1, clock_ns(), UINT64_MAX);
    }
}

int serve_tcp_echo(const struct options *options)
{
    struct tcp_server server = {.memory = memory_map(ECHO_MEMORY_BYTES)};
    serve_catch_signals();
    int listener = listen_on(options->tcp_port);
    serve_ready();
    while (!serve_stopped()) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        stream_prepare_socket(fd);
        server.stream = stream_create(fd, &request_ops, &server);
        serve_connection(&server, options->spin_us);
        stream_destroy(server.stream);
    }
    close(listener);
    return 0;
}
