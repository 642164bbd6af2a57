/* A receiving socket of a packet port, and the ring of slots that it shares with the kernel (PACKET_RX_RING,
 * TPACKET_V2): the kernel copies each frame into a slot, so taking one costs no system call. A slot belongs to the
 * kernel or to us, as its status word says, and goes back to the kernel in order. When the kernel finds no free slot
 * it drops the frame and marks every later one with TP_STATUS_LOSING until it is asked how many: so we ask then, and
 * only then. (Version 3 of the ring hands over blocks of frames, which delays a lone one by a millisecond.) */
#ifndef OR_PORT_PACKET_RING_H
#define OR_PORT_PACKET_RING_H

#include <linux/if_packet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "port_why.h"

struct or_packet_ring {
    int fd;                      /* -1: closed */
    struct tpacket2_hdr **slots; /* in ring order */
    uint32_t slot_count, head;   /* head: index of the slot that is filled next */
    uint8_t *memory;
    size_t bytes;
};

#define OR_PACKET_RING_CLOSED ((struct or_packet_ring){.fd = -1, .memory = MAP_FAILED})

struct or_packet_ring_size {
    uint32_t frame_bytes; /* the largest frame, with its Ethernet header */
    uint32_t aligned;     /* what follows so many bytes of it begins on a cache line */
    uint32_t slots_min;
    uint32_t block_bytes; /* the ring is allocated in blocks, and no slot crosses one */
};

/* Makes ring->fd, an AF_PACKET socket that is not bound yet, one with a ring. 0, or -errno with a sentence;
 * or_packet_ring_close follows either way. */
int or_packet_ring_open(struct or_packet_ring *ring, const struct or_packet_ring_size *size, const char *ifname,
                        struct or_port_why why);
/* Closes the socket too. */
void or_packet_ring_close(struct or_packet_ring *ring);

/* The slot with the oldest frame, or NULL when there is none. */
static inline struct tpacket2_hdr *or_packet_ring_peek(const struct or_packet_ring *ring)
{
    struct tpacket2_hdr *slot = ring->slots[ring->head];
    return __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER ? slot : NULL;
}
/* Gives that slot back. */
static inline void or_packet_ring_pop(struct or_packet_ring *ring)
{
    __atomic_store_n(&ring->slots[ring->head]->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    ring->head = ring->head + 1 < ring->slot_count ? ring->head + 1 : 0;
}

/* How many frames the kernel had no slot for since the last time. A system call. */
uint32_t or_packet_ring_lost(const struct or_packet_ring *ring);
/* Takes an error that is pending on the socket. A system call. */
void or_packet_ring_take_error(const struct or_packet_ring *ring);

#endif
