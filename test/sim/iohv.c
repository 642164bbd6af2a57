/* The I/O hypervisor: one server or, where it has several workers, one for each, and the volumes they serve, through
 * crashes and restarts.
 *
 * What should be attached where is kept in struct disk (the desired state, which survives); what the
 * living server was told is in struct iohv and disk.attached. A new server learns of a host only when
 * all of the host's disks are free, that is, when the last operation of a dead server on them has
 * ended: that is what the flock does between processes. Until then it refuses the host's handshakes
 * and the host's requests wait. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the kernel's filters do: each worker gets the frames of its channel. */
static void server_rx(void *arg, uint32_t port, const uint8_t *frame, uint32_t length, uint64_t now)
{
    const struct iohv *iohv = arg;
    uint32_t at = OR_ETH_HEADER + offsetof(struct or_frame_header, channel);
    uint32_t worker = length > at && frame[at] < iohv->sim->plan.workers ? frame[at] : 0;
    or_server_rx(iohv->workers[worker].server, port, frame, length, now);
}
static void server_tick(void *arg, uint64_t now)
{
    const struct iohv *iohv = arg;
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        if (now >= or_server_deadline(iohv->workers[i].server))
            or_server_tick(iohv->workers[i].server, now);
}
static void server_flush(void *arg, uint64_t now)
{
    const struct iohv *iohv = arg;
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        or_server_flush(iohv->workers[i].server, now);
}
static uint64_t server_deadline(const void *arg)
{
    const struct iohv *iohv = arg;
    uint64_t deadline = UINT64_MAX;
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        if (or_server_deadline(iohv->workers[i].server) < deadline)
            deadline = or_server_deadline(iohv->workers[i].server);
    return deadline;
}
static void server_port_changed(void *arg, const struct or_port *port, uint64_t now)
{
    const struct iohv *iohv = arg;
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        or_server_port_changed(iohv->workers[i].server, port, now);
}
static uint64_t server_refused(const void *arg)
{
    const struct iohv *iohv = arg;
    uint64_t sum = 0;
    for (uint32_t k = 0; k < iohv->sim->plan.workers; k++) {
        uint64_t refused[OR_REFUSE_MAX];
        uint8_t source[6];
        or_server_refused(iohv->workers[k].server, refused, source);
        for (int i = OR_REFUSE_NONE + 1; i < OR_REFUSE_MAX; i++)
            sum += refused[i];
    }
    return sum;
}

static const struct engine_ops server_engine = {server_rx,       server_tick,         server_flush,
                                                server_deadline, server_port_changed, server_refused};

static void protocol_random(void *arg, void *out, size_t length)
{
    rng_fill(arg, out, length);
}

static struct host *host_named(struct sim *sim, const char *name)
{
    for (uint32_t i = 0; i < sim->plan.hosts; i++)
        if (strcmp(sim->hosts[i].name, name) == 0)
            return &sim->hosts[i];
    world_fail(&sim->w, "api", "the server speaks of a host '%s'", name);
}

static void on_link(void *arg, const char *name, bool up, const char *why)
{
    const struct iohv_worker *worker = arg;
    struct iohv *iohv = worker->iohv;
    (void)why;
    if (iohv->dying)
        return;
    struct host *host = host_named(iohv->sim, name);
    host->confirmed[worker->index] = up;
    if (up)
        iohv->session[worker->index][host->index] = ++iohv->sessions;
    world_note(&iohv->sim->w, up ? "server.up" : "server.down", host->index, iohv->sessions, worker->index);
}

static void on_link_changed(void *arg, const char *name, uint32_t link, uint32_t port, bool up)
{
    const struct iohv *iohv = ((struct iohv_worker *)arg)->iohv;
    (void)link;
    (void)port;
    (void)up;
    host_named(iohv->sim, name)->links_changed[1] = iohv->sim->w.now;
}

