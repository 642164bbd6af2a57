/* Layers in memory. A tape is a volume that remembers what a disk with a cache of its own would: what reads return,
 * what is durable, and the writes in between, in order, so that a test can make what a crash might have left. */
#ifndef LAYERS_FIXTURE_H
#define LAYERS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../backend/op.h"
#include "layers/map.h"
#include "mem/list.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define GIB (KIB * MIB)
#define CLUSTER OR_LAYER_CLUSTER
#define SECTOR 512u
#define PAGE 4096u

/* --- sparse images ---------------------------------------------------------------------------------- */

#define IMAGE_PAGES 4096u /* that may be touched */

struct image {
    uint64_t numbers[IMAGE_PAGES]; /* of the page + 1; 0: free */
    uint8_t *pages[IMAGE_PAGES];
};

static inline uint8_t *image_page(struct image *image, uint64_t number, bool make)
{
    uint32_t at = (uint32_t)(number * UINT64_C(0x9e3779b97f4a7c15) >> 40) % IMAGE_PAGES;
    for (uint32_t tries = 0; tries < IMAGE_PAGES; tries++, at = (at + 1) % IMAGE_PAGES) {
        if (image->numbers[at] == number + 1)
            return image->pages[at];
        if (image->numbers[at])
            continue;
        if (!make)
            return NULL;
        image->numbers[at] = number + 1;
        image->pages[at] = calloc(1, PAGE);
        return image->pages[at];
    }
    fail_msg("an image is too small");
    return NULL;
}

/* data: NULL for zeroes. */
static inline void image_write(struct image *image, uint64_t offset, uint64_t length, const uint8_t *data)
{
    while (length) {
        uint64_t at = offset % PAGE, bytes = length < PAGE - at ? length : PAGE - at;
        uint8_t *page = image_page(image, offset / PAGE, data != NULL);
        if (page && data)
            memcpy(page + at, data, bytes);
        else if (page)
            memset(page + at, 0, bytes);
        data = data ? data + bytes : NULL;
        offset += bytes;
        length -= bytes;
    }
}

static inline void image_read(struct image *image, uint64_t offset, uint64_t length, uint8_t *to)
{
    while (length) {
        uint64_t at = offset % PAGE, bytes = length < PAGE - at ? length : PAGE - at;
        const uint8_t *page = image_page(image, offset / PAGE, false);
        if (page)
            memcpy(to, page + at, bytes);
        else
            memset(to, 0, bytes);
        to += bytes;
        offset += bytes;
        length -= bytes;
    }
}

static inline struct image *image_copy(const struct image *from)
{
    struct image *image = calloc(1, sizeof *image);
    for (uint32_t i = 0; i < IMAGE_PAGES; i++)
        if (from->numbers[i]) {
            image->numbers[i] = from->numbers[i];
            image->pages[i] = malloc(PAGE);
            memcpy(image->pages[i], from->pages[i], PAGE);
        }
    return image;
}

static inline void image_free(struct image *image)
{
    for (uint32_t i = 0; i < IMAGE_PAGES; i++)
        free(image->pages[i]);
    free(image);
}

/* A file with the image's content. */
static inline int image_file(struct image *image, uint64_t bytes)
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    for (uint32_t i = 0; i < IMAGE_PAGES; i++)
        if (image->numbers[i])
            assert_int_equal(pwrite(fd, image->pages[i], PAGE, (off_t)((image->numbers[i] - 1) * PAGE)), PAGE);
    return fd;
}

/* --- tapes ------------------------------------------------------------------------------------------ */

/* A write that is not durable yet. */
struct taped {
    struct taped *next;
    uint64_t offset, length;
    uint8_t *data; /* NULL: zeroes */
    bool ended;
    bool synced;            /* a sync that is under way will make it durable */
    const struct or_io *io; /* NULL: it is over */
};

struct tape {
    struct or_volume volume;
    struct image *current, *durable;
    struct taped *writes, **last;
    struct or_list waiting; /* operations, oldest first */
    bool manual;            /* operations wait for tape_end(); else they end at once */
    uint8_t status;         /* of what ends next and later, and fails_op */
    uint8_t fails_op;       /* 0: any */
    uint32_t reads, writes_count, syncs, discards;
    bool closed;
};

static inline struct taped *tape_add(struct tape *t, const struct or_io *io)
{
    struct taped *w = calloc(1, sizeof *w);
    w->offset = io->offset;
    w->length = io->length;
    w->io = io;
    if (io->op == OR_OP_WRITE) {
        w->data = malloc(io->length);
        memcpy(w->data, io->data, io->length);
    }
    *t->last = w;
    t->last = &w->next;
    return w;
}

/* What has ended before a sync began is durable when that has ended. */
static inline void tape_sync_begins(struct tape *t)
{
    for (struct taped *w = t->writes; w; w = w->next)
        w->synced = w->ended;
}

static inline void tape_sync_ends(struct tape *t)
{
    for (struct taped **at = &t->writes; *at;) {
        struct taped *w = *at;
        if (!w->synced) {
            at = &w->next;
            continue;
        }
        image_write(t->durable, w->offset, w->length, w->data);
        *at = w->next;
        free(w->data);
        free(w);
    }
    t->last = &t->writes;
    while (*t->last)
        t->last = &(*t->last)->next;
}

