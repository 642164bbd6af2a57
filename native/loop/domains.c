/* Domains, opened, changed and closed by command.
 *
 *   OR_CMD_DOMAIN_OPEN ──> region: made, or what a dead engine left ──the store has it──> journal read ──> open
 *   open ──> halted ──nothing under way──> closed: the region stays for the next engine, unless it is forgotten */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "domains.h"
#include "nics.h"
#include "transport/env.h"

/* A commit or a fence by command. */
struct request {
    struct domain_commit commit;
    struct or_fence fence;
    struct domain *domain;
    struct or_command *command;
    struct or_list link;
};

static struct domain *domain_of(struct or_list *l)
{
    return OR_CONTAINER(l, struct domain, link);
}

static struct domain *any_domain(const struct or_iohv_volumes *h, uint32_t id)
{
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        if (domain_of(l)->id == id)
            return domain_of(l);
    return NULL;
}

struct domain *or_iohv_domain(const struct or_iohv_volumes *h, uint32_t id)
{
    struct domain *d = any_domain(h, id);
    return d && d->phase == DOMAIN_OPEN ? d : NULL;
}

/* The same for a command, which is ended with an error when there is none. */
static struct domain *domain_for(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = or_iohv_domain(h, c->id);
    if (!d)
        or_engine_finish(h->engine, c, -ENOENT, "domain %u is not open", c->id);
    return d;
}

/* --- cuts and commits -------------------------------------------------------------------------------- */

bool or_iohv_domain_dropped(const struct domain *d)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    return info.uncovered;
}

int or_iohv_domain_cut(struct domain *d, uint64_t generation, uint64_t *epoch, bool *dropped)
{
    uint64_t begun = or_clock_ns();
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    int err = or_domain_cut(d->domain, generation ? generation : info.generation, epoch);
    if (err)
        return err;
    or_domain_cover(d->domain, *epoch);
    d->status.cuts++;
    or_timing_add(&d->status.cut, or_clock_ns() - begun);
    *dropped = info.uncovered;
    d->unprotected = false;
    return 0;
}

/* What made it durable: the sync that it waited for, if there was one. That is counted once, though several commits may
 * have waited for it. */
static void time_sync(struct domain *d, const struct domain_commit *c, uint64_t now)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    if (info.syncs == c->begun_syncs || info.syncs == d->timed_syncs)
        return;
    d->timed_syncs = info.syncs;
    or_timing_add(&d->status.sync, now - c->begun_ns);
}

static void committed(struct or_commit *base, int err)
{
    struct domain_commit *c = OR_CONTAINER(base, struct domain_commit, base);
    struct domain *d = c->domain;
    uint64_t now = or_clock_ns();
    if (!err) {
        d->status.commits++;
        time_sync(d, c, now);
        if (!d->releasing.epoch)
            d->releasing = (struct domain_watch){base->epoch, now};
        if (!d->applying.epoch)
            d->applying = (struct domain_watch){base->epoch, now};
    }
    c->done(c, err);
}

void or_iohv_domain_commit(struct domain *d, struct domain_commit *c)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    c->domain = d;
    c->begun_ns = or_clock_ns();
    c->begun_syncs = info.syncs;
    c->base.done = committed;
    if (!c->base.generation)
        c->base.generation = info.generation;
    or_domain_commit(d->domain, &c->base);
}

static void own_done(struct domain_commit *c, int err)
{
    (void)err; /* it is tried again as long as it is wanted */
    c->domain->own_busy = false;
}

bool or_iohv_domain_commit_own(struct domain *d)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    uint64_t epoch = info.open - 1;
    if (d->own_busy || info.state != OR_DOMAIN_RUNNING || info.fencing || info.fenced)
        return false;
    if (or_domain_dirty(d->domain) && or_domain_cut(d->domain, info.generation, &epoch) != 0 && epoch <= info.committed)
        return false;
    or_domain_expose(d->domain);
    if (epoch <= info.committed)
        return true;
    d->own_busy = true;
    d->own = (struct domain_commit){.base = {.epoch = epoch}, .done = own_done};
    or_iohv_domain_commit(d, &d->own);
    return true;
}

