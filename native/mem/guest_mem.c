/* The guest memory map.
 *
 * Memory that shrinks. The file behind a mapping belongs to QEMU, which may truncate it at any moment;
 * touching a page beyond the end then raises SIGBUS. Checking the size when the region is added is
 * needed but proves nothing about later, and guarding every copy would tax the data path for what never
 * happens with an honest QEMU. So all mappings of the process stand in one static table, and a
 * process-wide SIGBUS handler looks the faulting address up in it: when it belongs to a mapping, the
 * handler maps anonymous zero pages from the faulting page to the end of the mapping over it, marks the
 * mapping as vanished and returns; the access is repeated and goes on with zeroes. Who owns the device
 * polls or_guest_mem_vanished() and marks the device broken. All the rest is replaced, not one page,
 * because a file that was truncated ends for good at one place, and because a mapping in ever smaller
 * pieces would run into the kernel's limit of mappings. A SIGBUS elsewhere goes to whoever handled it
 * before.
 *
 * The table is read by the handler in any thread, so an entry is published by its `start` last and
 * withdrawn by it first. Mappings are made and released on control paths only, on one thread each. */
#include "guest_mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAPPINGS_MAX 4096 /* of the process: 512 devices of 8 regions */
#define CLAIMED 1         /* `start` of an entry that is being filled */
#define HUGETLBFS 0x958458f6
#define BLANK_BYTES (1u << 20)

struct or_guest_mapping {
    _Atomic(uintptr_t) start; /* 0: free */
    _Atomic(uintptr_t) end;
    _Atomic(uintptr_t) page_size; /* the kernel's unit for this file */
    atomic_bool vanished;
    uint32_t refs;
    uint8_t *data;
    int fd;
    uint64_t offset; /* of `data` in the file */
};

static struct or_guest_mapping mappings[MAPPINGS_MAX];
static atomic_uint vanished_ever;
static struct sigaction previous_action;
static pthread_mutex_t handler_lock = PTHREAD_MUTEX_INITIALIZER;

static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    /* Whom we replaced may have saved us as the one to pass on to. */
    static _Thread_local volatile sig_atomic_t passing;
    bool again = passing;
    passing = 1;
    if (!again && (previous_action.sa_flags & SA_SIGINFO)) {
        previous_action.sa_sigaction(signal_number, info, context);
    } else if (!again && previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
        previous_action.sa_handler(signal_number);
    } else {
        /* The access is repeated and ends the process, as it would have without us. */
        signal(signal_number, SIG_DFL);
        if (info->si_code <= 0)
            raise(signal_number);
    }
    passing = again;
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    uintptr_t address = info->si_code > 0 ? (uintptr_t)info->si_addr : 0;
    for (size_t i = 0; i < MAPPINGS_MAX; i++) {
        struct or_guest_mapping *m = &mappings[i];
        uintptr_t start = atomic_load(&m->start);
        uintptr_t end = atomic_load(&m->end);
        if (start <= CLAIMED || address < start || address >= end)
            continue;
        uintptr_t page = address & ~(atomic_load(&m->page_size) - 1);
        void *zeroes = mmap((void *)page, end - page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (zeroes == MAP_FAILED)
            break;
        atomic_store(&m->vanished, true);
        atomic_fetch_add(&vanished_ever, 1);
        errno = saved_errno;
        return;
    }
    pass_on(signal_number, info, context);
    errno = saved_errno;
}

/* For every mapping again, in case somebody has put another handler in our place since. */
static void install_handler(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigaction current;
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&handler_lock);
    int rc = sigaction(SIGBUS, NULL, &current);
    if (rc == 0 && current.sa_sigaction != on_sigbus) {
        previous_action = current;
        rc = sigaction(SIGBUS, &action, NULL);
    }
    assert(rc == 0);
    pthread_mutex_unlock(&handler_lock);
}

static struct or_guest_mapping *claim(void)
{
    for (size_t i = 0; i < MAPPINGS_MAX; i++) {
        uintptr_t unused = 0;
        if (atomic_compare_exchange_strong(&mappings[i].start, &unused, CLAIMED))
            return &mappings[i];
    }
    return NULL;
}

/* Huge pages are mapped, unmapped and replaced as wholes. */
static uint64_t page_size_of(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS)
        return (uint64_t)fs.f_bsize;
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static int check_file(int fd, uint64_t offset, uint64_t size)
{
    struct stat st;
    uint64_t end;
    if (size == 0 || __builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    return end <= (uint64_t)st.st_size ? 0 : -ERANGE;
}

struct or_guest_mapping *or_guest_map(int fd, uint64_t offset, uint64_t size, int *err)
{
    *err = check_file(fd, offset, size);
    if (*err)
        return NULL;
    install_handler();
    struct or_guest_mapping *m = claim();
    if (m == NULL) {
        *err = -ENOSPC;
        return NULL;
    }
    m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (m->fd < 0) {
        *err = -errno;
        atomic_store(&m->start, 0);
        return NULL;
    }
    uint64_t page = page_size_of(fd);
    uint64_t first = offset & ~(page - 1);
    uint64_t length = (offset + size - first + page - 1) & ~(page - 1);
    uint8_t *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)first);
    if (base == MAP_FAILED) {
        *err = -errno;
        close(m->fd);
        atomic_store(&m->start, 0);
        return NULL;
    }
    m->offset = offset;
    m->data = base + (offset - first);
    m->refs = 1;
    atomic_store(&m->vanished, false);
    atomic_store(&m->page_size, page);
    atomic_store(&m->end, (uintptr_t)base + length);
    atomic_store(&m->start, (uintptr_t)base);
    return m;
}

