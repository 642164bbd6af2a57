/* A hostile guest: a disk whose rings run, and an input that fills guest memory with descriptors, headers and
 * indices, well-formed and not, while requests are under way, memory goes, rings stop and start again.
 *
 * First byte: what the disk offers and what is negotiated. Then commands, see run_command. */
#include "vhost_world.h"

static uint32_t length(struct input *in)
{
    uint8_t kind = input_u8(in);
    switch (kind >> 6) {
    case 0:
        return kind;
    case 1:
        return (kind & 63u) * 512u;
    case 2:
        return (kind & 63u) * 16u;
    default:
        return kind & 1 ? ~0u - (kind & 63u) : input_u32(in);
    }
}

static void write_descriptor(struct world *w, struct input *in, uint64_t table)
{
    uint8_t where = input_u8(in);
    struct vring_desc d = {.addr = input_address(in), .len = length(in), .flags = where >> 5, .next = input_u8(in)};
    poke(w, table + (where & 31u) * sizeof d, &d, sizeof d);
}

static void write_header(struct world *w, struct input *in)
{
    uint8_t where = input_u8(in);
    struct virtio_blk_outhdr h = {.type = input_u8(in), .sector = input_u16(in)};
    if (where & 0x80)
        h.sector |= (uint64_t)input_u32(in) << 32;
    poke(w, HEADERS + (where & 31u) * 16u, &h, sizeof h);
}

/* A whole request as an honest driver makes it, but for what the input says: 3 descriptors from `first` on,
 * direct or in an indirect table. */
static void write_request(struct world *w, struct input *in)
{
    uint8_t form = input_u8(in), type = input_u8(in) % 16;
    uint32_t queue = form & 1, first = (form >> 1 & 7) * 2;
    bool indirect = form & 16, reads = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    struct virtio_blk_outhdr h = {.type = type, .sector = input_u8(in)};
    uint64_t header = HEADERS + first * 16u, status = HEADERS + 0x1000u + first;
    uint16_t base = indirect ? 0 : (uint16_t)first;
    struct vring_desc d[3] = {
        {header, sizeof h, VRING_DESC_F_NEXT, base + 1},
        {input_address(in), length(in), (uint16_t)(VRING_DESC_F_NEXT | (reads ? VRING_DESC_F_WRITE : 0)), base + 2},
        {status, 1, VRING_DESC_F_WRITE, 0},
    };
    poke(w, header, &h, sizeof h);
    if (indirect) {
        struct vring_desc table = {TABLES + first * 256u, sizeof d, VRING_DESC_F_INDIRECT, 0};
        poke(w, TABLES + first * 256u, d, sizeof d);
        poke(w, RING(queue) + first * sizeof d[0], &table, sizeof table);
    } else {
        poke(w, RING(queue) + first * sizeof d[0], d, sizeof d);
    }
    push_available(w, queue, (uint16_t)first);
}

static void write_bytes(struct world *w, struct input *in, uint64_t at)
{
    uint8_t bytes[32], count = input_u8(in) % sizeof bytes + 1;
    input_bytes(in, bytes, count);
    poke(w, at, bytes, count);
}

static void poke_inflight(struct world *w, struct input *in)
{
    uint8_t at = input_u8(in), bytes[8];
    input_bytes(in, bytes, sizeof bytes);
    if (w->inflight_fd >= 0)
        (void)!pwrite(w->inflight_fd, bytes, sizeof bytes, at * 4);
}

static void set_session(struct world *w, uint8_t how)
{
    w->hold = how & 1;
    w->backwards = how & 2;
    w->refuse = how & 4 ? (uint8_t)(how >> 3) % OR_STATUS_MAX : OR_OK;
}

static void restart(struct world *w, uint8_t how)
{
    uint32_t queue = how & 1;
    vu_state(w, OR_VU_GET_VRING_BASE, queue, 0);
    if (how & 2)
        start_ring(w, queue, how & 4 ? QUEUE_SIZE / 2 : QUEUE_SIZE, how & 8 ? w->avail_idx[queue] : 0);
}

static void start(struct world *w, uint8_t how)
{
    uint64_t features = ~0ull;
    if (how & 1)
        features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
    if (how & 2)
        features &= ~(1ull << VIRTIO_RING_F_INDIRECT_DESC);
    if (how & 4)
        features &= ~(1ull << VIRTIO_BLK_F_FLUSH);
    features &= ~(1ull << VHOST_F_LOG_ALL) & ~(1ull << 33) & ~(1ull << 34);
    negotiate(w, features);
    set_memory(w);
    if (how & 8) {
        if (w->inflight_fd < 0)
            get_inflight(w);
        set_inflight(w);
    }
    for (uint32_t i = 0; i < QUEUES; i++)
        start_ring(w, i, QUEUE_SIZE, w->avail_idx[i]);
}

/* QEMU holds the same open file: it may make it blocking, and its counter full. */
static void fill_and_block(int fd)
{
    eventfd_t count;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    eventfd_read(fd, &count);
    eventfd_write(fd, UINT64_MAX - 1);
    fcntl(fd, F_SETFL, 0);
}

static void run_command(struct world *w, struct input *in, uint8_t how)
{
    uint8_t command = input_u8(in);
    uint32_t queue = command >> 5 & 1;
    switch (command % 20) {
    case 0:
        write_descriptor(w, in, RING(queue));
        break;
    case 1:
        write_descriptor(w, in, TABLES);
        break;
    case 2:
        write_header(w, in);
        break;
    case 3:
        push_available(w, queue, input_u8(in));
        break;
    case 4:
        w->avail_idx[queue] = input_u16(in);
        poke(w, RING(queue) + AVAIL_AT + 2, &w->avail_idx[queue], 2);
        break;
    case 5:
    case 6:
        write_request(w, in);
        break;
    case 7:
        write_bytes(w, in, input_u16(in) * 4u);
        break;
    case 8:
        write_bytes(w, in, RING(queue) + AVAIL_AT + input_u8(in) % 48);
        break;
    case 9:
        poke_inflight(w, in);
        break;
    case 10:
        set_session(w, input_u8(in));
        break;
    case 11:
        session_run(w, input_u8(in) % 4 + 1u);
        break;
    case 12:
        if (or_vhost_blk_arm(w->dev) == false)
            or_vhost_blk_disarm(w->dev);
        break;
    case 13:
        eventfd_write(w->kick[queue], 1);
        break;
    case 14:
        restart(w, input_u8(in));
        break;
    case 15:
        resize_memory(w, input_u8(in) * 4096u);
        break;
    case 16:
        change_region(w, command & 64 ? OR_VU_ADD_MEM_REG : OR_VU_REM_MEM_REG, queue);
        break;
    case 17:
        world_disconnect(w);
        world_connect(w);
        start(w, how);
        break;
    case 18:
        fill_and_block(w->call[queue]);
        break;
    default:
        world_step(w);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t how = input_u8(&in);
    struct or_vhost_blk_config config = {.read_only = how & 16, .discard = !(how & 32), .write_zeroes = !(how & 64)};
    world_open(&world, &config);
    start(&world, how);
    for (int i = 0; i < 200 && !input_end(&in); i++)
        run_command(&world, &in, how);
    world_step(&world);
    world_close(&world);
    return 0;
}
