/* Two layers become one, as supervisor and engine do it, while volumes read both: part by part, recorded when all of it
 * is durable; then the volumes that are open get the new chain, and the upper one's file goes. The machine or the
 * engine may die between any two of these. */
#include "layers/merge.h"

#include <errno.h>

#include "world.h"

struct rebase {
    struct checker *c;
    struct side *side;
    uint32_t life;
};

struct merge {
    struct or_layer_merge merge; /* first */
    struct checker *c;
    struct file *upper, *lower;
    uint32_t life;
};

static bool is_named(const struct checker *c, const struct file *f)
{
    for (uint32_t i = 0; i < SIDES; i++)
        if (c->sides[i].exists && c->sides[i].head == f)
            return true;
    for (uint32_t i = 0; i < SNAPSHOTS; i++)
        if (c->snapshots[i].used && c->snapshots[i].layer == f)
            return checker_planted != CHECKER_PLANT_MERGE_NAMED;
    return false;
}

/* The only layer that stands on it; NULL: there is none, or several. */
static struct file *only_child(struct checker *c, const struct file *lower)
{
    struct file *child = NULL;
    for (struct file *f = c->files; f < c->files + FILES; f++) {
        if (!f->used || f->below != lower)
            continue;
        if (child && checker_planted != CHECKER_PLANT_MERGE_SHARED)
            return NULL;
        child = f;
    }
    return child;
}

static bool may_merge(struct checker *c, const struct file *upper, const struct file *lower)
{
    bool is_head = false;
    for (uint32_t i = 0; i < SIDES; i++)
        is_head |= c->sides[i].exists && c->sides[i].head == upper;
    return upper && upper->used && lower->used && upper->sealed && lower->sealed && !is_head && !is_named(c, lower) &&
           upper->size == lower->size && only_child(c, lower) == upper;
}

/* --- recorded --------------------------------------------------------------------------------------- */

static void rebase(void *arg);

static void rebase_soon(struct checker *c, struct side *side)
{
    struct rebase *r = world_alloc(&c->w, sizeof *r);
    *r = (struct rebase){.c = c, .side = side, .life = c->life};
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 5 * MS), rebase, r);
}

/* The volume in the files is held until nothing is under way there; the cache goes on. */
static void rebase(void *arg)
{
    struct rebase *r = arg;
    struct checker *c = r->c;
    struct side *side = r->side;
    if (r->life != c->life || !side->stale || !side->volume)
        return;
    if (side->cut || (c->calm && !side->rebasing)) { /* one after the other; at the end it may stay as it is */
        if (!c->calm)
            rebase_soon(c, side);
        return;
    }
    if (!side->rebasing)
        or_volume_hold(side->layered);
    side->rebasing = true;
    if (side->layered->in_flight) {
        rebase_soon(c, side);
        return;
    }
    int err = stack_rebase(c, side);
    if (err)
        world_fail(&c->w, "no other layers", "error %d", err);
    side->stale = side->rebasing = false;
    c->did[DID_REBASE]++;
    or_volume_release(side->layered, side->layered);
}

/* The file with everything takes the upper layer's place. */
static void record(struct merge *m)
{
    struct checker *c = m->c;
    struct file *upper = m->upper, *lower = m->lower;
    uint64_t content = upper->content;
    c->did[lower->raw ? DID_MERGE_RAW : DID_MERGE]++;
    world_note(&c->w, "merged", upper->content, lower->content, 0);
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &c->sides[i];
        bool uses = false;
        for (const struct file *f = side->head; side->exists && f; f = f->below)
            uses |= f == upper;
        if (!uses || !side->volume)
            continue;
        side->stale = true;
        rebase_soon(c, side);
    }
    upper->content = lower->content;
    lower->content = content;
    upper->below = NULL;
    for (struct file *f = c->files; f < c->files + FILES; f++)
        if (f->used && f != lower && f->below == upper)
            f->below = lower;
    for (struct snapshot *s = c->snapshots; s < c->snapshots + SNAPSHOTS; s++)
        if (s->used && s->layer == upper)
            s->layer = lower;
    tree_collect(c);
}

/* --- parts ------------------------------------------------------------------------------------------ */

static void part_done(struct or_layer_merge *merge);

static void part(void *arg)
{
    struct merge *m = arg;
    struct checker *c = m->c;
    if (m->life != c->life)
        return;
    if (c->calm || !may_merge(c, m->upper, m->lower)) {
        c->merge = NULL;
        return;
    }
    uint64_t next = m->merge.next;
    m->merge = (struct or_layer_merge){.from = stack_layer(m->upper, false),
                                       .into = stack_layer(m->lower, true),
                                       .next = chance(c, 10) ? 0 : next,
                                       .left = rng_scale(&c->w.rng, 1, 1 << 20),
                                       .done = part_done};
    int err = or_layer_merge(&m->merge);
    if (err)
        world_fail(&c->w, "no merge", "error %d", err);
}

static void close_layer(struct or_layer *layer)
{
    layer->volume->ops->close(layer->volume);
    or_layer_map_free(layer->map);
}

static void part_done(struct or_layer_merge *merge)
{
    struct merge *m = (struct merge *)(void *)merge;
    struct checker *c = m->c;
    close_layer(&merge->from);
    close_layer(&merge->into);
    if (m->life != c->life) {
        c->did[DID_MERGE_CRASHED]++;
        return;
    }
    if (merge->status != OR_OK && !c->errors && !file_chain_bad(m->upper, 0, m->upper->size))
        world_fail(&c->w, "merge failed without cause", "layer %llu", (unsigned long long)m->upper->content);
    c->did[DID_MERGE_FAILED] += merge->status != OR_OK;
    bool complete = merge->complete || (checker_planted == CHECKER_PLANT_MERGE_EARLY && merge->status == OR_OK);
    if (merge->status == OR_OK && !complete) {
        world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 2 * MS), part, m);
        return;
    }
    c->merge = NULL;
    if (complete && may_merge(c, m->upper, m->lower))
        record(m);
}

void merge_begin(struct checker *c)
{
    bool stale = c->merge != NULL;
    for (uint32_t i = 0; i < SIDES; i++)
        stale |= c->sides[i].stale;
    struct file *upper = NULL, *lower = NULL;
    uint32_t first = (uint32_t)rng_below(&c->w.rng, FILES);
    for (uint32_t n = 0; n < FILES && !may_merge(c, upper, lower); n++) {
        lower = &c->files[(first + n) % FILES];
        upper = lower->used ? only_child(c, lower) : NULL;
    }
    if (stale || c->calm || !may_merge(c, upper, lower))
        return;
    struct merge *m = world_alloc(&c->w, sizeof *m);
    *m = (struct merge){.c = c, .upper = upper, .lower = lower, .life = c->life};
    c->merge = m;
    world_note(&c->w, "merge", upper->content, lower->content, 0);
    part(m);
}
