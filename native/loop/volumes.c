#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "domains.h"
#include "nics.h"

/* --- storage errors ------------------------------------------------------------------------------ */

static void tell_error(struct volume *v, const struct or_volume_error *error)
{
    struct or_event *event = or_engine_event(v->volumes->engine, OR_EVENT_VOLUME_ERROR, NULL, 0);
    if (!event) {
        v->errors.error = *error; /* another time */
        return;
    }
    memcpy(event->name, v->name, sizeof event->name);
    event->error = *error;
    or_engine_emit(v->volumes->engine, event);
}

static void due(struct or_iohv_volumes *h, const struct volume *v)
{
    if (or_volume_errors_due(&v->errors) < h->errors_at)
        h->errors_at = or_volume_errors_due(&v->errors);
}

/* Of every volume that has errors to tell and may. */
static void tell_errors(struct or_iohv_volumes *h, uint64_t now)
{
    struct or_volume_error error;
    h->errors_at = UINT64_MAX;
    for (struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        if (or_volume_errors_take(&v->errors, now, &error))
            tell_error(v, &error);
        due(h, v);
    }
}

void or_iohv_volume_tell_rest(struct volume *v)
{
    struct or_volume_error error;
    if (v->errors.error.count && or_volume_errors_take(&v->errors, UINT64_MAX, &error))
        tell_error(v, &error);
}

void or_iohv_volumes_tell(struct or_iohv_volumes *h, uint64_t now)
{
    if (now >= h->errors_at)
        tell_errors(h, now);
}

uint64_t or_iohv_volumes_deadline(const struct or_iohv_volumes *h)
{
    uint64_t due = h->errors_at < h->cache_due ? h->errors_at : h->cache_due;
    return due < h->domains_due ? due : h->domains_due;
}

void or_iohv_volume_failed(struct or_volume *volume, const struct or_io *io, int error)
{
    struct volume *v = volume->owner;
    or_volume_errors_note(&v->errors, io->op, error, io->offset, volume->flush_failed);
    due(v->volumes, v);
}

/* --- the passage --------------------------------------------------------------------------------- */

/* Volumes that one engine of this process has given away and another one has not taken yet. Nothing else is shared by
 * engines. */
static struct {
    pthread_mutex_t lock;
    struct or_list volumes;
} passage = {PTHREAD_MUTEX_INITIALIZER, {&passage.volumes, &passage.volumes}};

static void put_into_passage(struct volume *v)
{
    or_volume_enter(v->volume, NULL);
    v->volumes = NULL;
    pthread_mutex_lock(&passage.lock);
    or_list_append(&passage.volumes, &v->link);
    pthread_mutex_unlock(&passage.lock);
}

static struct volume *take_from_passage(const char *name)
{
    struct volume *found = NULL;
    pthread_mutex_lock(&passage.lock);
    for (struct or_list *l = passage.volumes.next; l != &passage.volumes && !found; l = l->next)
        if (strcmp(OR_CONTAINER(l, struct volume, link)->name, name) == 0)
            found = OR_CONTAINER(l, struct volume, link);
    if (found)
        or_list_remove(&found->link);
    pthread_mutex_unlock(&passage.lock);
    return found;
}

/* --- volumes ------------------------------------------------------------------------------------- */

struct volume *or_iohv_volume_named(const struct or_iohv_volumes *h, const char *name)
{
    for (struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        if (strcmp(v->name, name) == 0)
            return v;
    }
    return NULL;
}

static struct or_volume *open_volume(struct or_iohv_volumes *h, struct or_command *c, int *err)
{
    if (c->kind == OR_VOLUME_RAM)
        return or_volume_ram(c->size, c->block_size, err);
    if (c->kind == OR_VOLUME_NULL)
        return or_volume_null(c->size, c->block_size, err);
    if (c->layer_count)
        return or_iohv_layers_open(h, c, err);
    struct or_volume *volume = or_volume_file(h->uring, c->fd, c->read_only, err);
    if (volume)
        c->fd = -1; /* the volume's from here on */
    return volume;
}

static struct volume *new_volume(struct or_iohv_volumes *h, struct or_command *c, int *err)
{
    struct volume *v = calloc(1, sizeof *v);
    *err = -ENOMEM;
    if (v)
        v->volume = open_volume(h, c, err);
    if (!v || !v->volume) {
        free(v);
        return NULL;
    }
    memcpy(v->name, c->name, sizeof v->name);
    or_list_init(&v->doors);
    v->volume->owner = v;
    v->volume->failed = or_iohv_volume_failed;
    v->volume->flush_failed = c->flush_failed;
    v->cacheable = c->kind == OR_VOLUME_FILE;
    v->cache.content = c->layer_count ? c->layers[0].content : c->content;
    or_iohv_cache_default(&v->cache);
    or_iohv_cache_change(&v->cache, &c->cache);
    return v;
}

