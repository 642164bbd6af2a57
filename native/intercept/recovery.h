/* What recover.c remembers, and what take_up.c does for it; private to this folder. */
#ifndef OR_RECOVERY_H
#define OR_RECOVERY_H

#include "intercept/internal.h"

enum or_recovery_step {
    OR_RECOVERY_SUPERS,
    OR_RECOVERY_CHOOSE,
    OR_RECOVERY_SUPER_SYNC, /* the superblock was written again */
    OR_RECOVERY_BEGIN,
    OR_RECOVERY_HEADER, /* load: also waits until the entry before is durable */
    OR_RECOVERY_TABLE,
    OR_RECOVERY_ROOM, /* also waits here for free slots */
    OR_RECOVERY_ENTRY,
    OR_RECOVERY_FINISH,
    OR_RECOVERY_BUSY, /* something is read; then comes `then` */
};

struct or_recovery {
    enum or_recovery_step step, then;
    bool load; /* entries into slots; else they are only checked */
    bool torn; /* a page of the entry is not what the table says */
    struct or_io io;
    struct or_batch batch;
    uint64_t position;             /* of the entry at hand */
    uint64_t committed;            /* the epoch of the last that counts */
    uint64_t at;                   /* pages of the entry that were asked for */
    uint32_t block, slot;          /* of its table, and where it is loaded to: the next */
    uint32_t blocks[OR_BATCH_IOS]; /* of its table: what each operation reads */
    struct or_epoch_slots slots;   /* load: one for each block of the table, not yet published */
    uint8_t *scratch;              /* a page for each operation */
};

/* The domain's slots in the region become its epochs. False: damaged, and nothing of it can be used. */
bool or_take_up(struct or_domain *d);
/* Frees whatever the region has of the domain. */
void or_take_up_drop(struct or_domain *d);

#endif
