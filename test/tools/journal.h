/* The two journals of a campaign, which test/campaign/journals.ts reads: what the client was told
 * (verify_client) and what the storage was made to do (recorder_fs). Both are written on one machine and
 * their times are CLOCK_MONOTONIC, so they can be merged. Little-endian, without padding. */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <assert.h>
#include <stdint.h>
#include <time.h>

#define JOURNAL_BLOCK 4096u

/* A write of the client, when it is submitted and again when it is acknowledged. Ids rise from 1 in the
 * order of submission; every block that a write covers begins with the 8 bytes of its stamp, whose low half
 * is the id (test/sim/stamp.h). */
enum journal_kind { JOURNAL_SUBMIT = 1, JOURNAL_ACK = 2 };

struct journal_client {
    uint64_t time_ns;
    uint64_t offset; /* bytes */
    uint32_t length;
    uint32_t id;
    uint32_t kind;   /* enum journal_kind */
    uint32_t status; /* of an acknowledgement; 0 is success */
};

/* A write that the storage executed; the first 8 bytes of each of its `blocks` blocks follow. */
struct journal_write {
    uint64_t begin_ns; /* the bytes begin to change */
    uint64_t end_ns;   /* they have changed; nobody was told so yet */
    uint64_t offset;
    uint32_t length;
    uint32_t blocks;
};

static_assert(sizeof(struct journal_client) == 32, "test/campaign/journals.ts");
static_assert(sizeof(struct journal_write) == 32, "test/campaign/journals.ts");

static inline uint64_t journal_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