void or_guest_unmap(struct or_guest_mapping *m)
{
    assert(m->refs > 0);
    if (--m->refs > 0)
        return;
    uintptr_t start = atomic_load(&m->start);
    uintptr_t end = atomic_load(&m->end);
    atomic_store(&m->start, CLAIMED);
    munmap((void *)start, end - start);
    close(m->fd);
    atomic_store(&m->start, 0);
}

void *or_guest_mapping_data(const struct or_guest_mapping *m)
{
    return m->data;
}

int or_guest_mapping_fd(const struct or_guest_mapping *m)
{
    return m->fd;
}

uint64_t or_guest_mapping_offset(const struct or_guest_mapping *m)
{
    return m->offset;
}

bool or_guest_mapping_vanished(const struct or_guest_mapping *m)
{
    return atomic_load_explicit(&m->vanished, memory_order_relaxed);
}

struct or_guest_mem *or_guest_mem_create(const struct or_guest_mem *base)
{
    struct or_guest_mem *mem = calloc(1, sizeof(*mem));
    if (mem == NULL)
        return NULL;
    if (base)
        *mem = *base;
    mem->refs = 1;
    for (uint32_t i = 0; i < mem->count; i++)
        mem->regions[i].mapping->refs++;
    return mem;
}

struct or_guest_mem *or_guest_mem_ref(struct or_guest_mem *mem)
{
    mem->refs++;
    return mem;
}

void or_guest_mem_unref(struct or_guest_mem *mem)
{
    if (mem == NULL || --mem->refs > 0)
        return;
    for (uint32_t i = 0; i < mem->count; i++)
        or_guest_unmap(mem->regions[i].mapping);
    free(mem);
}

/* Neither range wraps. */
static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

int or_guest_mem_add(struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size, int fd, uint64_t offset)
{
    uint64_t end;
    if (__builtin_add_overflow(phys, size, &end) || __builtin_add_overflow(user, size, &end))
        return -EINVAL;
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct or_guest_region *other = &mem->regions[i];
        if (overlap(phys, size, other->phys, other->size) || overlap(user, size, other->user, other->size))
            return -EEXIST;
    }
    if (mem->count == OR_GUEST_REGIONS_MAX)
        return -E2BIG;
    int err;
    struct or_guest_mapping *mapping = or_guest_map(fd, offset, size, &err);
    if (mapping == NULL)
        return err;
    mem->regions[mem->count++] = (struct or_guest_region){
        .phys = phys, .user = user, .size = size, .host = or_guest_mapping_data(mapping), .mapping = mapping};
    return 0;
}

/* Its index; mem->count: there is none. */
static uint32_t region_index(const struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size)
{
    uint32_t i = 0;
    for (; i < mem->count; i++) {
        const struct or_guest_region *r = &mem->regions[i];
        if (r->phys == phys && r->user == user && r->size == size)
            break;
    }
    return i;
}

int or_guest_mem_remove(struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size)
{
    uint32_t i = region_index(mem, phys, user, size);
    if (i == mem->count)
        return -ENOENT;
    or_guest_unmap(mem->regions[i].mapping);
    mem->regions[i] = mem->regions[--mem->count];
    return 0;
}

bool or_guest_mem_has(const struct or_guest_mem *mem, uint64_t phys, uint64_t user, uint64_t size)
{
    return region_index(mem, phys, user, size) < mem->count;
}

void *or_guest_user(const struct or_guest_mem *mem, uint64_t user, uint64_t size)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct or_guest_region *r = &mem->regions[i];
        /* An address below r->user wraps to a large number, which is then beyond the size. */
        uint64_t within = user - r->user;
        if (within < r->size)
            return size <= r->size - within ? r->host + within : NULL;
    }
    return NULL;
}

void *or_guest_phys(const struct or_guest_mem *mem, uint64_t phys, uint64_t *size)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct or_guest_region *r = &mem->regions[i];
        uint64_t within = phys - r->phys;
        if (within >= r->size)
            continue;
        if (*size > r->size - within)
            *size = r->size - within;
        return r->host + within;
    }
    return NULL;
}

bool or_guest_mem_blank(const struct or_guest_mem *mem)
{
    if (mem->count == 0)
        return true;
    const struct or_guest_region *lowest = &mem->regions[0];
    for (uint32_t i = 1; i < mem->count; i++)
        if (mem->regions[i].phys < lowest->phys)
            lowest = &mem->regions[i];
    uint64_t size = lowest->size < BLANK_BYTES ? lowest->size : BLANK_BYTES;
    for (uint64_t i = 0; i < size; i++)
        if (lowest->host[i] != 0)
            return false;
    return true;
}

bool or_guest_mem_vanished(const struct or_guest_mem *mem)
{
    if (atomic_load_explicit(&vanished_ever, memory_order_relaxed) == 0)
        return false;
    for (uint32_t i = 0; i < mem->count; i++)
        if (or_guest_mapping_vanished(mem->regions[i].mapping))
            return true;
    return false;
}

void or_guest_write(struct or_guest_mem *mem, void *dst, const void *src, size_t size)
{
    /* Every page of guest memory that Outrigger writes passes here. This is where migration and
     * checkpoints learn which pages changed; dst - region->host + region->phys is the address. */
    (void)mem;
    if (size == sizeof(uint16_t) && (uintptr_t)dst % sizeof(uint16_t) == 0) {
        uint16_t value;
        memcpy(&value, src, sizeof(value));
        __atomic_store_n((uint16_t *)dst, value, __ATOMIC_RELEASE);
        return;
    }
    memcpy(dst, src, size);
}
