/* A domain's epochs and generations. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/internal.h"
#include "intercept/recovery.h"

void or_domain_trouble(struct or_domain *d, enum or_domain_trouble what)
{
    if (d->config.trouble)
        d->config.trouble(d->config.arg, what);
}

/* --- slots ------------------------------------------------------------------------------------------ */

uint32_t or_domain_take(struct or_domain *d)
{
    uint32_t i = d->slots < d->slots_max ? or_hold_take(d->hold) : OR_HOLD_NOTHING;
    if (i != OR_HOLD_NOTHING) {
        d->slots++;
    } else if (!d->overflow_told) {
        d->overflow_told = true;
        if (d->config.overflow)
            d->config.overflow(d->config.arg);
    }
    return i;
}

void or_domain_free(struct or_domain *d, struct or_epoch_slots *slots, uint32_t end)
{
    struct or_hold *hold = d->hold;
    while (slots->count && slots->first != end) {
        uint32_t i = slots->first;
        slots->first = hold->links[i].next;
        slots->count--;
        if (hold->slots[i].kind != OR_HELD_PACKETS)
            or_index_remove(hold, i);
        or_hold_give(hold, i);
        d->slots--;
        d->overflow_told = false;
    }
}

/* --- commits ---------------------------------------------------------------------------------------- */

/* Ends commits of epochs from `from` to `to`. */
static void end_commits(struct or_domain *d, uint64_t from, uint64_t to, int err)
{
    struct or_list ended;
    or_list_init(&ended);
    for (struct or_list *at = d->commits.next, *next; at != &d->commits; at = next) {
        next = at->next;
        uint64_t epoch = OR_CONTAINER(at, struct or_commit, link)->epoch;
        if (epoch < from || epoch > to)
            continue;
        or_list_remove(at);
        or_list_append(&ended, at);
    }
    while (!or_list_empty(&ended)) {
        struct or_commit *c = OR_CONTAINER(ended.next, struct or_commit, link);
        or_list_remove(&c->link);
        c->done(c, err);
    }
}

static void fail_commits(struct or_domain *d)
{
    d->goal = d->committed;
    end_commits(d, d->committed + 1, UINT64_MAX, -EIO);
}

void or_domain_journaled(struct or_domain *d, bool ok)
{
    if (!ok && d->state == OR_DOMAIN_OPENING) {
        or_recover_failed(d);
    } else if (!ok) {
        if (!d->journal.condemned)
            or_domain_trouble(d, OR_TROUBLE_JOURNAL);
        fail_commits(d);
    }
    or_domain_pump(d);
}

static uint64_t next_to_journal(const struct or_domain *d)
{
    const struct or_journal *j = &d->journal;
    return OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_COMMIT_ORDER) ? d->goal - (j->written - d->committed)
                                                                 : j->written + 1;
}

static bool needs_no_entry(struct or_domain *d, uint64_t epoch)
{
    return or_epoch_empty(or_domain_epoch(d, epoch)) && epoch - d->journal.last <= OR_DOMAIN_EMPTY &&
           !OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_COMMIT_ORDER);
}

static void raise_goal(struct or_domain *d)
{
    for (struct or_list *at = d->commits.next; at != &d->commits; at = at->next) {
        uint64_t epoch = OR_CONTAINER(at, struct or_commit, link)->epoch;
        d->goal = epoch > d->goal ? epoch : d->goal;
    }
}

static void commit_step(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    if (d->halted)
        return;
    if (!OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_COMMIT_ORDER) || j->written == d->committed)
        raise_goal(d);
    if (j->condemned)
        fail_commits(d);
    while (or_journal_idle(j) && !j->condemned && j->written < d->goal) {
        if (needs_no_entry(d, next_to_journal(d))) {
            or_domain_epoch(d, ++j->written)->journal_end = j->head;
        } else if (!or_journal_can_ever(d, next_to_journal(d))) {
            or_domain_trouble(d, OR_TROUBLE_JOURNAL);
            fail_commits(d);
        } else if (!or_journal_write(d, next_to_journal(d))) {
            break; /* until older epochs are applied */
        }
    }
    if (!or_journal_idle(j) || j->condemned || j->written <= d->committed)
        return;
    if (j->head == j->committed_head)
        or_journal_nothing(d);
    else
        or_journal_sync(d);
}

