/* tap and macvtap: packets to and from the kernel, by read and write of one packet each. Both have the same
 * interface; how they are opened differs (tap_open.c).
 *
 * The packet that was read last waits here when the guest's host has no room; the next ones wait in the
 * kernel's queue, which drops what comes when it is full. */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mem/list.h"
#include "uplink.h"

/* Missing in the headers of Linux 6.1. */
#define TUN_USO4 0x20u
#define TUN_USO6 0x40u

struct tap {
    struct or_uplink uplink;
    uint32_t held; /* bytes of `packet`; 0: none */
    uint8_t packet[OR_PACKET_MAX];
};

static struct tap *tap_of(struct or_uplink *u)
{
    return OR_CONTAINER(u, struct tap, uplink);
}

static enum or_uplink_sent failure(int error)
{
    switch (error) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return OR_UPLINK_NO_ROOM;
    case EBADFD: /* a tap that was deleted; what a deleted macvtap gets is lost without a word */
    case EIO:    /* one that is down */
    case ENETDOWN:
    case ENXIO:
        return OR_UPLINK_DOWN;
    default:
        return OR_UPLINK_ERROR;
    }
}

static enum or_uplink_sent tap_send(struct or_uplink *u, const struct or_offload *o, uint64_t now)
{
    (void)now;
    struct iovec iov[] = {{(void *)&o->header, sizeof o->header}, {(void *)o->frame, o->length}};
    ssize_t n = writev(u->fd, iov, 2);
    return n < 0 ? failure(errno) : OR_UPLINK_SENT;
}

static uint32_t tap_next(struct or_uplink *u, uint8_t **packet)
{
    struct tap *t = tap_of(u);
    *packet = t->packet;
    if (t->held)
        return t->held;
    ssize_t n = read(u->fd, t->packet, sizeof t->packet);
    if (n <= 0)
        return 0;
    if (n < (ssize_t)OR_VNET_HEADER)
        memset(t->packet + n, 0, OR_VNET_HEADER - (size_t)n);
    memset(t->packet + 10, 0, 2); /* num_buffers, which the kernel leaves alone */
    t->held = (uint32_t)n;
    return t->held;
}

static void tap_taken(struct or_uplink *u)
{
    tap_of(u)->held = 0;
}

/* The kernel takes both kinds of USO, or none. */
static unsigned int kernel_offloads(uint64_t features)
{
    const uint64_t uso = OR_NET_F_GUEST_USO4 | OR_NET_F_GUEST_USO6;
    if (!(features & OR_NET_F_GUEST_CSUM))
        return 0;
    unsigned int flags = TUN_F_CSUM;
    if (features & OR_NET_F_GUEST_TSO4)
        flags |= TUN_F_TSO4;
    if (features & OR_NET_F_GUEST_TSO6)
        flags |= TUN_F_TSO6;
    if ((features & OR_NET_F_GUEST_ECN) && (flags & (TUN_F_TSO4 | TUN_F_TSO6)))
        flags |= TUN_F_TSO_ECN;
    return (features & uso) == uso ? flags | TUN_USO4 | TUN_USO6 : flags;
}

/* What comes in spite of it, because it was in the queue before, is cut in software. */
static void tap_offload(struct or_uplink *u, uint64_t features)
{
    unsigned int flags = kernel_offloads(features & u->accepts);
    if (ioctl(u->fd, TUNSETOFFLOAD, (unsigned long)flags) != 0)
        ioctl(u->fd, TUNSETOFFLOAD, 0ul);
}

static void tap_link(struct or_uplink *u, bool up)
{
    int carrier = up;
    ioctl(u->fd, TUNSETCARRIER, &carrier); /* a macvtap has its parent's */
}

static bool tap_gone(struct or_uplink *u)
{
    struct ifreq request;
    return ioctl(u->fd, TUNGETIFF, &request) != 0;
}

static void tap_close(struct or_uplink *u)
{
    close(u->fd);
    free(tap_of(u));
}

static const struct or_uplink_ops tap_ops = {
    .name = "tap",
    .send = tap_send,
    .next = tap_next,
    .taken = tap_taken,
    .offload = tap_offload,
    .link = tap_link,
    .gone = tap_gone,
    .close = tap_close,
};

/* What the kernel's side takes: Linux cuts what the medium behind it cannot, from 6.2 on UDP too. */
static uint64_t probe(int fd)
{
    uint64_t features = OR_NET_F_OFFLOADS;
    if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)kernel_offloads(features)) != 0)
        features &= ~(OR_NET_F_GUEST_USO4 | OR_NET_F_GUEST_USO6);
    ioctl(fd, TUNSETOFFLOAD, 0ul);
    return features;
}

struct or_uplink *or_uplink_tap(int fd, int *err)
{
    struct tap *t = calloc(1, sizeof *t);
    if (!t) {
        *err = -ENOMEM;
        return NULL;
    }
    int header = (int)OR_VNET_HEADER, little_endian = 1;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) != 0 || ioctl(fd, TUNSETVNETLE, &little_endian) != 0) {
        *err = -errno;
        free(t);
        return NULL;
    }
    t->uplink = (struct or_uplink){.ops = &tap_ops, .fd = fd, .accepts = probe(fd)};
    *err = 0;
    return &t->uplink;
}
