/* A vhost-user front-end with its guest's driver: plays QEMU (the socket, shared memory, connecting again) and
 * the split rings of a guest against a real host engine. What the rings carry is the caller's. One thread.
 *
 * The messages follow what QEMU 7.2 sends (hw/virtio/vhost.c, net/vhost-user.c), at the first connection and at
 * a later one: an inflight region is asked for once and given again, and a ring's base is its used index, so
 * what the record does not name is taken from the available ring. */
#ifndef VHOST_DRIVER_H
#define VHOST_DRIVER_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "frontend/vhost_proto.h"

#define DRIVER_RINGS_MAX 2u
#define DRIVER_RING_SIZE 128u
/* Of guest memory, from its start: the rings, each in a place of its own. The caller's memory follows. */
#define DRIVER_DATA_AT 0x10000u

struct driver_ring {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx, used_seen;
    int kick, call;
};

struct driver {
    /* Set by the caller before driver_create. */
    uint32_t ring_count;
    uint64_t features; /* those that are required, and acknowledged; OR_VU_F_PROTOCOL_FEATURES is added */
    uint64_t protocol; /* likewise; with OR_VU_PROTOCOL_INFLIGHT_SHMFD there is an inflight region */
    size_t memory_bytes;
    /* Asks for more once the features are set; NULL: nothing. False: connecting has failed. */
    bool (*configure)(struct driver *driver);

    struct sockaddr_un address;
    int sock, memfd;
    uint8_t *memory; /* guest physical memory begins at 0 */
    int inflight_fd;
    struct or_vu_inflight inflight;
    uint64_t connections; /* set up to running rings; the first one included */
    struct driver_ring ring[DRIVER_RINGS_MAX];
};

/* Memory and rings; nothing is connected yet. Ends the process when the machine refuses. */
void driver_create(struct driver *driver, const char *socket_path);
/* Connects and starts the rings, with whatever is in them. False when there is nobody, or who is there went away
 * meanwhile: try again later. Blocks for as long as the answers take. */
bool driver_connect(struct driver *driver);
bool driver_connected(const struct driver *driver);
/* Call it when the socket is readable: notices that the other side has closed it. */
void driver_check(struct driver *driver);
void driver_disconnect(struct driver *driver);
/* A message with an answer of its own, for configure(). */
bool driver_ask(struct driver *driver, uint32_t request, void *payload, uint32_t size, uint32_t room, int *fd);

/* Makes the chain of `head` available; the guest's memory behind it must be complete. Does not kick. */
void driver_offer(struct driver_ring *ring, uint16_t head);
/* Wakes the other side when it wants that. */
void driver_kick(struct driver_ring *ring);
/* The next chain that was given back, with the bytes that were written; -1: none. */
int driver_used(struct driver_ring *ring, uint32_t *length);
/* Asks for calls, or to leave them out. Look once more after asking. */
void driver_want_calls(struct driver_ring *ring, bool wanted);

/* Ends the program, with errno's reason, unless ok. */
void driver_must(bool ok, const char *what);

#endif
