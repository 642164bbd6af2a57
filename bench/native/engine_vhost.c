/* A vhost-user disk, as a VM has it: loadgen is QEMU, and the guest's driver. Its slots are requests in shared
 * memory, so their numbers are the slots' own. Like a guest's driver that polls it asks for no calls while it
 * is busy, and for one before it sleeps. */
#include "../../test/tools/driver/vhost_disk.h"
#include "loadgen.h"
#include "waiter.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_NS 5000000000u
#define RETRY_US 10000

struct vhost_engine {
    struct engine base;
    struct vhost_disk *disk;
    struct slot *slots;
    struct waiter waiter;
    bool submitted;
};

static struct engine *vhost_open(const struct options *options, struct slot *slots)
{
    if (!options->socket)
        die("--socket is needed: the disk's");
    struct vhost_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_vhost_user;
    e->slots = slots;
    waiter_init(&e->waiter, options->spin_us);
    uint32_t data_max = (uint32_t)(options->bs + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    e->disk = vhost_disk_create(&(struct vhost_disk_config){.socket = options->socket,
                                                            .slots = (uint32_t)options->qd,
                                                            .data_max = data_max,
                                                            .without_record = options->no_record});
    for (uint32_t i = 0; i < options->qd; i++) {
        memcpy(vhost_disk_data(e->disk, i), slots[i].data, options->bs);
        slots[i].data = vhost_disk_data(e->disk, i);
    }
    uint64_t give_up = clock_ns() + CONNECT_NS;
    while (!vhost_disk_connect(e->disk)) {
        if (clock_ns() > give_up)
            die("%s: nobody there who serves a disk", options->socket);
        usleep(RETRY_US);
    }
    vhost_disk_want_calls(e->disk, false);
    e->base.size_bytes = vhost_disk_stats(e->disk).capacity;
    return &e->base;
}

static void vhost_submit(struct engine *engine, struct slot *slot)
{
    struct vhost_engine *e = (struct vhost_engine *)engine;
    enum vhost_disk_op op = slot->op == OR_OP_READ ? VHOST_DISK_READ : VHOST_DISK_WRITE;
    vhost_disk_submit(e->disk, slot->index, op, slot->offset, slot->length);
    e->submitted = true;
}

static uint32_t collect(struct vhost_engine *e)
{
    uint32_t count = 0;
    uint8_t status;
    for (int slot; (slot = vhost_disk_completed(e->disk, &status)) >= 0; count++)
        load_done(&e->slots[slot], status == 0 ? OR_OK : OR_EIO);
    return count;
}

static void vhost_progress(struct engine *engine)
{
    struct vhost_engine *e = (struct vhost_engine *)engine;
    if (e->submitted)
        vhost_disk_kick(e->disk);
    e->submitted = false;
    uint64_t now = clock_ns();
    if (collect(e) > 0) {
        waiter_worked(&e->waiter);
        return;
    }
    if (!waiter_spun(&e->waiter, now))
        return;
    vhost_disk_want_calls(e->disk, true);
    struct pollfd fds[] = {{.fd = vhost_disk_call_fd(e->disk), .events = POLLIN},
                           {.fd = vhost_disk_socket(e->disk), .events = POLLIN}};
    if (collect(e) == 0)
        waiter_sleep(fds, 2, now, UINT64_MAX);
    vhost_disk_want_calls(e->disk, false);
    vhost_disk_clear_call(e->disk);
    if (fds[1].revents)
        die("the device has closed the connection");
}

static void vhost_close(struct engine *engine)
{
    free(engine); /* memory and socket go with the process */
}

const struct engine_ops engine_vhost_user = {"vhost-user", vhost_open, vhost_submit, vhost_progress, vhost_close};
