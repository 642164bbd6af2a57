/* What the files about volumes of a worker share; private to them. */
#ifndef OR_VOLUMES_INTERNAL_H
#define OR_VOLUMES_INTERNAL_H

#include "mem/list.h"
#include "volume_errors.h"
#include "volumes.h"

/* By OR_CMD_VOLUME_OPEN, until OR_CMD_VOLUME_CLOSE or OR_CMD_VOLUME_GIVE. */
struct volume {
    struct or_iohv_volumes *volumes;
    char name[OR_NAME_MAX + 1];
    struct or_volume *volume;
    uint32_t exports;
    struct or_volume_errors errors;
    struct or_list link;
};

struct export
{
    struct or_engine *engine;
    uint32_t id;
    struct volume *volume; /* NULL: not open yet, or elsewhere */
    bool removing;
    struct or_command *removal; /* to be answered when drained; NULL: nobody asked */
    struct or_command *leaving; /* to be answered when it has left; NULL: it does not */
    struct or_list link;
};

struct or_iohv_volumes {
    struct or_engine *engine;
    struct or_server *server;
    struct or_uring *uring;
    struct or_list volumes, exports;
    uint64_t errors_at; /* when the next errors of volumes are to be told; UINT64_MAX: there are none */
};

/* NULL: there is none of this name. */
struct volume *or_iohv_volume_named(const struct or_iohv_volumes *volumes, const char *name);

#endif
