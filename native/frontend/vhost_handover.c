/* A device that is continued by another process, while QEMU notices nothing.
 *
 * The supervisor holds a snapshot of each device (keep/), and with it duplicates of all descriptors: the
 * connection with QEMU lives on when the engine dies. The next engine maps the same memory and starts the
 * rings that ran. Where they stood is in shared memory: the inflight record names what was taken and not
 * given back, which is executed again, and the used index tells the rest, as after a reconnection.
 *
 * A snapshot that is out of date must never be used: with an old memory table an engine would write into
 * pages that QEMU uses for something else by now. So device and snapshots share a page with a version. The
 * engine raises it before it reads from the connection, and before it does anything else that makes the
 * last snapshot untrue; the next snapshot carries the new version. A successor that finds a version on the
 * page that is not the snapshot's hangs up, and QEMU connects again. At each instant of a death:
 *
 *   between two messages, snapshot sent     versions agree; the next message waits in the socket
 *   snapshot sent, not yet received         the kernel delivers it; the store reads to the end first
 *   message read, in part or whole          the version is raised, no snapshot has it: hang up
 *   executed, replied or not                likewise
 *   connection accepted, no snapshot        nobody else holds the connection: it ends by itself
 *
 * A ring that QEMU waits for (GET_VRING_BASE) is part of the state: the successor executes what it had in
 * flight, and answers. */
#include "vhost_handover.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost_user.h"

#define MAGIC 0x4445564eu
#define FORMAT 1u /* of struct saved */
#define RETIRED UINT64_MAX
#define PAGE_BYTES sizeof(struct or_vhost_page)

/* The first descriptors of a snapshot, in every format; behind them, as far as there are: the inflight
 * region's, each region's, and each ring's kick, call and err. */
enum { FD_LISTENER, FD_PAGE, FD_CONNECTION };

struct or_vhost_page {
    uint64_t magic;
    volatile uint64_t version;
};

struct saved_ring {
    struct or_virtqueue_addr addr;
    uint16_t size, base;
    uint8_t addressed, kick_set, enabled, started;
    uint8_t has_kick, has_call, has_err, padding[5];
};

struct saved {
    uint32_t magic, format;
    uint64_t version;
    uint8_t identity[OR_VHOST_IDENTITY_BYTES];
    uint64_t features, protocol_features;
    uint32_t word, rings, regions;
    uint16_t inflight_queues, inflight_size;
    uint64_t inflight_offset;
    uint8_t connected, broken, has_inflight, has_mem;
    uint8_t is_stopping, padding[3];
    uint32_t stopping; /* index of the ring */
    uint32_t padding2;
    struct or_vu_region region[OR_GUEST_REGIONS_MAX];
    struct saved_ring ring[OR_VHOST_QUEUES_MAX];
    char reason[256];
};

static_assert(sizeof(struct saved) <= OR_KEEP_BYTES_MAX, "a snapshot fits");
static_assert(3 + 1 + OR_GUEST_REGIONS_MAX + 3 * OR_VHOST_QUEUES_MAX <= OR_KEEP_FDS_MAX, "and its descriptors");

/* The version page. */

int or_vhost_page_create(struct or_vhost_user *vu)
{
    struct or_vhost_page page = {.magic = MAGIC, .version = 1};
    void *at = MAP_FAILED;
    int fd = memfd_create("outrigger-version", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, &page, sizeof(page)) == (ssize_t)sizeof(page))
        at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        int err = -errno;
        close(fd);
        return err;
    }
    vu->page = at;
    vu->page_fd = fd;
    vu->changed = true;
    return 0;
}

void or_vhost_page_close(struct or_vhost_user *vu)
{
    munmap(vu->page, PAGE_BYTES);
    close(vu->page_fd);
}

void or_vhost_page_retire(struct or_vhost_user *vu)
{
    vu->page->version = RETIRED;
}

void or_vhost_user_touch(struct or_vhost_user *vu)
{
    if (vu->changed)
        return;
    vu->changed = true;
    vu->page->version++;
    /* Whoever dies leaves the stores before its last instruction behind: program order is all it takes. */
    atomic_signal_fence(memory_order_seq_cst);
}

