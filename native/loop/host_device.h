/* One device of a host, of either kind, as host_devices.c handles it: device_blk.c, device_net.c. */
#ifndef OR_HOST_DEVICE_H
#define OR_HOST_DEVICE_H

#include "engine_internal.h"
#include "keep/snapshot.h"
#include "transport/dispatch.h"

struct or_host_device;

/* What the kinds do differently; each as in vhost_blk.h and vhost_net.h. */
struct or_device_ops {
    enum or_device_kind kind;
    /* Fills in device->blk or ->net, on this listening socket (-1: the link is down), which passes unless it fails.
     * 0 or -errno. */
    int (*create)(struct or_host_device *device, const struct or_command *add, int listen_fd);
    void (*destroy)(struct or_host_device *device, void (*gone)(void *device));
    void (*leave)(struct or_host_device *device, void (*gone)(void *device));
    /* OR_CMD_DEVICE_SET. 0 or -errno. */
    int (*set)(struct or_host_device *device, const struct or_command *command);
    /* Nothing is to be kept of a device whose link is down. */
    bool (*link)(const struct or_host_device *device);
    void (*info)(const struct or_host_device *device, struct or_device_info *info);

    uint32_t (*poll)(struct or_host_device *device, uint64_t now);
    void (*flush)(struct or_host_device *device);
    bool (*arm)(struct or_host_device *device);
    void (*disarm)(struct or_host_device *device);
    uint64_t (*deadline)(const struct or_host_device *device);

    bool (*changed)(const struct or_host_device *device);
    bool (*save)(struct or_host_device *device, struct or_keep_snapshot *snapshot);
    void (*saved)(struct or_host_device *device);
    const char *(*resume)(struct or_host_device *device, struct or_keep_snapshot *snapshot);
    void (*drain)(struct or_host_device *device);
    uint32_t (*in_flight)(const struct or_host_device *device);
    /* From the session, for a NIC; else NULL. */
    void (*packet)(struct or_host_device *device, const uint8_t *packet, uint32_t length);
};

extern const struct or_device_ops or_device_blk, or_device_net;

#define OR_DEVICE_SOCKET_MODE 0660 /* QEMU may be of the group only */

struct or_host_device {
    const struct or_device_ops *ops;
    struct or_engine *engine;
    union {
        struct or_vhost_blk *blk;
        struct or_vhost_net *net;
    };
    struct or_route route; /* to the worker of the I/O hypervisor that has it */
    uint32_t id, generation;
    uint32_t epoch;             /* of the connection on which the store got the latest snapshot */
    struct or_command *removal; /* to be answered when the device is gone */
    struct or_list link, same_place;
};

/* Tells the owner. features: of a NIC that runs. */
void or_host_device_state(struct or_host_device *device, enum or_vhost_state state, const char *reason,
                          uint64_t features);

#endif