static void on_report(void *arg, const char *name, const uint8_t *document, uint32_t length)
{
    struct iohv *iohv = ((struct iohv_worker *)arg)->iohv;
    if (iohv->dying)
        return;
    if (arg != &iohv->workers[0])
        world_fail(&iohv->sim->w, "wrong report", "of %s, at another worker than 0", name);
    struct host *host = host_named(iohv->sim, name);
    char text[64] = "", expected[64];
    if (length < sizeof text)
        memcpy(text, document, length);
    const char *last = strrchr(text, ' ');
    uint32_t number = last ? (uint32_t)strtoul(last + 1, NULL, 10) : 0;
    snprintf(expected, sizeof expected, "%s report %u", host->name, number);
    uint32_t seen = iohv->report_seen[host->index];
    if (strcmp(text, expected) != 0 || number < seen || number > host->reports)
        world_fail(&iohv->sim->w, "wrong report", "'%s' from %s after report %u of %u", text, host->name, seen,
                   host->reports);
    iohv->report_seen[host->index] = number;
    world_count(&iohv->sim->w, COV_REPORTS, 1);
    world_note(&iohv->sim->w, "server.report", host->index, number, 0);
}

/* --- attachments ---------------------------------------------------------------------------------- */

static void must(struct iohv *iohv, int result, const char *what)
{
    if (result != 0)
        world_fail(&iohv->sim->w, "api", "%s: %d", what, result);
}

/* Tells a host what it has now. */
static void publish(struct iohv *iohv, uint32_t index)
{
    struct sim *sim = iohv->sim;
    static char text[160 * 1024];
    if (!iohv->server || !iohv->known[index])
        return;
    int n = sprintf(text, "%u\n", ++iohv->document_version[index]);
    for (uint32_t i = 0; i < sim->disk_count; i++) {
        const struct disk *disk = &sim->disks[i];
        if (disk->owner == index && disk->attached && !disk->draining)
            n += sprintf(text + n, "%u %u %u %u %u\n", i, disk->id, disk->generation, disk->worker, disk->placement);
    }
    for (uint32_t i = 0; i < sim->vnic_count; i++) {
        const struct vnic *nic = &sim->vnics[i];
        if (nic->owner == index && nic->attached)
            n += sprintf(text + n, "n%u %u %u 0 0\n", i, nic->id, nic->generation);
    }
    text[n++] = '.';
    uint32_t length = (uint32_t)n;
    if (rng_chance(&sim->w.rng, PPM / 16)) /* some documents need many frames */
        length += (uint32_t)rng_scale(&sim->w.rng, 1, 100 * 1024);
    for (uint32_t i = (uint32_t)n; i < length; i++)
        text[i] = (char)('a' + i % 26);
    must(iohv, or_server_set_document(iohv->server, sim->hosts[index].name, text, length), "or_server_set_document");
    engine_poke(iohv->engine);
}

static void nothing(void *arg)
{
    (void)arg;
}

static struct or_export export_of(struct iohv *iohv, struct disk *disk)
{
    struct or_export export = {
        .id = disk->id,
        .generation = disk->generation,
        .placement = disk->placement,
        .read_only = disk->read_only,
        .weight = disk->weight,
        .volume = disk->volume ? &disk->volume->or : &disk_open(disk)->or
        ,
    };
    strcpy(export.host, iohv->sim->hosts[disk->owner].name);
    return export;
}

/* To one worker; the others know that it is elsewhere. */
static void attach(struct iohv *iohv, struct disk *disk)
{
    struct or_export export = export_of(iohv, disk);
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        if (i == disk->worker)
            must(iohv, or_server_add_export(iohv->workers[i].server, &export), "or_server_add_export");
        else
            must(iohv, or_server_elsewhere(iohv->workers[i].server, &export, nothing, NULL), "or_server_elsewhere");
    disk->attached = true;
    world_note(&iohv->sim->w, "iohv.attach", disk->index, disk->owner, disk->generation);
}

