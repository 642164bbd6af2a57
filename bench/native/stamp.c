/* Stamped blocks: see stamp.h. Every 8-byte word of a block is a function of (seed, position on the
 * volume, version), so a block in the wrong place, an old version, a torn block or a fragment that
 * went astray all show. */
#include "stamp.h"
#include <stdlib.h>
#include <string.h>

enum { VERSION_UNKNOWN = 0 };

struct block_state {
    uint32_t version; /* VERSION_UNKNOWN: anything may be there */
    uint32_t last;    /* the version last handed out */
    bool busy;
};

struct stamps {
    uint64_t blocks, seed;
    uint32_t block_bytes;
    struct block_state state[];
};

struct stamps *stamps_create(uint64_t blocks, uint32_t block_bytes, uint64_t seed)
{
    struct stamps *stamps = memory_new(sizeof *stamps + blocks * sizeof stamps->state[0]);
    stamps->blocks = blocks;
    stamps->block_bytes = block_bytes;
    stamps->seed = mix64(seed);
    return stamps;
}

void stamps_destroy(struct stamps *stamps)
{
    free(stamps);
}

uint64_t stamps_free_block(const struct stamps *stamps, uint64_t block)
{
    while (stamps->state[block].busy)
        block = (block + 1) % stamps->blocks;
    return block;
}

static uint64_t stamp_word(const struct stamps *stamps, uint64_t position, uint32_t version)
{
    return mix64(stamps->seed + position) ^ ((uint64_t)version << 32 | version);
}

static void stamp_fill(const struct stamps *stamps, const struct slot *slot)
{
    for (uint32_t at = 0; at < slot->length; at += 8) {
        uint64_t word = stamp_word(stamps, slot->offset + at, slot->generation);
        memcpy(slot->data + at, &word, 8);
    }
}

static bool stamp_matches(const struct stamps *stamps, const struct slot *slot, uint32_t version)
{
    for (uint32_t at = 0; at < slot->length; at += 8) {
        uint64_t word;
        memcpy(&word, slot->data + at, 8);
        if (word != stamp_word(stamps, slot->offset + at, version))
            return false;
    }
    return true;
}

void stamps_begin(struct stamps *stamps, struct slot *slot)
{
    struct block_state *state = &stamps->state[slot->offset / stamps->block_bytes];
    state->busy = true;
    if (slot->op == OR_OP_WRITE) {
        slot->generation = ++state->last;
        stamp_fill(stamps, slot);
    } else {
        memset(slot->data, 0, slot->length); /* the right content of an earlier read must not pass */
    }
}

bool stamps_end(struct stamps *stamps, const struct slot *slot, uint8_t status)
{
    struct block_state *state = &stamps->state[slot->offset / stamps->block_bytes];
    state->busy = false;
    if (slot->op == OR_OP_WRITE) {
        state->version = status == OR_OK ? slot->generation : VERSION_UNKNOWN;
        return true;
    }
    return status != OR_OK || state->version == VERSION_UNKNOWN || stamp_matches(stamps, slot, state->version);
}
