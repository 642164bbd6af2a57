/* The caches' memory beyond this process. The supervisor's store (keep/store.h) holds a duplicate of every worker's;
 * when the engine is killed the next one gets it, and its volumes take what was acknowledged and not written out before
 * anybody uses them.
 *
 *     store ──(OR_CMD_KEEP at one worker)──> heritage ──(OR_CMD_VOLUME_OPEN at any worker)──> dirty blocks of the
 * volume ^                                        └── nothing left in it: forgotten └── the memory of every worker of
 * this process
 *
 * What no volume asks for stays in the store, with only the pages that are dirty. Workers share what is here, under a
 * lock; the link to the store belongs to the worker that had the command. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/kept.h"
#include "keep/link.h"
#include "transport/env.h"
#include "volumes_internal.h"

#define RECORD UINT64_C(0x6568636163726f31) /* in a snapshot, of which there are no others */

/* The memory of a worker of this process, or of one that is dead. */
struct kept {
    uint32_t id; /* in the store */
    const struct or_cache *cache;
    struct or_cache_heritage *heritage; /* one of the two */
    uint32_t epoch;                     /* of the connection on which the store was told of it */
    struct or_list link;
};

static struct {
    pthread_mutex_t lock;
    struct or_list all;
    _Atomic bool changed; /* a heritage has been taken from */
} kept = {PTHREAD_MUTEX_INITIALIZER, {&kept.all, &kept.all}, false};

static struct kept *kept_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct kept, link);
}

static struct kept *add(uint32_t id, uint32_t epoch, const struct or_cache *cache, struct or_cache_heritage *heritage)
{
    struct kept *k = malloc(sizeof *k);
    if (!k)
        return NULL;
    *k = (struct kept){.id = id, .epoch = epoch, .cache = cache, .heritage = heritage};
    while (!k->id)
        or_env_system.random(NULL, &k->id, sizeof k->id);
    or_list_append(&kept.all, &k->link);
    return k;
}

static void drop(struct kept *k)
{
    if (k->heritage)
        or_cache_heritage_close(k->heritage);
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
    for (struct or_list *l = kept.all.next, *next; l != &kept.all; l = next) {
        next = l->next;
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

/* What the store had of this id. */
static void inherit(struct or_iohv_volumes *h, uint32_t id)
{
    uint32_t epoch;
    struct or_keep_snapshot *s = or_keep_link_take(h->keep.link, id, &epoch);
    int err = -EPROTO, fds[OR_CACHE_FDS];
    struct or_cache_heritage *heritage = NULL;
    if (s && s->fd_count == OR_CACHE_FDS) {
        memcpy(fds, s->fds, sizeof fds);
        s->fds[0] = s->fds[1] = -1;
        heritage = or_cache_heritage_open(fds, &err);
    }
    if (s)
        or_keep_close_fds(s);
    free(s);
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
    int fds[OR_CACHE_FDS];
    uint64_t record = RECORD;
    if (k->cache)
        or_cache_memory(k->cache, fds);
    else
        or_cache_heritage_memory(k->heritage, fds);
    s.id = k->id;
    s.fd_count = 0;
    s.length = sizeof record;
    memcpy(s.bytes, &record, sizeof record);
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        or_keep_put_fd(&s, fds[n]);
    return or_keep_link_send(h->keep.link, &s);
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
    }
    return 0;
}

static void forget_empty(struct or_iohv_volumes *h)
{
    for (struct or_list *l = kept.all.next, *next; l != &kept.all; l = next) {
        struct kept *k = kept_of(l);
        next = l->next;
        if (!k->heritage || or_cache_heritage_bytes(k->heritage))
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
    if (!or_keep_link_epoch(h->keep.link))
        return;
    pthread_mutex_lock(&kept.lock);
    atomic_store(&kept.changed, false);
    int err = send_all(h);
    forget_empty(h);
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
    int err = or_keep_link_connect(h->keep.link, c->path);
    if (err < 0)
        answer(h, err);
    else if (err == 1)
        or_iohv_keep_step(h);
}

/* --- volumes ------------------------------------------------------------------------------------- */

bool or_iohv_keep_inherit(struct or_volume *volume, uint64_t own, uint64_t below)
{
    bool all = true;
    pthread_mutex_lock(&kept.lock);
    for (struct or_list *l = kept.all.next; l != &kept.all && all; l = l->next) {
        struct or_cache_heritage *heritage = kept_of(l)->heritage;
        if (!heritage)
            continue;
        all =
            (!own || or_cache_inherit(volume, heritage, own)) && (!below || or_cache_inherit(volume, heritage, below));
        atomic_store(&kept.changed, true);
    }
    pthread_mutex_unlock(&kept.lock);
    return all;
}
