/* The supervisor's side of a hand-over. */
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mem/list.h"
#include "snapshot.h"

#define MESSAGES_PER_CALL 64

struct held {
    struct or_keep_snapshot snapshot;
    struct or_list link;
};

struct or_keep_store {
    struct sockaddr_un address;
    int epoll_fd, listener, engine; /* engine -1: none is connected, and the listener is watched */
    struct or_list devices, *next;  /* next: of those to hand out; NULL: all have been */
    uint32_t count;
    uint64_t refused;
    void (*changed)(void *arg);
    void *arg;
    struct or_keep_snapshot received;
};

static struct held *held_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct held, link);
}

static struct held *find(struct or_keep_store *s, uint32_t id)
{
    for (struct or_list *l = s->devices.next; l != &s->devices; l = l->next)
        if (held_of(l)->snapshot.id == id)
            return held_of(l);
    return NULL;
}

static void watch(struct or_keep_store *s, int operation, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(s->epoll_fd, operation, fd, &event);
}

static void drop(struct or_keep_store *s, struct held *h)
{
    or_keep_close_fds(&h->snapshot);
    or_list_remove(&h->link);
    free(h);
    s->count--;
}

/* The socket's file is gone or nobody may bind it: nothing is listened on. */
static int listen_at(struct or_keep_store *s, const char *path)
{
    s->address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(s->address.sun_path))
        return -ENAMETOOLONG;
    strcpy(s->address.sun_path, path);
    s->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->listener < 0 || s->epoll_fd < 0)
        return -errno;
    unlink(path);
    /* Nobody can connect before listen(), so there is no moment with a wider mode. */
    if (bind(s->listener, (struct sockaddr *)&s->address, sizeof(s->address)) < 0 || chmod(path, 0600) < 0 ||
        listen(s->listener, 8) < 0)
        return -errno;
    watch(s, EPOLL_CTL_ADD, s->listener, EPOLLIN);
    return 0;
}

struct or_keep_store *or_keep_store_open(const char *path, void (*changed)(void *arg), void *arg, int *err)
{
    struct or_keep_store *s = calloc(1, sizeof(*s));
    *err = -ENOMEM;
    if (s == NULL)
        return NULL;
    or_list_init(&s->devices);
    s->listener = s->epoll_fd = s->engine = -1;
    s->changed = changed;
    s->arg = arg;
    *err = listen_at(s, path);
    if (*err == 0)
        return s;
    if (s->listener >= 0)
        close(s->listener);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    free(s);
    return NULL;
}

void or_keep_store_close(struct or_keep_store *s)
{
    while (!or_list_empty(&s->devices))
        drop(s, held_of(s->devices.next));
    if (s->engine >= 0)
        close(s->engine);
    close(s->listener);
    close(s->epoll_fd);
    unlink(s->address.sun_path);
    free(s);
}

int or_keep_store_fd(const struct or_keep_store *s)
{
    return s->epoll_fd;
}

/* Gives what is held, as far as the socket takes it. An engine that is gone is noticed by reading. */
static void hand_out(struct or_keep_store *s)
{
    int rc = 0;
    while (rc == 0 && s->next) {
        bool end = s->next == &s->devices;
        rc =
            end ? or_keep_send(s->engine, OR_KEEP_END, 0, NULL)
                : or_keep_send(s->engine, OR_KEEP_SNAPSHOT, held_of(s->next)->snapshot.id, &held_of(s->next)->snapshot);
        if (rc == 0)
            s->next = end ? NULL : s->next->next;
    }
    watch(s, EPOLL_CTL_MOD, s->engine, s->next ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void accept_engine(struct or_keep_store *s)
{
    s->engine = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s->engine < 0)
        return;
    watch(s, EPOLL_CTL_DEL, s->listener, 0);
    watch(s, EPOLL_CTL_ADD, s->engine, EPOLLIN);
    s->next = s->devices.next;
    hand_out(s);
}

static void engine_gone(struct or_keep_store *s)
{
    close(s->engine);
    s->engine = -1;
    watch(s, EPOLL_CTL_ADD, s->listener, EPOLLIN);
}

/* Takes the snapshot over; false: there is no room, and what was held of the device is out of date. */
static bool hold(struct or_keep_store *s, struct or_keep_snapshot *received)
{
    struct held *h = find(s, received->id);
    if (h) {
        or_keep_close_fds(&h->snapshot);
    } else {
        h = s->count < OR_KEEP_DEVICES_MAX ? calloc(1, sizeof(*h)) : NULL;
        if (h == NULL)
            return false;
        or_list_append(&s->devices, &h->link);
        s->count++;
        s->changed(s->arg);
    }
    h->snapshot = *received;
    return true;
}

static void execute(struct or_keep_store *s, int type)
{
    struct held *h = type == OR_KEEP_FORGET ? find(s, s->received.id) : NULL;
    /* An engine speaks when it has been given everything. */
    bool ok = s->next == NULL && (h || (type == OR_KEEP_SNAPSHOT && hold(s, &s->received)));
    if (h && ok) {
        drop(s, h);
        s->changed(s->arg);
    }
    if (ok)
        return;
    if (type == OR_KEEP_SNAPSHOT)
        or_keep_close_fds(&s->received);
    s->refused++;
}

static void read_engine(struct or_keep_store *s)
{
    for (int i = 0; i < MESSAGES_PER_CALL; i++) {
        int type = or_keep_receive(s->engine, &s->received);
        if (type == -ECONNRESET) {
            engine_gone(s);
            return;
        }
        if (type == -EPROTO)
            s->refused++;
        else if (type > 0)
            execute(s, type);
        else
            return;
    }
}

void or_keep_store_serve(struct or_keep_store *s)
{
    struct epoll_event event;
    while (epoll_wait(s->epoll_fd, &event, 1, 0) == 1) {
        int engine = s->engine;
        if (engine < 0)
            accept_engine(s);
        else if (event.events & EPOLLOUT)
            hand_out(s);
        if (engine >= 0 && event.events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_engine(s);
        if (engine == s->engine)
            return; /* the rest another time: there is other work */
    }
}

uint32_t or_keep_store_devices(const struct or_keep_store *s, uint32_t *ids, uint32_t room)
{
    uint32_t n = 0;
    for (const struct or_list *l = s->devices.next; l != &s->devices && n < room; l = l->next)
        ids[n++] = OR_CONTAINER(l, const struct held, link)->snapshot.id;
    return s->count;
}

bool or_keep_store_connected(const struct or_keep_store *s)
{
    return s->engine >= 0;
}

uint64_t or_keep_store_refused(const struct or_keep_store *s)
{
    return s->refused;
}