static inline void tape_execute(struct tape *t, struct or_io *io)
{
    bool fails = t->status != OR_OK && (!t->fails_op || t->fails_op == io->op);
    io->status = fails ? t->status : OR_OK;
    if (io->op == OR_OP_READ && !fails)
        image_read(t->current, io->offset, io->length, io->data);
    for (struct taped *w = t->writes; w; w = w->next)
        if (w->io == io) {
            w->ended = !fails;
            w->io = NULL;
        }
    if (or_op_writes(io->op) && !fails) {
        image_write(t->current, io->offset, io->length, io->data);
        if (io->flags & OR_REQ_FUA) {
            tape_sync_begins(t); /* more than it has to, as file.c does */
            tape_sync_ends(t);
        }
    }
    if (io->op == OR_OP_FLUSH && !fails)
        tape_sync_ends(t);
    if (io->op == OR_OP_FLUSH && fails)
        t->volume.flush_failed = true;
    if (fails && t->volume.failed)
        t->volume.failed(&t->volume, io, -5);
    or_volume_complete(io);
}

static inline void tape_submit(struct or_volume *volume, struct or_io *io)
{
    struct tape *t = (struct tape *)volume;
    assert_false(t->closed);
    assert_true(io->offset % volume->block_size == 0 && io->length % volume->block_size == 0);
    assert_true(!io->data || (uintptr_t)io->data % volume->align == 0);
    t->reads += io->op == OR_OP_READ;
    t->writes_count += io->op == OR_OP_WRITE;
    t->syncs += io->op == OR_OP_FLUSH;
    t->discards += io->op == OR_OP_DISCARD;
    if (or_op_writes(io->op))
        tape_add(t, io);
    if (io->op == OR_OP_FLUSH)
        tape_sync_begins(t);
    if (t->manual)
        or_list_append(&t->waiting, &io->link);
    else
        tape_execute(t, io);
}

static inline void tape_close(struct or_volume *volume)
{
    ((struct tape *)volume)->closed = true;
}

/* Ends the n-th of the operations that wait. */
static inline void tape_end(struct tape *t, uint32_t n)
{
    struct or_list *at = t->waiting.next;
    while (n--)
        at = at->next;
    assert_ptr_not_equal(at, &t->waiting);
    or_list_remove(at);
    tape_execute(t, OR_CONTAINER(at, struct or_io, link));
}

static inline void tape_end_all(struct tape *t)
{
    while (!or_list_empty(&t->waiting))
        tape_end(t, 0);
}

static inline uint32_t tape_waiting(const struct tape *t)
{
    uint32_t n = 0;
    for (const struct or_list *at = t->waiting.next; at != &t->waiting; at = at->next)
        n++;
    return n;
}

static inline struct tape *tape_open(struct image *image, uint64_t bytes, uint32_t block_size)
{
    static const struct or_backend_ops ops = {.name = "tape", .submit = tape_submit, .close = tape_close};
    struct tape *t = calloc(1, sizeof *t);
    t->current = image;
    t->durable = image_copy(image);
    t->last = &t->writes;
    or_list_init(&t->waiting);
    t->volume = (struct or_volume){.ops = &ops,
                                   .size = bytes,
                                   .block_size = block_size,
                                   .physical_block_size = PAGE,
                                   .direct = true,
                                   .align = block_size,
                                   .discard_granularity = PAGE,
                                   .write_zeroes = true,
                                   .fd = -1};
    return t;
}

static inline void tape_free(struct tape *t)
{
    for (struct taped *w; (w = t->writes) != NULL;) {
        t->writes = w->next;
        free(w->data);
        free(w);
    }
    image_free(t->current);
    image_free(t->durable);
    free(t);
}

/* --- layers on tapes ---------------------------------------------------------------------------------- */

static inline struct image *overlay_continuing(uint64_t size, uint64_t content, uint64_t continues)
{
    struct image *image = calloc(1, sizeof *image);
    struct or_overlay_header header;
    or_overlay_encode(&header, size, content, continues);
    image_write(image, 0, sizeof header, (const uint8_t *)&header);
    return image;
}

static inline struct image *overlay_image(uint64_t size, uint64_t content)
{
    return overlay_continuing(size, content, 0);
}

/* The overlay that an image has, as the next engine opens it. */
static inline struct or_layer overlay_open(struct image *image, uint32_t block_size)
{
    struct or_overlay_header header;
    image_read(image, 0, sizeof header, (uint8_t *)&header);
    uint64_t bytes = or_overlay_file_bytes(header.size);
    int err, fd = image_file(image, bytes);
    const char *why;
    struct or_layer_map *map = or_layer_load(fd, &err, &why);
    if (!map)
        fail_msg("the layer cannot be loaded: %s", why);
    close(fd);
    return (struct or_layer){
        .volume = &tape_open(image, bytes, block_size)->volume, .map = map, .content = map->content};
}

static inline struct or_layer raw_open(struct image *image, uint64_t bytes, uint32_t block_size, uint64_t content)
{
    return (struct or_layer){.volume = &tape_open(image, bytes, block_size)->volume, .content = content};
}

static inline struct tape *tape_of(const struct or_layer *layer)
{
    return (struct tape *)layer->volume;
}

static inline struct or_volume *stack(const struct or_layer *layers, uint32_t count)
{
    int err;
    struct or_volume *volume = or_layers_volume(layers, count, &err);
    assert_non_null(volume);
    assert_int_equal(err, 0);
    return volume;
}

/* Ends the volume, and frees the tapes. */
static inline void unstack(struct or_volume *volume, const struct or_layer *layers, uint32_t count)
{
    volume->ops->close(volume);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(tape_of(&layers[i])->closed);
        tape_free(tape_of(&layers[i]));
    }
}

static inline uint8_t flush(struct or_volume *v)
{
    return run(v, OR_OP_FLUSH, 0, 0, 0, NULL);
}

#endif
