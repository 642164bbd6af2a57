/* Two network namespaces and a real link between them, for tests of ports:
 *
 *     network namespace A                    network namespace B
 *     port A ── veth "left" ══════════════ veth "right" ── port B
 *
 * The namespaces have no names: only descriptors of this process hold them, so they and the links in
 * them vanish with it, however it ends. Needs root. Include after cmocka.h. */
#ifndef SEGMENT_H
#define SEGMENT_H

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "transport/port.h"

#define ETHERTYPE 0x88B5

enum side { LEFT, RIGHT };
static const char *const link_name[] = {"left", "right"};

/* What the ports are; a test program runs its tests for each. */
static or_port_open_fn *opener = or_port_packet_open;

static inline bool is_xdp(void)
{
    return opener == or_port_xdp_open;
}

/* What open_port asks for. */
static enum or_super_frames segment_super_frames = OR_SUPER_FRAMES_OFF;

struct segment {
    int namespace_fd[2];
    struct or_port *port[2];
};

static inline void enter(const struct segment *segment, enum side side)
{
    assert_int_equal(setns(segment->namespace_fd[side], CLONE_NEWNET), 0);
}

__attribute__((format(printf, 3, 4))) static inline void run(const struct segment *segment, enum side side,
                                                             const char *format, ...)
{
    char command[256];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    enter(segment, side);
    if (system(command) != 0)
        fail_msg("failed: %s", command);
}

static inline int new_namespace(void)
{
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Two namespaces and the link between them, no ports yet. */
static inline struct segment lay_link(uint32_t mtu)
{
    struct segment segment = {.namespace_fd = {new_namespace(), new_namespace()}};
    run(&segment, LEFT, "ip link add left mtu %u type veth peer name right mtu %u netns /proc/%d/fd/%d", mtu, mtu,
        getpid(), segment.namespace_fd[RIGHT]);
    run(&segment, RIGHT, "ip link set right up");
    run(&segment, LEFT, "ip link set left up");
    return segment;
}

static inline struct or_port *open_port(const struct segment *segment, enum side side, uint16_t ethertype, uint32_t mtu)
{
    int err;
    char why[512] = "";
    enter(segment, side);
    struct or_port *port = opener(link_name[side], ethertype, mtu, segment_super_frames, &err, why, sizeof(why));
    if (!port)
        fail_msg("%s", why);
    return port;
}

static inline struct segment open_segment(uint32_t mtu)
{
    struct segment segment = lay_link(mtu);
    for (enum side side = LEFT; side <= RIGHT; side++) {
        segment.port[side] = open_port(&segment, side, ETHERTYPE, mtu);
        assert_int_equal(segment.port[side]->xdp.queues, is_xdp());
    }
    return segment;
}

static inline void close_segment(struct segment *segment)
{
    for (enum side side = LEFT; side <= RIGHT; side++) {
        if (segment->port[side])
            or_port_close(segment->port[side]);
        close(segment->namespace_fd[side]);
    }
}

#endif