static struct or_vhost_page *map_page(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_size < (off_t)PAGE_BYTES)
        return NULL;
    struct or_vhost_page *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return NULL;
    if (page->magic == MAGIC)
        return page;
    munmap(page, PAGE_BYTES);
    return NULL;
}

/* Making a snapshot. */

static bool put_optional(struct or_keep_snapshot *snapshot, int fd)
{
    return fd >= 0 && or_keep_put_fd(snapshot, fd);
}

static void save_memory(const struct or_vhost_user *vu, struct saved *s, struct or_keep_snapshot *snapshot)
{
    if (vu->inflight) {
        s->has_inflight = put_optional(snapshot, or_guest_mapping_fd(vu->inflight));
        s->inflight_offset = or_guest_mapping_offset(vu->inflight);
        s->inflight_queues = vu->inflight_queues;
        s->inflight_size = vu->inflight_size;
    }
    s->has_mem = vu->mem != NULL;
    for (uint32_t i = 0; vu->mem && i < vu->mem->count; i++) {
        const struct or_guest_region *r = &vu->mem->regions[i];
        s->region[s->regions++] = (struct or_vu_region){
            .phys = r->phys, .size = r->size, .user = r->user, .fd_offset = or_guest_mapping_offset(r->mapping)};
        or_keep_put_fd(snapshot, or_guest_mapping_fd(r->mapping));
    }
}

static void save_ring(const struct or_vring *ring, struct saved_ring *s, struct or_keep_snapshot *snapshot)
{
    *s = (struct saved_ring){
        .addr = ring->addr,
        .size = ring->size,
        /* That of a running ring is not used: it is not even true any more when the snapshot is. */
        .base = ring->started ? ring->vq.last_avail : ring->base,
        .addressed = ring->addressed,
        .kick_set = ring->kick_set,
        .enabled = ring->enabled,
        .started = ring->started,
        .has_kick = put_optional(snapshot, ring->kick.fd),
        .has_call = put_optional(snapshot, ring->call_fd),
        .has_err = put_optional(snapshot, ring->err_fd),
    };
}

/* A message has been read in part; or a ring lies in memory that QEMU has taken out of the table, to put
 * it back with its next message. */
static bool in_between(const struct or_vhost_user *vu)
{
    if (vu->connected && vu->socket.have > 0)
        return true;
    for (uint32_t i = 0; i < vu->queues; i++)
        if (vu->rings[i].started && vu->rings[i].vq.mem != vu->mem)
            return true;
    return false;
}

bool or_vhost_user_save(struct or_vhost_user *vu, struct or_keep_snapshot *snapshot)
{
    if (in_between(vu))
        return false;
    struct saved *s = (struct saved *)(void *)snapshot->bytes;
    memset(s, 0, sizeof(*s));
    s->magic = MAGIC;
    s->format = FORMAT;
    s->version = vu->page->version;
    memcpy(s->identity, vu->identity, sizeof(s->identity));
    s->features = vu->features;
    s->protocol_features = vu->protocol_features;
    s->word = vu->word;
    s->connected = vu->connected;
    s->broken = vu->state == OR_VHOST_BROKEN;
    memcpy(s->reason, vu->reason, sizeof(s->reason));
    s->is_stopping = vu->stopping != NULL;
    if (vu->stopping)
        s->stopping = vu->stopping->index;

    snapshot->length = sizeof(*s);
    snapshot->fd_count = 0;
    or_keep_put_fd(snapshot, vu->listener.fd);
    or_keep_put_fd(snapshot, vu->page_fd);
    if (vu->connected)
        or_keep_put_fd(snapshot, vu->socket.fd);
    save_memory(vu, s, snapshot);
    s->rings = vu->queues;
    for (uint32_t i = 0; i < vu->queues; i++)
        save_ring(&vu->rings[i], &s->ring[i], snapshot);
    return true;
}

