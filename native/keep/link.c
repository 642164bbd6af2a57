/* The engine's side of a hand-over. */
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "loop/fd_source.h"
#include "mem/list.h"

#define MESSAGES_PER_EVENT 16

struct stashed {
    struct or_keep_snapshot *snapshot;
    uint32_t epoch; /* of the connection whose store has it */
    struct or_list link;
};

struct forgotten {
    uint32_t id;
    struct or_list link;
};

struct or_keep_link {
    struct or_fd_source source; /* fd -1: not connected */
    int epoll_fd;
    bool complete;  /* the store has given everything */
    bool blocked;   /* the socket was full: waits until it is not */
    uint32_t epoch; /* of connections */
    struct or_list stash, forgotten;
    void (*ended)(void *arg, int err);
    void *arg;
    struct or_keep_snapshot received;
};

static struct stashed *stashed_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct stashed, link);
}

static struct stashed *find(struct or_keep_link *k, uint32_t id)
{
    for (struct or_list *l = k->stash.next; l != &k->stash; l = l->next)
        if (stashed_of(l)->snapshot->id == id)
            return stashed_of(l);
    return NULL;
}

struct or_keep_link *or_keep_link_create(int epoll_fd, void (*ended)(void *arg, int err), void *arg)
{
    struct or_keep_link *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return NULL;
    k->epoll_fd = epoll_fd;
    k->source.fd = -1;
    k->ended = ended;
    k->arg = arg;
    or_list_init(&k->stash);
    or_list_init(&k->forgotten);
    return k;
}

static void disconnect(struct or_keep_link *k, int err)
{
    if (k->source.fd < 0)
        return;
    or_fd_source_remove(k->epoll_fd, &k->source);
    close(k->source.fd);
    k->source.fd = -1;
    bool waiting = !k->complete;
    k->complete = k->blocked = false;
    if (waiting)
        k->ended(k->arg, err);
}

static void free_stashed(struct stashed *s)
{
    or_list_remove(&s->link);
    if (s->snapshot) {
        or_keep_close_fds(s->snapshot);
        free(s->snapshot);
    }
    free(s);
}

void or_keep_link_destroy(struct or_keep_link *k)
{
    disconnect(k, -ECANCELED);
    while (!or_list_empty(&k->stash))
        free_stashed(stashed_of(k->stash.next));
    while (!or_list_empty(&k->forgotten)) {
        struct forgotten *f = OR_CONTAINER(k->forgotten.next, struct forgotten, link);
        or_list_remove(&f->link);
        free(f);
    }
    free(k);
}

static int send_message(struct or_keep_link *k, enum or_keep_type type, uint32_t id, const struct or_keep_snapshot *s)
{
    if (!k->complete || k->blocked)
        return -EAGAIN;
    int err = or_keep_send(k->source.fd, type, id, s);
    if (err == -EAGAIN) {
        k->blocked = true;
        or_fd_source_change(k->epoll_fd, &k->source, EPOLLIN | EPOLLOUT);
    } else if (err == -EPIPE || err == -ECONNRESET) {
        disconnect(k, err);
    }
    return err;
}

/* Before anything else: the id may be that of a new device by now. */
static int send_forgotten(struct or_keep_link *k)
{
    while (!or_list_empty(&k->forgotten)) {
        struct forgotten *f = OR_CONTAINER(k->forgotten.next, struct forgotten, link);
        int err = send_message(k, OR_KEEP_FORGET, f->id, NULL);
        if (err)
            return err;
        or_list_remove(&f->link);
        free(f);
    }
    return 0;
}

/* What the engine has from another store is told to this one, in case we die before we have used it. */
static void send_stash(struct or_keep_link *k)
{
    for (struct or_list *l = k->stash.next; l != &k->stash; l = l->next) {
        struct stashed *s = stashed_of(l);
        if (s->epoch != k->epoch && or_keep_send(k->source.fd, OR_KEEP_SNAPSHOT, s->snapshot->id, s->snapshot) == 0)
            s->epoch = k->epoch;
    }
}

