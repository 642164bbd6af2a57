/* NICs at the I/O hypervisor: opening, closing and changing them. nic_path.c has what they carry. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "domains.h"
#include "nic_internal.h"

#define QUEUE_BYTES (512u << 10) /* of what a guest has sent */

/* --- opening and closing ------------------------------------------------------------------------ */

struct or_nic *or_nic_of(const struct or_iohv_nics *nics, uint32_t id)
{
    for (struct or_list *l = nics->list.next; l != &nics->list; l = l->next) {
        struct or_nic *n = OR_CONTAINER(l, struct or_nic, link);
        if (n->info.id == id)
            return n;
    }
    return NULL;
}

/* The hub of this name, made when there is none. NULL: out of memory. */
static struct hub *hub_named(struct or_iohv_nics *nics, const char *name)
{
    for (struct or_list *l = nics->hubs.next; l != &nics->hubs; l = l->next) {
        struct hub *h = OR_CONTAINER(l, struct hub, link);
        if (strcmp(h->name, name) == 0)
            return h;
    }
    struct hub *h = calloc(1, sizeof *h);
    if (h)
        h->hub = or_hub_create();
    if (!h || !h->hub) {
        free(h);
        return NULL;
    }
    memcpy(h->name, name, strlen(name) + 1);
    or_list_append(&nics->hubs, &h->link);
    return h;
}

static void leave_hub(struct hub *h)
{
    if (h->ports > 0)
        return;
    or_hub_destroy(h->hub);
    or_list_remove(&h->link);
    free(h);
}

static int plug_into_hub(struct or_nic *n, const char *name)
{
    struct hub *h = strlen(name) <= OR_NAME_MAX ? hub_named(n->nics, name) : NULL;
    if (!h)
        return -ENOMEM;
    n->uplink = or_hub_join(h->hub, n->config.guard.mac);
    if (!n->uplink) {
        leave_hub(h);
        return -ENOMEM;
    }
    n->hub = h;
    h->ports++;
    n->uplink->ready = or_nic_activate;
    n->uplink->arg = n;
    return 0;
}

static int plug_into_tap(struct or_nic *n, int *fd)
{
    int err;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = n};
    n->uplink = or_uplink_tap(*fd, &err);
    if (!n->uplink)
        return err;
    *fd = -1; /* the uplink's from here on */
    return epoll_ctl(n->nics->taps.fd, EPOLL_CTL_ADD, n->uplink->fd, &event) == 0 ? 0 : -errno;
}

/* Frees a NIC that is in no list and unknown to the sessions. */
static void free_nic(struct or_nic *n)
{
    or_nic_quiet(n);
    if (n->uplink && n->uplink->fd >= 0)
        epoll_ctl(n->nics->taps.fd, EPOLL_CTL_DEL, n->uplink->fd, NULL);
    if (n->uplink)
        n->uplink->ops->close(n->uplink);
    if (n->hub) {
        n->hub->ports--;
        leave_hub(n->hub);
    }
    or_packet_queue_close(&n->sent);
    free(n->filter);
    free(n);
}

static void close_nic(struct or_nic *n)
{
    n->nics->wire.remove(n->nics->wire.arg, n->info.id);
    or_list_remove(&n->link);
    n->nics->count--;
    free_nic(n);
}

/* What waits for room in its domain was sent in the generation that ends, and is dropped like all that comes of it. */
static void drop_sent(struct or_nic *n)
{
    uint8_t *packet;
    for (; or_packet_queue_front(&n->sent, &packet) > 0; n->fenced++)
        or_packet_queue_pop(&n->sent);
    if (!or_list_empty(&n->busy))
        or_list_remove(&n->busy);
}

/* 0, or -ENOENT: there is no such domain. */
static int set_domain(struct or_nic *n, uint32_t id, uint64_t generation)
{
    struct domain *d = id && n->nics->volumes ? or_iohv_domain(n->nics->volumes, id) : NULL;
    if (id && !d)
        return -ENOENT;
    if (id && n->protect.id && (id != n->protect.id || generation != n->protect.generation))
        drop_sent(n);
    n->protect.id = n->info.domain = id;
    n->protect.generation = generation;
    n->protect.domain = d;
    return 0;
}

void or_iohv_nics_leave_domain(struct or_iohv_nics *nics, const struct domain *domain)
{
    for (struct or_list *l = nics->list.next; l != &nics->list; l = l->next) {
        struct or_nic *n = OR_CONTAINER(l, struct or_nic, link);
        if (n->protect.domain == domain)
            n->protect.domain = NULL;
    }
}

void or_iohv_nics_set_volumes(struct or_iohv_nics *nics, struct or_iohv_volumes *volumes)
{
    nics->volumes = volumes;
}

static int open_nic(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = calloc(1, sizeof *n);
    if (!n)
        return -ENOMEM;
    n->nics = nics;
    n->config = c->nic;
    n->info = (struct or_nic_info){.id = c->id, .generation = c->generation, .kind = c->nic.kind};
    memcpy(n->info.name, c->name, sizeof n->info.name);
    memcpy(n->info.host, c->host, sizeof n->info.host);
    or_list_init(&n->link);
    or_list_init(&n->busy);
    or_list_init(&n->active);
    or_bucket_set(&n->bucket, &c->nic.limit);
    int err = or_packet_queue_open(&n->sent, QUEUE_BYTES);
    if (!err)
        err = set_domain(n, c->domain, c->domain_generation);
    if (!err)
        err = c->nic.kind == OR_NIC_HUB ? plug_into_hub(n, c->path) : plug_into_tap(n, &c->fd);
    if (!err)
        err = nics->wire.add(nics->wire.arg, c->id, c->generation, c->host, n);
    if (err) {
        free_nic(n);
        return err;
    }
    if (n->uplink->ops->link)
        n->uplink->ops->link(n->uplink, n->config.link_up);
    or_list_append(&nics->list, &n->link);
    nics->count++;
    return 0;
}

