#include "blocks.h"

#include <stdio.h>
#include <stdlib.h>

#include "../../sim/stamp.h"
#include "../journal.h"

struct blocks {
    uint32_t last_id;
    struct {
        uint32_t acknowledged; /* the newest */
        uint32_t submitted;    /* likewise */
    } block[];
};

struct blocks *blocks_create(uint32_t count)
{
    struct blocks *b = calloc(1, sizeof(*b) + count * sizeof(b->block[0]));
    if (b == NULL) {
        perror("blocks");
        exit(2);
    }
    return b;
}

uint32_t blocks_write(struct blocks *b, uint32_t first, uint32_t count, uint8_t *data)
{
    uint32_t id = ++b->last_id;
    for (uint32_t i = 0; i < count; i++)
        b->block[first + i].submitted = id;
    stamp_fill(data, 0, count * JOURNAL_BLOCK, id, first, JOURNAL_BLOCK, 0);
    return id;
}

void blocks_acknowledge(struct blocks *b, uint32_t first, uint32_t count, uint32_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (b->block[first + i].acknowledged < id)
            b->block[first + i].acknowledged = id;
}

void blocks_read(const struct blocks *b, uint32_t first, uint32_t count, uint32_t *floor)
{
    for (uint32_t i = 0; i < count; i++)
        floor[i] = b->block[first + i].acknowledged;
}

uint32_t blocks_check(const struct blocks *b, uint32_t first, uint32_t count, const uint32_t *floor,
                      const uint8_t *data, struct blocks_mismatch *mismatch)
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t newest = b->block[first + i].submitted;
        uint32_t found = stamp_read(data + (size_t)i * JOURNAL_BLOCK, first + i, JOURNAL_BLOCK, false);
        if (found != STAMP_GARBAGE && found >= floor[i] && found <= newest)
            continue;
        if (wrong++ == 0)
            *mismatch = (struct blocks_mismatch){first + i, found, floor[i], newest};
    }
    return wrong;
}