void or_vhost_user_saved(struct or_vhost_user *vu)
{
    vu->changed = false;
}

/* Using one. It comes from an engine of ours, but perhaps of another build. */

static const struct saved *decode(const struct or_keep_snapshot *snapshot)
{
    const struct saved *s = (const struct saved *)(const void *)snapshot->bytes;
    bool ok = snapshot->length == sizeof(*s) && s->magic == MAGIC && s->format == FORMAT &&
              s->regions <= OR_GUEST_REGIONS_MAX && s->rings >= 1 && s->rings <= OR_VHOST_QUEUES_MAX &&
              s->stopping < s->rings && (!s->broken || s->reason[0] != '\0') &&
              snapshot->fd_count > (s->connected ? FD_CONNECTION : FD_PAGE);
    return ok ? s : NULL;
}

struct reader {
    struct or_keep_snapshot *snapshot;
    uint32_t next;
};

/* The next descriptor, which stays the snapshot's; -1: it has no more. */
static int look_fd(struct reader *r)
{
    return r->next < r->snapshot->fd_count ? r->snapshot->fds[r->next++] : -1;
}

static int take_fd(struct or_keep_snapshot *snapshot, uint32_t index)
{
    int fd = snapshot->fds[index];
    snapshot->fds[index] = -1;
    return fd;
}

static int take_next_fd(struct reader *r, bool there)
{
    return there && r->next < r->snapshot->fd_count ? take_fd(r->snapshot, r->next++) : -1;
}

static bool resume_inflight(struct or_vhost_user *vu, const struct saved *s, struct reader *r)
{
    int err, fd = look_fd(r);
    if (s->inflight_queues < 1 || s->inflight_queues > vu->queues || s->inflight_size < 1 ||
        s->inflight_size > OR_VQ_SIZE_MAX || fd < 0)
        return false;
    uint64_t bytes = or_inflight_bytes(s->inflight_queues, s->inflight_size);
    vu->inflight = or_guest_map(fd, s->inflight_offset, bytes, &err);
    vu->inflight_queues = s->inflight_queues;
    vu->inflight_size = s->inflight_size;
    return vu->inflight != NULL;
}

static bool resume_memory(struct or_vhost_user *vu, const struct saved *s, struct reader *r)
{
    if (s->has_inflight && !resume_inflight(vu, s, r))
        return false;
    if (!s->has_mem)
        return s->regions == 0;
    vu->mem = or_guest_mem_create(NULL);
    bool ok = vu->mem != NULL;
    for (uint32_t i = 0; ok && i < s->regions; i++) {
        const struct or_vu_region *region = &s->region[i];
        int fd = look_fd(r);
        ok = fd >= 0 && or_guest_mem_add(vu->mem, region->phys, region->user, region->size, fd, region->fd_offset) == 0;
    }
    return ok;
}

static bool resume_ring(struct or_vring *ring, const struct saved_ring *s, struct reader *r)
{
    ring->size = s->size;
    ring->base = s->base;
    ring->addr = s->addr;
    ring->addressed = s->addressed;
    ring->enabled = s->enabled;
    bool watched = or_vring_set_kick(ring, take_next_fd(r, s->has_kick));
    ring->kick_set = s->kick_set;
    ring->call_fd = take_next_fd(r, s->has_call);
    ring->err_fd = take_next_fd(r, s->has_err);
    return watched && (ring->kick.fd >= 0) == !!s->has_kick && (ring->call_fd >= 0) == !!s->has_call &&
           (ring->err_fd >= 0) == !!s->has_err;
}

/* Rings of a broken device stay stopped, at the base that a GET_VRING_BASE is to be answered with, until
 * QEMU gives them a kick descriptor again. */
static bool start_rings(struct or_vhost_user *vu, const struct saved *s)
{
    for (uint32_t i = 0; i < vu->queues; i++) {
        struct or_vring *ring = &vu->rings[i];
        if (!s->ring[i].started)
            continue;
        if (s->broken)
            ring->kick_set = false;
        else if (!or_vring_resume(ring))
            return false;
    }
    return true;
}

