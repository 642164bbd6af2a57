/* The echo protocol of the two limit rows: what a storage server would send, without the storage. Not
 * an interface of the product, only for one loadgen to talk to another, on one machine: integers are
 * in host order. A message is this header and `length` bytes of payload. */
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include "loadgen.h"

struct echo_message {
    uint8_t op; /* OR_OP_READ or OR_OP_WRITE */
    uint8_t is_reply;
    uint16_t slot;
    uint32_t epoch;  /* port-echo: grows when frames were lost; replies of an older one are ignored */
    uint64_t offset; /* in the server's memory, which is smaller than a volume: taken modulo */
    uint32_t total;  /* bytes of the whole operation */
    uint32_t at;     /* where in the operation this payload belongs */
    uint32_t length; /* bytes of payload behind this header */
    uint32_t reserved;
};
static_assert(sizeof(struct echo_message) == 32, "echo message");

/* What a server keeps in place of a volume: small enough to stay in the last-level cache. */
#define ECHO_MEMORY_BYTES (16u << 20)
#define ECHO_SIZE_DEFAULT (1ull << 30) /* the pretended size of the volume, bytes */

/* Where an operation's bytes are; the whole of it fits behind the returned address. */
static inline uint8_t *echo_place(uint8_t *memory, const struct echo_message *m)
{
    return memory + m->offset % (ECHO_MEMORY_BYTES - OR_REQ_BYTES_MAX) / PAGE_BYTES * PAGE_BYTES + m->at;
}

static inline bool echo_valid(const struct echo_message *m)
{
    return (m->op == OR_OP_READ || m->op == OR_OP_WRITE) && m->total <= OR_REQ_BYTES_MAX && m->at <= m->total &&
           m->length <= m->total - m->at;
}

#endif