static void add_volume(struct or_iohv_volumes *h, struct volume *v)
{
    v->volumes = h;
    or_list_append(&h->volumes, &v->link);
    due(h, v);
}

static void free_volume(struct volume *v)
{
    or_iohv_volume_tell_rest(v);
    v->volume->ops->close(v->volume);
    or_list_remove(&v->link);
    free(v);
}

static void volume_open(struct or_iohv_volumes *h, struct or_command *c)
{
    struct or_engine *e = h->engine;
    if (or_iohv_volume_named(h, c->name)) {
        or_engine_finish(e, c, -EEXIST, "volume %s is open already", c->name);
        return;
    }
    int err = -ENOENT;
    struct volume *v = c->passed ? take_from_passage(c->name) : new_volume(h, c, &err);
    if (!v) {
        or_engine_finish(e, c, err, "cannot open volume %s: %s", c->name,
                         c->passed ? "no worker has given it away" : strerror(-err));
        return;
    }
    if (c->passed)
        or_volume_enter(v->volume, h->uring);
    add_volume(h, v);
    v->busy = true;
    v->doing = c;
    or_iohv_cache_take(v);
}

void or_iohv_volume_opened(struct volume *v, int err, const char *why)
{
    struct or_engine *e = v->volumes->engine;
    struct or_command *c = v->doing;
    v->busy = false;
    v->doing = NULL;
    if (err && c->passed) {
        or_list_remove(&v->link);
        put_into_passage(v);
    } else if (err) {
        free_volume(v);
    }
    if (err) {
        or_engine_finish(e, c, err, "cannot open volume %s: %s", c->name, why);
        return;
    }
    c->volume = (struct or_volume_info){
        .size = v->volume->size,
        .block_size = v->volume->block_size,
        .physical_block_size = v->volume->physical_block_size,
        .direct = v->volume->direct,
        .discard = v->volume->discard_granularity != 0,
        .write_zeroes = v->volume->write_zeroes,
    };
    or_engine_succeed(e, c);
}

struct volume *or_iohv_volume_for(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_named(h, c->name);
    if (!v)
        or_engine_finish(h->engine, c, -ENOENT, "volume %s is not open", c->name);
    else if (v->busy)
        or_engine_finish(h->engine, c, -EBUSY, "volume %s is being opened or closed", c->name);
    return v && !v->busy ? v : NULL;
}

/* Ends c unless the volume is there and free. */
static struct volume *free_of_exports(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_for(h, c);
    if (v && v->exports)
        or_engine_finish(h->engine, c, -EBUSY, "volume %s is exported %u times", c->name, v->exports);
    else if (v && v->jobs)
        or_engine_finish(h->engine, c, -EBUSY, "volume %s is being cut or flushed", c->name);
    else if (v && v->domain)
        or_engine_finish(h->engine, c, -EBUSY, "volume %s is in domain %s", c->name, v->domain->name);
    return v && !v->exports && !v->jobs && !v->domain ? v : NULL;
}

static void volume_close(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = free_of_exports(h, c);
    if (!v)
        return;
    if (v->cached) {
        v->doing = c;
        or_iohv_cache_end(v);
        return;
    }
    free_volume(v);
    or_engine_succeed(h->engine, c);
}

void or_iohv_volume_close(struct volume *v)
{
    if (v->cached)
        or_iohv_cache_end(v);
    else
        free_volume(v);
}

void or_iohv_volume_given(struct volume *v)
{
    struct or_engine *e = v->volumes->engine;
    struct or_command *c = v->doing;
    v->busy = false;
    v->doing = NULL;
    or_list_remove(&v->link);
    put_into_passage(v);
    or_engine_succeed(e, c);
}

static void volume_give(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = free_of_exports(h, c);
    if (!v)
        return;
    v->doing = c;
    if (v->cached)
        or_iohv_cache_give(v);
    else
        or_iohv_volume_given(v);
}

/* --- exports ------------------------------------------------------------------------------------- */

static struct export *export_of(const struct or_iohv_volumes *h, uint32_t id)
{
    for (struct or_list *l = h->exports.next; l != &h->exports; l = l->next) {
        struct export *x = OR_CONTAINER(l, struct export, link);
        if (x->id == id)
            return x;
    }
    return NULL;
}

static void release_volume(struct export *x)
{
    if (x->door)
        or_iohv_door_leave(x->door);
    if (x->volume)
        x->volume->exports--;
    x->volume = NULL;
    x->door = NULL;
}

