/* Types that every part of the data path shares: operations, statuses, requests.
 *
 * A request is born in a front-end (struct or_req), crosses the wire, and is executed by a back-end
 * (struct or_io). Both name operations and outcomes with the two enums below; the numbers are also
 * the ones on the wire (docs/wire.md), so they never change. */
#ifndef OR_TYPES_H
#define OR_TYPES_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Block operations. Offsets and lengths are bytes. */
enum or_op {
    OR_OP_READ = 1,
    OR_OP_WRITE = 2,
    OR_OP_FLUSH = 3,        /* every write completed before is on stable storage when it completes */
    OR_OP_DISCARD = 4,      /* content becomes undefined; a hint */
    OR_OP_WRITE_ZEROES = 5, /* content reads as zeroes afterwards */
    OR_OP_CONTROL_GET = 6,  /* device 0: waits for and returns the host's device document */
    OR_OP_CONTROL_PUT = 7,  /* device 0: the host reports the state of its devices */
    OR_OP_MAX
};

enum or_req_flags {
    OR_REQ_FUA = 1,   /* a write that is on stable storage when it completes */
    OR_REQ_UNMAP = 2, /* OR_OP_WRITE_ZEROES may deallocate */
};

/* Outcome of a request. Anything but OR_OK means that the operation may not have happened. */
enum or_status {
    OR_OK = 0,
    OR_EIO = 1,       /* the storage failed */
    OR_EUNSUPP = 2,   /* the operation is not supported by this device */
    OR_ERANGE = 3,    /* beyond the end of the volume */
    OR_EREADONLY = 4, /* a write to a read-only attachment */
    OR_EALIGN = 5,    /* offset or length not a multiple of the block size */
    OR_ENOSPACE = 6,  /* the storage is full */
    OR_EFENCED = 7,   /* the attachment's generation is not the current one */
    OR_ENODEV = 8,    /* no such attachment for this host */
    OR_ETIMEOUT = 9,  /* the volume's io_timeout passed */
    OR_EINVAL = 10,   /* malformed in a way that the peer should have prevented */
    OR_EMOVED = 11, /* not executed: the attachment is with another worker; for the session's client, never its owner */
    OR_STATUS_MAX
};

const char *or_op_name(uint8_t op);
const char *or_status_name(uint8_t status);

/* True for operations that change what a later read returns. */
static inline bool or_op_writes(uint8_t op)
{
    return op == OR_OP_WRITE || op == OR_OP_DISCARD || op == OR_OP_WRITE_ZEROES;
}

/* The largest data of one request on the wire, bytes. Front-ends split what is larger. */
#define OR_REQ_BYTES_MAX (1u << 20)

struct or_req;

/* How the session reaches a request's data and tells its end. The session never sees guest memory:
 * it asks the owner to copy. All three run on the worker's thread. */
struct or_req_ops {
    /* Copies bytes [offset, offset + length) of a write's data to dst (frame memory). May be called
     * again for the same range when a fragment is sent again. Memory that has gone reads as zeroes:
     * the owner knows and fails the request itself. */
    void (*pull)(struct or_req *req, uint32_t offset, uint8_t *dst, uint32_t length);
    /* Copies verified bytes to the data of a read. Called once per range. */
    void (*push)(struct or_req *req, uint32_t offset, const uint8_t *src, uint32_t length);
    /* The request ended with req->status; the owner may free or reuse it, and submit others, from
     * inside this call. */
    void (*done)(struct or_req *req);
};

/* A doubly linked list through the things listed; the head is one of these, pointing to itself when
 * the list is empty (functions: mem/list.h). */
struct or_list {
    struct or_list *next, *prev;
};

/* A block request on its way from a front-end to the I/O hypervisor. The owner allocates it and
 * fills the first part; it belongs to the session from or_client_submit() until done(). */
struct or_req {
    const struct or_req_ops *ops;
    uint64_t offset;     /* bytes from the start of the volume */
    uint32_t length;     /* bytes, at most OR_REQ_BYTES_MAX for READ and WRITE, 1 GiB for DISCARD and WRITE_ZEROES */
    uint32_t device;     /* attachment id, as the I/O hypervisor announced it */
    uint32_t generation; /* attachment generation, likewise */
    uint32_t placement;  /* likewise; filled in by the dispatcher where there is one */
    uint8_t op;          /* enum or_op */
    uint8_t flags;       /* enum or_req_flags */
    uint8_t status;      /* enum or_status, valid in done() */
    uint64_t timeout_ns; /* from or_client_submit on, then it ends with OR_ETIMEOUT; 0: never */

    /* Private to the session. */
    uint64_t order;        /* of submission: requests are sent again in this order */
    uint64_t expires_ns;   /* when the timeout is over */
    bool admitted;         /* by the overlap rule */
    struct or_list active; /* overlap table */
    struct or_list link;   /* queue of what waits for a slot */
    struct or_list timed;  /* those with a timeout */
};

#endif
