/* A snapshot that is not what an engine of this build left: of a disk in any state, with bytes and descriptors
 * changed on the way. A new device resumes from it or says why not; then QEMU and the guest go on, whatever
 * became of their disk.
 *
 * First byte: as in start(). Then two runs of commands, before and after, with the changes between them. */
#include "vhost_world.h"

#include "keep/snapshot.h"

static void start(struct world *w, uint8_t how)
{
    negotiate(w, how & 1 ? 0 : 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC);
    set_memory(w);
    if (how & 2) {
        get_inflight(w);
        set_inflight(w);
    }
    for (uint32_t i = 0; i < QUEUES && !(how & 4); i++)
        start_ring(w, i, QUEUE_SIZE, 0);
}

static void run_command(struct world *w, struct input *in)
{
    uint8_t command = input_u8(in);
    uint32_t i = command >> 7;
    switch (command % 8) {
    case 0:
    case 1:
        push_request(w, input_u8(in));
        break;
    case 2:
        w->hold = i;
        break;
    case 3:
        session_run(w, command >> 4);
        break;
    case 4:
        vu_state(w, OR_VU_GET_VRING_BASE, i, 0);
        break;
    case 5:
        start_ring(w, i, QUEUE_SIZE, w->avail_idx[i]);
        break;
    case 6:
        if (command & 64)
            change_region(w, command & 32 ? OR_VU_ADD_MEM_REG : OR_VU_REM_MEM_REG, i);
        else
            resize_memory(w, input_u8(in) * 4096u);
        break;
    default:
        world_step(w);
        break;
    }
}

/* What the next engine receives: copies of the descriptors, which are its own. */
static bool save(struct world *w, struct or_keep_snapshot *s)
{
    for (int i = 0; i < 3; i++) {
        if (or_vhost_blk_save(w->dev, s)) {
            for (uint32_t k = 0; k < s->fd_count; k++)
                s->fds[k] = fcntl(s->fds[k], F_DUPFD_CLOEXEC, 0);
            or_vhost_blk_saved(w->dev);
            return true;
        }
        world_step(w);
    }
    return false;
}

static void change(struct world *w, struct or_keep_snapshot *s, struct input *in)
{
    uint8_t count = input_u8(in);
    for (uint32_t n = count & 7; n > 0; n--) {
        uint16_t at = input_u16(in);
        s->bytes[at % sizeof s->bytes] ^= input_u8(in);
    }
    for (uint32_t n = count >> 3 & 3; n > 0 && s->fd_count > 0; n--) {
        uint8_t which = input_u8(in);
        int *fd = &s->fds[which % s->fd_count];
        close(*fd);
        *fd = which & 128 ? fcntl(w->memfd, F_DUPFD_CLOEXEC, 0) : fcntl(w->kick[0], F_DUPFD_CLOEXEC, 0);
    }
    if (count & 32 && s->fd_count > 0)
        close(s->fds[--s->fd_count]);
    if (count & 64)
        s->length = input_u16(in) % (OR_KEEP_BYTES_MAX + 1);
}

static void replace(struct world *w, const struct or_vhost_blk_config *config, struct input *in)
{
    static struct or_keep_snapshot snapshot;
    memset(&snapshot, 0, sizeof snapshot);
    snapshot.id = DEVICE;
    if (!save(w, &snapshot))
        return;
    int listener = fcntl(snapshot.fds[0], F_DUPFD_CLOEXEC, 0);
    change(w, &snapshot, in);
    or_vhost_blk_leave(w->dev, on_gone, &w->gone);
    session_run(w, UINT32_MAX);
    MUST(w->gone);
    w->gone = false;
    device_open(w, config, listener);
    const char *why = or_vhost_blk_resume(w->dev, &snapshot);
    MUST(why == NULL || why[0] != '\0');
    or_keep_close_fds(&snapshot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct or_vhost_blk_config config = {.discard = true, .write_zeroes = true};
    uint8_t how = input_u8(&in);
    world_open(&world, &config);
    if (!(how & 8))
        start(&world, how);
    for (uint32_t n = how >> 4; n > 0; n--)
        run_command(&world, &in);
    replace(&world, &config, &in);
    for (int i = 0; i < 20 && !input_end(&in); i++)
        run_command(&world, &in);
    world_step(&world);
    world_close(&world);
    return 0;
}
