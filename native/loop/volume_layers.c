/* Volumes of several layers: opened, cut, listed.
 *
 * A cut makes all that a volume has so far immutable, for a snapshot or a clone, while guests use it:
 *
 *   held ──> nothing under way ──> flush ──> ended well: the new head is on top ──> released
 *                                      └───> failed: nothing has changed ─────────> released
 *
 * What guests submit meanwhile waits in the volume (or_volume_hold), so the cut lies between two requests of each, and
 * what they have been told is durable is in the files below it. A volume of one plain file becomes one of two layers,
 * which takes its place. Nothing here waits: the loop comes by every step.
 *
 * When layers were merged, those below a head are replaced by others that hold the same; the volume in the files is
 * held for that until nothing is under way. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "domains.h"

enum job_kind {
    JOB_FLUSH,
    JOB_CUT,
    JOB_REBASE,
};

struct job {
    struct or_io flush;
    struct volume *v;
    struct or_command *command;
    enum job_kind kind;
    struct or_layer head;            /* of a cut: not the volume's yet */
    bool pausing, flushing, flushed; /* pausing: until its domain stands at the boundary of an epoch */
    struct or_list link;
};

/* --- opening -------------------------------------------------------------------------------------- */

int or_iohv_layer_open(struct or_iohv_volumes *h, struct or_layer_file *file, bool read_only, struct or_layer *layer)
{
    int err;
    *layer = (struct or_layer){.volume = or_volume_file(h->uring, file->fd, read_only, &err), .content = file->content};
    if (!layer->volume)
        return err;
    layer->map = file->map;
    file->fd = -1;
    file->map = NULL;
    return 0;
}

void or_iohv_layer_close(struct or_layer *layer)
{
    layer->volume->ops->close(layer->volume);
    or_layer_map_free(layer->map);
}

static void close_layers(struct or_layer *layers, uint32_t count)
{
    while (count > 0)
        or_iohv_layer_close(&layers[--count]);
}

/* All that the command has brought, or none and -errno. `head`: the first is one, and may be written to. */
static int open_layers(struct or_iohv_volumes *h, struct or_command *c, bool head, struct or_layer *layers)
{
    if (c->layer_count > OR_LAYERS_MAX)
        return -EMLINK;
    for (uint32_t n = 0; n < c->layer_count; n++) {
        int err = or_iohv_layer_open(h, &c->layers[n], n > 0 || !head, &layers[n]);
        if (!err)
            continue;
        close_layers(layers, n);
        return err;
    }
    return 0;
}

struct or_volume *or_iohv_layers_open(struct or_iohv_volumes *h, struct or_command *c, int *err)
{
    struct or_layer layers[OR_LAYERS_MAX];
    *err = open_layers(h, c, !c->read_only, layers);
    if (*err)
        return NULL;
    struct or_volume *volume = or_layers_volume(layers, c->layer_count, err);
    if (!volume)
        close_layers(layers, c->layer_count);
    return volume;
}

/* --- cutting -------------------------------------------------------------------------------------- */

static void flush_done(struct or_io *io)
{
    OR_CONTAINER(io, struct job, flush)->flushed = true;
}

/* The volume in files: below the cache, if it is on one. */
static struct or_volume *in_files(const struct volume *v)
{
    return v->cached ? or_cache_lower(v->volume) : v->volume;
}

/* Another volume takes the place of this one, with all who use it. */
static void replace(struct volume *v, struct or_volume *volume)
{
    struct or_iohv_volumes *h = v->volumes;
    volume->owner = v;
    volume->failed = or_iohv_volume_failed;
    if (v->domain)
        or_domain_replace_volume(v->domain->domain, v->domain_volume, volume);
    for (struct or_list *l = h->exports.next; l != &h->exports; l = l->next) {
        const struct export *x = OR_CONTAINER(l, struct export, link);
        if (x->volume == v && !x->door)
            or_server_replace_volume(h->server, x->id, volume);
    }
    v->volume = volume;
}

/* A plain volume becomes the bottom of two layers. */
static int seal(const struct volume *v, struct or_volume **volume, const struct or_layer *head)
{
    if (or_layers_is(*volume))
        return or_layers_push(*volume, head);
    const struct or_layer layers[] = {*head, {.volume = *volume, .content = v->cache.content}};
    int err;
    struct or_volume *layered = or_layers_volume(layers, 2, &err);
    *volume = layered ? layered : *volume;
    return err;
}

