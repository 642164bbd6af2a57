/* Cuts and commits by a unix socket: the short way for whoever takes checkpoints. docs/intercept.md has the records.
 *
 * A stream of fixed records, answered in whatever order they end. A connection has bounded commits under way and
 * bounded answers that were not taken; beyond that it is not read from. One that says what makes no sense is closed and
 * counted. All connections of a worker are in an epoll descriptor of their own, which a polling worker looks at often:
 * a guest is paused between a cut and its answer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "domains.h"
#include "frontend/vhost_handover.h"

#define CONNECTIONS_MAX 16u
#define COMMITS_MAX 64u
#define REPLIES_MAX (2 * COMMITS_MAX) /* that wait to be taken, or will */
#define RECORDS_TURN 32u
#define LOOK_EVERY_NS 5000u
#define EVENTS 32

enum op { OP_CUT = 1, OP_COMMIT = 2, OP_STATUS = 3 };
#define FLAG_DROPPED 1u

struct request {
    uint8_t op, zeroes[3];
    uint32_t tag;
    uint64_t generation, epoch, zero;
};
static_assert(sizeof(struct request) == 32, "what the socket carries");

struct reply {
    int32_t error; /* a positive errno */
    uint32_t tag;
    uint64_t generation, epoch, open, committed;
    uint32_t flags, zero;
};
static_assert(sizeof(struct reply) == 48, "what the socket carries");

struct endpoint {
    struct domain *domain;
    struct connection *connection; /* NULL: it listens */
    int fd;
};

struct commit {
    struct domain_commit base;
    struct connection *connection;
    uint32_t tag;
    bool busy;
};

struct connection {
    struct endpoint end;
    uint8_t in[sizeof(struct request)];
    uint32_t have;
    struct reply out[REPLIES_MAX];
    uint32_t out_first, out_count, out_sent; /* a ring; out_sent: bytes of the first that are gone */
    struct commit commits[COMMITS_MAX];
    uint32_t busy;
    uint32_t watched; /* for these events */
    bool closed;      /* and freed when it has no commits any more */
    struct or_list link;
};

struct domain_socket {
    struct endpoint listener;
    struct or_list connections;
    char path[108];
};

static struct connection *connection_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct connection, link);
}

/* --- answers ------------------------------------------------------------------------------------------ */

static void close_connection(struct connection *c)
{
    if (c->closed)
        return;
    c->closed = true;
    c->end.domain->status.connections--;
    epoll_ctl(c->end.domain->volumes->sockets.fd, EPOLL_CTL_DEL, c->end.fd, NULL);
    close(c->end.fd);
    c->end.fd = -1;
}

static bool has_room(const struct connection *c)
{
    return c->busy < COMMITS_MAX && c->out_count + c->busy < REPLIES_MAX;
}

static void watch(struct connection *c)
{
    struct epoll_event event = {.events = (has_room(c) ? EPOLLIN : 0u) | (c->out_count ? EPOLLOUT : 0u),
                                .data.ptr = &c->end};
    if (c->closed || event.events == c->watched)
        return;
    c->watched = event.events;
    epoll_ctl(c->end.domain->volumes->sockets.fd, EPOLL_CTL_MOD, c->end.fd, &event);
}

static void send_replies(struct connection *c)
{
    while (c->out_count && !c->closed) {
        const uint8_t *first = (const uint8_t *)&c->out[c->out_first];
        ssize_t n =
            send(c->end.fd, first + c->out_sent, sizeof(struct reply) - c->out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0) {
            close_connection(c);
            break;
        }
        c->out_sent += (uint32_t)n;
        if (c->out_sent < sizeof(struct reply))
            continue;
        c->out_sent = 0;
        c->out_first = (c->out_first + 1) % REPLIES_MAX;
        c->out_count--;
    }
    watch(c);
}

static void answer(struct connection *c, uint32_t tag, int err, uint64_t epoch, uint32_t flags)
{
    struct or_domain_info info;
    if (c->closed)
        return;
    or_domain_read_info(c->end.domain->domain, &info);
    assert(c->out_count < REPLIES_MAX); /* has_room, before it was asked */
    c->out[(c->out_first + c->out_count++) % REPLIES_MAX] = (struct reply){.error = -err,
                                                                           .tag = tag,
                                                                           .generation = info.generation,
                                                                           .epoch = epoch,
                                                                           .open = info.open,
                                                                           .committed = info.committed,
                                                                           .flags = flags};
    send_replies(c);
}

/* --- records ------------------------------------------------------------------------------------------ */

static void committed(struct domain_commit *base, int err)
{
    struct commit *commit = OR_CONTAINER(base, struct commit, base);
    struct connection *c = commit->connection;
    commit->busy = false;
    c->busy--;
    answer(c, commit->tag, err, base->base.epoch, or_iohv_domain_dropped(base->domain) ? FLAG_DROPPED : 0);
}

static void begin_commit(struct connection *c, const struct request *r)
{
    struct commit *commit = c->commits;
    while (commit->busy) /* one is free: has_room */
        commit++;
    *commit = (struct commit){.base = {.base = {.epoch = r->epoch, .generation = r->generation}, .done = committed},
                              .connection = c,
                              .tag = r->tag,
                              .busy = true};
    c->busy++;
    or_iohv_domain_commit(c->end.domain, &commit->base);
}

static void cut(struct connection *c, const struct request *r)
{
    uint64_t epoch = 0;
    bool dropped = false;
    int err = or_iohv_domain_cut(c->end.domain, r->generation, &epoch, &dropped);
    answer(c, r->tag, err, epoch, dropped ? FLAG_DROPPED : 0);
}