void or_domain_commit(struct or_domain *d, struct or_commit *c)
{
    or_list_init(&c->link);
    bool planted = OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_FENCE_COMMIT);
    int err = c->generation != d->generation               ? -ESTALE
              : !or_domain_runs(d) || d->journal.condemned ? -EIO
              : c->epoch >= d->open                        ? -EINVAL
              : or_domain_fencing(d) && !planted           ? -EAGAIN
                                                           : 0;
    if (err) {
        c->done(c, err);
        return;
    }
    d->fenced = false;
    or_list_append(&d->commits, &c->link);
    or_domain_pump(d);
}

int or_domain_cut(struct or_domain *d, uint64_t generation, uint64_t *epoch)
{
    if (generation != d->generation)
        return -ESTALE;
    if (!or_domain_runs(d))
        return -EIO;
    if (or_domain_fencing(d) || d->open + 1 - d->freed > OR_DOMAIN_EPOCHS)
        return -EAGAIN;
    d->fenced = false;
    *epoch = d->open;
    OR_HOLD_STORE(d->record->open, d->open + 1);
    d->open++;
    return 0;
}

void or_domain_expose(struct or_domain *d)
{
    OR_HOLD_STORE(d->record->exposed, OR_EPOCH_UNCUT);
}

void or_domain_cover(struct or_domain *d, uint64_t epoch)
{
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_COVERED_EARLY))
        epoch = 0;
    if (d->record->exposed > epoch) /* also where an abort has dropped the one that it names */
        OR_HOLD_STORE(d->record->exposed, epoch);
}

/* --- fences ----------------------------------------------------------------------------------------- */

static void end_fence(struct or_domain *d, bool ok)
{
    struct or_fence *f = d->fence;
    d->fence = NULL;
    d->fencing_mark = false;
    d->fenced = ok && !d->info.waiting; /* for what waits goes on now */
    d->again = true;
    if (ok && d->state == OR_DOMAIN_REWIND) {
        OR_HOLD_STORE(d->record->state, OR_RECORD_RUNNING);
        d->state = OR_DOMAIN_RUNNING;
    }
    f->done(f, ok ? 0 : -EIO, d->committed);
}

/* Waits for what is under way: the epoch that is being journalled, and reads; operations that waited are refused
 * already. Then the generation becomes durable. */
static void fence_step(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    if (!d->fence || d->fencing_mark || d->halted)
        return;
    bool journaling = !or_journal_idle(j) || j->written != d->committed;
    if (j->condemned && or_journal_idle(j)) {
        end_fence(d, false);
    } else if (!journaling && !j->marking && or_list_empty(&d->reads_open)) {
        d->fencing_mark = true;
        j->next = j->super;
        j->next.generation = d->generation;
        j->next.fenced = j->durable; /* what is committed beyond that has no entry, but an old one may lie there */
        or_journal_mark(d, end_fence);
    }
}

static int start_fence(struct or_domain *d, struct or_fence *f)
{
    if (d->fence)
        return -EBUSY;
    if (f->generation < d->generation || f->generation <= d->journal.super.generation)
        return -ESTALE;
    d->generation = f->generation;
    d->fence = f;
    d->fenced = false;
    /* What is at the journal may still become durable; no more than that. */
    d->goal = d->journal.batch.running ? d->journal.written + 1 : d->journal.written;
    end_commits(d, d->goal + 1, UINT64_MAX, -ESTALE);
    or_domain_pump(d);
    return 0;
}

int or_domain_fence(struct or_domain *d, struct or_fence *f)
{
    return or_domain_runs(d) ? start_fence(d, f) : -EIO;
}

int or_domain_reset(struct or_domain *d, struct or_fence *f)
{
    if (d->state != OR_DOMAIN_REWIND)
        return -EIO;
    return d->settled < d->committed ? -EBUSY : start_fence(d, f);
}

int or_domain_abort(struct or_domain *d)
{
    if (!d->fenced || !or_list_empty(&d->reads_open) || d->info.waiting)
        return -EBUSY;
    OR_HOLD_STORE(d->record->state, OR_RECORD_ABORTING);
    for (uint64_t e = d->open; e > d->committed; e--) {
        struct or_epoch *epoch = or_domain_epoch(d, e);
        or_domain_free(d, &epoch->blocks, OR_HOLD_NOTHING);
        or_domain_free(d, &epoch->packets, OR_HOLD_NOTHING);
        *epoch = (struct or_epoch){0};
    }
    OR_HOLD_STORE(d->record->open, d->committed + 1);
    d->open = d->committed + 1;
    d->goal = d->committed;
    OR_HOLD_STORE(d->record->state, OR_RECORD_RUNNING);
    return 0;
}

