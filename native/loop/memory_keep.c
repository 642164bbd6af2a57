/* Memory beyond this process: the workers' caches, and the regions of domains. The supervisor's store (keep/store.h)
 * holds a duplicate of all; when the engine is killed the next one gets them. Volumes take what was acknowledged and
 * not written out before anybody uses them, and domains go on with their regions.
 *
 *     store ──(OR_CMD_KEEP at one worker)──> heritage ──(OR_CMD_VOLUME_OPEN at any worker)──> dirty blocks
 *       ^                               └──> region ──(OR_CMD_DOMAIN_OPEN at any worker)──> domain
 *       └── caches of every worker, regions; what has nothing left in it is forgotten
 *
 * What nobody asks for stays in the store; of a cache only the pages that are dirty. So does what cannot be read, in
 * the shape in which it came: a region's domain is not opened then, and of a cache's memory no volume in a file, for
 * any may have writes in it. Workers share what is here, under a lock; the link to the store belongs to the worker
 * that had the command. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/kept.h"
#include "keep/link.h"
#include "transport/env.h"
#include "volumes_internal.h"

/* In a snapshot: what it is of. */
#define RECORD_CACHE UINT64_C(0x6568636163726f31)
#define RECORD_DOMAIN UINT64_C(0x6e69616d6f646f31)
#define OF_DOMAIN 0x80000000u /* in an id */

/* The memory of a worker of this process, or of one that is dead; or the region of a domain. */
struct kept {
    uint32_t id; /* in the store */
    const struct or_cache *cache;
    struct or_cache_heritage *heritage;
    struct or_keep_snapshot *unread; /* cannot be read, or not yet */
    int region;                      /* -1: none; one of the four */
    uint32_t epoch;                  /* of the connection on which the store was told of it */
    struct or_engine *asks;          /* wants to know when it was */
    struct or_list link;
};

static struct {
    pthread_mutex_t lock;
    struct or_list all;
    _Atomic bool changed;    /* a heritage has been taken from, or a region has been made or forgotten */
    struct or_engine *tells; /* whose worker has the link to the store; NULL: nobody's */
    uint32_t told;           /* the epoch of the connection when it was last used; 0: there was none */
    uint32_t drains;         /* that use heritages */
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER, .all = {&kept.all, &kept.all}};

static struct kept *kept_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct kept, link);
}

static bool is_region(const struct kept *k)
{
    return k->id & OF_DOMAIN;
}

static struct kept *add(uint32_t id, const struct or_cache *cache)
{
    struct kept *k = malloc(sizeof *k);
    if (!k)
        return NULL;
    *k = (struct kept){.id = id, .cache = cache, .region = -1};
    while (!k->id) {
        or_env_system.random(NULL, &k->id, sizeof k->id);
        k->id &= ~OF_DOMAIN;
    }
    or_list_append(&kept.all, &k->link);
    return k;
}

static void free_snapshot(struct or_keep_snapshot *s)
{
    if (s)
        or_keep_close_fds(s);
    free(s);
}

static void drop_unread(struct kept *k)
{
    free_snapshot(k->unread);
    k->unread = NULL;
}

static void drop(struct kept *k)
{
    if (k->heritage)
        or_cache_heritage_close(k->heritage);
    drop_unread(k);
    if (k->region >= 0)
        close(k->region);
    or_list_remove(&k->link);
    free(k);
}

int or_iohv_keep_begin(struct or_iohv_volumes *h)
{
    pthread_mutex_lock(&kept.lock);
    bool ok = add(0, h->cache) != NULL;
    pthread_mutex_unlock(&kept.lock);
    return ok ? 0 : -ENOMEM;
}

static void answer(struct or_iohv_volumes *h, int err)
{
    struct or_command *c = h->keep.command;
    h->keep.command = NULL;
    if (c)
        or_engine_finish(h->engine, c, err, "the supervisor's store cannot keep the cache: %s", strerror(-err));
}

