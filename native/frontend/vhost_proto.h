/* vhost-user messages as they stand on the socket, in the machine's byte order (QEMU
 * docs/interop/vhost-user.rst). QEMU is the specification's "front-end", we are the "back-end". */
#ifndef OR_VHOST_PROTO_H
#define OR_VHOST_PROTO_H

#include <assert.h>
#include <stdint.h>

enum or_vhost_request {
    OR_VU_GET_FEATURES = 1,
    OR_VU_SET_FEATURES = 2,
    OR_VU_SET_OWNER = 3,
    OR_VU_RESET_OWNER = 4,
    OR_VU_SET_MEM_TABLE = 5,
    OR_VU_SET_VRING_NUM = 8,
    OR_VU_SET_VRING_ADDR = 9,
    OR_VU_SET_VRING_BASE = 10,
    OR_VU_GET_VRING_BASE = 11,
    OR_VU_SET_VRING_KICK = 12,
    OR_VU_SET_VRING_CALL = 13,
    OR_VU_SET_VRING_ERR = 14,
    OR_VU_GET_PROTOCOL_FEATURES = 15,
    OR_VU_SET_PROTOCOL_FEATURES = 16,
    OR_VU_GET_QUEUE_NUM = 17,
    OR_VU_SET_VRING_ENABLE = 18,
    OR_VU_NET_SET_MTU = 20,
    OR_VU_GET_CONFIG = 24,
    OR_VU_SET_CONFIG = 25,
    OR_VU_GET_INFLIGHT_FD = 31,
    OR_VU_SET_INFLIGHT_FD = 32,
    OR_VU_GET_MAX_MEM_SLOTS = 36,
    OR_VU_ADD_MEM_REG = 37,
    OR_VU_REM_MEM_REG = 38,
    OR_VU_REQUEST_MAX
};

#define OR_VU_VERSION 1u
#define OR_VU_VERSION_MASK 3u
#define OR_VU_REPLY 4u
#define OR_VU_NEED_REPLY 8u

#define OR_VU_F_PROTOCOL_FEATURES (1ull << 30) /* among the virtio features */

#define OR_VU_PROTOCOL_MQ (1ull << 0)
#define OR_VU_PROTOCOL_REPLY_ACK (1ull << 3)
#define OR_VU_PROTOCOL_NET_MTU (1ull << 4)
#define OR_VU_PROTOCOL_CONFIG (1ull << 9)
#define OR_VU_PROTOCOL_INFLIGHT_SHMFD (1ull << 12)
#define OR_VU_PROTOCOL_CONFIGURE_MEM_SLOTS (1ull << 15)

#define OR_VU_VRING_INDEX 0xffull
#define OR_VU_VRING_NOFD 0x100ull

#define OR_VU_FDS_MAX 32u
#define OR_VU_CONFIG_MAX 256u

struct or_vu_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* of the payload, bytes */
};

struct or_vu_vring_state {
    uint32_t index;
    uint32_t num;
};

struct or_vu_vring_addr {
    uint32_t index;
    uint32_t flags;
    uint64_t desc;
    uint64_t used;
    uint64_t avail;
    uint64_t log;
};

struct or_vu_region {
    uint64_t phys;
    uint64_t size;
    uint64_t user;
    uint64_t fd_offset;
};

struct or_vu_memory {
    uint32_t count;
    uint32_t padding;
    struct or_vu_region regions[OR_VU_FDS_MAX];
};

struct or_vu_memory_region {
    uint64_t padding;
    struct or_vu_region region;
};

struct or_vu_config {
    uint32_t offset;
    uint32_t size;
    uint32_t flags; /* 1: live migration, may set read-only fields */
    uint8_t data[OR_VU_CONFIG_MAX];
};

/* 20 bytes in the specification; QEMU sends its C structure of 24. Both are taken. */
struct or_vu_inflight {
    uint64_t bytes;
    uint64_t fd_offset;
    uint16_t queues;
    uint16_t queue_size;
};
#define OR_VU_INFLIGHT_BYTES 20u

static_assert(sizeof(struct or_vu_header) == 12, "vhost-user specification");
static_assert(sizeof(struct or_vu_vring_addr) == 40, "vhost-user specification");
static_assert(sizeof(struct or_vu_region) == 32, "vhost-user specification");
static_assert(sizeof(struct or_vu_memory_region) == 40, "vhost-user specification");
static_assert(sizeof(struct or_vu_inflight) == 24, "vhost-user specification");

struct or_vu_message {
    struct or_vu_header header;
    union {
        uint64_t u64;
        struct or_vu_vring_state state;
        struct or_vu_vring_addr addr;
        struct or_vu_memory memory;
        struct or_vu_memory_region region;
        struct or_vu_config config;
        struct or_vu_inflight inflight;
    } payload __attribute__((aligned(8)));
};

#endif
