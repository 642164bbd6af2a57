/* The ram back-end: a volume in anonymous memory, answered before submit returns.
 *
 * Huge pages matter: a 4 KiB copy out of a cold 4 KiB mapping pays a TLB miss that costs as much as the
 * copy. Pages of the hugetlb pool are taken when the pool can promise all of them now (the kernel then
 * guarantees that a later fault succeeds); otherwise transparent huge pages are asked for. Either way a
 * page is populated when it is first touched, so a sparse volume costs what it holds.
 *
 * Memory is given back only from the second kind of mapping: after MADV_DONTNEED kernels before 6.9 do
 * not restore the promise of a hugetlb page, and a later touch could be answered with SIGBUS. */
#include <errno.h>
#include <linux/mman.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/block/block.h"

#define HUGE_PAGE ((uint64_t)2 << 20)

struct ram_volume {
    struct or_volume base;
    uint8_t *memory;
    uint64_t mapped; /* bytes */
    bool releasable; /* not from the hugetlb pool */
};

static struct ram_volume *ram_of(struct or_volume *volume)
{
    return (struct ram_volume *)volume;
}

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Zeroes [offset, end) by giving back the whole huge pages inside and clearing the edges. */
static void ram_release(struct ram_volume *ram, uint64_t offset, uint64_t end)
{
    uint64_t inner = round_up(offset, HUGE_PAGE);
    uint64_t inner_end = end / HUGE_PAGE * HUGE_PAGE;
    if (!ram->releasable || inner >= inner_end || madvise(ram->memory + inner, inner_end - inner, MADV_DONTNEED) != 0) {
        memset(ram->memory + offset, 0, end - offset);
        return;
    }
    memset(ram->memory + offset, 0, inner - offset);
    memset(ram->memory + inner_end, 0, end - inner_end);
}

static void ram_submit(struct or_volume *volume, struct or_io *io)
{
    struct ram_volume *ram = ram_of(volume);
    switch (io->op) {
    case OR_OP_READ:
        memcpy(io->data, ram->memory + io->offset, io->length);
        break;
    case OR_OP_WRITE:
        memcpy(ram->memory + io->offset, io->data, io->length);
        break;
    case OR_OP_DISCARD:
        ram_release(ram, io->offset, io->offset + io->length);
        break;
    case OR_OP_WRITE_ZEROES:
        if (io->flags & OR_REQ_UNMAP) {
            ram_release(ram, io->offset, io->offset + io->length);
        } else {
            memset(ram->memory + io->offset, 0, io->length);
        }
        break;
    default: /* FLUSH: there is nothing more stable than this memory */
        break;
    }
    or_block_end(io, OR_OK);
}

static const uint8_t *ram_peek(struct or_volume *volume, uint64_t offset, uint32_t length)
{
    assert(offset <= volume->size && length <= volume->size - offset);
    return ram_of(volume)->memory + offset;
}

static void ram_close(struct or_volume *volume)
{
    struct ram_volume *ram = ram_of(volume);
    assert(volume->in_flight == 0);
    int failed = munmap(ram->memory, ram->mapped);
    assert(failed == 0);
    free(ram);
}

/* Maps the volume's memory on a huge page boundary. 0 or -errno. */
static int ram_map(struct ram_volume *ram, uint64_t size)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    ram->mapped = round_up(size, HUGE_PAGE);
    void *memory = mmap(NULL, ram->mapped, PROT_READ | PROT_WRITE, flags | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
    if (memory != MAP_FAILED) {
        ram->memory = memory;
        return 0;
    }
    /* One huge page more, to cut an aligned piece out of it. */
    uint8_t *start = mmap(NULL, ram->mapped + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) {
        return -errno;
    }
    uint64_t before = round_up((uintptr_t)start, HUGE_PAGE) - (uintptr_t)start;
    ram->memory = start + before;
    ram->releasable = true;
    if (before != 0) {
        munmap(start, before);
    }
    munmap(ram->memory + ram->mapped, HUGE_PAGE - before);
    /* Only a speed-up: a kernel without transparent huge pages refuses, and all still works. */
    (void)madvise(ram->memory, ram->mapped, MADV_HUGEPAGE);
    return 0;
}

static const struct or_backend_ops ram_ops = {
    .name = "ram", .submit = ram_submit, .peek = ram_peek, .close = ram_close};

struct or_volume *or_volume_ram(uint64_t size, uint32_t block_size, int *err)
{
    if (!or_block_geometry_valid(size, block_size) || size > INT64_MAX - 2 * HUGE_PAGE) {
        *err = -EINVAL;
        return NULL;
    }
    struct ram_volume *ram = calloc(1, sizeof(*ram));
    if (!ram) {
        *err = -ENOMEM;
        return NULL;
    }
    *err = ram_map(ram, size);
    if (*err != 0) {
        free(ram);
        return NULL;
    }
    ram->base = (struct or_volume){.ops = &ram_ops,
                                   .size = size,
                                   .block_size = block_size,
                                   .physical_block_size = OR_BLOCK_PHYSICAL,
                                   .align = 1,
                                   .discard_granularity = OR_BLOCK_PHYSICAL,
                                   .write_zeroes = true,
                                   .synchronous = true,
                                   .fd = -1};
    return &ram->base;
}