void or_iohv_keep_end(struct or_iohv_volumes *h)
{
    if (h->keep.link)
        or_keep_link_destroy(h->keep.link);
    h->keep.link = NULL;
    answer(h, -ECANCELED);
    pthread_mutex_lock(&kept.lock);
    if (kept.tells == h->engine) {
        kept.tells = NULL;
        kept.told = 0;
    }
    for (struct or_list *l = kept.all.next, *next; l != &kept.all; l = next) {
        next = l->next;
        if (kept_of(l)->asks == h->engine)
            kept_of(l)->asks = NULL;
        if (h->cache && kept_of(l)->cache == h->cache)
            drop(kept_of(l));
    }
    pthread_mutex_unlock(&kept.lock);
}

/* --- the store ----------------------------------------------------------------------------------- */

static void tell_unreadable(struct or_engine *e, int err)
{
    struct or_event *event = or_engine_event(e, OR_EVENT_CACHE_UNREAD, NULL, 0);
    if (!event)
        return;
    snprintf(event->reason, sizeof event->reason, "%s", or_iohv_keep_reason(err));
    or_engine_emit(e, event);
}

const char *or_iohv_keep_reason(int err)
{
    return err == -EPROTO ? "another version of the engine wrote it" : strerror(-err);
}

/* What a region holds, its domain looks at. 0 or -errno: it stays as it is. */
static int read_memory(struct kept *k)
{
    struct or_keep_snapshot *s = k->unread;
    uint64_t record = 0;
    int err = -EPROTO;
    memcpy(&record, s->bytes, s->length < sizeof record ? s->length : sizeof record);
    if (is_region(k) && record == RECORD_DOMAIN && s->fd_count == 1) {
        k->region = s->fds[0];
        err = 0;
    } else if (!is_region(k) && record == RECORD_CACHE && s->fd_count == OR_CACHE_FDS) {
        k->heritage = or_cache_heritage_open(s->fds, &err);
    }
    if (err)
        return err;
    s->fd_count = 0;
    drop_unread(k);
    return 0;
}

static struct kept *find(uint32_t id)
{
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next)
        if (kept_of(l)->id == id)
            return kept_of(l);
    return NULL;
}

/* What the store had of this id. 0 or -ENOMEM: it is there to be taken again. */
static int inherit(struct or_iohv_volumes *h, uint32_t id)
{
    if (find(id)) { /* a store that had us before returns what is ours */
        uint32_t epoch;
        free_snapshot(or_keep_link_take(h->keep.link, id, &epoch));
        return 0;
    }
    struct kept *k = add(id, NULL);
    if (!k)
        return -ENOMEM;
    k->unread = or_keep_link_take(h->keep.link, id, &k->epoch);
    int err = read_memory(k);
    if (err && !is_region(k))
        tell_unreadable(h->engine, err);
    return 0;
}

static int take_stash(struct or_iohv_volumes *h)
{
    uint32_t id;
    int err = 0;
    while (!err && or_keep_link_stash(h->keep.link, &id, 1) > 0)
        err = inherit(h, id);
    return err;
}

static int send_one(struct or_iohv_volumes *h, const struct kept *k)
{
    static struct or_keep_snapshot s; /* under the lock */
    if (k->unread)
        return or_keep_link_send(h->keep.link, k->unread);
    int fds[OR_CACHE_FDS] = {k->region};
    uint64_t record = k->region < 0 ? RECORD_CACHE : RECORD_DOMAIN;
    uint32_t count = k->region < 0 ? OR_CACHE_FDS : 1;
    if (k->cache)
        or_cache_memory(k->cache, fds);
    else if (k->heritage)
        or_cache_heritage_memory(k->heritage, fds);
    s.id = k->id;
    s.fd_count = 0;
    s.length = sizeof record;
    memcpy(s.bytes, &record, sizeof record);
    for (uint32_t n = 0; n < count; n++)
        or_keep_put_fd(&s, fds[n]);
    return or_keep_link_send(h->keep.link, &s);
}

/* Its worker looks again. */
static void ring(struct or_engine *engine)
{
    if (engine)
        eventfd_write(engine->bell.fd, 1);
}