/* --- commands ----------------------------------------------------------------------------------- */

static void nic_open(struct or_iohv_nics *nics, struct or_command *c)
{
    if (or_nic_of(nics, c->id)) {
        or_engine_finish(nics->engine, c, -EEXIST, "NIC %s is open already as attachment %u", c->name, c->id);
        return;
    }
    if (c->domain && !(nics->volumes && or_iohv_domain(nics->volumes, c->domain))) {
        or_engine_finish(nics->engine, c, -ENOENT, "cannot open NIC %s: domain %u is not open here", c->name,
                         c->domain);
        return;
    }
    int err = open_nic(nics, c);
    or_engine_finish(nics->engine, c, err, "cannot open NIC %s for host %s as attachment %u: %s", c->name, c->host,
                     c->id, strerror(-err));
}

static void change(struct or_nic *n, struct or_nic_change *to)
{
    const struct or_uplink_ops *ops = n->uplink->ops;
    if (to->has_limit) {
        or_bucket_set(&n->bucket, &to->limit);
        n->wait_until = 0;
    }
    if (to->has_guard) {
        memcpy(to->guard.mac, n->config.guard.mac, sizeof to->guard.mac);
        n->config.guard = to->guard;
    }
    if (to->has_features) {
        n->features = to->features;
        if (ops->offload)
            ops->offload(n->uplink, to->features);
    }
    if (to->has_filter) {
        free(n->filter);
        n->filter = to->filter;
        to->filter = NULL;
    }
    if (to->has_link && to->link_up != n->config.link_up) {
        n->config.link_up = to->link_up;
        if (ops->link)
            ops->link(n->uplink, to->link_up);
    }
}

static void nic_set(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = or_nic_of(nics, c->id);
    if (n && c->has_domain && set_domain(n, c->domain, c->domain_generation) != 0) {
        or_engine_finish(nics->engine, c, -ENOENT, "domain %u of attachment %u is not open here", c->domain, c->id);
        return;
    }
    if (n)
        change(n, &c->nic_change);
    or_engine_finish(nics->engine, c, n ? 0 : -ENOENT, "no NIC is open as attachment %u", c->id);
}

static void nic_close(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = or_nic_of(nics, c->id);
    if (n)
        close_nic(n);
    or_engine_finish(nics->engine, c, n ? 0 : -ENOENT, "no NIC is open as attachment %u", c->id);
}

static void tell(const struct or_nic *n, struct or_nic_info *info)
{
    const struct or_nic_wire *wire = &n->nics->wire;
    *info = n->info;
    info->link_up = n->config.link_up;
    info->gone = n->uplink->ops->gone && n->uplink->ops->gone(n->uplink);
    info->stats.rx.dropped[OR_NIC_DROP_QUEUE_FULL] = n->uplink->queue_full;
    if (wire->fenced)
        info->stats.tx.dropped[OR_NIC_DROP_FENCED] = wire->fenced(wire->arg, n->info.id);
    info->stats.tx.dropped[OR_NIC_DROP_FENCED] += n->fenced;
}

static void list_nics(struct or_iohv_nics *nics, struct or_command *c)
{
    c->nics = calloc(nics->count ? nics->count : 1, sizeof *c->nics);
    if (!c->nics) {
        or_engine_finish(nics->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = nics->list.next; l != &nics->list; l = l->next)
        tell(OR_CONTAINER(l, struct or_nic, link), &c->nics[c->count++]);
    or_engine_succeed(nics->engine, c);
}

bool or_iohv_nics_command(struct or_iohv_nics *nics, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_NIC_OPEN:
        nic_open(nics, c);
        return true;
    case OR_CMD_NIC_SET:
        nic_set(nics, c);
        return true;
    case OR_CMD_NIC_CLOSE:
        nic_close(nics, c);
        return true;
    case OR_CMD_NICS:
        list_nics(nics, c);
        return true;
    default:
        return false;
    }
}

/* --- life --------------------------------------------------------------------------------------- */

struct or_iohv_nics *or_iohv_nics_create(struct or_engine *engine, const struct or_nic_wire *wire, int *err)
{
    struct or_iohv_nics *nics = calloc(1, sizeof *nics);
    *err = -ENOMEM;
    if (!nics)
        return NULL;
    nics->engine = engine;
    nics->wire = *wire;
    or_list_init(&nics->list);
    or_list_init(&nics->busy);
    or_list_init(&nics->blocked);
    or_list_init(&nics->active);
    or_list_init(&nics->hubs);
    nics->taps = (struct or_fd_source){.ready = or_nics_taps_ready, .fd = epoll_create1(EPOLL_CLOEXEC)};
    *err = nics->taps.fd < 0 ? -errno : or_fd_source_add(engine->epoll_fd, &nics->taps, EPOLLIN);
    if (*err == 0)
        return nics;
    if (nics->taps.fd >= 0)
        close(nics->taps.fd);
    free(nics);
    return NULL;
}

void or_iohv_nics_destroy(struct or_iohv_nics *nics)
{
    while (!or_list_empty(&nics->list))
        close_nic(OR_CONTAINER(nics->list.next, struct or_nic, link));
    or_fd_source_remove(nics->engine->epoll_fd, &nics->taps);
    close(nics->taps.fd);
    free(nics);
}