static int push(struct volume *v, const struct or_layer *head)
{
    struct or_volume *before = in_files(v), *volume = before;
    int sealed = before->fd;
    int err = v->cached ? or_cache_check_content(v->volumes->cache, head->content) : 0;
    if (!err)
        err = seal(v, &volume, head);
    if (err)
        return err;
    /* Others may read what was the head now. Nobody else may have waited to write to it, so this does not fail; and if
     * it did, they would wait until the volume is closed. */
    (void)flock(sealed, LOCK_SH | LOCK_NB);
    v->cache.content = head->content;
    if (v->cached)
        or_cache_cut(v->volume, volume, head->content, or_layers_map, volume);
    else if (volume != before)
        replace(v, volume);
    return 0;
}

static int outcome(const struct job *job)
{
    enum or_status status = job->flush.status;
    if (status != OR_OK && job->v->cached)
        or_cache_owe(job->v->volume, job->flush.status); /* it may be about what guests have written */
    return status == OR_OK ? 0 : status == OR_ENOSPACE ? -ENOSPC : -EIO;
}

static void end_cut(struct job *job, int err)
{
    struct volume *v = job->v;
    struct or_volume *before = v->volume;
    if (!err)
        err = push(v, &job->head);
    if (err)
        or_iohv_layer_close(&job->head);
    or_volume_release(before, v->volume);
    if (v->domain)
        or_domain_resume(v->domain->domain);
    or_engine_finish(v->volumes->engine, job->command, err, "cannot cut volume %s: %s", v->name, strerror(-err));
}

static void drop_job(struct job *job)
{
    job->v->jobs--;
    or_list_remove(&job->link);
    free(job);
}

static void end_job(struct job *job)
{
    struct volume *v = job->v;
    int err = outcome(job);
    if (job->kind == JOB_CUT)
        end_cut(job, err);
    else
        or_engine_finish(v->volumes->engine, job->command, err, "cannot flush volume %s: %s", v->name, strerror(-err));
    drop_job(job);
}

/* Of a volume in a domain: once no epoch is below in part only. */
static void stop_applying(struct job *job)
{
    struct volume *v = job->v;
    int still = or_domain_paused(v->domain->domain);
    if (still == 0)
        return;
    job->pausing = false;
    or_volume_hold(v->volume);
    if (still < 0) {
        job->flush.status = OR_EIO;
        job->flushing = job->flushed = true;
    }
}

static bool may_end(const struct job *job)
{
    bool cuts = job->kind == JOB_CUT && job->flush.status == OR_OK;
    return !cuts || !job->v->cached || or_cache_idle(job->v->volume);
}

/* --- other layers below the head ------------------------------------------------------------------- */

static void end_rebase(struct job *job)
{
    struct volume *v = job->v;
    struct or_iohv_volumes *h = v->volumes;
    struct or_command *c = job->command;
    struct or_volume *volume = in_files(v);
    struct or_layer below[OR_LAYERS_MAX];
    int err = open_layers(h, c, false, below);
    if (!err)
        err = or_layers_rebase(volume, below, c->layer_count);
    if (err)
        close_layers(below, c->layer_count);
    or_volume_release(volume, volume);
    or_engine_finish(h->engine, c, err, "cannot put volume %s on other layers: %s", v->name, strerror(-err));
    drop_job(job);
}

/* One step of a job; true: it may be gone. */
static bool job_step(struct job *job)
{
    if (job->kind == JOB_REBASE) {
        bool ready = in_files(job->v)->in_flight == 0;
        if (ready)
            end_rebase(job);
        return ready;
    }
    if (job->pausing)
        stop_applying(job);
    if (job->kind == JOB_CUT && !job->pausing && !job->flushing && job->v->volume->in_flight == 0) {
        job->flushing = true;
        or_volume_submit_held(job->v->volume, &job->flush);
    } else if (job->flushed && may_end(job)) {
        end_job(job);
    } else {
        return false;
    }
    return true;
}

uint32_t or_iohv_volumes_work(struct or_iohv_volumes *h)
{
    uint32_t work = h->domains_work + or_iohv_protects_work(h) + or_iohv_merges_work(h);
    for (struct or_list *l = h->jobs.next, *next; l != &h->jobs; l = next) {
        struct job *job = OR_CONTAINER(l, struct job, link);
        next = l->next;
        work += job_step(job);
    }
    return work;
}

