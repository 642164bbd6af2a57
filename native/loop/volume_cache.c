/* The worker's block cache: which of its volumes are on it, and how they come and go.
 *
 *     opened, or taken from the passage ──> lower volume ──> on the cache ──> exported
 *                                                └── without a cache ───────────┘
 *     closed <── lost bytes told <── lower volume closed <── written out, flushed
 *     given away <────────────────── lower volume, open <───┘ (when that fails: stays)
 *
 * Before anybody uses a volume it has what caches of dead engines had not written out of it: in the cache, dirty, or
 * in its storage, where there is no cache or no room in it for all: nothing could be written out of a full one to a
 * storage that refuses. When that cannot be done the volume is not opened, and nothing is forgotten.
 *
 * Leaving takes as long as the storage does; the command is answered when it is over. A volume that comes back while
 * what the cache held of it is being forgotten waits for that. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "domains.h"
#include "transport/env.h"

#define READ_AHEAD_DEFAULT (512u << 10)
#define GIVE_UP "mend that, or give them up with `outrigger cache drop --kept`"

/* --- the cache ----------------------------------------------------------------------------------- */

/* It may be made larger while it runs, up to all the memory that there is. */
static uint64_t physical_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (uint64_t)pages * (uint64_t)bytes : 0;
}

int or_iohv_cache_open(struct or_iohv_volumes *h)
{
    const struct or_engine_config *engine = &h->engine->config;
    h->cache_due = UINT64_MAX;
    if (!engine->cache_bytes)
        return 0;
    uint64_t most = physical_bytes();
    struct or_cache_config config = {.bytes = engine->cache_bytes,
                                     .bytes_max = most > engine->cache_bytes ? most : engine->cache_bytes,
                                     .policy = engine->cache_policy,
                                     .kept = true};
    or_env_system.random(NULL, &config.seed, sizeof config.seed);
    int err;
    h->cache = or_cache_create(&config, &err);
    if (!h->cache)
        return err;
    err = or_iohv_keep_begin(h);
    if (err)
        or_iohv_cache_close(h);
    return err;
}

void or_iohv_cache_close(struct or_iohv_volumes *h)
{
    or_iohv_keep_end(h);
    if (h->cache)
        or_cache_destroy(h->cache);
    h->cache = NULL;
}

void or_iohv_volumes_poll(struct or_iohv_volumes *h, uint64_t now)
{
    if (h->cache)
        h->cache_due = or_cache_poll(h->cache, now);
    if (h->waiting)
        or_iohv_cache_retry(h);
    or_iohv_keep_step(h);
    or_iohv_domains_poll(h, now);
}

/* --- coming -------------------------------------------------------------------------------------- */

void or_iohv_cache_default(struct or_cache_volume_config *config)
{
    config->mode = OR_CACHE_WRITE_THROUGH;
    config->read_ahead_max = READ_AHEAD_DEFAULT;
}

void or_iohv_cache_change(struct or_cache_volume_config *config, const struct or_cache_change *change)
{
    config->mode = change->has_mode ? change->mode : config->mode;
    config->quota = change->has_quota ? change->quota : config->quota;
    config->dirty_max = change->has_dirty_max ? change->dirty_max : config->dirty_max;
    config->dirty_age_ns = change->has_dirty_age ? change->dirty_age_ns : config->dirty_age_ns;
    config->read_ahead_max = change->has_read_ahead ? change->read_ahead_max : config->read_ahead_max;
}

static void tell_lost(struct volume *v, uint64_t lost)
{
    struct or_event *event = or_engine_event(v->volumes->engine, OR_EVENT_VOLUME_LOST, NULL, 0);
    if (!event)
        return;
    memcpy(event->name, v->name, sizeof event->name);
    event->bytes_lost = lost;
    or_engine_emit(v->volumes->engine, event);
}

