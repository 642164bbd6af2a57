/* A snapshot of a volume that is in use, as supervisor and engine make it: a new head's file, made and recorded; the
 * volume held until nothing is under way; flushed; the new head put on; the volume let go. The machine may die between
 * any two of these. */
#include "world.h"

#include <string.h>

enum cut_phase {
    CUT_MADE,     /* the file of the new head is there */
    CUT_RECORDED, /* and with the snapshot on record: after a crash it counts */
    CUT_HELD,
};

struct cut {
    struct or_io io; /* first: the flush */
    struct checker *c;
    uint32_t volume, life;
    enum cut_phase phase;
    struct file *head;
    struct snapshot *snapshot;
    int32_t first;          /* writes from here on began after it */
    uint64_t errors_before; /* see struct upper */
};

static void next(struct cut *cut, void (*step)(void *arg))
{
    struct checker *c = cut->c;
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 500 * US), step, cut);
}

static void give_up(struct cut *cut)
{
    struct checker *c = cut->c;
    struct side *side = &c->sides[cut->volume];
    if (!c->errors)
        world_fail(&c->w, "cut failed without cause", "volume %u", cut->volume);
    c->did[DID_CUT_FAILED]++;
    world_note(&c->w, "cut.failed", cut->volume, 0, 0);
    or_cache_owe(side->volume, cut->io.status); /* so the guest's next flush is to tell */
    side->cut = NULL;
    side->head = cut->head->below;
    cut->snapshot->used = false;
    file_remove(cut->head);
    or_volume_release(side->volume, side->volume);
}

/* What the volume shows now, the snapshot shows for ever. */
static void keep(struct cut *cut)
{
    struct checker *c = cut->c;
    struct side *side = &c->sides[cut->volume];
    struct snapshot *snapshot = cut->snapshot;
    stack_inspect(c, snapshot->layer, snapshot->image.size, snapshot->stamps);
    model_cut(c, &snapshot->image, snapshot->stamps);
    for (uint32_t s = 0; s < side->image.size; s++) {
        const struct sector *kept = &snapshot->image.sectors[s];
        struct sector *sector = &side->image.sectors[s];
        if (sector->latest < cut->first)
            *sector = *kept;
        else if (sector->floor < kept->floor)
            sector->floor = kept->floor;
    }
    snapshot->ready = true;
}

static void push(void *arg)
{
    struct cut *cut = arg;
    struct checker *c = cut->c;
    struct side *side = &c->sides[cut->volume];
    if (cut->life != c->life)
        return;
    if (!or_cache_idle(side->volume)) { /* it reads ahead */
        next(cut, push);
        return;
    }
    c->did[side->layered ? DID_CUT : DID_CUT_RAW]++;
    int err = checker_planted == CHECKER_PLANT_CUT_KEEPS_HEAD ? 0 : stack_push(c, cut->volume, cut->head);
    if (err)
        world_fail(&c->w, "no new head", "volume %u: error %d", cut->volume, err);
    cut->snapshot->layer->sealed = true;
    world_note(&c->w, "cut.done", cut->volume, cut->head->content, (uint64_t)cut->first);
    keep(cut);
    side->cut = NULL;
    or_volume_release(side->volume, side->volume);
}

static void on_flushed(struct or_io *io)
{
    struct cut *cut = (struct cut *)(void *)io;
    struct side *side = &cut->c->sides[cut->volume];
    if (cut->c->dying)
        return;
    if (cut->c->dead)
        world_fail(&cut->c->w, "ended after a crash", "volume %u", cut->volume);
    if (io->status == OR_OK && cut->errors_before && side->unreported)
        world_fail(&cut->c->w, "error swallowed", "volume %u: a cut's flush ends well after a write-out failed",
                   cut->volume);
    if (io->status == OR_OK)
        next(cut, push);
    else
        give_up(cut);
}

static void flush(void *arg)
{
    struct cut *cut = arg;
    struct side *side = &cut->c->sides[cut->volume];
    if (cut->life != cut->c->life)
        return;
    if (side->volume->in_flight && checker_planted != CHECKER_PLANT_CUT_NO_DRAIN) {
        next(cut, flush);
        return;
    }
    if (checker_planted == CHECKER_PLANT_CUT_NO_FLUSH) {
        push(cut);
        return;
    }
    cut->errors_before = side->unreported;
    cut->io = (struct or_io){.op = OR_OP_FLUSH, .done = on_flushed};
    or_list_init(&cut->io.link);
    or_volume_submit_held(side->volume, &cut->io);
}

static void hold(void *arg)
{
    struct cut *cut = arg;
    struct checker *c = cut->c;
    struct side *side = &c->sides[cut->volume];
    if (cut->life != c->life)
        return;
    cut->phase = CUT_HELD;
    cut->first = c->next_write;
    cut->snapshot->image = side->image;
    or_volume_hold(side->volume);
    flush(cut);
}

static void record(void *arg)
{
    struct cut *cut = arg;
    struct side *side = &cut->c->sides[cut->volume];
    if (cut->life != cut->c->life)
        return;
    cut->phase = CUT_RECORDED;
    side->head = cut->head;
    next(cut, hold);
}

void cut_begin(struct checker *c, uint32_t volume, struct snapshot *snapshot)
{
    struct side *side = &c->sides[volume];
    struct file *head = file_create_overlay(c, side->image.size, side->head, true);
    if (!head)
        return;
    struct cut *cut = world_alloc(&c->w, sizeof *cut);
    *cut = (struct cut){.c = c, .volume = volume, .life = c->life, .head = head, .snapshot = snapshot};
    snapshot->used = true;
    snapshot->ready = snapshot->unsynced = false;
    snapshot->layer = side->head;
    side->cut = cut;
    world_note(&c->w, "cut", volume, head->content, side->head->content);
    next(cut, record);
}

void cut_acked(struct side *side, int32_t id)
{
    struct cut *cut = side->cut;
    if (cut && cut->phase == CUT_HELD && id < cut->first)
        model_acked(cut->c, &cut->snapshot->image, id);
}

void cut_crashed(struct checker *c, struct side *side)
{
    struct cut *cut = side->cut;
    if (!cut)
        return;
    side->cut = NULL;
    c->did[DID_CUT_CRASHED]++;
    if (cut->phase == CUT_MADE) {
        cut->snapshot->used = false;
        file_remove(cut->head);
        return;
    }
    struct snapshot *snapshot = cut->snapshot;
    snapshot->image = side->image;
    snapshot->ready = true;
    snapshot->layer->sealed = true;
    stack_inspect(c, snapshot->layer, snapshot->image.size, snapshot->stamps);
    snapshot->unsynced = c->death != DEATH_MACHINE;
    if (c->death == DEATH_ENGINE) /* what its memory has is the volume's, and not the snapshot's */
        model_killed(c, &snapshot->image, snapshot->stamps, false);
}