static bool is_empty(const struct kept *k)
{
    return k->heritage ? or_cache_heritage_bytes(k->heritage) == 0 : !k->cache && k->region < 0 && !k->unread;
}

/* Tells the store what it does not know yet; 0, or -errno: -EAGAIN later. */
static int send_all(struct or_iohv_volumes *h)
{
    uint32_t epoch = or_keep_link_epoch(h->keep.link);
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next) {
        struct kept *k = kept_of(l);
        int err = k->epoch == epoch || is_empty(k) ? 0 : send_one(h, k);
        if (err)
            return err;
        k->epoch = epoch;
        ring(k->asks);
        k->asks = NULL;
    }
    return 0;
}

static void forget_empty(struct or_iohv_volumes *h)
{
    for (struct or_list *l = kept.all.next, *next; l != &kept.all; l = next) {
        struct kept *k = kept_of(l);
        next = l->next;
        if (!is_empty(k) || (k->heritage && kept.drains))
            continue;
        or_keep_link_forget(h->keep.link, k->id);
        drop(k);
    }
}

void or_iohv_keep_step(struct or_iohv_volumes *h)
{
    if (!h->keep.link || (!h->keep.command && !atomic_load_explicit(&kept.changed, memory_order_relaxed)))
        return;
    pthread_mutex_lock(&kept.lock);
    kept.told = or_keep_link_epoch(h->keep.link);
    if (!kept.told) { /* the supervisor is gone: what is asked for waits for no store */
        for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next) {
            ring(kept_of(l)->asks);
            kept_of(l)->asks = NULL;
        }
        pthread_mutex_unlock(&kept.lock);
        if (!or_keep_link_receives(h->keep.link)) /* it went while it was told */
            answer(h, -ECONNRESET);
        return;
    }
    atomic_store(&kept.changed, false);
    int err = send_all(h);
    if (!err)
        forget_empty(h);
    else
        atomic_store(&kept.changed, true);
    pthread_mutex_unlock(&kept.lock);
    if (err != -EAGAIN)
        answer(h, err);
}

/* or_keep_link_create: everything that the store had has arrived, or will not. */
static void arrived(void *arg, int err)
{
    struct or_iohv_volumes *h = arg;
    if (err) {
        answer(h, err);
        return;
    }
    pthread_mutex_lock(&kept.lock);
    err = take_stash(h);
    pthread_mutex_unlock(&kept.lock);
    if (err)
        answer(h, err);
    else
        or_iohv_keep_step(h);
}

void or_iohv_keep(struct or_iohv_volumes *h, struct or_command *c)
{
    if (h->keep.command) {
        or_engine_finish(h->engine, c, -EALREADY, "the store is being asked already");
        return;
    }
    if (!h->keep.link)
        h->keep.link = or_keep_link_create(h->engine->epoll_fd, arrived, h);
    if (!h->keep.link) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    h->keep.command = c;
    pthread_mutex_lock(&kept.lock);
    kept.tells = h->engine;
    pthread_mutex_unlock(&kept.lock);
    int err = or_keep_link_connect(h->keep.link, c->path);
    if (err < 0)
        answer(h, err);
    else if (err == 1)
        arrived(h, 0);
}

/* The worker with the link tells the store. */
static void tell(void)
{
    atomic_store(&kept.changed, true);
    ring(kept.tells);
}

/* --- volumes ------------------------------------------------------------------------------------- */

uint64_t or_iohv_keep_count(uint64_t content)
{
    uint64_t count = 0;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next)
        if (kept_of(l)->heritage)
            count += or_cache_heritage_count(kept_of(l)->heritage, content);
    pthread_mutex_unlock(&kept.lock);
    return count;
}

bool or_iohv_keep_inherit(struct or_volume *volume, uint64_t content)
{
    bool all = true;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all && all; l = l->next) {
        struct or_cache_heritage *heritage = kept_of(l)->heritage;
        if (!heritage)
            continue;
        all = or_cache_inherit(volume, heritage, content);
        atomic_store(&kept.changed, true);
    }
    pthread_mutex_unlock(&kept.lock);
    return all;
}

