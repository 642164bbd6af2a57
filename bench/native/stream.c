/* Echo messages over TCP: see stream.h. The output is a ring of (header, payload) pairs that one
 * sendmsg() gathers; the input is one readv() into the rest of the current payload and a buffer. */
#include "stream.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define INPUT_BYTES (256u << 10)
#define GATHER_MAX 64u

struct outgoing {
    struct echo_message header;
    const uint8_t *payload;
};

struct stream {
    int fd;
    const struct stream_ops *ops;
    void *arg;
    struct outgoing out[SLOTS_LIMIT];
    uint64_t out_head, out_tail; /* counted from the start; the ring's index is modulo */
    uint64_t out_sent;           /* bytes of the message at head that have been sent */
    struct echo_message current; /* the message being received ... */
    bool in_message;
    uint8_t *rest; /* ... where its next bytes go */
    uint32_t rest_bytes;
    uint32_t in_begin, in_end; /* unread part of `in` */
    uint8_t in[INPUT_BYTES];
};

void stream_prepare_socket(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

struct stream *stream_create(int fd, const struct stream_ops *ops, void *arg)
{
    struct stream *s = memory_new(sizeof *s);
    s->fd = fd;
    s->ops = ops;
    s->arg = arg;
    return s;
}

void stream_destroy(struct stream *s)
{
    close(s->fd);
    free(s);
}

void stream_send(struct stream *s, const struct echo_message *message, const uint8_t *payload)
{
    assert(s->out_tail - s->out_head < SLOTS_LIMIT);
    struct outgoing *o = &s->out[s->out_tail++ % SLOTS_LIMIT];
    o->header = *message;
    o->payload = payload;
}

static void add_part(struct iovec *parts, uint32_t *count, const void *base, size_t length, size_t *skip)
{
    size_t skipped = *skip < length ? *skip : length;
    *skip -= skipped;
    if (length == skipped)
        return;
    parts[(*count)++] = (struct iovec){.iov_base = (uint8_t *)base + skipped, .iov_len = length - skipped};
}

/* Drops from the ring what has been sent. */
static void advance(struct stream *s, size_t sent)
{
    s->out_sent += sent;
    while (s->out_head != s->out_tail) {
        const struct outgoing *o = &s->out[s->out_head % SLOTS_LIMIT];
        size_t whole = sizeof o->header + o->header.length;
        if (s->out_sent < whole)
            return;
        s->out_sent -= whole;
        s->out_head++;
    }
}

bool stream_flush(struct stream *s)
{
    while (s->out_head != s->out_tail) {
        struct iovec parts[GATHER_MAX];
        uint32_t count = 0;
        size_t skip = s->out_sent;
        for (uint64_t i = s->out_head; i != s->out_tail && count + 2 <= GATHER_MAX; i++) {
            const struct outgoing *o = &s->out[i % SLOTS_LIMIT];
            add_part(parts, &count, &o->header, sizeof o->header, &skip);
            add_part(parts, &count, o->payload, o->header.length, &skip);
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t sent = sendmsg(s->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        advance(s, (size_t)sent);
    }
    return true;
}

/* Delivers what the input buffer holds. False on a message that its receiver refuses. */
static bool deliver(struct stream *s)
{
    for (;;) {
        if (!s->in_message) {
            if (s->in_end - s->in_begin < sizeof s->current)
                return true;
            memcpy(&s->current, s->in + s->in_begin, sizeof s->current);
            s->in_begin += sizeof s->current;
            s->in_message = true;
            s->rest = s->ops->place(s->arg, &s->current);
            s->rest_bytes = s->current.length;
            if (!s->rest)
                return false;
        }
        uint32_t have = (uint32_t)min_u64(s->in_end - s->in_begin, s->rest_bytes);
        memcpy(s->rest, s->in + s->in_begin, have);
        s->in_begin += have;
        s->rest += have;
        s->rest_bytes -= have;
        if (s->rest_bytes)
            return true;
        s->in_message = false;
        s->ops->complete(s->arg, &s->current);
    }
}

int64_t stream_receive(struct stream *s)
{
    memmove(s->in, s->in + s->in_begin, s->in_end - s->in_begin);
    s->in_end -= s->in_begin;
    s->in_begin = 0;
    struct iovec parts[2] = {{.iov_base = s->rest, .iov_len = s->in_message ? s->rest_bytes : 0},
                             {.iov_base = s->in + s->in_end, .iov_len = INPUT_BYTES - s->in_end}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t got = recvmsg(s->fd, &message, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        return -1;
    uint32_t direct = (uint32_t)min_u64((uint64_t)got, parts[0].iov_len);
    if (direct) {
        s->rest += direct;
        s->rest_bytes -= direct;
    }
    s->in_end += (uint32_t)got - direct;
    return deliver(s) ? got : -1;
}

bool stream_unsent(const struct stream *s)
{
    return s->out_head != s->out_tail;
}

int stream_fd(const struct stream *s)
{
    return s->fd;
}
