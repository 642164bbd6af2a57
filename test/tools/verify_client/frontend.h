/* A disk's driver in a guest of its own (../driver/vhost_driver.h), against a real host engine. One thread.
 *
 * The memory has room for a fixed number of requests, each with a buffer of its own: what is written stays
 * there unchanged until the request has ended, so a back-end that takes the ring over finds it. */
#ifndef VERIFY_FRONTEND_H
#define VERIFY_FRONTEND_H

#include <stdbool.h>
#include <stdint.h>

#define FRONTEND_SLOTS 32u
#define FRONTEND_DATA_MAX (128u * 1024) /* bytes of a request */

enum frontend_op { FRONTEND_READ, FRONTEND_WRITE, FRONTEND_FLUSH };

struct frontend;

struct frontend_stats {
    uint64_t connections; /* set up to a running ring; the first one included */
    uint64_t capacity;    /* bytes */
};

/* Memory and ring; nothing is connected yet. Ends the process when the machine refuses. */
struct frontend *frontend_create(const char *socket_path);

/* Connects and starts the ring, with all requests that have not ended still in it. False when there is
 * nobody, or who is there went away meanwhile: try again later. Blocks for as long as the answers take. */
bool frontend_connect(struct frontend *f);
bool frontend_connected(const struct frontend *f);
/* Call it when the socket is readable: notices that the other side has closed it. */
void frontend_check(struct frontend *f);

/* Descriptors to wait on: the socket (-1 while there is none), and the one that announces ends. */
int frontend_socket(const struct frontend *f);
int frontend_call_fd(const struct frontend *f);

/* The buffer of a slot, FRONTEND_DATA_MAX bytes: the caller fills it before a write. */
uint8_t *frontend_data(struct frontend *f, uint32_t slot);
/* The slot must be free: never used, or ended. Also works while nobody is connected. */
void frontend_submit(struct frontend *f, uint32_t slot, enum frontend_op op, uint64_t offset, uint32_t length);
/* The next request that has ended, or -1; *status is virtio-blk's, 0 for success. */
int frontend_completed(struct frontend *f, uint8_t *status);

struct frontend_stats frontend_stats(const struct frontend *f);

#endif