/* --- the domain ------------------------------------------------------------------------------------- */

void or_domain_pump(struct or_domain *d)
{
    d->again = true;
    if (d->pumping)
        return;
    d->pumping = true;
    while (d->again) {
        d->again = false;
        bool ready = d->state == OR_DOMAIN_RUNNING || d->state == OR_DOMAIN_REWIND;
        if (d->state == OR_DOMAIN_OPENING && !d->halted)
            or_recover_step(d);
        if (d->state == OR_DOMAIN_UNUSABLE)
            break;
        end_commits(d, 0, d->committed, 0);
        if (ready || d->state == OR_DOMAIN_OPENING)
            commit_step(d);
        if (!d->halted || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_HALT_RELEASES))
            or_release_step(d);
        or_apply_step(d);
        or_retire_step(d);
        or_doors_step(d);
        if (ready)
            fence_step(d);
    }
    d->pumping = false;
}

void or_domain_pause(struct or_domain *d)
{
    d->apply.pauses++;
}

void or_domain_resume(struct or_domain *d)
{
    assert(d->apply.pauses);
    d->apply.pauses--;
    or_domain_pump(d);
}

int or_domain_paused(const struct or_domain *d)
{
    if (d->apply.begun == d->apply.whole || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_PAUSE_IGNORED))
        return 1;
    return d->halted || d->apply.failures || d->journal.condemned || d->state == OR_DOMAIN_UNUSABLE ? -EIO : 0;
}

void or_domain_halt(struct or_domain *d)
{
    d->halted = true;
    for (uint64_t e = d->freed + 1; OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_HALT_DROPS) && e <= d->open; e++)
        or_domain_free(d, &or_domain_epoch(d, e)->packets, OR_HOLD_NOTHING);
    or_domain_pump(d);
}

bool or_domain_idle(const struct or_domain *d)
{
    const struct or_journal *j = &d->journal;
    bool recovering = d->state == OR_DOMAIN_OPENING && d->recovery->step == OR_RECOVERY_BUSY;
    return !recovering && !d->apply.batch.running && !j->batch.running && !j->sync_busy && !j->marking &&
           or_list_empty(&d->reads_open) && !d->info.waiting;
}

bool or_domain_dirty(const struct or_domain *d)
{
    const struct or_epoch *e = &d->epochs[d->open % OR_DOMAIN_EPOCHS];
    return e->blocks.count || e->packets.count;
}

static bool is_open(const struct or_hold *hold, uint64_t id)
{
    for (struct or_list *at = hold->domains.next; at != &hold->domains; at = at->next)
        if (OR_CONTAINER(at, struct or_domain, link)->config.id == id)
            return true;
    return false;
}

/* The record of this id, or a free one. */
static int find_record(const struct or_hold *hold, uint64_t id, uint32_t *index)
{
    int err = -ENOSPC;
    for (uint32_t i = OR_HOLD_DOMAINS; i-- > 0;) {
        if (hold->records[i].id == id || (hold->records[i].id == 0 && err)) {
            *index = i;
            err = 0;
        }
        if (hold->records[i].id == id)
            break;
    }
    return err;
}

static int prepare(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    j->volume = d->config.journal;
    j->ring = j->volume->size / OR_HOLD_PAGE - OR_JOURNAL_SUPERS;
    j->staging_pages = or_entry_header_pages(d->hold->slots_count); /* the bound may have been higher than it is now */
    if (j->staging_pages < OR_JOURNAL_SUPERS)
        j->staging_pages = OR_JOURNAL_SUPERS;
    j->staging = aligned_alloc(OR_HOLD_PAGE, j->staging_pages * OR_HOLD_PAGE);
    j->super_page = aligned_alloc(OR_HOLD_PAGE, OR_HOLD_PAGE);
    d->bounce = malloc(OR_DOMAIN_PACKET_MAX);
    return j->staging && j->super_page && d->bounce ? or_recover_start(d) : -ENOMEM;
}

