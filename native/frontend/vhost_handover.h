/* Devices that outlive the engine: what the loop needs beside or_vhost_blk_save and _resume. */
#ifndef OR_VHOST_HANDOVER_H
#define OR_VHOST_HANDOVER_H

#include <stdbool.h>
#include <sys/types.h>

#include "keep/snapshot.h"

/*
 * A listening socket at `path` with this mode, in place of one that is there. The file appears once it can be
 * connected to: whoever sees it need not try twice. A descriptor, or -errno.
 */
int or_vhost_listen(const char *path, mode_t mode);
/* Does fd listen at `path`, as far as can be told? */
bool or_vhost_listens_at(int fd, const char *path);

/* Takes the listening socket out of a snapshot, if it listens at `path`; else -1. */
int or_vhost_snapshot_listener(struct or_keep_snapshot *snapshot, const char *path);
/* Ends what a received snapshot describes, for QEMU and for every successor. */
void or_vhost_snapshot_end(const struct or_keep_snapshot *snapshot);

#endif
