/* Registration of file descriptors with a worker's epoll; the loop itself dispatches. */
#include "fd_source.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>

int or_fd_source_add(int epoll_fd, struct or_fd_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, source->fd, &event) == 0 ? 0 : -errno;
}

void or_fd_source_change(int epoll_fd, struct or_fd_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    int rc = epoll_ctl(epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
    assert(rc == 0); /* needs no memory; so it fails only where nothing was added */
}

void or_fd_source_remove(int epoll_fd, struct or_fd_source *source)
{
    /* Removing after close() would fail here, and leave a dangling pointer in the epoll for as long as
     * another process holds the file: so it is a fault of ours. */
    int rc = epoll_ctl(epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    assert(rc == 0);
}