/* From here on the device is that of the snapshot, and the snapshot is true. */
static void take_over(struct or_vhost_user *vu, struct or_vhost_page *page, int fd, const struct saved *s)
{
    or_vhost_page_close(vu);
    vu->page = page;
    vu->page_fd = fd;
    vu->changed = false;
    if (!s->is_stopping)
        return;
    struct or_vring *ring = &vu->rings[s->stopping];
    if (ring->started) {
        or_vring_await_stop(ring);
    } else {
        or_vhost_user_touch(vu);
        or_vring_begin_stop(ring);
    }
}

static const char *resume(struct or_vhost_user *vu, struct or_keep_snapshot *snapshot, const struct saved *s)
{
    struct reader r = {.snapshot = snapshot, .next = FD_CONNECTION + 1};
    if (!s->connected)
        return "QEMU was not connected";
    if (s->rings != vu->queues || memcmp(s->identity, vu->identity, sizeof(s->identity)) != 0)
        return "the device has other properties than the one that QEMU was connected to";
    if (or_vhost_user_connect(vu, snapshot->fds[FD_CONNECTION]) < 0)
        return "the connection cannot be watched";
    take_fd(snapshot, FD_CONNECTION);
    vu->features = s->features;
    vu->protocol_features = s->protocol_features;
    vu->word = s->word;
    if (!resume_memory(vu, s, &r))
        return "QEMU's memory cannot be mapped again";
    for (uint32_t i = 0; i < vu->queues; i++)
        if (!resume_ring(&vu->rings[i], &s->ring[i], &r))
            return "a descriptor of a virtqueue is missing";
    if (s->broken) {
        memcpy(vu->reason, s->reason, sizeof(vu->reason));
        vu->reason[sizeof(vu->reason) - 1] = '\0';
        or_vhost_user_set_state(vu, OR_VHOST_BROKEN);
    }
    if (!start_rings(vu, s))
        return "a virtqueue cannot be resumed: it has no inflight region, or one that contradicts it";
    or_vhost_user_update_state(vu);
    return NULL;
}

/* Sockets only: other descriptors do not mind. */
static void end_sockets(const struct or_keep_snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->fd_count; i++)
        if (snapshot->fds[i] >= 0)
            shutdown(snapshot->fds[i], SHUT_RDWR);
}

const char *or_vhost_user_resume(struct or_vhost_user *vu, struct or_keep_snapshot *snapshot)
{
    const struct saved *s = decode(snapshot);
    struct or_vhost_page *page = s ? map_page(snapshot->fds[FD_PAGE]) : NULL;
    const char *why = "the predecessor was of another build";
    if (page && page->version != s->version)
        why = "the predecessor died while it dealt with a message of QEMU's";
    else if (page)
        why = resume(vu, snapshot, s);
    if (why == NULL) {
        take_over(vu, page, take_fd(snapshot, FD_PAGE), s);
    } else {
        if (page)
            munmap(page, PAGE_BYTES);
        if (vu->connected)
            or_vhost_user_hang_up(vu);
    }
    end_sockets(snapshot);
    return why;
}

int or_vhost_snapshot_listener(struct or_keep_snapshot *snapshot, const char *path)
{
    const struct saved *s = decode(snapshot);
    struct or_vhost_page *page = s ? map_page(snapshot->fds[FD_PAGE]) : NULL;
    if (page == NULL)
        return -1;
    bool usable = page->version != RETIRED && or_vhost_listens_at(snapshot->fds[FD_LISTENER], path);
    munmap(page, PAGE_BYTES);
    return usable ? take_fd(snapshot, FD_LISTENER) : -1;
}

void or_vhost_snapshot_end(const struct or_keep_snapshot *snapshot)
{
    struct or_vhost_page *page = decode(snapshot) ? map_page(snapshot->fds[FD_PAGE]) : NULL;
    if (page) {
        page->version = RETIRED;
        munmap(page, PAGE_BYTES);
    }
    end_sockets(snapshot);
}