static void init(struct or_domain *d, struct or_hold *hold, const struct or_domain_config *config)
{
    d->hold = hold;
    d->config = *config;
    d->slots_max = (uint32_t)(config->bytes_max / OR_HOLD_PAGE);
    or_list_init(&d->link);
    or_list_init(&d->commits);
    or_list_init(&d->volumes);
    or_list_init(&d->writes_waiting);
    or_list_init(&d->reads_waiting);
    or_list_init(&d->reads_free);
    or_list_init(&d->reads_open);
    for (uint32_t n = 0; n < OR_DOMAIN_READS; n++) {
        d->reads[n].domain = d;
        or_list_append(&d->reads_free, &d->reads[n].link);
    }
}

static void free_domain(struct or_domain *d)
{
    or_recover_free(d);
    free(d->journal.staging);
    free(d->journal.super_page);
    free(d->bounce);
    free(d);
}

static int check(const struct or_hold *hold, const struct or_domain_config *config)
{
    uint64_t slots = config->bytes_max / OR_HOLD_PAGE, pages = config->journal->size / OR_HOLD_PAGE;
    if (!config->id || !config->journal_id || !config->packet || config->bytes_max < OR_DOMAIN_BYTES_MIN ||
        slots > OR_HOLD_SLOTS_MAX)
        return -EINVAL;
    if (pages < OR_JOURNAL_SUPERS + slots + or_entry_header_pages(slots))
        return -EFBIG;
    return is_open(hold, config->id) ? -EEXIST : 0;
}

struct or_domain *or_domain_open(struct or_hold *hold, const struct or_domain_config *config, int *err)
{
    uint32_t index;
    *err = check(hold, config);
    if (!*err)
        *err = find_record(hold, config->id, &index);
    struct or_domain *d = *err ? NULL : calloc(1, sizeof *d);
    if (!d) {
        *err = *err ? *err : -ENOMEM;
        return NULL;
    }
    init(d, hold, config);
    d->index = index;
    d->record = &hold->records[index];
    *err = prepare(d);
    if (*err) {
        free_domain(d);
        return NULL;
    }
    d->config.journal->owner = d;
    if (d->record->id != config->id) {
        *d->record = (struct or_hold_record){.state = OR_RECORD_NEW};
        OR_HOLD_STORE(d->record->id, config->id);
    }
    or_list_append(&hold->domains, &d->link);
    return d;
}

void or_domain_discard(struct or_domain *d)
{
    while (!or_list_empty(&d->volumes)) {
        struct or_held_volume *v = OR_CONTAINER(d->volumes.next, struct or_held_volume, link);
        while (!or_list_empty(&v->doors)) {
            struct or_door *door = OR_CONTAINER(v->doors.next, struct or_door, link);
            or_list_remove(&door->link);
            free(door);
        }
        v->lower->ops->close(v->lower);
        or_list_remove(&v->link);
        free(v);
    }
    d->config.journal->ops->close(d->config.journal);
    or_list_remove(&d->link);
    free_domain(d);
}

void or_domain_destroy(struct or_domain *d)
{
    for (uint64_t e = d->freed + 1; e <= d->open; e++) {
        struct or_epoch *epoch = or_domain_epoch(d, e);
        for (uint32_t n = epoch->blocks.count, i = epoch->blocks.first; n > 0; n--, i = d->hold->links[i].next)
            or_index_remove(d->hold, i);
    }
    or_domain_discard(d);
}

void or_domain_remove(struct or_domain *d)
{
    for (uint64_t e = d->freed + 1; e <= d->open; e++) {
        or_domain_free(d, &or_domain_epoch(d, e)->blocks, OR_HOLD_NOTHING);
        or_domain_free(d, &or_domain_epoch(d, e)->packets, OR_HOLD_NOTHING);
    }
    for (uint32_t i = 0; i < d->hold->slots_count; i++) /* of a domain that could not be opened */
        if (d->hold->slots[i].state != OR_SLOT_FREE && d->hold->slots[i].domain == d->index)
            or_hold_give(d->hold, i);
    OR_HOLD_STORE(d->record->id, 0);
    or_domain_destroy(d);
}

void or_domain_read_info(const struct or_domain *d, struct or_domain_info *info)
{
    *info = d->info;
    info->state = d->state;
    info->generation = d->generation;
    info->open = d->open;
    info->committed = d->committed;
    info->released = d->released;
    info->applied = d->settled;
    info->bytes = (uint64_t)d->slots * OR_HOLD_PAGE;
    info->fencing = or_domain_fencing(d);
    info->fenced = d->fenced;
    info->exposed = d->record->exposed > d->record->committed;
    info->uncovered = d->record->exposed == OR_EPOCH_UNCUT;
}