/* or_cache_volume_config.closed */
static void closed(void *arg, uint64_t lost)
{
    struct volume *v = arg;
    struct or_engine *e = v->volumes->engine;
    struct or_command *c = v->doing;
    or_iohv_volume_tell_rest(v); /* the last flush may have failed a moment ago */
    if (lost)
        tell_lost(v, lost);
    or_list_remove(&v->link);
    free(v);
    if (c)
        or_engine_succeed(e, c);
}

/* Of the lower volume. */
static void describe_map(struct volume *v)
{
    v->cache.map = or_layers_is(v->volume) ? or_layers_map : NULL;
    v->cache.map_arg = v->volume;
}

/* 0, -EAGAIN (later) or -errno. */
static int stack(struct volume *v)
{
    int err;
    v->cache.closed = closed;
    v->cache.closed_arg = v;
    struct or_volume *cached = or_cache_volume(v->volumes->cache, v->volume, &v->cache, &err);
    if (!cached)
        return err;
    cached->owner = v;
    cached->failed = or_iohv_volume_failed;
    v->volume = cached;
    v->cached = true;
    v->cache.error = OR_OK;
    return 0;
}

/* --- what dead engines had ------------------------------------------------------------------------ */

/* Of which contents that is the volume's: of its head, and of what was its head if an engine died before it had cut it.
 * 0: no more. */
static uint64_t inherited(const struct volume *v, uint32_t below)
{
    if (below == 0)
        return v->cache.content;
    return v->cache.map && !v->volume->read_only ? or_layers_continued(v->cache.map_arg, below) : 0;
}

static int inherit(const struct volume *v)
{
    bool all = true;
    uint64_t content;
    for (uint32_t below = 0; all && (content = inherited(v, below)) != 0; below++)
        all = or_iohv_keep_inherit(v->volume, content);
    return all ? 0 : -EAGAIN;
}

/* All of it finds room in the cache at once. */
static bool fits(const struct volume *v)
{
    uint64_t blocks = 0, content;
    for (uint32_t below = 0; (content = inherited(v, below)) != 0; below++)
        blocks += or_iohv_keep_count(content);
    return blocks <= or_cache_room(v->volumes->cache, v->cache.quota);
}

/* The same without a cache, or before the volume is on it. */
static int drain(struct volume *v)
{
    int err;
    while (!(err = or_iohv_keep_drain_step(v->drain))) {
        uint64_t content = inherited(v, v->inheriting++);
        err = content ? or_iohv_keep_drain_add(v->drain, content) : 0;
        if (err || !content)
            break;
    }
    if (err == -EAGAIN)
        return err;
    or_iohv_keep_drained(v->drain);
    v->drain = NULL;
    return err;
}

/* The next step of an opening: 0: it is done; -EAGAIN: later; other -errno, with the reason in why (OR_WHY_MAX). */
static int write_out(struct volume *v, char *why)
{
    if (!v->drain) {
        v->inheriting = 0;
        v->drain = or_iohv_keep_drain(v->volume, &v->cache);
    }
    int err = v->drain ? drain(v) : -ENOMEM;
    if (err)
        snprintf(why, OR_WHY_MAX, "a killed engine's cache has writes to it that cannot be written out (%s): " GIVE_UP,
                 strerror(-err));
    return err;
}

static int take_to_cache(struct volume *v, char *why)
{
    int err = v->cached ? 0 : stack(v);
    if (err)
        snprintf(why, OR_WHY_MAX, "it cannot be put on the cache: %s", strerror(-err));
    return err ? err : inherit(v);
}

static int take(struct volume *v, char *why)
{
    bool begun = v->doing->passed || v->cached || v->drain;
    int err = begun ? 0 : or_iohv_keep_look();
    if (err) {
        snprintf(why, OR_WHY_MAX, "a killed engine's cache may have writes to it that cannot be read (%s): " GIVE_UP,
                 or_iohv_keep_reason(err));
        return err;
    }
    struct or_cache *cache = v->volumes->cache;
    if (!v->cached)
        describe_map(v);
    if (!v->doing->passed && !v->cached && (!cache || v->drain || !fits(v)))
        err = write_out(v, why);
    return err || !cache ? err : take_to_cache(v, why);
}

