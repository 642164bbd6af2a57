/* The load: random reads, writes and flushes at a steady rate, many of them over each other, every block
 * that is read checked, every write noted in the journal. Prints one JSON line for each thing that happens. */
#ifndef VERIFY_LOAD_H
#define VERIFY_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "../driver/vhost_disk.h"

#define LOAD_SLOTS 32u
#define LOAD_DATA_MAX (128u * 1024) /* bytes of a request */

struct load_config {
    const char *journal;  /* file, made anew */
    uint32_t blocks;      /* of 4 KiB, of the volume, that are used */
    uint64_t interval_ns; /* between two submissions */
    uint64_t seed;
};

struct load;

/* Borrows the disk, which has LOAD_SLOTS of LOAD_DATA_MAX bytes. Ends the process when the journal cannot be made. */
struct load *load_create(struct vhost_disk *disk, const struct load_config *config);

/* Takes what has ended, submits what is due. Returns when the next submission is due (CLOCK_MONOTONIC);
 * UINT64_MAX when only the end of a request can change anything. */
uint64_t load_step(struct load *l, uint64_t now_ns);

/* Ends the present window: prints what happened in it, and begins the next. A blackout is the longest time
 * without a request that ended; the time from the last end before the window counts too. */
void load_window(struct load *l, const char *name);
/* Prints {"event":"settled"} as soon as requests that are submitted from now on have ended. */
void load_settle(struct load *l);
/* Submits nothing new but a read of every block, once what is under way has ended. */
void load_stop(struct load *l);
/* After load_stop: all is read. */
bool load_ended(const struct load *l);
/* Prints the totals and closes the journal. True when there was no error and no mismatch. */
bool load_finish(struct load *l);

#endif
