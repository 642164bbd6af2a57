/* Memory beyond this process: the workers' caches, and the regions of domains. The supervisor's store (keep/store.h)
 * holds a duplicate of all; when the engine is killed the next one gets them. Volumes take what was acknowledged and
 * not written out before anybody uses them, and domains go on with their regions.
 *
 *     store ──(OR_CMD_KEEP at one worker)──> heritage ──(OR_CMD_VOLUME_OPEN at any worker)──> dirty blocks
 *       ^                               └──> region ──(OR_CMD_DOMAIN_OPEN at any worker)──> domain
 *       └── caches of every worker, regions; what has nothing left in it is forgotten
 *
 * What nobody asks for stays in the store; of a cache only the pages that are dirty. Workers share what is here, under
 * a lock; the link to the store belongs to the worker that had the command. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
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
    int region;             /* -1: none; one of the three */
    uint32_t epoch;         /* of the connection on which the store was told of it */
    struct or_engine *asks; /* wants to know when it was */
    struct or_list link;
};

static struct {
    pthread_mutex_t lock;
    struct or_list all;
    _Atomic bool changed;    /* a heritage has been taken from, or a region has been made or forgotten */
    struct or_engine *tells; /* whose worker has the link to the store; NULL: nobody's */
    uint32_t told;           /* the epoch of the connection when it was last used; 0: there was none */
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER, .all = {&kept.all, &kept.all}};

static struct kept *kept_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct kept, link);
}

static struct kept *add(uint32_t id, uint32_t epoch, const struct or_cache *cache, struct or_cache_heritage *heritage)
{
    struct kept *k = malloc(sizeof *k);
    if (!k)
        return NULL;
    *k = (struct kept){.id = id, .epoch = epoch, .cache = cache, .heritage = heritage, .region = -1};
    while (!k->id) {
        or_env_system.random(NULL, &k->id, sizeof k->id);
        k->id &= ~OF_DOMAIN;
    }
    or_list_append(&kept.all, &k->link);
    return k;
}

static void drop(struct kept *k)
{
    if (k->heritage)
        or_cache_heritage_close(k->heritage);
    if (k->region >= 0)
        close(k->region);
    or_list_remove(&k->link);
    free(k);
}

int or_iohv_keep_begin(struct or_iohv_volumes *h)
{
    pthread_mutex_lock(&kept.lock);
    bool ok = add(0, 0, h->cache, NULL) != NULL;
    pthread_mutex_unlock(&kept.lock);
    return ok ? 0 : -ENOMEM;
}

void or_iohv_keep_end(struct or_iohv_volumes *h)
{
    if (h->keep.link)
        or_keep_link_destroy(h->keep.link);
    h->keep.link = NULL;
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

static void tell_lost(struct or_engine *e)
{
    struct or_event *event = or_engine_event(e, OR_EVENT_CACHE_LOST, NULL, 0);
    if (event)
        or_engine_emit(e, event);
}

/* The descriptors, if it is a region. What it holds, its domain looks at. */
static bool inherit_region(struct or_keep_snapshot *s, uint32_t epoch)
{
    struct stat st;
    uint64_t record = 0;
    memcpy(&record, s->bytes, s->length < sizeof record ? s->length : sizeof record);
    if (record != RECORD_DOMAIN || s->fd_count != 1 || fstat(s->fds[0], &st) != 0)
        return false;
    struct kept *k = add(s->id, epoch, NULL, NULL);
    if (k) {
        k->region = s->fds[0];
        s->fds[0] = -1;
    }
    return true;
}

/* What the store had of this id. */
static void inherit(struct or_iohv_volumes *h, uint32_t id)
{
    uint32_t epoch;
    struct or_keep_snapshot *s = or_keep_link_take(h->keep.link, id, &epoch);
    int err = -EPROTO, fds[OR_CACHE_FDS];
    struct or_cache_heritage *heritage = NULL;
    bool region = s && (id & OF_DOMAIN) && inherit_region(s, epoch);
    if (s && !region && s->fd_count == OR_CACHE_FDS) {
        memcpy(fds, s->fds, sizeof fds);
        s->fds[0] = s->fds[1] = -1;
        heritage = or_cache_heritage_open(fds, &err);
    }
    if (s)
        or_keep_close_fds(s);
    free(s);
    if (region)
        return;
    if (heritage && or_cache_heritage_bytes(heritage) && add(id, epoch, NULL, heritage))
        return;
    if (heritage)
        or_cache_heritage_close(heritage);
    else
        tell_lost(h->engine);
    or_keep_link_forget(h->keep.link, id);
}

static bool is_known(uint32_t id)
{
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next)
        if (kept_of(l)->id == id)
            return true;
    return false;
}

