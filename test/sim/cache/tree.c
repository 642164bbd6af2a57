/* The tree of layers, as a supervisor keeps it: volumes, snapshots and clones; and that a snapshot stays as it is. */
#include "world.h"

#include <string.h>

static struct snapshot *free_snapshot(struct checker *c)
{
    for (struct snapshot *s = c->snapshots; s < c->snapshots + SNAPSHOTS; s++)
        if (!s->used)
            return s;
    return NULL;
}

static struct snapshot *any_snapshot(struct checker *c)
{
    struct snapshot *s = &c->snapshots[rng_below(&c->w.rng, SNAPSHOTS)];
    return s->used && s->ready ? s : NULL;
}

static bool is_needed(const struct checker *c, const struct file *f)
{
    for (uint32_t i = 0; i < FILES; i++)
        if (c->files[i].used && c->files[i].below == f)
            return true;
    for (uint32_t i = 0; i < SIDES; i++)
        if (c->sides[i].exists && c->sides[i].head == f)
            return true;
    for (uint32_t i = 0; i < SNAPSHOTS; i++)
        if (c->snapshots[i].used && c->snapshots[i].layer == f)
            return true;
    return false;
}

/* And then perhaps those below. */
void tree_collect(struct checker *c)
{
    for (uint32_t i = 0; i < FILES; i++) {
        struct file *f = &c->files[i];
        bool made = false; /* for a cut under way */
        for (uint32_t n = 0; n < SIDES; n++)
            made |= c->sides[n].cut != NULL && f->below == c->sides[n].head;
        if (!f->used || f->openings || made || is_needed(c, f))
            continue;
        file_remove(f);
        c->did[DID_REMOVE_LAYER]++;
        i = UINT32_MAX; /* from the beginning */
    }
}

static void new_side(struct side *side, struct file *head)
{
    side->exists = true;
    side->head = head;
    side->owed = false;
    side->sequential = 0;
}

/* --- what may happen -------------------------------------------------------------------------------- */

static void clone(struct checker *c, struct side *side)
{
    const struct snapshot *from = any_snapshot(c);
    if (!from)
        return;
    bool larger = chance(c, 30) && from->image.size + 64 <= SECTORS;
    uint32_t size = from->image.size + (larger ? (uint32_t)rng_between(&c->w.rng, 1, 8) * 8 : 0);
    struct file *head = file_create_overlay(c, size, from->layer, false);
    if (!head)
        return;
    new_side(side, head);
    model_clone(c, &side->image, &from->image, size);
    c->did[DID_CLONE]++;
    c->did[DID_CLONE_LARGER] += larger;
    world_note(&c->w, "clone", (uint64_t)(side - c->sides), head->content, from->layer->content);
}

static void roll_back(struct checker *c, struct side *side)
{
    const struct snapshot *to = any_snapshot(c);
    if (!to || to->image.size != side->image.size)
        return;
    struct file *head = file_create_overlay(c, side->image.size, to->layer, false);
    if (!head)
        return;
    new_side(side, head);
    model_clone(c, &side->image, &to->image, side->image.size);
    c->did[DID_ROLLBACK]++;
    world_note(&c->w, "rollback", (uint64_t)(side - c->sides), head->content, to->layer->content);
    tree_collect(c);
}

static void remove_side(struct checker *c, struct side *side)
{
    uint32_t exist = 0;
    for (uint32_t i = 0; i < SIDES; i++)
        exist += c->sides[i].exists;
    if (exist <= 2)
        return;
    side->exists = false;
    c->did[DID_REMOVE_VOLUME]++;
    world_note(&c->w, "remove", (uint64_t)(side - c->sides), 0, 0);
    tree_collect(c);
}

static void remove_snapshot(struct checker *c)
{
    struct snapshot *s = any_snapshot(c);
    for (uint32_t tries = 0; tries < SNAPSHOTS && !s; tries++)
        s = any_snapshot(c);
    if (!s)
        return;
    s->used = false;
    c->did[DID_REMOVE_SNAPSHOT]++;
    world_note(&c->w, "remove.snapshot", s->layer->content, 0, 0);
    tree_collect(c);
}

