/* Guest memory as a vhost-user front-end (QEMU) shares it: regions mapped from descriptors that it
 * passes, and the two address spaces it names them by (guest physical, and QEMU's own "user" ones).
 *
 * A map is immutable once it is in use: a change builds another one that shares the mappings, so
 * whoever holds a reference can go on using host pointers. References are counted without atomics: a
 * map and everything that refers to it belong to one thread.
 *
 * The owner of the memory is hostile. Addresses are checked against wrapping and bounds, sizes against
 * the file behind them; and a file that shrinks under a mapping does not end the process (see
 * guest_mem.c): the pages read as zeroes from then on and the mapping is marked vanished. */
#ifndef OR_GUEST_MEM_H
#define OR_GUEST_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OR_GUEST_REGIONS_MAX 32u

struct or_guest_mapping;

/* Maps [offset, offset + size) of fd shared and writeable; fd stays the caller's, the mapping keeps a
 * duplicate. Any offset will do.
 * NULL with *err: -EINVAL size 0, wraps or not a regular file; -ERANGE beyond the end of the file;
 * -ENOSPC too many mappings in this process; or mmap's. The caller holds the only reference. Any
 * thread; release it on the same. */
struct or_guest_mapping *or_guest_map(int fd, uint64_t offset, uint64_t size, int *err);
void or_guest_unmap(struct or_guest_mapping *mapping);
/* The byte at `offset` as given to or_guest_map. */
void *or_guest_mapping_data(const struct or_guest_mapping *mapping);
/* Where it was mapped from, for whoever is to map it again; the descriptor is the mapping's. */
int or_guest_mapping_fd(const struct or_guest_mapping *mapping);
uint64_t or_guest_mapping_offset(const struct or_guest_mapping *mapping);
/* The file shrank, or its pages could not be had. */
bool or_guest_mapping_vanished(const struct or_guest_mapping *mapping);

struct or_guest_region {
    uint64_t phys; /* guest physical address */
    uint64_t user; /* address in QEMU */
    uint64_t size; /* bytes */
    uint8_t *host; /* address here */
    struct or_guest_mapping *mapping;
};

struct or_guest_mem {
    uint32_t refs;
    uint32_t count;
    struct or_guest_region regions[OR_GUEST_REGIONS_MAX];
};

/* An empty map, or one with the regions of `base`; with one reference. NULL: no memory. */
struct or_guest_mem *or_guest_mem_create(const struct or_guest_mem *base);
struct or_guest_mem *or_guest_mem_ref(struct or_guest_mem *mem);
/* Unmaps what no other map shares, with the last reference. NULL is allowed. */
void or_guest_mem_unref(struct or_guest_mem *mem);

/* Adds a region before the map is in use; `fd` stays the caller's. 0; -EEXIST: it overlaps another in
 * either address space; -E2BIG: OR_GUEST_REGIONS_MAX; -EINVAL: it wraps; or what or_guest_map gives. */
int or_guest_mem_add(struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size, int fd, uint64_t offset);
/* 0, or -ENOENT when no region is exactly this one. */
int or_guest_mem_remove(struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size);

/* Is there exactly this region? */
bool or_guest_mem_has(const struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size);

/* Host address of [user, user + size), which must lie in one region; else NULL. */
void *or_guest_user(const struct or_guest_mem *mem, uint64_t user, uint64_t size);
/* Host address of guest physical address `phys`, or NULL. *size: bytes wanted in, of them contiguous
 * here out (the rest may continue in another region). */
void *or_guest_phys(const struct or_guest_mem *mem, uint64_t phys, uint64_t *size);
/* True when the first MiB of guest memory holds nothing but zeroes. Firmware and kernels put something
 * there long before they start a device: so what is mapped here is not the memory of a guest. */
bool or_guest_mem_blank(const struct or_guest_mem *mem);
/* True when a mapping of the map has vanished; a load or two while none ever has. */
bool or_guest_mem_vanished(const struct or_guest_mem *mem);

/* THE function that writes guest memory: data, status bytes and used rings alike. dst is a host
 * address within mem. An aligned write of 2 bytes is one store with release semantics, as ring indices
 * need. */
void or_guest_write(struct or_guest_mem *mem, void *dst, const void *src, size_t size);

#endif
