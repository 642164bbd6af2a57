/* The store: holds the latest snapshot of every device of the host's engine, in the supervisor's process,
 * and gives them all to the next engine.
 *
 * One engine at a time. The next connection is accepted when the one before has ended, and an engine's
 * connection ends when its process has: until then its worker might still be at work in a guest's rings,
 * and two must never be. All that an engine sent before its death is taken in first.
 *
 * Nothing blocks. Everything runs on one thread: the owner's, which calls or_keep_store_serve whenever
 * or_keep_store_fd is readable. What arrives and makes no sense is dropped and counted. */
#ifndef OR_KEEP_STORE_H
#define OR_KEEP_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OR_KEEP_DEVICES_MAX 4096u

struct or_keep_store;

/* Listens at `path` (mode 0600), in place of a socket that is there. changed(arg) is called from
 * or_keep_store_serve when a device came or went. NULL with *err = -errno. */
struct or_keep_store *or_keep_store_open(const char *path, void (*changed)(void *arg), void *arg, int *err);
/* Closes everything, the descriptors that are held too, and removes the socket. */
void or_keep_store_close(struct or_keep_store *store);

/* To be watched for reading. */
int or_keep_store_fd(const struct or_keep_store *store);
void or_keep_store_serve(struct or_keep_store *store);

/* Ids of the devices that are held, at most `room`, in the order in which they came; returns how many
 * there are. */
uint32_t or_keep_store_devices(const struct or_keep_store *store, uint32_t *ids, uint32_t room);
bool or_keep_store_connected(const struct or_keep_store *store);
/* Messages that were dropped. */
uint64_t or_keep_store_refused(const struct or_keep_store *store);

#endif