void or_iohv_cache_take(struct volume *v)
{
    char why[OR_WHY_MAX];
    int err = v->cacheable ? take(v, why) : 0;
    if (err == -EAGAIN)
        v->volumes->waiting++;
    else
        or_iohv_volume_opened(v, err, why);
}

void or_iohv_cache_retry(struct or_iohv_volumes *h)
{
    for (struct or_list *l = h->volumes.next, *next; l != &h->volumes; l = next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        next = l->next;
        if (!v->busy || !v->doing || v->doing->type != OR_CMD_VOLUME_OPEN)
            continue;
        h->waiting--;
        or_iohv_cache_take(v);
    }
}

/* --- leaving ------------------------------------------------------------------------------------- */

void or_iohv_cache_end(struct volume *v)
{
    v->busy = true;
    v->volume->ops->close(v->volume);
}

/* or_cache_detach */
static void detached(void *arg, struct or_volume *lower, uint8_t error)
{
    struct volume *v = arg;
    struct or_command *c = v->doing;
    if (!lower) {
        v->busy = false;
        v->doing = NULL;
        or_engine_finish(v->volumes->engine, c, -EIO, "what the cache holds of volume %s cannot be written out",
                         v->name);
        return;
    }
    lower->owner = v;
    lower->failed = or_iohv_volume_failed;
    v->volume = lower;
    v->cached = false;
    v->cache.error = error;
    or_iohv_volume_given(v);
}

void or_iohv_cache_give(struct volume *v)
{
    v->busy = true;
    or_cache_detach(v->volume, detached, v);
}

/* --- commands ------------------------------------------------------------------------------------ */

static void cache_set(struct or_iohv_volumes *h, struct or_command *c)
{
    struct or_engine *e = h->engine;
    if (!h->cache) {
        or_engine_finish(e, c, -ENODEV, "this engine was started without a cache");
        return;
    }
    if (c->size < OR_CACHE_BYTES_MIN) {
        or_engine_finish(e, c, -EINVAL, "a cache of %llu bytes is too small", (unsigned long long)c->size);
        return;
    }
    int err = or_cache_resize(h->cache, c->size);
    or_engine_finish(e, c, err, "cannot change the cache's budget: %s", strerror(-err));
}

static void volume_cache(struct or_iohv_volumes *h, struct or_command *c)
{
    struct volume *v = or_iohv_volume_for(h, c);
    if (!v)
        return;
    or_iohv_cache_change(&v->cache, &c->cache);
    if (v->cached)
        or_cache_configure(v->volume, &v->cache);
    if (v->cached && c->drop)
        or_cache_drop(v->volume);
    or_engine_succeed(h->engine, c);
}

static void describe(const struct volume *v, struct or_cached_info *info)
{
    memcpy(info->name, v->name, sizeof info->name);
    info->mode = v->cache.mode;
    or_cache_read_stats(v->volume, &info->stats);
}

static void cache_list(struct or_iohv_volumes *h, struct or_command *c)
{
    uint32_t n = 0;
    for (struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next)
        n++;
    c->cached = calloc(n ? n : 1, sizeof *c->cached);
    if (!c->cached) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    if (h->cache)
        or_cache_read_info(h->cache, &c->cache_info);
    for (struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next) {
        const struct volume *v = OR_CONTAINER(l, struct volume, link);
        if (v->cached)
            describe(v, &c->cached[c->count++]);
    }
    or_engine_succeed(h->engine, c);
}

bool or_iohv_cache_command(struct or_iohv_volumes *h, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_CACHE_SET:
        cache_set(h, c);
        return true;
    case OR_CMD_VOLUME_CACHE:
        volume_cache(h, c);
        return true;
    case OR_CMD_CACHE_LIST:
        cache_list(h, c);
        return true;
    case OR_CMD_KEEP:
        or_iohv_keep(h, c);
        return true;
    case OR_CMD_KEEP_GIVE_UP:
        or_iohv_keep_give_up(h, c);
        return true;
    default:
        return false;
    }
}
