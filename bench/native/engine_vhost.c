/* Vhost-user disks, as VMs have them: loadgen is QEMU, and the guest's driver, of each. A disk's slots are requests
 * in its shared memory, in the order of ours. Like a guest's driver that polls it asks for no calls while it is
 * busy, and for one before it sleeps. */
#include "../../test/tools/driver/vhost_disk.h"
#include "loadgen.h"
#include "waiter.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_NS 5000000000u
#define RETRY_US 10000

struct disk {
    struct vhost_disk *vhost;
    struct slot *slots; /* the first of its own */
    bool submitted;
};

struct vhost_engine {
    struct engine base;
    struct waiter waiter;
    uint32_t depth; /* slots of a disk */
    uint32_t count;
    struct disk disks[DISKS_MAX];
};

static uint32_t vhost_disks(const struct options *options)
{
    if (!options->sockets)
        die("--socket is needed: the disk's");
    uint32_t count = 1;
    for (const char *at = options->sockets; (at = strchr(at, ',')); at++)
        count++;
    if (count > DISKS_MAX)
        die("--socket: at most %u disks", DISKS_MAX);
    return count;
}

static void connect_disk(struct vhost_disk *disk, const char *socket)
{
    uint64_t give_up = clock_ns() + CONNECT_NS;
    while (!vhost_disk_connect(disk)) {
        if (clock_ns() > give_up)
            die("%s: nobody there who serves a disk", socket);
        usleep(RETRY_US);
    }
    vhost_disk_want_calls(disk, false);
}

static void open_disk(struct disk *disk, const char *socket, const struct options *options, struct slot *slots)
{
    uint32_t data_max = (uint32_t)(options->bs + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    disk->slots = slots;
    disk->vhost = vhost_disk_create(&(struct vhost_disk_config){
        .socket = socket, .slots = (uint32_t)options->qd, .data_max = data_max, .without_record = options->no_record});
    for (uint32_t i = 0; i < options->qd; i++) {
        memcpy(vhost_disk_data(disk->vhost, i), slots[i].data, options->bs);
        slots[i].data = vhost_disk_data(disk->vhost, i);
    }
    connect_disk(disk->vhost, socket);
}

static struct engine *vhost_open(const struct options *options, struct slot *slots)
{
    struct vhost_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_vhost_user;
    e->base.size_bytes = UINT64_MAX;
    e->depth = (uint32_t)options->qd;
    waiter_init(&e->waiter, options->spin_us);
    char *sockets = strdup(options->sockets), *rest = sockets, *socket;
    while (sockets && (socket = strsep(&rest, ","))) {
        struct disk *disk = &e->disks[e->count];
        open_disk(disk, socket, options, slots + (size_t)e->count++ * e->depth);
        e->base.size_bytes = min_u64(e->base.size_bytes, vhost_disk_stats(disk->vhost).capacity);
    }
    free(sockets);
    return &e->base;
}

static void vhost_submit(struct engine *engine, struct slot *slot)
{
    struct vhost_engine *e = (struct vhost_engine *)engine;
    struct disk *disk = &e->disks[slot->index / e->depth];
    enum vhost_disk_op op = slot->op == OR_OP_READ ? VHOST_DISK_READ : VHOST_DISK_WRITE;
    vhost_disk_submit(disk->vhost, slot->index % e->depth, op, slot->offset, slot->length);
    disk->submitted = true;
}

static void kick_all(struct vhost_engine *e)
{
    for (struct disk *disk = e->disks; disk < e->disks + e->count; disk++) {
        if (disk->submitted)
            vhost_disk_kick(disk->vhost);
        disk->submitted = false;
    }
}

static uint32_t collect(struct vhost_engine *e)
{
    uint32_t count = 0;
    uint8_t status;
    for (struct disk *disk = e->disks; disk < e->disks + e->count; disk++)
        for (int slot; (slot = vhost_disk_completed(disk->vhost, &status)) >= 0; count++)
            load_done(&disk->slots[slot], status == 0 ? OR_OK : OR_EIO);
    return count;
}

static void want_calls(struct vhost_engine *e, bool wanted)
{
    for (uint32_t i = 0; i < e->count; i++)
        vhost_disk_want_calls(e->disks[i].vhost, wanted);
}

/* Until a disk calls, unless one has ended something meanwhile. */
static void sleep_until_called(struct vhost_engine *e, uint64_t now)
{
    struct pollfd fds[2 * DISKS_MAX];
    for (uint32_t i = 0; i < e->count; i++) {
        fds[2 * i] = (struct pollfd){.fd = vhost_disk_call_fd(e->disks[i].vhost), .events = POLLIN};
        fds[2 * i + 1] = (struct pollfd){.fd = vhost_disk_socket(e->disks[i].vhost), .events = POLLIN};
    }
    want_calls(e, true);
    if (collect(e) > 0) {
        want_calls(e, false);
        return;
    }
    waiter_sleep(fds, 2 * e->count, now, UINT64_MAX);
    want_calls(e, false);
    for (uint32_t i = 0; i < e->count; i++) {
        if (fds[2 * i].revents)
            vhost_disk_clear_call(e->disks[i].vhost);
        if (fds[2 * i + 1].revents)
            die("the device has closed the connection");
    }
}

static void vhost_progress(struct engine *engine)
{
    struct vhost_engine *e = (struct vhost_engine *)engine;
    kick_all(e);
    uint64_t now = clock_ns();
    if (collect(e) > 0)
        waiter_worked(&e->waiter);
    else if (waiter_spun(&e->waiter, now))
        sleep_until_called(e, now);
}

static void vhost_close(struct engine *engine)
{
    free(engine); /* memory and sockets go with the process */
}

const struct engine_ops engine_vhost_user = {
    .name = "vhost-user",
    .disks = vhost_disks,
    .open = vhost_open,
    .submit = vhost_submit,
    .progress = vhost_progress,
    .close = vhost_close,
};