/* --- what the library says ---------------------------------------------------------------------------- */

static void describe(const struct domain *d, struct or_domain_status *status)
{
    *status = d->status;
    status->id = d->id;
    memcpy(status->name, d->name, sizeof status->name);
    status->bytes_max = d->bytes_max;
    if (d->domain)
        or_domain_read_info(d->domain, &status->info);
    status->unprotected = status->info.exposed;
}

static void answer_open(struct domain *d)
{
    struct or_command *c = d->doing;
    d->doing = NULL;
    c->domains = malloc(sizeof *c->domains);
    if (!c->domains) {
        or_engine_finish(d->volumes->engine, c, -ENOMEM, "out of memory");
        return;
    }
    describe(d, c->domains);
    c->count = 1;
    or_engine_succeed(d->volumes->engine, c);
}

/* or_domain_config.opened: what follows may destroy it, so not here. */
static void opened(void *arg, int err)
{
    struct domain *d = arg;
    d->error = err;
    if (d->phase == DOMAIN_OPENING)
        d->phase = err ? DOMAIN_FAILED : DOMAIN_OPEN;
}

static bool packet(void *arg, uint32_t nic, const uint8_t *bytes, uint32_t length)
{
    struct domain *d = arg;
    struct or_iohv_nics *nics = d->volumes->nics;
    enum or_nic_released released = nics ? or_iohv_nics_release(nics, nic, bytes, length) : OR_NIC_UNKNOWN;
    d->status.packets_lost += released == OR_NIC_UNKNOWN;
    d->volumes->domains_work += released == OR_NIC_NOT_NOW;
    return released != OR_NIC_NOT_NOW;
}

static void overflow(void *arg)
{
    struct domain *d = arg;
    d->full = true;
    d->status.overflows++;
}

static void trouble(void *arg, enum or_domain_trouble what)
{
    or_domain_tell(arg, (enum or_domain_event)(OR_DOMAIN_EVENT_JOURNAL + what));
}

/* --- opening ------------------------------------------------------------------------------------------ */

static const char *reason(int err)
{
    switch (err) {
    case -EBADMSG:
        return "the journal is damaged, or is not this domain's, or lacks what was committed";
    case -EFBIG:
        return "the journal is too small for the bytes that it may hold, or has an epoch that is larger";
    case -EINVAL:
        return "the bytes that it may hold are too few";
    case -EPROTO:
        return "another version of the engine wrote what it holds: install that again, or give it up with `outrigger "
               "protect domain rm --force`";
    default:
        return strerror(-err);
    }
}

/* Its region stays. */
static void free_domain(struct domain *d)
{
    if (d->volumes->nics)
        or_iohv_nics_leave_domain(d->volumes->nics, d);
    or_domain_socket_leave(d);
    if (d->domain && d->forget)
        or_domain_remove(d->domain);
    else if (d->domain)
        or_domain_destroy(d->domain);
    else if (d->journal)
        d->journal->ops->close(d->journal);
    or_domain_socket_close(d); /* after it: the domain has commits of its connections no more */
    if (d->hold)
        or_hold_destroy(d->hold);
    if (d->memory)
        munmap(d->memory, d->bytes);
    while (!or_list_empty(&d->requests)) {
        struct request *r = OR_CONTAINER(d->requests.next, struct request, link);
        or_list_remove(&r->link);
        or_engine_finish(d->volumes->engine, r->command, -ECANCELED, "the engine ends");
        free(r);
    }
    if (d->forget)
        or_iohv_keep_forget_region(d->id);
    or_list_remove(&d->link);
    free(d);
}

static void fail(struct domain *d, int err)
{
    struct or_command *c = d->doing;
    or_engine_finish(d->volumes->engine, c, err, "cannot open domain %s: %s", c->name, reason(err));
    free_domain(d);
}