static void export_left(void *arg)
{
    struct export *x = arg;
    struct or_command *c = x->leaving;
    release_volume(x);
    x->leaving = NULL;
    or_engine_succeed(x->engine, c);
}

/* The way to the volume, if that is in a domain. False: there is none, and c is ended. */
static bool take_door(struct or_iohv_volumes *h, struct or_command *c, struct volume *v, struct door **door)
{
    int err = 0;
    *door = v && v->domain ? or_iohv_door(v, c->domain_generation, &err) : NULL;
    if (err)
        or_engine_finish(h->engine, c, err, "cannot export volume %s with generation %llu of domain %s: %s", c->name,
                         (unsigned long long)c->domain_generation, v->domain->name,
                         err == -ESTALE  ? "that is not reached yet"
                         : err == -EBUSY ? "it is leaving the domain"
                                         : strerror(-err));
    return !err;
}

/* An attachment that is here gets another generation of its domain: what it asks from now on goes there. */
static bool change_door(struct or_iohv_volumes *h, struct or_command *c, struct export *x, struct volume *v)
{
    struct door *door;
    if (!x || !v || x->volume != v || !x->door || or_iohv_door_generation(x->door) == c->domain_generation)
        return false;
    if (!take_door(h, c, v, &door))
        return true;
    or_server_replace_volume(h->server, x->id, or_iohv_door_volume(door));
    or_iohv_door_leave(x->door);
    x->door = door;
    or_engine_succeed(h->engine, c);
    return true;
}

static void export_add(struct or_iohv_volumes *h, struct or_command *c)
{
    struct or_engine *e = h->engine;
    struct volume *v = c->elsewhere || c->standby ? NULL : or_iohv_volume_named(h, c->name);
    struct door *door;
    if (!v && !c->pending && !c->elsewhere && !c->standby) {
        or_engine_finish(e, c, -ENOENT, "volume %s is not open", c->name);
        return;
    }
    if (v && v->busy) {
        or_engine_finish(e, c, -EBUSY, "volume %s is being opened or closed", c->name);
        return;
    }
    if (change_door(h, c, export_of(h, c->id), v) || !take_door(h, c, v, &door))
        return;
    struct or_export info = {.id = c->id,
                             .generation = c->generation,
                             .placement = c->placement.number,
                             .read_only = c->read_only,
                             .weight = c->weight,
                             .volume = door ? or_iohv_door_volume(door)
                                       : v  ? v->volume
                                            : NULL};
    memcpy(info.host, c->host, sizeof info.host);
    struct export *x = export_of(h, c->id), *fresh = x ? NULL : calloc(1, sizeof *fresh);
    int err = x && x->leaving ? -EBUSY : x || fresh ? 0 : -ENOMEM;
    if (fresh) {
        *fresh = (struct export){.engine = e, .id = c->id};
        or_list_append(&h->exports, &fresh->link);
        x = fresh;
    }
    if (!err && c->elsewhere) {
        x->leaving = c;
        err = or_server_elsewhere(h->server, &info, export_left, x);
        if (!err)
            return;
        x->leaving = NULL;
    } else if (!err) {
        err = or_server_add_export(h->server, &info);
    }
    if (err) {
        if (fresh)
            or_list_remove(&fresh->link);
        free(fresh);
        if (door)
            or_iohv_door_leave(door);
        or_engine_finish(e, c, err, "cannot export volume %s to host %s as attachment %u: %s", c->name, c->host, c->id,
                         strerror(-err));
        return;
    }
    if (v && !x->volume) {
        x->volume = v;
        v->exports++;
    }
    if (door && x->door)
        or_iohv_door_leave(x->door);
    x->door = door ? door : x->door;
    or_engine_succeed(e, c);
}

static void export_drained(void *arg)
{
    struct export *x = arg;
    release_volume(x);
    or_list_remove(&x->link);
    if (x->removal)
        or_engine_succeed(x->engine, x->removal);
    free(x);
}

static void remove_export(struct or_iohv_volumes *h, struct export *x)
{
    if (x->removing)
        return;
    x->removing = true;
    or_server_remove_export(h->server, x->id, export_drained, x);
}

static void export_remove(struct or_iohv_volumes *h, struct or_command *c)
{
    struct export *x = export_of(h, c->id);
    if (!x || x->removing) {
        or_engine_finish(h->engine, c, -ENOENT, "no attachment %u", c->id);
        return;
    }
    x->removal = c;
    remove_export(h, x);
}

