/* A file descriptor that the worker's epoll watches. epoll_event.data.ptr points to one of these; the
 * loop calls ready() on its thread, level triggered. The loop takes one event per epoll_wait, so a
 * source may be removed and freed from inside any ready(). */
#ifndef OR_FD_SOURCE_H
#define OR_FD_SOURCE_H

#include <stdint.h>

struct or_fd_source {
    void (*ready)(struct or_fd_source *source, uint32_t epoll_events);
    int fd;
};

/* EPOLL_CTL_ADD with the given events. 0 or -errno. */
int or_fd_source_add(int epoll_fd, struct or_fd_source *source, uint32_t events);
/* Watches for other events. */
void or_fd_source_change(int epoll_fd, struct or_fd_source *source, uint32_t events);
void or_fd_source_remove(int epoll_fd, struct or_fd_source *source);

#endif