/* Keeps the received snapshot. False: there is no memory for it. */
static bool stash(struct or_keep_link *k)
{
    struct stashed *s = find(k, k->received.id);
    if (s)
        free_stashed(s);
    s = calloc(1, sizeof(*s));
    struct or_keep_snapshot *copy = malloc(sizeof(*copy));
    if (s == NULL || copy == NULL) {
        free(s);
        free(copy);
        or_keep_close_fds(&k->received);
        return false;
    }
    *copy = k->received;
    s->snapshot = copy;
    s->epoch = k->epoch;
    or_list_append(&k->stash, &s->link);
    return true;
}

static void link_ready(struct or_fd_source *source, uint32_t events)
{
    struct or_keep_link *k = OR_CONTAINER(source, struct or_keep_link, source);
    if (k->blocked && events & EPOLLOUT) {
        k->blocked = false;
        or_fd_source_change(k->epoll_fd, source, EPOLLIN);
        send_forgotten(k);
    }
    for (int i = 0; i < MESSAGES_PER_EVENT && source->fd >= 0; i++) {
        int type = or_keep_receive(source->fd, &k->received);
        if (type == 0)
            return;
        if (type == OR_KEEP_SNAPSHOT && !k->complete) {
            if (!stash(k)) { /* the store still has it, for the next connection */
                disconnect(k, -ENOMEM);
                return;
            }
        } else if (type == OR_KEEP_END && !k->complete) {
            k->complete = true;
            send_forgotten(k);
            send_stash(k);
            k->ended(k->arg, 0);
        } else {
            /* The store is gone, or is none. */
            if (type == OR_KEEP_SNAPSHOT)
                or_keep_close_fds(&k->received);
            disconnect(k, type < 0 ? type : -EPROTO);
            return;
        }
    }
}

/* Is the store behind our connection alive, and the same as behind fd? A socket's peer is who listens. */
static bool same_store(const struct or_keep_link *k, int fd)
{
    struct pollfd p = {.fd = k->source.fd};
    struct ucred ours, other;
    socklen_t length = sizeof(ours);
    if (k->source.fd < 0 || poll(&p, 1, 0) != 0)
        return false;
    return getsockopt(k->source.fd, SOL_SOCKET, SO_PEERCRED, &ours, &length) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &length) == 0 && ours.pid == other.pid;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

int or_keep_link_connect(struct or_keep_link *k, const char *path)
{
    int fd = connect_to(path);
    if (fd < 0)
        return fd;
    if (same_store(k, fd)) {
        close(fd);
        if (!k->complete)
            k->ended(k->arg, -ECANCELED);
        return k->complete;
    }
    disconnect(k, -ECANCELED);
    k->source = (struct or_fd_source){.ready = link_ready, .fd = fd};
    int err = or_fd_source_add(k->epoll_fd, &k->source, EPOLLIN);
    if (err) {
        close(fd);
        k->source.fd = -1;
        return err;
    }
    k->epoch++;
    return 0;
}

uint32_t or_keep_link_epoch(const struct or_keep_link *k)
{
    return k->complete ? k->epoch : 0;
}

bool or_keep_link_receives(const struct or_keep_link *k)
{
    return k->source.fd >= 0 && !k->complete;
}

uint32_t or_keep_link_stash(const struct or_keep_link *k, uint32_t *ids, uint32_t room)
{
    uint32_t n = 0;
    for (const struct or_list *l = k->stash.next; l != &k->stash; l = l->next, n++)
        if (n < room)
            ids[n] = OR_CONTAINER(l, const struct stashed, link)->snapshot->id;
    return n;
}

struct or_keep_snapshot *or_keep_link_take(struct or_keep_link *k, uint32_t id, uint32_t *epoch)
{
    struct stashed *s = find(k, id);
    if (s == NULL)
        return NULL;
    struct or_keep_snapshot *snapshot = s->snapshot;
    *epoch = s->epoch;
    s->snapshot = NULL;
    free_stashed(s);
    return snapshot;
}

int or_keep_link_send(struct or_keep_link *k, const struct or_keep_snapshot *snapshot)
{
    int err = send_forgotten(k);
    return err ? err : send_message(k, OR_KEEP_SNAPSHOT, snapshot->id, snapshot);
}

void or_keep_link_forget(struct or_keep_link *k, uint32_t id)
{
    /* Without memory for it the store keeps a snapshot that its version page shows to be of no use. */
    struct forgotten *f = malloc(sizeof(*f));
    if (f == NULL)
        return;
    f->id = id;
    or_list_append(&k->forgotten, &f->link);
    send_forgotten(k);
}