static int map_region(struct domain *d)
{
    uint64_t bytes = or_hold_bytes((uint32_t)(d->bytes_max / OR_HOLD_PAGE)), seed;
    int fd = or_iohv_keep_region(d->volumes, d->id, &bytes), err;
    if (fd < 0)
        return fd;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    d->memory = memory;
    d->bytes = bytes;
    or_env_system.random(NULL, &seed, sizeof seed);
    d->hold = or_hold_create(memory, bytes, seed, &err);
    return d->hold ? 0 : err;
}

static int prepare(struct domain *d, struct or_command *c)
{
    int err = -EINVAL;
    if (c->size / OR_HOLD_PAGE > OR_HOLD_SLOTS_MAX || c->size < OR_DOMAIN_BYTES_MIN)
        return err;
    d->journal = or_volume_file(d->volumes->uring, c->fd, false, &err);
    if (!d->journal)
        return err;
    c->fd = -1; /* the volume's from here on */
    err = map_region(d);
    return err || !c->path[0] ? err : or_domain_socket_open(d, c->path);
}

static void domain_open(struct or_iohv_volumes *h, struct or_command *c)
{
    if (any_domain(h, c->id)) {
        or_engine_finish(h->engine, c, -EEXIST, "domain %s is open already", c->name);
        return;
    }
    struct domain *d = calloc(1, sizeof *d);
    if (!d) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    *d = (struct domain){.volumes = h,
                         .id = c->id,
                         .doing = c,
                         .bytes_max = c->size / OR_HOLD_PAGE * OR_HOLD_PAGE,
                         .journal_id = c->journal_id,
                         .overflow = c->overflow,
                         .timeout_ns = c->timeout_ms * 1000000ull};
    memcpy(d->name, c->name, sizeof d->name);
    or_list_init(&d->requests);
    or_list_append(&h->domains, &d->link);
    int err = prepare(d, c);
    if (err)
        fail(d, err);
}

static void read_journal(struct domain *d)
{
    int err;
    struct or_domain_config config = {.id = d->id,
                                      .bytes_max = d->bytes_max,
                                      .journal = d->journal,
                                      .journal_id = d->journal_id,
                                      .arg = d,
                                      .opened = opened,
                                      .packet = packet,
                                      .overflow = overflow,
                                      .trouble = trouble};
    d->phase = DOMAIN_OPENING;
    d->domain = or_domain_open(d->hold, &config, &err);
    if (!d->domain)
        fail(d, err);
}

/* --- closing ------------------------------------------------------------------------------------------ */

static bool has_exports(const struct domain *d)
{
    for (const struct or_list *l = d->volumes->volumes.next; l != &d->volumes->volumes; l = l->next) {
        const struct volume *v = OR_CONTAINER(l, const struct volume, link);
        if (v->domain == d && (v->exports || v->jobs || v->busy))
            return true;
    }
    return false;
}

/* Nothing can be done with its volumes while it closes, and them with it. */
static void set_volumes_busy(const struct domain *d, bool busy)
{
    for (struct or_list *l = d->volumes->volumes.next; l != &d->volumes->volumes; l = l->next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        if (v->domain == d)
            v->busy = busy;
    }
}

static void domain_close(struct or_iohv_volumes *h, struct or_command *c)
{
    if (c->forget && !any_domain(h, c->id)) { /* it may have a region all the same */
        or_iohv_keep_forget_region(c->id);
        or_engine_succeed(h->engine, c);
        return;
    }
    struct domain *d = domain_for(h, c);
    if (!d)
        return;
    if (has_exports(d) || !or_list_empty(&d->requests)) {
        or_engine_finish(h->engine, c, -EBUSY, "domain %s is in use: a volume of it is exported, or a commit under way",
                         d->name);
        return;
    }
    d->phase = DOMAIN_CLOSING;
    d->doing = c;
    d->forget = c->forget;
    set_volumes_busy(d, true);
    or_domain_halt(d->domain);
}

/* Its volumes are closed with it, which takes as long as their cache takes to write out. */
static void end_closing(struct domain *d)
{
    struct or_iohv_volumes *h = d->volumes;
    struct or_command *c = d->doing;
    for (struct or_list *l = h->volumes.next, *next; l != &h->volumes; l = next) {
        struct volume *v = OR_CONTAINER(l, struct volume, link);
        next = l->next;
        if (v->domain != d)
            continue;
        or_iohv_volume_leave(v);
        or_iohv_volume_close(v);
    }
    free_domain(d);
    or_engine_succeed(h->engine, c);
}

