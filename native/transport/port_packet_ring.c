/* Theory of operation: port_packet_ring.h. */
#include "port_packet_ring.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CACHE_LINE 64u
#define ETHERNET_HEADER 14u

/* Where in a slot the bytes after the Ethernet header begin when nothing is reserved (tpacket_rcv). */
#define PAYLOAD_OFFSET ((uint32_t)TPACKET_ALIGN(TPACKET2_HDRLEN + 16))

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

int or_packet_ring_open(struct or_packet_ring *r, const struct or_packet_ring_size *size, const char *ifname,
                        struct or_port_why why)
{
    uint32_t head = size->aligned - ETHERNET_HEADER; /* bytes before what is aligned */
    uint32_t aligned_at = round_up(PAYLOAD_OFFSET + head, CACHE_LINE);
    struct tpacket_req ring = {
        .tp_block_size = size->block_bytes,
        .tp_frame_size = round_up(aligned_at + size->frame_bytes - size->aligned, CACHE_LINE),
    };
    uint32_t slots_per_block = ring.tp_block_size / ring.tp_frame_size;
    ring.tp_frame_nr = r->slot_count = round_up(size->slots_min, slots_per_block);
    ring.tp_block_nr = r->slot_count / slots_per_block;

    int version = TPACKET_V2, reserve = (int)(aligned_at - head - PAYLOAD_OFFSET);
    if (setsockopt(r->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0)
        return or_port_refuse_call(why, ifname, "PACKET_VERSION");
    if (setsockopt(r->fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof(reserve)) != 0)
        return or_port_refuse_call(why, ifname, "PACKET_RESERVE");
    if (setsockopt(r->fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) != 0)
        return or_port_refuse_call(why, ifname, "PACKET_RX_RING");

    r->bytes = (size_t)ring.tp_block_size * ring.tp_block_nr;
    r->memory = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (r->memory == MAP_FAILED)
        return or_port_refuse_call(why, ifname, "mmap of the receive ring");
    r->slots = calloc(r->slot_count, sizeof(*r->slots));
    if (!r->slots)
        return or_port_refuse_call(why, ifname, "calloc");
    for (uint32_t i = 0; i < r->slot_count; i++) {
        size_t offset = (size_t)(i / slots_per_block) * ring.tp_block_size + i % slots_per_block * ring.tp_frame_size;
        r->slots[i] = (struct tpacket2_hdr *)(r->memory + offset);
    }
    return 0;
}

void or_packet_ring_close(struct or_packet_ring *r)
{
    if (r->memory != MAP_FAILED)
        munmap(r->memory, r->bytes);
    free(r->slots);
    if (r->fd >= 0)
        close(r->fd);
    *r = OR_PACKET_RING_CLOSED;
}

uint32_t or_packet_ring_lost(const struct or_packet_ring *r)
{
    struct tpacket_stats since_last_time = {0};
    socklen_t size = sizeof(since_last_time);
    getsockopt(r->fd, SOL_PACKET, PACKET_STATISTICS, &since_last_time, &size);
    return since_last_time.tp_drops;
}

void or_packet_ring_take_error(const struct or_packet_ring *r)
{
    int error;
    socklen_t size = sizeof(error);
    getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &error, &size);
}
