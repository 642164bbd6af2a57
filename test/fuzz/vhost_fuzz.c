/* A hostile QEMU: a stream of vhost-user messages with real descriptors, some as QEMU sends them, some not,
 * and requests on the rings in between.
 *
 * Commands: see run_command. A raw message is request, flags, how many descriptors of which kinds, size and
 * payload, all from the input. */
#include "vhost_world.h"

static int other_fds[3] = {-1, -1, -1}; /* an epoll, a pipe, /dev/null */

static int fd_of(struct world *w, uint8_t kind)
{
    switch (kind % 8) {
    case 0:
        return w->memfd;
    case 1:
    case 2:
        return w->kick[kind % 2];
    case 3:
    case 4:
        return w->call[kind % 2];
    case 5:
        return w->inflight_fd >= 0 ? w->inflight_fd : w->memfd;
    default:
        return other_fds[kind % 3];
    }
}

static uint32_t some_fds(struct world *w, struct input *in, int fds[8])
{
    uint8_t count = input_u8(in) % 8;
    for (uint32_t i = 0; i < count; i++)
        fds[i] = fd_of(w, input_u8(in));
    return count;
}

static void raw_message(struct world *w, struct input *in)
{
    uint8_t payload[256];
    int fds[8];
    uint32_t request = input_u8(in), flags = input_u8(in), count = some_fds(w, in, fds), size = input_u8(in);
    if (flags < 128)
        flags = OR_VU_VERSION | (flags & OR_VU_NEED_REPLY);
    input_bytes(in, payload, size);
    vu(w, request, flags, payload, size, fds, count);
}

/* Numbers as they are, addresses as two bytes within one of the regions: a message that nearly fits. */
static void near_message(struct world *w, struct input *in)
{
    uint8_t kind = input_u8(in);
    uint32_t i = kind >> 4 & 3, flags = OR_VU_VERSION | (kind & 0x80 ? OR_VU_NEED_REPLY : 0);
    int fds[8];
    uint32_t count;
    struct or_vu_vring_addr a = {.index = i};
    struct or_vu_memory_region m = {0};
    struct or_vu_config c = {.offset = 0};
    struct or_vu_inflight f = {0};
    switch (kind % 8) {
    case 0:
        a.desc = USER_A + input_u16(in) * 2ull;
        a.avail = USER_A + input_u16(in) * 2ull;
        a.used = USER_A + input_u16(in) * 2ull;
        vu(w, OR_VU_SET_VRING_ADDR, flags, &a, sizeof a, NULL, 0);
        break;
    case 1:
        m.region = region_of(i & 1);
        m.region.phys += input_u8(in) * 4096ull;
        m.region.user += input_u8(in) * 4096ull;
        m.region.size = input_u8(in) * 4096ull;
        m.region.fd_offset = input_u8(in) * 2048ull;
        count = some_fds(w, in, fds);
        vu(w, i & 2 ? OR_VU_ADD_MEM_REG : OR_VU_REM_MEM_REG, flags, &m, sizeof m, fds, count);
        break;
    case 2:
        c = (struct or_vu_config){.offset = input_u8(in), .size = input_u8(in), .data = {input_u8(in)}};
        vu(w, i & 1 ? OR_VU_SET_CONFIG : OR_VU_GET_CONFIG, flags, &c,
           (uint32_t)offsetof(struct or_vu_config, data) + (c.size & 255), NULL, 0);
        break;
    case 3:
        f = (struct or_vu_inflight){input_u16(in), input_u8(in) * 64ull, input_u8(in), input_u16(in)};
        count = some_fds(w, in, fds);
        vu(w, i & 1 ? OR_VU_SET_INFLIGHT_FD : OR_VU_GET_INFLIGHT_FD, flags, &f, i & 2 ? sizeof f : OR_VU_INFLIGHT_BYTES,
           fds, count);
        break;
    case 4:
        vu_state(w, OR_VU_SET_VRING_NUM, i, input_u16(in));
        break;
    case 5:
        vu_state(w, OR_VU_SET_VRING_BASE, i, input_u16(in));
        break;
    case 6:
        vu_u64(w, OR_VU_SET_FEATURES, input_u64(in), -1);
        break;
    default:
        vu_u64(w, OR_VU_SET_VRING_KICK + i, input_u16(in), fd_of(w, input_u8(in)));
        break;
    }
}

static void good_message(struct world *w, uint8_t kind)
{
    uint32_t i = kind >> 4 & 1;
    switch (kind % 12) {
    case 0:
        negotiate(w, kind & 0x80 ? 0 : 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC);
        break;
    case 1:
        set_memory(w);
        break;
    case 2:
        get_inflight(w);
        break;
    case 3:
        set_inflight(w);
        break;
    case 4:
        start_ring(w, i, kind & 0x80 ? QUEUE_SIZE / 2 : QUEUE_SIZE, w->avail_idx[i]);
        break;
    case 5:
        vu_state(w, OR_VU_GET_VRING_BASE, i, 0);
        break;
    case 6:
        vu_state(w, OR_VU_SET_VRING_ENABLE, i, kind >> 7);
        break;
    case 7:
        vu_u64(w, OR_VU_SET_VRING_KICK, i, w->kick[i]);
        break;
    case 8:
        vu_u64(w, OR_VU_SET_VRING_CALL, i, w->call[i]);
        break;
    case 9:
        change_region(w, OR_VU_REM_MEM_REG, i);
        break;
    case 10:
        change_region(w, OR_VU_ADD_MEM_REG, i);
        break;
    default:
        vu(w, kind & 0x80 ? OR_VU_RESET_OWNER : OR_VU_SET_OWNER, OR_VU_VERSION, NULL, 0, NULL, 0);
        break;
    }
}

static void raw_bytes(struct world *w, struct input *in)
{
    uint8_t bytes[32];
    int fds[8];
    uint32_t length = input_u8(in) % (sizeof bytes + 1), count = length ? some_fds(w, in, fds) : 0;
    input_bytes(in, bytes, length);
    struct iovec iov = {bytes, length};
    send_bytes(w, &iov, 1, fds, count);
    world_step(w);
    drain_replies(w);
}

static void run_command(struct world *w, struct input *in)
{
    uint8_t command = input_u8(in);
    switch (command % 12) {
    case 0:
    case 1:
        raw_message(w, in);
        break;
    case 2:
    case 3:
    case 4:
        near_message(w, in);
        break;
    case 5:
    case 6:
        good_message(w, input_u8(in));
        break;
    case 7:
        push_request(w, input_u8(in));
        break;
    case 8:
        w->hold = command >> 4 & 1;
        session_run(w, command >> 5);
        break;
    case 9:
        raw_bytes(w, in);
        break;
    case 10:
        if (command & 128)
            resize_memory(w, input_u8(in) * 4096u);
        else
            eventfd_write(w->kick[command >> 4 & 1], 1);
        break;
    default:
        world_disconnect(w);
        world_connect(w);
        break;
    }
}

static void open_others(void)
{
    int ends[2];
    other_fds[0] = epoll_create1(EPOLL_CLOEXEC);
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    other_fds[1] = ends[1];
    other_fds[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct or_vhost_blk_config config = {.discard = true, .write_zeroes = true};
    if (other_fds[0] < 0)
        open_others();
    world_open(&world, &config);
    for (int i = 0; i < 100 && !input_end(&in); i++)
        run_command(&world, &in);
    world_step(&world);
    world_close(&world);
    return 0;
}