/* From all workers; drained(arg) when the one that has it has ended what was under way. */
static void detach(struct iohv *iohv, const struct disk *disk, uint32_t id, void (*drained)(void *), void *arg)
{
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        if (i != disk->worker)
            must(iohv, or_server_remove_export(iohv->workers[i].server, id, nothing, NULL), "or_server_remove_export");
    must(iohv, or_server_remove_export(iohv->workers[disk->worker].server, id, drained, arg),
         "or_server_remove_export");
}

static bool locked(const struct disk *disk)
{
    return disk->orphans > 0 && world_planted != WORLD_PLANT_NO_FLOCK;
}

/* Makes a host known whose disks are all free. */
static void admit(struct iohv *iohv, struct host *host)
{
    struct sim *sim = iohv->sim;
    if (!iohv->server || iohv->known[host->index])
        return;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        if (sim->disks[i].owner == host->index && locked(&sim->disks[i])) {
            world_count(&sim->w, COV_FLOCK_WAITS, 1);
            return;
        }
    for (uint32_t i = 0; i < sim->plan.workers; i++)
        must(iohv, or_server_add_host(iohv->workers[i].server, host->name, host->psk), "or_server_add_host");
    iohv->known[host->index] = true;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        if (sim->disks[i].owner == host->index)
            attach(iohv, &sim->disks[i]);
    packets_attach(iohv, host->index);
    publish(iohv, host->index);
}

static void admit_all(struct iohv *iohv)
{
    for (uint32_t i = 0; i < iohv->sim->plan.hosts; i++)
        admit(iohv, &iohv->sim->hosts[i]);
}

void iohv_disk_free(struct iohv *iohv, struct disk *disk)
{
    if (!iohv->server)
        return;
    admit_all(iohv);
    if (iohv->known[disk->owner] && !disk->attached && !disk->draining) {
        attach(iohv, disk);
        publish(iohv, disk->owner);
    }
}

void iohv_bump(struct iohv *iohv, struct disk *disk)
{
    struct world *w = &iohv->sim->w;
    if (disk->draining || disk->shifting)
        return;
    disk->weight = (uint32_t)rng_scale(&w->rng, 1, OR_WEIGHT_MAX);
    if (disk->attached)
        must(iohv, or_server_set_weight(iohv->workers[disk->worker].server, disk->id, disk->weight),
             "or_server_set_weight");
    disk->generation++;
    world_count(w, COV_GENERATION_BUMPS, 1);
    world_note(w, "chaos.bump", disk->index, disk->generation, 0);
    if (disk->attached) {
        attach(iohv, disk);
        engine_poke(iohv->engine);
        publish(iohv, disk->owner);
    }
}

static void on_drained(void *arg)
{
    struct disk *disk = arg;
    struct sim *sim = disk->sim;
    if (sim->iohv.dying)
        return;
    for (const struct disk_op *op = disk->ops; op; op = op->next)
        if (op->io)
            world_fail(&sim->w, "drained too early", "disk %u still has an operation under way", disk->index);
    world_note(&sim->w, "iohv.drained", disk->index, disk->next_owner, 0);
    uint32_t from = disk->owner;
    disk->draining = false;
    disk->attached = false;
    disk->owner = disk->next_owner;
    disk->detached_at = disk->moved_at = sim->w.now;
    publish(&sim->iohv, from);
    if (sim->iohv.known[disk->owner] && !locked(disk)) {
        attach(&sim->iohv, disk);
        publish(&sim->iohv, disk->owner);
    }
}

