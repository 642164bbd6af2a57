/* An engine's end of the supervisor's store: receives what a predecessor left (the stash), and sends the
 * snapshots of its own devices.
 *
 * The supervisor may die and another come with an empty store; the engine then goes on, and is told to
 * connect again. Whatever it has must be sent again on the new connection: or_keep_link_epoch tells one
 * from the other. Nothing blocks. Worker's thread. */
#ifndef OR_KEEP_LINK_H
#define OR_KEEP_LINK_H

#include "snapshot.h"

struct or_keep_link;

/* ended(arg, err): what the store had has arrived (0), or will not (-errno). Called once for each
 * or_keep_link_connect that returned 0; from inside the next one, if it still waits then. NULL: out of
 * memory. */
struct or_keep_link *or_keep_link_create(int epoll_fd, void (*ended)(void *arg, int err), void *arg);
/* The stash is hung up on with it: see or_keep_link_drop. */
void or_keep_link_destroy(struct or_keep_link *link);

/* Connects to the store at `path`, giving up a connection that is there, unless it is with that very store:
 * for the store the end of a connection is the end of an engine. 0; 1: the connection is there, and all that
 * the store had has arrived; or -errno. */
int or_keep_link_connect(struct or_keep_link *link, const char *path);
/* Tells the connection from all others, once everything has been received on it; 0: there is none. */
uint32_t or_keep_link_epoch(const struct or_keep_link *link);
/* There is a connection, but not everything has been received on it. */
bool or_keep_link_receives(const struct or_keep_link *link);

/* Ids in the stash, at most `room`; returns how many there are. */
uint32_t or_keep_link_stash(const struct or_keep_link *link, uint32_t *ids, uint32_t room);
/* Takes the snapshot of a device out of the stash; NULL: none. *epoch: of the connection whose store
 * has it. Released with or_keep_close_fds and free. */
struct or_keep_snapshot *or_keep_link_take(struct or_keep_link *link, uint32_t id, uint32_t *epoch);

/* Sends a snapshot (its descriptors stay the caller's). 0; -EAGAIN: later, there is no room or no
 * connection; other -errno. */
int or_keep_link_send(struct or_keep_link *link, const struct or_keep_snapshot *snapshot);
/* Tells the store that the device is gone; later, when it cannot be told now. */
void or_keep_link_forget(struct or_keep_link *link, uint32_t id);

#endif
