/* A disk's driver in a guest of its own (vhost_driver.h), against a real vhost-user-blk device. One thread.
 *
 * The memory has room for a fixed number of requests, each with a buffer of its own: what is written stays
 * there unchanged until the request has ended, so a back-end that takes the ring over finds it. */
#ifndef VHOST_DISK_H
#define VHOST_DISK_H

#include <stdbool.h>
#include <stdint.h>

enum vhost_disk_op { VHOST_DISK_READ, VHOST_DISK_WRITE, VHOST_DISK_FLUSH };

struct vhost_disk;

struct vhost_disk_config {
    const char *socket;  /* path */
    uint32_t slots;      /* requests at a time, at most DRIVER_RING_SIZE */
    uint32_t data_max;   /* bytes of a request, a multiple of 4096 */
    bool without_record; /* no inflight region: for back-ends that have none */
};

struct vhost_disk_stats {
    uint64_t connections; /* set up to a running ring; the first one included */
    uint64_t capacity;    /* bytes */
};

/* Memory and ring; nothing is connected yet. Ends the process when the machine refuses. */
struct vhost_disk *vhost_disk_create(const struct vhost_disk_config *config);

/* Connects and starts the ring, with all requests that have not ended still in it. False when there is
 * nobody, or who is there went away meanwhile: try again later. Blocks for as long as the answers take. */
bool vhost_disk_connect(struct vhost_disk *d);
bool vhost_disk_connected(const struct vhost_disk *d);
/* Call it when the socket is readable: notices that the other side has closed it. */
void vhost_disk_check(struct vhost_disk *d);

/* Descriptors to wait on: the socket (-1 while there is none), and the one that announces ends. */
int vhost_disk_socket(const struct vhost_disk *d);
int vhost_disk_call_fd(const struct vhost_disk *d);
/* Asks for announcements, or to leave them out; at first they are asked for. Look once more after asking. */
void vhost_disk_want_calls(struct vhost_disk *d, bool wanted);

/* The buffer of a slot, data_max bytes: the caller fills it before a write. */
uint8_t *vhost_disk_data(struct vhost_disk *d, uint32_t slot);
/* The slot must be free: never used, or ended. Also works while nobody is connected. */
void vhost_disk_submit(struct vhost_disk *d, uint32_t slot, enum vhost_disk_op op, uint64_t offset, uint32_t length);
/* Tells the device of what was submitted. */
void vhost_disk_kick(struct vhost_disk *d);
/* The next request that has ended, or -1; *status is virtio-blk's, 0 for success. */
int vhost_disk_completed(struct vhost_disk *d, uint8_t *status);
/* Takes an announcement back. Look once more after it. */
void vhost_disk_clear_call(struct vhost_disk *d);

struct vhost_disk_stats vhost_disk_stats(const struct vhost_disk *d);

#endif