/* Under the old attachment id or a new one; under a new generation always. */
void iohv_move(struct iohv *iohv, struct disk *disk, uint32_t to)
{
    struct sim *sim = iohv->sim;
    if (disk->draining || disk->shifting || to == disk->owner)
        return;
    uint32_t id = disk->id;
    world_count(&sim->w, COV_MOVES, 1);
    world_note(&sim->w, "chaos.move", disk->index, disk->owner, to);
    disk->generation++;
    disk->next_owner = to;
    if (rng_chance(&sim->w.rng, PPM / 2))
        disk->id += DISKS_MAX;
    disk->detached_at = sim->w.now;
    if (disk->attached) {
        disk->draining = true;
        detach(iohv, disk, id, on_drained, disk);
        engine_poke(iohv->engine);
    } else {
        disk->owner = to;
        disk->moved_at = sim->w.now;
        if (iohv->server && iohv->known[to] && !locked(disk)) {
            attach(iohv, disk);
            publish(iohv, to);
        }
        admit_all(iohv); /* the old owner may have waited for this disk */
    }
}

static void tell_where(void *arg)
{
    struct disk *disk = arg;
    publish(&disk->sim->iohv, disk->owner);
}

/* The former worker has ended what it had. */
static void on_left(void *arg)
{
    struct disk *disk = arg;
    struct sim *sim = disk->sim;
    struct iohv *iohv = &sim->iohv;
    if (iohv->dying)
        return;
    for (const struct disk_op *op = disk->ops; op; op = op->next)
        if (op->io)
            world_fail(&sim->w, "drained too early", "disk %u still has an operation under way", disk->index);
    disk->shifting = false;
    disk->worker = (disk->worker + 1) % sim->plan.workers;
    disk->placement++;
    struct or_export export = export_of(iohv, disk);
    must(iohv, or_server_add_export(iohv->workers[disk->worker].server, &export), "or_server_add_export");
    world_note(&sim->w, "iohv.shifted", disk->index, disk->worker, disk->placement);
    world_at(&sim->w, sim->w.now + rng_scale(&sim->w.rng, 1 * US, 1 * SEC), tell_where, disk);
    engine_poke(iohv->engine);
}

void iohv_shift(struct iohv *iohv, struct disk *disk)
{
    struct sim *sim = iohv->sim;
    if (!iohv->server || !disk->attached || disk->draining || disk->shifting || sim->plan.workers == 1)
        return;
    struct or_export export = export_of(iohv, disk);
    world_count(&sim->w, COV_SHIFTS, 1);
    world_note(&sim->w, "chaos.shift", disk->index, disk->worker, 0);
    disk->shifting = true;
    must(iohv, or_server_elsewhere(iohv->workers[disk->worker].server, &export, on_left, disk), "or_server_elsewhere");
    engine_poke(iohv->engine);
}

static struct vnic *random_nic(struct sim *sim)
{
    return &sim->vnics[rng_below(&sim->w.rng, sim->vnic_count)];
}

void iohv_bump_nic(struct iohv *iohv)
{
    struct vnic *nic = random_nic(iohv->sim);
    packets_bump(iohv, nic);
    publish(iohv, nic->owner);
}

void iohv_move_nic(struct iohv *iohv, uint32_t to)
{
    struct vnic *nic = random_nic(iohv->sim);
    uint32_t from = nic->owner;
    if (from == to)
        return;
    packets_move(iohv, nic, to);
    publish(iohv, from);
    publish(iohv, to);
}

/* --- life and death ------------------------------------------------------------------------------- */