/* --- commands ----------------------------------------------------------------------------------------- */

static void set_policy(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = domain_for(h, c);
    if (!d)
        return;
    if (c->has_overflow)
        d->overflow = c->overflow;
    if (c->has_timeout)
        d->timeout_ns = c->timeout_ms * 1000000ull;
    or_engine_succeed(h->engine, c);
}

static const char *refusal(int err)
{
    switch (err) {
    case -ESTALE:
        return "that is not its generation";
    case -EINVAL:
        return "that epoch is not closed";
    case -EAGAIN:
        return "too many epochs are not applied yet, or a takeover is under way";
    case -EBUSY:
        return "its generation runs, or it is not ready for it";
    case -EIO:
        return "it cannot run: it waits for a reset, or its journal failed";
    default:
        return strerror(-err);
    }
}

static void end(struct domain *d, struct or_command *c, const char *what, int err)
{
    or_engine_finish(d->volumes->engine, c, err, "cannot %s domain %s: %s", what, d->name, refusal(err));
}

static void cut(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = domain_for(h, c);
    if (d)
        end(d, c, "cut", or_iohv_domain_cut(d, c->domain_generation, &c->epoch, &c->unprotected));
}

static struct request *new_request(struct domain *d, struct or_command *c)
{
    struct request *r = calloc(1, sizeof *r);
    if (!r) {
        or_engine_finish(d->volumes->engine, c, -ENOMEM, "out of memory");
        return NULL;
    }
    r->domain = d;
    r->command = c;
    or_list_append(&d->requests, &r->link);
    return r;
}

static void end_request(struct request *r, const char *what, int err)
{
    or_list_remove(&r->link);
    end(r->domain, r->command, what, err);
    free(r);
}

static void commit_done(struct domain_commit *commit, int err)
{
    struct request *r = OR_CONTAINER(commit, struct request, commit);
    r->command->unprotected = or_iohv_domain_dropped(commit->domain);
    end_request(r, "commit", err);
}

static void commit(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = domain_for(h, c);
    struct request *r = d ? new_request(d, c) : NULL;
    if (!r)
        return;
    r->commit =
        (struct domain_commit){.base = {.epoch = c->epoch, .generation = c->domain_generation}, .done = commit_done};
    or_iohv_domain_commit(d, &r->commit);
}

static void fence_done(struct or_fence *fence, int err, uint64_t epoch)
{
    struct request *r = OR_CONTAINER(fence, struct request, fence);
    r->command->epoch = epoch;
    end_request(r, "fence", err);
}

static void fence(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = domain_for(h, c);
    struct request *r = d ? new_request(d, c) : NULL;
    if (!r)
        return;
    r->fence = (struct or_fence){.generation = c->domain_generation, .done = fence_done};
    bool reset = c->type == OR_CMD_DOMAIN_RESET;
    int err = reset ? or_domain_reset(d->domain, &r->fence) : or_domain_fence(d->domain, &r->fence);
    if (err)
        end_request(r, reset ? "reset" : "fence", err);
}

static void abort_epochs(struct or_iohv_volumes *h, struct or_command *c)
{
    struct domain *d = domain_for(h, c);
    if (d)
        end(d, c, "abort what is not committed of", or_domain_abort(d->domain));
}