static void take_stash(struct or_iohv_volumes *h)
{
    uint32_t ids[64], room = sizeof ids / sizeof *ids, n;
    do {
        n = or_keep_link_stash(h->keep.link, ids, room);
        for (uint32_t i = 0; i < n && i < room; i++) {
            if (is_known(ids[i]))
                continue;
            inherit(h, ids[i]);
        }
    } while (n > room);
}

static int send_one(struct or_iohv_volumes *h, struct kept *k)
{
    static struct or_keep_snapshot s; /* under the lock */
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

/* Tells the store what it does not know yet; 0, or -errno: -EAGAIN later. */
static int send_all(struct or_iohv_volumes *h)
{
    uint32_t epoch = or_keep_link_epoch(h->keep.link);
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next) {
        struct kept *k = kept_of(l);
        int err = k->epoch == epoch ? 0 : send_one(h, k);
        if (err)
            return err;
        k->epoch = epoch;
        ring(k->asks);
        k->asks = NULL;
    }
    return 0;
}

static bool is_empty(const struct kept *k)
{
    return k->heritage ? or_cache_heritage_bytes(k->heritage) == 0 : !k->cache && k->region < 0;
}

static void forget_empty(struct or_iohv_volumes *h)
{
    for (struct or_list *l = kept.all.next, *next; l != &kept.all; l = next) {
        struct kept *k = kept_of(l);
        next = l->next;
        if (!is_empty(k))
            continue;
        or_keep_link_forget(h->keep.link, k->id);
        drop(k);
    }
}

static void answer(struct or_iohv_volumes *h, int err)
{
    struct or_command *c = h->keep.command;
    h->keep.command = NULL;
    if (c)
        or_engine_finish(h->engine, c, err, "the supervisor's store cannot keep the cache: %s", strerror(-err));
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
    take_stash(h);
    pthread_mutex_unlock(&kept.lock);
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
        or_iohv_keep_step(h);
}

/* --- volumes ------------------------------------------------------------------------------------- */

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

/* --- regions of domains -------------------------------------------------------------------------- */

static struct kept *region_of(uint32_t domain)
{
    for (struct or_list *l = kept.all.next; l != &kept.all; l = l->next)
        if (kept_of(l)->id == (OF_DOMAIN | domain) && kept_of(l)->region >= 0)
            return kept_of(l);
    return NULL;
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

static int add_region(uint32_t domain, uint64_t bytes)
{
    int fd = make_region(bytes);
    struct kept *k = fd < 0 ? NULL : add(OF_DOMAIN | domain, 0, NULL, NULL);
    if (k)
        k->region = fd;
    else if (fd >= 0)
        close(fd);
    return k || fd < 0 ? fd : -ENOMEM;
}

/* The worker with the link tells the store. */
static void tell(void)
{
    atomic_store(&kept.changed, true);
    ring(kept.tells);
}

int or_iohv_keep_region(struct or_iohv_volumes *h, uint32_t domain, uint64_t *bytes)
{
    pthread_mutex_lock(&kept.lock);
    struct stat st;
    const struct kept *found = region_of(domain);
    int fd = found ? found->region : add_region(domain, *bytes);
    struct kept *k = region_of(domain);
    if (fd >= 0 && fstat(fd, &st) == 0)
        *bytes = (uint64_t)st.st_size;
    if (k && kept.tells && (!k->epoch || k->epoch != kept.told)) {
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
        close(k->region);
        k->region = -1; /* and the store is told */
        k->asks = NULL;
        tell();
    }
    pthread_mutex_unlock(&kept.lock);
}