static void list_loads(struct or_iohv_volumes *h, struct or_command *c)
{
    uint32_t n = 0;
    for (struct or_list *l = h->exports.next; l != &h->exports; l = l->next)
        n++;
    c->loads = calloc(n ? n : 1, sizeof *c->loads);
    if (!c->loads) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = h->exports.next; l != &h->exports; l = l->next) {
        const struct export *x = OR_CONTAINER(l, struct export, link);
        struct or_export_load load;
        if (!x->volume || !or_server_load(h->server, x->id, &load))
            continue;
        c->loads[c->count++] = (struct or_load_info){x->id, load.requests, load.bytes, load.in_flight};
    }
    or_engine_succeed(h->engine, c);
}

static void export_set(struct or_iohv_volumes *h, struct or_command *c)
{
    int err = or_server_set_weight(h->server, c->id, c->weight);
    or_engine_finish(h->engine, c, err, "cannot change attachment %u: %s", c->id, strerror(-err));
}

bool or_iohv_volumes_command(struct or_iohv_volumes *h, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_VOLUME_OPEN:
        volume_open(h, c);
        return true;
    case OR_CMD_VOLUME_CLOSE:
        volume_close(h, c);
        return true;
    case OR_CMD_VOLUME_GIVE:
        volume_give(h, c);
        return true;
    case OR_CMD_EXPORT_ADD:
        export_add(h, c);
        return true;
    case OR_CMD_EXPORT_SET:
        export_set(h, c);
        return true;
    case OR_CMD_EXPORT_REMOVE:
        export_remove(h, c);
        return true;
    case OR_CMD_LOADS:
        list_loads(h, c);
        return true;
    default:
        return or_iohv_cache_command(h, c) || or_iohv_layers_command(h, c) || or_iohv_domains_command(h, c);
    }
}

/* --- life ---------------------------------------------------------------------------------------- */

struct or_iohv_volumes *or_iohv_volumes_create(struct or_engine *engine, struct or_server *server,
                                               struct or_uring *uring, int *err)
{
    struct or_iohv_volumes *h = calloc(1, sizeof *h);
    *err = -ENOMEM;
    if (!h)
        return NULL;
    *h = (struct or_iohv_volumes){.engine = engine, .server = server, .uring = uring, .errors_at = UINT64_MAX};
    or_list_init(&h->volumes);
    or_list_init(&h->exports);
    or_list_init(&h->jobs);
    or_list_init(&h->domains);
    or_list_init(&h->protects);
    or_list_init(&h->merges);
    h->domains_due = UINT64_MAX;
    *err = or_iohv_cache_open(h);
    if (*err) {
        free(h);
        return NULL;
    }
    return h;
}

/* What its command waits for does not come any more. What it has inherited already is written out. */
static void give_up_opening(struct volume *v)
{
    v->volumes->waiting--;
    if (!v->cached) {
        or_iohv_volume_opened(v, -ECANCELED, "the engine ends");
        return;
    }
    or_engine_finish(v->volumes->engine, v->doing, -ECANCELED, "the engine ends");
    v->doing = NULL;
    or_iohv_cache_end(v);
}

/* Begins to close the cached volumes; true when none is left, and nothing is written out that dead engines had. */
static bool empty_cache(struct or_iohv_volumes *h)
{
    for (struct or_list *l = h->volumes.next, *next; l != &h->volumes; l = next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        next = l->next;
        if (v->busy && v->doing && v->doing->type == OR_CMD_VOLUME_OPEN && !v->drain)
            give_up_opening(v);
        else if (v->cached && !v->busy)
            or_iohv_cache_end(v);
    }
    for (const struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next) {
        const struct volume *v = OR_CONTAINER(l, const struct volume, link);
        if (v->cached || v->drain)
            return false;
    }
    return true;
}

void or_iohv_volumes_set_nics(struct or_iohv_volumes *h, struct or_iohv_nics *nics)
{
    h->nics = nics;
    or_iohv_nics_set_volumes(nics, h);
}

/* What waits in a domain must not hold up the end. */
bool or_iohv_volumes_drained(struct or_iohv_volumes *h)
{
    struct or_list *next;
    or_iohv_domains_halt(h);
    for (struct or_list *l = h->exports.next; l != &h->exports; l = next) {
        next = l->next;
        remove_export(h, OR_CONTAINER(l, struct export, link));
    }
    bool merged = or_iohv_merges_drained(h);
    if (!merged || !or_list_empty(&h->exports) || !or_list_empty(&h->jobs) || !or_iohv_domains_idle(h))
        return false;
    or_iohv_domains_end(h);
    return empty_cache(h);
}

void or_iohv_volumes_destroy(struct or_iohv_volumes *h)
{
    or_iohv_cache_close(h);
    while (!or_list_empty(&h->volumes))
        free_volume(OR_CONTAINER(h->volumes.next, struct volume, link));
    free(h);
}