/* Ends c with an error unless it is a volume that can be. */
static struct job *new_job(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_for(h, c);
    struct job *job = v ? calloc(1, sizeof *job) : NULL;
    if (v && !job)
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
    if (!job)
        return NULL;
    *job = (struct job){.flush = {.op = OR_OP_FLUSH, .done = flush_done}, .v = v, .command = c};
    or_list_init(&job->flush.link);
    or_list_init(&job->link);
    return job;
}

static void begin_job(struct job *job)
{
    job->v->jobs++;
    or_list_append(&job->v->volumes->jobs, &job->link);
}

/* Why the volume cannot be cut; NULL: it can. */
static const char *obstacle(const struct volume *v, const struct or_command *c)
{
    if (v->volume->held || (v->domain && v->jobs > 0))
        return "it is being cut already";
    if (v->volume->read_only)
        return "it is read-only";
    if (!v->cacheable)
        return "it is not in a file";
    if (!v->cache.content)
        return "its content has no name";
    if (c->layer_count != 1 || !c->layers[0].map || or_layer_map_size(c->layers[0].map) != v->volume->size)
        return "the new layer is of another size";
    return NULL;
}

static void volume_cut(struct or_iohv_volumes *h, struct or_command *c)
{
    struct job *job = new_job(h, c);
    if (!job)
        return;
    const char *why = obstacle(job->v, c);
    int err = why ? -EINVAL : or_iohv_layer_open(h, &c->layers[0], false, &job->head);
    if (err) {
        free(job);
        or_engine_finish(h->engine, c, err, "cannot cut volume %s: %s", c->name, why ? why : strerror(-err));
        return;
    }
    job->kind = JOB_CUT;
    job->pausing = job->v->domain;
    if (job->pausing)
        or_domain_pause(job->v->domain->domain);
    else
        or_volume_hold(job->v->volume);
    begin_job(job);
}

/* The cache, if there is one, goes on: what it wants of the files waits. What they hold stays the same, so it need not
 * be told, and nothing is flushed. */
static void volume_rebase(struct or_iohv_volumes *h, struct or_command *c)
{
    struct job *job = new_job(h, c);
    if (!job)
        return;
    struct or_volume *volume = in_files(job->v);
    bool layered = or_layers_is(volume);
    if (!layered || job->v->jobs || volume->held || !c->layer_count || c->layer_count >= OR_LAYERS_MAX) {
        int err = layered && c->layer_count ? -EBUSY : -EINVAL;
        free(job);
        or_engine_finish(h->engine, c, err, "cannot put volume %s on other layers: %s", c->name, strerror(-err));
        return;
    }
    job->kind = JOB_REBASE;
    or_volume_hold(volume);
    begin_job(job);
}

static void volume_flush(struct or_iohv_volumes *h, struct or_command *c)
{
    struct job *job = new_job(h, c);
    if (!job)
        return;
    begin_job(job);
    or_volume_submit(job->v->volume, &job->flush);
}

/* --- listing -------------------------------------------------------------------------------------- */

static void list_layers(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_for(h, c);
    if (!v)
        return;
    const struct or_volume *volume = in_files(v);
    uint32_t n = or_layers_is(volume) ? or_layers_count(volume) : 0;
    c->layer_infos = calloc(n + 1, sizeof *c->layer_infos);
    if (!c->layer_infos) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (c->count = 0; c->count < n; c->count++)
        c->layer_infos[c->count] = or_layers_info(volume, c->count);
    if (n == 0)
        c->layer_infos[c->count++] = (struct or_layer_info){.content = v->cache.content, .raw = true};
    or_engine_succeed(h->engine, c);
}

bool or_iohv_layers_command(struct or_iohv_volumes *h, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_VOLUME_CUT:
        volume_cut(h, c);
        return true;
    case OR_CMD_VOLUME_FLUSH:
        volume_flush(h, c);
        return true;
    case OR_CMD_VOLUME_REBASE:
        volume_rebase(h, c);
        return true;
    case OR_CMD_LAYER_MERGE:
        or_iohv_merge(h, c);
        return true;
    case OR_CMD_LAYER_CREATE:
        or_engine_succeed(h->engine, c);
        return true;
    case OR_CMD_VOLUME_LAYERS:
        list_layers(h, c);
        return true;
    default:
        return false;
    }
}
