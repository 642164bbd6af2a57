/* The volumes of an I/O hypervisor's engine, and who may use them: opened, exported, given to another worker and closed
 * by command.
 *
 *     OR_CMD_VOLUME_OPEN ──> volume <── OR_CMD_EXPORT_ADD (attachment: this host, this generation)
 *          ^                   │
 *          └── passage <── OR_CMD_VOLUME_GIVE: as it is, to another engine of this process
 *
 * Files are put on the worker's cache, where it has one, and taken off it before they are given away or closed: both
 * take as long as what is dirty takes to be written out.
 *
 * A volume is at one worker at a time, whole, with all its exports; the other workers have these as `elsewhere`. */
#ifndef OR_VOLUMES_H
#define OR_VOLUMES_H

#include "engine_internal.h"

struct or_iohv_volumes;
struct or_iohv_nics;

/* engine, server and uring are borrowed. NULL with *err: -ENOMEM, or what or_cache_create() says. */
struct or_iohv_volumes *or_iohv_volumes_create(struct or_engine *engine, struct or_server *server,
                                               struct or_uring *uring, int *err);
/* Packets that domains let go go out of these, which have their domains here. */
void or_iohv_volumes_set_nics(struct or_iohv_volumes *volumes, struct or_iohv_nics *nics);
/* Removes all exports and takes all volumes off the cache; true when the back-ends have nothing of them any more.
 * Called every step until then. */
bool or_iohv_volumes_drained(struct or_iohv_volumes *volumes);
/* Closes all volumes, when it is drained. The server is gone by then. */
void or_iohv_volumes_destroy(struct or_iohv_volumes *volumes);

/* What the cache has time to do; at the beginning and at the end of a step, before the ring is polled. */
void or_iohv_volumes_poll(struct or_iohv_volumes *volumes, uint64_t now);
/* Emits the events about storage errors that are due. */
void or_iohv_volumes_tell(struct or_iohv_volumes *volumes, uint64_t now);
uint64_t or_iohv_volumes_deadline(const struct or_iohv_volumes *volumes);

/* Goes on with volumes that are cut; how much work there was. To be called every step, before what it submits. */
uint32_t or_iohv_volumes_work(struct or_iohv_volumes *volumes);

/* False: it is not a command for volumes. */
bool or_iohv_volumes_command(struct or_iohv_volumes *volumes, struct or_command *command);

#endif