int or_iohv_keep_look(void)
{
    int err = 0;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all && !err; l = l->next)
        if (kept_of(l)->unread && !is_region(kept_of(l)))
            err = read_memory(kept_of(l));
    pthread_mutex_unlock(&kept.lock);
    return err;
}

struct or_cache_drain *or_iohv_keep_drain(struct or_volume *volume, const struct or_cache_volume_config *config)
{
    struct or_cache_drain *drain = or_cache_drain_create(volume, config);
    pthread_mutex_lock(&kept.lock);
    kept.drains += drain != NULL;
    pthread_mutex_unlock(&kept.lock);
    return drain;
}

int or_iohv_keep_drain_add(struct or_cache_drain *drain, uint64_t content)
{
    int err = 0;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all && !err; l = l->next)
        if (kept_of(l)->heritage)
            err = or_cache_drain_add(drain, kept_of(l)->heritage, content);
    pthread_mutex_unlock(&kept.lock);
    return err;
}

int or_iohv_keep_drain_step(struct or_cache_drain *drain)
{
    pthread_mutex_lock(&kept.lock);
    int err = or_cache_drain_step(drain);
    pthread_mutex_unlock(&kept.lock);
    return err;
}

void or_iohv_keep_drained(struct or_cache_drain *drain)
{
    or_cache_drain_destroy(drain);
    pthread_mutex_lock(&kept.lock);
    kept.drains--;
    tell();
    pthread_mutex_unlock(&kept.lock);
}

void or_iohv_keep_give_up(struct or_iohv_volumes *h, struct or_command *c)
{
    c->size = 0;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next) {
        struct kept *k = kept_of(l);
        c->size += k->heritage ? or_cache_heritage_give_up(k->heritage, c->content) : 0;
        if (!is_region(k) && !c->content)
            drop_unread(k);
    }
    tell();
    pthread_mutex_unlock(&kept.lock);
    or_engine_succeed(h->engine, c);
}

/* --- regions of domains -------------------------------------------------------------------------- */

static struct kept *region_of(uint32_t domain)
{
    return find(OF_DOMAIN | domain);
}

static int make_region(uint64_t bytes)
{
    int fd = memfd_create("outrigger-domain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

/* The domain has none, or none any more: then the store is told of this one instead. */
static struct kept *add_region(uint32_t domain, uint64_t bytes, int *err)
{
    int fd = make_region(bytes);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    struct kept *k = region_of(domain);
    if (!k)
        k = add(OF_DOMAIN | domain, NULL);
    if (!k) {
        close(fd);
        *err = -ENOMEM;
        return NULL;
    }
    k->region = fd;
    k->epoch = 0;
    return k;
}

int or_iohv_keep_region(struct or_iohv_volumes *h, uint32_t domain, uint64_t *bytes)
{
    int err = -EPROTO;
    struct stat st;
    pthread_mutex_lock(&kept.lock);
    struct kept *k = region_of(domain);
    if (!k || is_empty(k))
        k = add_region(domain, *bytes, &err);
    int fd = k && !k->unread ? k->region : err;
    if (fd >= 0 && fstat(fd, &st) == 0)
        *bytes = (uint64_t)st.st_size;
    if (fd >= 0 && kept.tells && (!k->epoch || k->epoch != kept.told)) {
        k->asks = h->engine;
        tell();
    }
    pthread_mutex_unlock(&kept.lock);
    return fd;
}

bool or_iohv_keep_has_region(uint32_t domain)
{
    pthread_mutex_lock(&kept.lock);
    const struct kept *k = region_of(domain);
    bool has = !k || !k->asks;
    pthread_mutex_unlock(&kept.lock);
    return has;
}

void or_iohv_keep_forget_region(uint32_t domain)
{
    pthread_mutex_lock(&kept.lock);
    struct kept *k = region_of(domain);
    if (k) {
        if (k->region >= 0)
            close(k->region);
        k->region = -1; /* and the store is told */
        drop_unread(k);
        k->asks = NULL;
        tell();
    }
    pthread_mutex_unlock(&kept.lock);
}