void iohv_start(struct iohv *iohv)
{
    struct sim *sim = iohv->sim;
    iohv->engine = engine_create(&sim->net, NIC_SERVER, sim->plan.server_nics);
    struct or_server_config config = {
        .env = {protocol_random, &sim->w.protocol},
        .integrity = sim->plan.integrity,
        .phase_frames = sim->plan.phase_frames,
        .hosts_max = HOSTS_MAX,
        .exports_max = DISKS_MAX,
        .slots = sim->plan.slots,
        .buffer_bytes = sim->plan.buffer_bytes,
        .out_requests = sim->plan.out_requests,
        .out_bytes = sim->plan.out_bytes,
        .link = on_link,
        .link_changed = on_link_changed,
        .report = on_report,
    };
    for (uint32_t i = 0; i < iohv->engine->nic_count; i++)
        config.ports[i] = &iohv->engine->nics[i]->port;
    for (uint32_t i = 0; i < sim->plan.workers; i++) {
        int err = 0;
        struct iohv_worker *worker = &iohv->workers[i];
        *worker = (struct iohv_worker){.iohv = iohv, .index = i};
        config.channel = (uint8_t)i;
        config.arg = worker;
        worker->server = or_server_create(&config, &err);
        if (!worker->server)
            world_fail(&sim->w, "api", "or_server_create: %d", err);
    }
    iohv->server = iohv->workers[0].server;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        sim->disks[i].worker = (uint32_t)rng_below(&sim->w.rng, sim->plan.workers);
    engine_start(iohv->engine, &server_engine, iohv);
    iohv->engine->work = packets_from_server;
    iohv->engine->work_arg = iohv;
    world_note(&sim->w, "iohv.start", iohv->engine->nics[0]->instance, 0, 0);
    admit_all(iohv);
}

void iohv_stop(struct iohv *iohv)
{
    world_count(&iohv->sim->w, COV_BYES, 1);
    for (uint32_t i = 0; i < iohv->sim->plan.workers; i++)
        or_server_bye(iohv->workers[i].server, engine_now(iohv->engine));
    for (uint32_t i = 0; i < iohv->engine->nic_count; i++)
        or_port_tx_flush(&iohv->engine->nics[i]->port);
    iohv_crash(iohv);
}

void iohv_crash(struct iohv *iohv)
{
    struct sim *sim = iohv->sim;
    uint64_t requests = 0;
    for (uint32_t i = 0; i < sim->plan.workers; i++) {
        struct or_server_stats stats;
        or_server_stats(iohv->workers[i].server, &stats);
        world_count(&sim->w, COV_RETRANSMITS, stats.retransmits);
        world_count(&sim->w, COV_DUPLICATE_REQUESTS, stats.duplicates);
        world_count(&sim->w, COV_REKEYS, stats.rekeys);
        world_count(&sim->w, COV_QUEUED, stats.queued);
        world_count(&sim->w, COV_STALLED, stats.stalled);
        requests += stats.requests;
    }
    packets_server_stops(iohv);
    world_note(&sim->w, "iohv.stop", iohv->engine->nics[0]->instance, requests, 0);
    engine_kill(iohv->engine);
    iohv->dying = true;
    for (uint32_t i = 0; i < sim->disk_count; i++) {
        struct disk *disk = &sim->disks[i];
        if (disk->attached && !disk->draining)
            detach(iohv, disk, disk->id, nothing, NULL);
        if (disk->draining) {
            disk->owner = disk->next_owner;
            disk->moved_at = sim->w.now;
        }
        if (disk->attached)
            disk->detached_at = sim->w.now;
        disk_orphan(disk);
        disk->attached = disk->draining = disk->shifting = false;
    }
    for (uint32_t i = 0; i < sim->plan.workers; i++)
        or_server_destroy(iohv->workers[i].server);
    iohv->server = NULL;
    iohv->dying = false;
    iohv->buffers = 0;
    memset(iohv->known, 0, sizeof iohv->known);
}

void iohv_check_end(struct iohv *iohv)
{
    struct sim *sim = iohv->sim;
    struct or_host_info info;
    for (uint32_t k = 0; k < sim->plan.workers; k++)
        for (uint32_t i = 0; or_server_host(iohv->workers[k].server, i, &info); i++)
            if (info.in_flight != 0 || (k == 0 && !info.up))
                world_fail(&sim->w, "in flight at the end", "worker %u counts %llu requests of %s, which is %s", k,
                           (unsigned long long)info.in_flight, info.name, info.up ? "up" : "down");
    for (uint32_t i = 0; i < sim->disk_count; i++) {
        const struct disk *disk = &sim->disks[i];
        if (disk->ops || (disk->volume && disk->volume->or.in_flight != 0))
            world_fail(&sim->w, "in flight at the end", "disk %u", i);
    }
}