bool tree_trouble(struct checker *c, uint32_t volume)
{
    struct side *side = &c->sides[volume];
    uint32_t dice = (uint32_t)rng_below(&c->w.rng, 100);
    struct snapshot *snapshot = free_snapshot(c);
    if (!side->exists) {
        clone(c, side);
        return true;
    }
    if (dice < 25) {
        remove_snapshot(c);
        return true;
    }
    if (!side->volume) {
        if (side->closing || is_coming(side) || dice > 60)
            return false;
        if (dice < 50)
            roll_back(c, side);
        else
            remove_side(c, side);
        return true;
    }
    if (!snapshot || side->cut || side->rebasing || file_depth(side->head) >= DEPTH)
        return false;
    cut_begin(c, volume, snapshot);
    c->did[DID_DEEP] += file_depth(side->head) >= 4;
    return true;
}

/* --- checks ----------------------------------------------------------------------------------------- */

void tree_check(struct checker *c)
{
    static uint64_t stamps[SECTORS];
    for (struct snapshot *s = c->snapshots; s < c->snapshots + SNAPSHOTS; s++) {
        if (!s->used || !s->ready)
            continue;
        stack_inspect(c, s->layer, s->image.size, stamps);
        for (uint32_t n = 0; n < s->image.size; n++)
            if (stamps[n] != s->stamps[n])
                world_fail(&c->w, "snapshot changed", "lineage %u, layer %llu, sector %u: %llx, was %llx",
                           s->image.lineage, (unsigned long long)s->layer->content, n, (unsigned long long)stamps[n],
                           (unsigned long long)s->stamps[n]);
    }
}

/* Acknowledged writes are with the kernel, unless the cache was to write them out later and its memory is not kept. */
static void killed(struct checker *c, struct side *side, const uint64_t *stamps)
{
    bool kept = !side->buffered && !side->condemned;
    c->did[DID_KILL_KEPT] += kept;
    model_killed(c, &side->image, stamps, kept);
}

/* The machine died before anybody had opened what the engine's death had made a snapshot. */
static void settle_snapshots(struct checker *c)
{
    for (struct snapshot *s = c->snapshots; s < c->snapshots + SNAPSHOTS; s++) {
        if (!s->used || !s->unsynced || c->death != DEATH_MACHINE)
            continue;
        stack_inspect(c, s->layer, s->image.size, s->stamps);
        model_crashed(c, &s->image, s->stamps);
        s->unsynced = false;
    }
}

void tree_crashed(struct checker *c)
{
    static uint64_t stamps[SECTORS];
    for (struct side *side = c->sides; side < c->sides + SIDES; side++) {
        if (!side->exists)
            continue;
        stack_inspect(c, side->head, side->image.size, stamps);
        if (c->death == DEATH_MACHINE)
            model_crashed(c, &side->image, stamps);
        else if (c->death == DEATH_UNATTENDED)
            killed(c, side, stamps);
        else
            model_kept(&side->image, side->layered, side->condemned);
        side->layered = NULL;
        side->stale = side->rebasing = false;
        cut_crashed(c, side);
    }
    settle_snapshots(c);
    tree_check(c);
    tree_collect(c);
}

/* --- the beginning ---------------------------------------------------------------------------------- */

/* Volumes 0 and 1 are clones of one base, or plain; 2 is plain; 3, if there is one, is a layer with nothing below. */
void tree_init(struct checker *c)
{
    uint32_t size = c->size_blocks * 8 - (c->block_size == SECTOR ? 3 : 0);
    struct file *base = chance(c, 80) ? file_create_raw(c, size, true) : NULL;
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &c->sides[i];
        if (i < 2 && base)
            new_side(side, file_create_overlay(c, size, base, false));
        else if (i < 3)
            new_side(side, file_create_raw(c, size, false));
        else if (chance(c, 30))
            new_side(side, file_create_overlay(c, size, NULL, false));
        if (side->exists)
            model_init(c, &side->image, size, i < 2 && base ? size : 0);
    }
    if (base)
        base->sealed = true;
}
