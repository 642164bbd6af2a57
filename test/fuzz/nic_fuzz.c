/* A hostile guest with a NIC: rings that run, and an input that fills guest memory with descriptors, headers and
 * indices, well-formed and not, while packets come and go, the session has room or not, memory goes, rings stop and
 * start again, and the link goes down. What reaches the session must be what net_header.h promises.
 *
 * First byte: what is negotiated. Then commands, see run_command. */
#include "vhost_world.h"

#include <linux/virtio_config.h>

#include "frontend/net_header.h"
#include "frontend/vhost_net.h"

#define RX 0u
#define TX 1u
#define FRAME (OR_VNET_HEADER + OR_ETHER_HEADER)

static struct or_vhost_net *nic;
static enum or_packet_verdict verdict;
static uint64_t features;

static void work(void)
{
    or_vhost_net_poll(nic, ++world.now);
    or_vhost_net_flush(nic);
}

static void on_nic_state(void *arg, enum or_vhost_state state, const char *reason, uint64_t negotiated)
{
    on_state(arg, state, reason);
    MUST(negotiated == 0 || state == OR_VHOST_RUNNING);
    features = negotiated;
}

static enum or_packet_verdict session_packet(void *client, uint32_t device, uint32_t generation,
                                             const struct or_packet *packet, uint64_t now)
{
    static uint8_t bytes[OR_PACKET_MAX];
    struct virtio_net_hdr_v1 h;
    uint32_t length = 0;
    (void)client, (void)now;
    MUST(device == DEVICE && generation == GENERATION);
    MUST(packet->length >= OR_PACKET_MIN && packet->length <= OR_PACKET_MAX);
    for (uint32_t i = 0; i < packet->count; i++) {
        MUST(packet->iov[i].iov_len <= OR_PACKET_MAX - length);
        memcpy(bytes + length, packet->iov[i].iov_base, packet->iov[i].iov_len);
        length += (uint32_t)packet->iov[i].iov_len;
    }
    MUST(length == packet->length);
    memcpy(&h, bytes, sizeof h);
    length -= OR_VNET_HEADER;
    MUST(h.num_buffers == 0 && (h.flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0);
    MUST(h.flags == 0 || (h.csum_start >= OR_ETHER_HEADER && h.csum_start + h.csum_offset + 2u <= length));
    MUST(h.gso_type == 0 || (h.flags && h.gso_size > 0 && h.hdr_len <= length));
    return verdict;
}

static uint32_t length_of(struct input *in)
{
    uint8_t kind = input_u8(in);
    switch (kind >> 6) {
    case 0:
        return kind;
    case 1:
        return (kind & 63u) * 64u;
    case 2:
        return (kind & 63u) * 2048u;
    default:
        return kind & 1 ? ~0u - (kind & 63u) : input_u32(in);
    }
}

static void write_descriptor(struct input *in, uint64_t table)
{
    uint8_t where = input_u8(in);
    struct vring_desc d = {.addr = input_address(in), .len = length_of(in), .flags = where >> 5, .next = input_u8(in)};
    poke(&world, table + (where & 31u) * sizeof d, &d, sizeof d);
}

/* A packet as an honest driver makes it, but for what the input says: two descriptors, direct or indirect. */
static void write_packet(struct input *in)
{
    uint8_t form = input_u8(in);
    uint32_t first = (form & 7) * 2;
    uint16_t base = form & 16 ? 0 : (uint16_t)first;
    struct virtio_net_hdr_v1 h = {.flags = input_u8(in) & 7, .gso_type = input_u8(in) & 0x87, .hdr_len = input_u8(in)};
    h.gso_size = input_u16(in);
    h.csum_start = input_u8(in);
    h.csum_offset = input_u8(in) & 31u;
    uint64_t header = HEADERS + first * 16u;
    struct vring_desc d[2] = {{header, sizeof h, VRING_DESC_F_NEXT, base + 1},
                              {input_address(in), length_of(in), 0, 0}};
    poke(&world, header, &h, sizeof h);
    if (form & 16) {
        struct vring_desc table = {TABLES + first * 256u, sizeof d, VRING_DESC_F_INDIRECT, 0};
        poke(&world, TABLES + first * 256u, d, sizeof d);
        poke(&world, RING(TX) + first * sizeof d[0], &table, sizeof table);
    } else {
        poke(&world, RING(TX) + first * sizeof d[0], d, sizeof d);
    }
    push_available(&world, TX, (uint16_t)first);
}

static void write_buffer(struct input *in)
{
    uint16_t head = input_u8(in) % QUEUE_SIZE;
    struct vring_desc d = {input_address(in), length_of(in), VRING_DESC_F_WRITE, 0};
    poke(&world, RING(RX) + head * sizeof d, &d, sizeof d);
    push_available(&world, RX, head);
}

static void receive(struct input *in)
{
    static uint8_t packet[OR_PACKET_MAX];
    uint32_t length = FRAME + length_of(in) % (OR_PACKET_MAX - FRAME + 1);
    memset(packet, 0x5a, sizeof packet);
    input_bytes(in, packet, input_u8(in) % 80u);
    or_vhost_net_receive(nic, packet, length);
}

static void start(uint8_t how)
{
    uint64_t wanted = ~(1ull << VHOST_F_LOG_ALL | 1ull << VIRTIO_F_ACCESS_PLATFORM | 1ull << VIRTIO_F_RING_PACKED);
    if (how & 1)
        wanted &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
    if (how & 2)
        wanted &= ~(1ull << VIRTIO_NET_F_MRG_RXBUF);
    if (how & 4)
        wanted &= ~OR_NET_F_OFFLOADS;
    vu_u64(&world, OR_VU_SET_PROTOCOL_FEATURES, OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK, -1);
    vu_u64(&world, OR_VU_SET_FEATURES, wanted, -1);
    set_memory(&world);
    for (uint32_t i = 0; i < QUEUES; i++)
        start_ring(&world, i, QUEUE_SIZE, world.avail_idx[i]);
}

static void restart(uint8_t how)
{
    uint32_t queue = how & 1;
    vu_state(&world, OR_VU_GET_VRING_BASE, queue, 0);
    if (how & 2)
        start_ring(&world, queue, how & 4 ? QUEUE_SIZE / 2 : QUEUE_SIZE, how & 8 ? world.avail_idx[queue] : 0);
}

static void run_command(struct input *in, uint8_t how)
{
    uint8_t command = input_u8(in);
    uint32_t queue = command >> 5 & 1;
    switch (command % 18) {
    case 0:
        write_descriptor(in, RING(queue));
        break;
    case 1:
        write_descriptor(in, TABLES);
        break;
    case 2:
        push_available(&world, queue, input_u8(in));
        break;
    case 3:
        world.avail_idx[queue] = input_u16(in);
        poke(&world, RING(queue) + AVAIL_AT + 2, &world.avail_idx[queue], 2);
        break;
    case 4:
    case 5:
        write_packet(in);
        break;
    case 6:
    case 7:
        write_buffer(in);
        break;
    case 8:
    case 9:
        receive(in);
        break;
    case 10:
        verdict = (enum or_packet_verdict)(input_u8(in) % 3);
        break;
    case 11:
        or_vhost_net_poll(nic, ++world.now); /* and nothing is published */
        break;
    case 12:
        if (!or_vhost_net_arm(nic))
            or_vhost_net_disarm(nic);
        break;
    case 13:
        restart(input_u8(in));
        break;
    case 14:
        resize_memory(&world, input_u8(in) * 4096u);
        break;
    case 15:
        change_region(&world, command & 64 ? OR_VU_ADD_MEM_REG : OR_VU_REM_MEM_REG, queue);
        break;
    case 16:
        world_disconnect(&world);
        world_connect(&world);
        start(how);
        break;
    default:
        world_step(&world);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t how = input_u8(&in);
    int err, listener = world_prepare(&world);
    struct or_vhost_net_config config = {.packet = session_packet,
                                         .listen_fd = listener,
                                         .epoll_fd = world.epoll_fd,
                                         .device = DEVICE,
                                         .generation = GENERATION,
                                         .pairs = how & 8 ? 2 : 1,
                                         .mtu = 1500,
                                         .state = on_nic_state,
                                         .arg = &world};
    world.work = work;
    verdict = OR_PACKET_SENT;
    nic = or_vhost_net_create(&config, &err);
    MUST(nic != NULL);
    world_connect(&world);
    start(how);
    for (int i = 0; i < 200 && !input_end(&in); i++)
        run_command(&in, how);
    world_step(&world);
    or_vhost_net_destroy(nic);
    world_clear(&world);
    return 0;
}