static bool is_valid(const struct request *r)
{
    bool zeroes = !r->zeroes[0] && !r->zeroes[1] && !r->zeroes[2] && !r->zero;
    return zeroes && r->op >= OP_CUT && r->op <= OP_STATUS && (r->op == OP_COMMIT || !r->epoch);
}

static void take(struct connection *c)
{
    struct request r;
    memcpy(&r, c->in, sizeof r);
    c->have = 0;
    if (!is_valid(&r)) {
        c->end.domain->status.records_bad++;
        close_connection(c);
    } else if (c->end.domain->phase != DOMAIN_OPEN) {
        close_connection(c); /* come again */
    } else if (r.op == OP_CUT) {
        cut(c, &r);
    } else if (r.op == OP_COMMIT) {
        begin_commit(c, &r);
    } else {
        answer(c, r.tag, 0, 0, or_iohv_domain_dropped(c->end.domain) ? FLAG_DROPPED : 0);
    }
}

static void receive(struct connection *c)
{
    for (uint32_t i = 0; i < RECORDS_TURN && !c->closed && has_room(c);) {
        ssize_t n = recv(c->end.fd, c->in + c->have, sizeof c->in - c->have, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0) {
            close_connection(c);
            break;
        }
        c->have += (uint32_t)n;
        if (c->have < sizeof c->in)
            continue;
        take(c);
        i++;
    }
    watch(c);
}

/* --- connections -------------------------------------------------------------------------------------- */

static void accept_one(struct domain *d)
{
    int fd = accept4(d->socket->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct connection *c = d->status.connections < CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c ? &c->end : NULL};
    if (!c || epoll_ctl(d->volumes->sockets.fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        close(fd);
        free(c);
        return;
    }
    c->end = (struct endpoint){.domain = d, .connection = c, .fd = fd};
    c->watched = EPOLLIN;
    d->status.connections++;
    or_list_append(&d->socket->connections, &c->link);
}

static void sweep(struct domain_socket *s)
{
    for (struct or_list *l = s->connections.next, *next; l != &s->connections; l = next) {
        struct connection *c = connection_of(l);
        next = l->next;
        if (!c->closed || c->busy)
            continue;
        or_list_remove(&c->link);
        free(c);
    }
}

void or_domain_sockets_look(struct or_iohv_volumes *h, uint64_t now)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(h->sockets.fd, events, EVENTS, 0);
    h->sockets_look = now + LOOK_EVERY_NS;
    for (int i = 0; i < count; i++) {
        const struct endpoint *end = events[i].data.ptr;
        if (!end->connection) {
            accept_one(end->domain);
            continue;
        }
        if (events[i].events & EPOLLOUT)
            send_replies(end->connection);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            receive(end->connection);
        if (events[i].events & (EPOLLHUP | EPOLLERR))
            close_connection(end->connection);
    }
    h->domains_work += count > 0 ? (uint32_t)count : 0;
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next) {
        const struct domain *d = OR_CONTAINER(l, struct domain, link);
        if (d->socket)
            sweep(d->socket);
    }
}

/* --- life --------------------------------------------------------------------------------------------- */

static void sockets_ready(struct or_fd_source *source, uint32_t events)
{
    (void)events;
    OR_CONTAINER(source, struct or_iohv_volumes, sockets)->sockets_look = 0; /* the next step looks */
}

static int begin_sockets(struct or_iohv_volumes *h)
{
    if (h->sockets_open)
        return 0;
    h->sockets = (struct or_fd_source){.ready = sockets_ready, .fd = epoll_create1(EPOLL_CLOEXEC)};
    int err = h->sockets.fd < 0 ? -errno : or_fd_source_add(h->engine->epoll_fd, &h->sockets, EPOLLIN);
    if (err && h->sockets.fd >= 0)
        close(h->sockets.fd);
    h->sockets_open = !err;
    return err;
}

void or_domain_sockets_end(struct or_iohv_volumes *h)
{
    if (!h->sockets_open)
        return;
    or_fd_source_remove(h->engine->epoll_fd, &h->sockets);
    close(h->sockets.fd);
    h->sockets_open = false;
}

int or_domain_socket_open(struct domain *d, const char *path)
{
    int err = begin_sockets(d->volumes);
    if (err)
        return err;
    int fd = or_vhost_listen(path, 0600);
    if (fd < 0)
        return fd;
    struct domain_socket *s = calloc(1, sizeof *s);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s ? &s->listener : NULL};
    if (!s || epoll_ctl(d->volumes->sockets.fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        err = s ? -errno : -ENOMEM;
        close(fd);
        free(s);
        return err;
    }
    s->listener = (struct endpoint){.domain = d, .fd = fd};
    or_list_init(&s->connections);
    strncpy(s->path, path, sizeof s->path - 1);
    d->socket = s;
    return 0;
}

void or_domain_socket_leave(struct domain *d)
{
    if (d->socket)
        unlink(d->socket->path);
}

void or_domain_socket_close(struct domain *d)
{
    struct domain_socket *s = d->socket;
    if (!s)
        return;
    while (!or_list_empty(&s->connections)) {
        struct connection *c = connection_of(s->connections.next);
        close_connection(c);
        or_list_remove(&c->link);
        free(c);
    }
    epoll_ctl(d->volumes->sockets.fd, EPOLL_CTL_DEL, s->listener.fd, NULL);
    close(s->listener.fd);
    free(s);
    d->socket = NULL;
}
