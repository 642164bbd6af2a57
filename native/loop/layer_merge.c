/* Merges of layers: OR_CMD_LAYER_MERGE, a part of one each. They use the worker's ring and nothing else of it: no
 * volume that is open knows of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "layers/merge.h"
#include "volumes_internal.h"

struct merge {
    struct or_layer_merge merge; /* first */
    struct or_iohv_volumes *volumes;
    struct or_command *command;
    bool ended;
    struct or_list link;
};

static void merge_done(struct or_layer_merge *merge)
{
    ((struct merge *)merge)->ended = true; /* freed by the next step: this may be called from within */
}

/* A sync that failed is not the end of a volume here: the same part is merged again, and all of it written again. */
static void finish(struct merge *job)
{
    struct or_command *c = job->command;
    const struct or_layer_merge *m = &job->merge;
    int err = m->status == OR_OK ? 0 : m->status == OR_ENOSPACE ? -ENOSPC : -EIO;
    c->merge.next = m->next;
    c->merge.copied = m->copied;
    c->merge.complete = m->complete;
    or_iohv_layer_close(&job->merge.from);
    or_iohv_layer_close(&job->merge.into);
    or_list_remove(&job->link);
    or_engine_finish(job->volumes->engine, c, err, "cannot merge layers: %s", strerror(-err));
    free(job);
}

uint32_t or_iohv_merges_work(struct or_iohv_volumes *h)
{
    uint32_t work = 0;
    for (struct or_list *l = h->merges.next, *next; l != &h->merges; l = next) {
        struct merge *job = OR_CONTAINER(l, struct merge, link);
        next = l->next;
        if (job->ended) {
            finish(job);
            work++;
        }
    }
    return work;
}

bool or_iohv_merges_drained(struct or_iohv_volumes *h)
{
    for (struct or_list *l = h->merges.next; l != &h->merges; l = l->next)
        OR_CONTAINER(l, struct merge, link)->merge.left = 0;
    return or_list_empty(&h->merges);
}

static int open_both(struct or_iohv_volumes *h, struct or_command *c, struct or_layer_merge *m)
{
    if (c->layer_count != 2)
        return -EINVAL;
    int err = or_iohv_layer_open(h, &c->layers[0], true, &m->from);
    if (err)
        return err;
    err = or_iohv_layer_open(h, &c->layers[1], false, &m->into);
    if (err)
        or_iohv_layer_close(&m->from);
    return err;
}

void or_iohv_merge(struct or_iohv_volumes *h, struct or_command *c)
{
    struct merge *job = calloc(1, sizeof *job);
    int err = job ? open_both(h, c, &job->merge) : -ENOMEM;
    if (!err) {
        job->volumes = h;
        job->command = c;
        job->merge.next = c->merge.next;
        job->merge.left = c->size;
        job->merge.done = merge_done;
        or_list_append(&h->merges, &job->link);
        err = or_layer_merge(&job->merge);
        if (!err)
            return;
        or_list_remove(&job->link);
        or_iohv_layer_close(&job->merge.from);
        or_iohv_layer_close(&job->merge.into);
    }
    free(job);
    or_engine_finish(h->engine, c, err, "cannot merge layers: %s", strerror(-err));
}