static void list(struct or_iohv_volumes *h, struct or_command *c)
{
    uint32_t n = 0;
    for (const struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        n++;
    c->domains = calloc(n ? n : 1, sizeof *c->domains);
    if (!c->domains) {
        or_engine_finish(h->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        describe(domain_of(l), &c->domains[c->count++]);
    or_engine_succeed(h->engine, c);
}

bool or_iohv_domains_command(struct or_iohv_volumes *h, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_DOMAIN_OPEN:
        domain_open(h, c);
        return true;
    case OR_CMD_DOMAIN_SET:
        set_policy(h, c);
        return true;
    case OR_CMD_DOMAIN_CLOSE:
        domain_close(h, c);
        return true;
    case OR_CMD_DOMAIN_CUT:
        cut(h, c);
        return true;
    case OR_CMD_DOMAIN_COMMIT:
        commit(h, c);
        return true;
    case OR_CMD_DOMAIN_FENCE:
    case OR_CMD_DOMAIN_RESET:
        fence(h, c);
        return true;
    case OR_CMD_DOMAIN_ABORT:
        abort_epochs(h, c);
        return true;
    case OR_CMD_DOMAIN_LIST:
        list(h, c);
        return true;
    case OR_CMD_VOLUME_PROTECT:
        or_iohv_volume_protect(h, c);
        return true;
    case OR_CMD_JOURNAL_CREATE:
        or_engine_succeed(h->engine, c);
        return true;
    default:
        return false;
    }
}

/* --- the step ----------------------------------------------------------------------------------------- */

/* A domain that has just been read. */
static void begin(struct domain *d)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    d->told_open = info.open;
    d->told_committed = d->committed_seen = info.committed;
    if (info.state == OR_DOMAIN_REWIND)
        or_domain_tell(d, OR_DOMAIN_EVENT_REWIND);
    answer_open(d);
}

/* Returns when it wants the next one at the latest. */
static uint64_t step(struct domain *d, uint64_t now)
{
    if (d->phase == DOMAIN_KEEPING && d->doing && or_iohv_keep_has_region(d->id))
        read_journal(d);
    else if (d->phase == DOMAIN_FAILED && or_domain_idle(d->domain))
        fail(d, d->error);
    else if (d->phase == DOMAIN_OPEN && d->doing)
        begin(d);
    else if (d->phase == DOMAIN_CLOSING && or_domain_idle(d->domain))
        end_closing(d);
    else if (d->phase == DOMAIN_OPEN)
        return or_domain_policy_step(d, now);
    return UINT64_MAX;
}

void or_iohv_domains_poll(struct or_iohv_volumes *h, uint64_t now)
{
    h->domains_due = UINT64_MAX;
    h->domains_work = 0;
    if (or_list_empty(&h->domains))
        return;
    if (h->sockets_open && now >= h->sockets_look)
        or_domain_sockets_look(h, now);
    for (struct or_list *l = h->domains.next, *next; l != &h->domains; l = next) {
        struct domain *d = domain_of(l);
        next = l->next;
        if (!d->hold)
            continue;
        uint64_t hold = or_hold_poll(d->hold, now), policy = step(d, now);
        uint64_t due = hold < policy ? hold : policy;
        h->domains_due = due < h->domains_due ? due : h->domains_due;
    }
}

/* --- the end ------------------------------------------------------------------------------------------ */

void or_iohv_domains_halt(struct or_iohv_volumes *h)
{
    or_iohv_protects_halt(h);
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        if (domain_of(l)->domain)
            or_domain_halt(domain_of(l)->domain);
}

bool or_iohv_domains_idle(const struct or_iohv_volumes *h)
{
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        if (domain_of(l)->domain && !or_domain_idle(domain_of(l)->domain))
            return false;
    return true;
}

void or_iohv_domains_end(struct or_iohv_volumes *h)
{
    for (struct or_list *l = h->domains.next; l != &h->domains; l = l->next)
        if (domain_of(l)->phase == DOMAIN_CLOSING)
            set_volumes_busy(domain_of(l), false); /* that ends here: they are closed like all others */
    for (struct or_list *l = h->volumes.next; l != &h->volumes; l = l->next)
        if (OR_CONTAINER(l, struct volume, link)->domain)
            or_iohv_volume_leave(OR_CONTAINER(l, struct volume, link));
    while (!or_list_empty(&h->domains)) {
        struct domain *d = domain_of(h->domains.next);
        if (d->doing)
            or_engine_finish(h->engine, d->doing, -ECANCELED, "the engine ends");
        free_domain(d);
    }
    or_domain_sockets_end(h);
}
