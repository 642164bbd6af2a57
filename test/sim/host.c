/* A VM host: a dispatcher, the guests' requests, and what becomes of both when the host or its engine
 * dies. Two kinds of death:
 *  - the whole host: the guests are gone, their unanswered requests have an unknown outcome;
 *  - only the engine: the front-end's queues survive (as QEMU's do, in an inflight region), and the
 *    next life gets the unanswered requests again, in their old order, before any new ones.
 *
 * Which disks the host has, it learns from the I/O hypervisor's document, as a real one does. */
#include "sim.h"
#include "stamp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void protocol_random(void *arg, void *out, size_t length)
{
    rng_fill(arg, out, length);
}

static uint64_t sum_of(const uint64_t refused[OR_REFUSE_MAX])
{
    uint64_t sum = 0;
    for (int i = OR_REFUSE_NONE + 1; i < OR_REFUSE_MAX; i++)
        sum += refused[i];
    return sum;
}
static void dispatch_rx(void *dispatch, uint32_t port, const uint8_t *frame, uint32_t length, uint64_t now)
{
    (void)port;
    or_dispatch_rx(dispatch, frame, length, now);
}
static void dispatch_tick(void *dispatch, uint64_t now)
{
    or_dispatch_tick(dispatch, now);
}
static void dispatch_flush(void *dispatch, uint64_t now)
{
    or_dispatch_flush(dispatch, now);
}
static uint64_t dispatch_deadline(const void *dispatch)
{
    return or_dispatch_deadline(dispatch);
}
static void dispatch_port_changed(void *dispatch, const struct or_port *port, uint64_t now)
{
    or_dispatch_port_changed(dispatch, port, now);
}
static uint64_t dispatch_refused(const void *dispatch)
{
    uint64_t refused[OR_REFUSE_MAX];
    uint8_t source[6];
    or_dispatch_refused(dispatch, refused, source);
    return sum_of(refused);
}

static const struct engine_ops dispatch_engine = {dispatch_rx,       dispatch_tick,         dispatch_flush,
                                                  dispatch_deadline, dispatch_port_changed, dispatch_refused};

/* --- routes --------------------------------------------------------------------------------------- */

struct or_route *host_route(struct host *host, uint32_t id)
{
    for (struct route *r = host->routes; r; r = r->next)
        if (r->or.device == id)
            return &r->or ;
    struct route *r = world_alloc(&host->sim->w, sizeof *r);
    int err = or_route_open(host->dispatch, &r->or, id, (struct or_placement){0, 0});
    if (err)
        world_fail(&host->sim->w, "api", "or_route_open: %d", err);
    r->next = host->routes;
    host->routes = r;
    return &r->or ;
}

bool host_up(const struct host *host)
{
    struct or_dispatch_stats stats;
    or_dispatch_stats(host->dispatch, &stats);
    for (uint32_t i = 0; i < OR_CHANNELS_MAX; i++)
        if (stats.workers[i].made && !stats.workers[i].up)
            return false;
    return true;
}

static uint32_t in_flight(const struct host *host)
{
    struct or_dispatch_stats stats;
    or_dispatch_stats(host->dispatch, &stats);
    uint32_t n = stats.held;
    for (uint32_t i = 0; i < OR_CHANNELS_MAX; i++)
        n += stats.workers[i].in_flight;
    return n;
}

/* --- what the session calls ----------------------------------------------------------------------- */

static void linger(struct host *host)
{
    for (uint32_t i = 0; i < host->engine->nic_count; i++)
        net_linger(&host->sim->net, host->engine->nics[i]->index);
}

static void on_link_changed(void *arg, uint32_t link, bool up)
{
    struct host *host = arg;
    host->links_changed[0] = host->sim->w.now;
    world_count(&host->sim->w, up ? COV_LINKS_UP : COV_LINKS_DOWN, 1);
    world_note(&host->sim->w, up ? "client.link-up" : "client.link-down", host->index, link, 0);
}

static void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    struct host *host = arg;
    if (!up && host->sim->plan.calm)
        world_fail(&host->sim->w, "session lost without cause", "%s: %s", host->name, why);
    /* A server that has not heard of the session yet has nobody to say goodbye to. */
    if (!up && host->sim->plan.orderly && host->confirmed[worker] && !strstr(why, "stopping") && !strstr(why, "MTU"))
        world_fail(&host->sim->w, "goodbye not heard", "%s: %s", host->name, why);
    if (worker == 0)
        host->up = up;
    host->confirmed[worker] = false;
    if (!up && !host->going)
        linger(host);
    world_note(&host->sim->w, up ? "client.up" : "client.down", host->index, host->life, worker);
}

/* "version\n", then one line per attachment, "index id generation worker placement\n", that of a NIC with an n before
 * it, then a dot and padding. */
static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    struct host *host = arg;
    struct world *w = &host->sim->w;
    char text[2048];
    uint32_t part = length < sizeof text - 1 ? length : sizeof text - 1;
    memcpy(text, document, part);
    text[part] = 0;
    char *at = text;
    uint32_t version = (uint32_t)strtoul(at, &at, 10);
    if (version < host->document_version || version > host->sim->iohv.document_version[host->index] || *at != '\n')
        world_fail(w, "wrong document", "%s got version %u after %u; the latest is %u", host->name, version,
                   host->document_version, host->sim->iohv.document_version[host->index]);
    host->document_version = version;
    host->view_count = host->nic_view_count = 0;
    while (*++at != '.') {
        bool nic = *at == 'n';
        struct view *view = nic ? &host->nic_views[host->nic_view_count++] : &host->views[host->view_count++];
        at += nic;
        view->disk = (uint32_t)strtoul(at, &at, 10);
        view->id = (uint32_t)strtoul(at, &at, 10);
        view->generation = (uint32_t)strtoul(at, &at, 10);
        struct or_placement place = {.worker = (uint8_t)strtoul(at, &at, 10)};
        place.number = (uint32_t)strtoul(at, &at, 10);
        or_route_move(host_route(host, view->id), place);
        if (*at != '\n' || view->disk >= (nic ? host->sim->vnic_count : host->sim->disk_count))
            world_fail(w, "wrong document", "%s got a damaged document", host->name);
    }
    for (uint32_t i = (uint32_t)(at - text) + 1; i < length; i++)
        if (document[i] != (uint8_t)('a' + i % 26))
            world_fail(w, "wrong document", "%s: byte %u of the document is damaged", host->name, i);
    world_count(w, COV_DOCUMENTS, 1);
    world_note(w, "host.document", host->index, version, host->view_count);
    host_fill(host);
}

static void on_pull(struct or_req *req, uint32_t offset, uint8_t *dst, uint32_t length)
{
    struct request *request = (struct request *)req;
    struct sim *sim = request->host->sim;
    uint64_t variant = request->scribbled ? rng_next(&sim->w.rng) : 0;
    if (offset + length > req->length || request->state != REQUEST_OPEN)
        world_fail(&sim->w, "pull contract", "request %u: %u + %u of %u", request->id, offset, length, req->length);
    if (request->scribbled)
        world_count(&sim->w, COV_SCRIBBLED, 1);
    stamp_fill(dst, offset, length, request->id, request->first_block, request->disk->block_size, variant);
}

static void on_push(struct or_req *req, uint32_t offset, const uint8_t *src, uint32_t length)
{
    struct request *request = (struct request *)req;
    if (req->op != OR_OP_READ || offset + length > req->length || request->state != REQUEST_OPEN)
        world_fail(&request->host->sim->w, "push contract", "request %u: %u + %u of %u", request->id, offset, length,
                   req->length);
    memcpy(request->buffer + offset, src, length);
}

static void fill_later(void *arg)
{
    struct host *host = arg;
    host_fill(host);
    if (host->dispatch)
        engine_poke(host->engine);
}

static void on_done(struct or_req *req)
{
    struct request *request = (struct request *)req;
    struct host *host = request->host;
    struct world *w = &host->sim->w;
    host->outstanding--;
    if (host->going) {
        if (req->status != OR_EIO)
            world_fail(w, "wrong status", "request %u ends with %s as its client is destroyed", request->id,
                       or_status_name(req->status));
        if (!host->survives)
            model_unknown(request);
        return;
    }
    model_done(request);
    bool refused = req->status == OR_EFENCED || req->status == OR_ENODEV;
    if (refused) /* a guest would not hammer either */
        world_at(w, w->now + rng_scale(&w->rng, 100 * US, 10 * MS), fill_later, host);
    else if (rng_chance(&w->rng, host->sim->plan.deferred_ppm))
        world_at(w, w->now + rng_scale(&w->rng, 1 * US, 100 * US), fill_later, host);
    else
        host_fill(host);
}

static const struct or_req_ops request_ops = {on_pull, on_push, on_done};

/* --- the workload --------------------------------------------------------------------------------- */

static bool has_budget(struct host *host)
{
    struct sim *sim = host->sim;
    if (sim->request_count + 1 >= REQUESTS_MAX)
        return false;
    if (host->probes > 0)
        return true;
    return sim->phase == PHASE_TURMOIL && sim->request_count < sim->plan.requests && sim->bytes < sim->plan.bytes;
}

void host_fill(struct host *host)
{
    struct sim *sim = host->sim;
    if (host->filling || !host->dispatch || host->going)
        return;
    host->filling = true;
    while (host->outstanding < sim->plan.queue_depth && has_budget(host)) {
        struct request *request = workload_next(host);
        if (!request)
            break;
        if (host->probes > 0)
            host->probes--;
        request->req.ops = &request_ops;
        request->host = host;
        request->id = ++sim->request_count;
        sim->requests[request->id] = request;
        sim->bytes += request->buffer || request->req.op == OR_OP_WRITE ? request->req.length : 0;
        model_submit(request);
        host->outstanding++;
        or_route_submit(host_route(host, request->req.device), &request->req, engine_now(host->engine));
        chaos_progress(sim);
    }
    host->filling = false;
}

void host_report(struct host *host)
{
    char text[64];
    if (!host->dispatch)
        return;
    int n = snprintf(text, sizeof text, "%s report %u", host->name, ++host->reports);
    int err = or_dispatch_report(host->dispatch, text, (uint32_t)n + 1);
    if (err)
        world_fail(&host->sim->w, "api", "or_dispatch_report: %d", err);
    engine_poke(host->engine);
}

/* --- life and death ------------------------------------------------------------------------------- */

static void fill_config(struct or_client_config *config, struct sim *sim, const struct engine *engine, const char *name,
                        const uint8_t *psk)
{
    for (uint32_t i = 0; i < engine->nic_count; i++)
        config->ports[i] = &engine->nics[i]->port;
    config->env = (struct or_env){protocol_random, &sim->w.protocol};
    config->integrity_min = sim->plan.integrity;
    config->phase_frames = sim->plan.phase_frames;
    for (uint32_t i = 0; i < sim->plan.server_nics; i++)
        memcpy(config->server_macs[i], sim->net.places[NIC_SERVER + i * MACHINES_MAX].mac, 6);
    memcpy(config->psk, psk, 32);
    snprintf(config->name, sizeof config->name, "%s", name);
}

void host_start(struct host *host)
{
    struct sim *sim = host->sim;
    struct or_dispatch_config config = {
        .client = {.link_changed = on_link_changed, .document = on_document, .packet = packets_at_host},
        .link = on_link,
        .arg = host,
    };
    int err = 0;
    host->life++;
    host->up = false;
    host->document_version = 0;
    host->engine = engine_create(&sim->net, host->index, sim->plan.host_nics);
    fill_config(&config.client, sim, host->engine, host->name, host->psk);
    host->routes = NULL;
    host->dispatch = or_dispatch_create(&config, &err);
    if (!host->dispatch)
        world_fail(&sim->w, "api", "or_dispatch_create: %d", err);
    engine_start(host->engine, &dispatch_engine, host->dispatch);
    host->engine->work = packets_from_host;
    host->engine->work_arg = host;
    world_note(&sim->w, "host.start", host->index, host->life, 0);
    if (!host->survives)
        host->view_count = host->nic_view_count = 0;
    for (uint32_t id = 1; host->survives && id <= sim->request_count; id++) {
        struct request *request = sim->requests[id];
        if (request->host != host || request->state != REQUEST_OPEN)
            continue;
        model_submit_again(request);
        host->outstanding++;
        or_route_submit(host_route(host, request->req.device), &request->req, engine_now(host->engine));
    }
    host_report(host);
    host_fill(host);
}

void host_stop(struct host *host, bool muted, bool survives)
{
    struct world *w = &host->sim->w;
    struct or_dispatch_stats of_all;
    or_dispatch_stats(host->dispatch, &of_all);
    const struct or_client_stats stats = of_all.clients;
    world_count(w, COV_REQUESTS_MOVED, of_all.moved);
    world_count(w, COV_RETRANSMITS, stats.retransmits);
    world_count(w, COV_OVERLAP_WAITS, stats.overlap_waits);
    world_count(w, COV_CREDIT_WAITS, stats.credit_waits);
    world_count(w, COV_SESSIONS, stats.sessions);
    world_count(w, COV_TIMEOUTS, stats.timeouts);
    world_count(w, COV_REKEYS, stats.rekeys);
    if (stats.replies > stats.requests)
        world_fail(w, "statistics", "%s: %llu replies to %llu requests", host->name, (unsigned long long)stats.replies,
                   (unsigned long long)stats.requests);
    if (in_flight(host) != host->outstanding)
        world_fail(w, "statistics", "%s: %u in flight, the host counts %u", host->name, in_flight(host),
                   host->outstanding);
    packets_host_stops(host);
    world_note(w, "host.stop", host->index, muted, survives);
    if (muted) {
        engine_kill(host->engine);
        linger(host);
    }
    host->going = true;
    host->survives = survives;
    or_dispatch_destroy(host->dispatch);
    engine_kill(host->engine);
    host->dispatch = NULL;
    host->going = false;
    if (host->outstanding != 0)
        world_fail(w, "never ended", "%s: %u requests did not end when the client was destroyed", host->name,
                   host->outstanding);
}

void host_check_end(struct host *host)
{
    struct sim *sim = host->sim;
    uint32_t latest = sim->iohv.document_version[host->index];
    if (in_flight(host) != 0 || host->outstanding != 0)
        world_fail(&sim->w, "in flight at the end", "%s: %u", host->name, in_flight(host));
    if (!host_up(host))
        world_fail(&sim->w, "link down at the end", "%s", host->name);
    if (host->document_version != latest)
        world_fail(&sim->w, "document missing", "%s has version %u, the latest is %u", host->name,
                   host->document_version, latest);
    if (sim->iohv.report_seen[host->index] != host->reports)
        world_fail(&sim->w, "report missing", "the I/O hypervisor has report %u of %s, the latest is %u",
                   sim->iohv.report_seen[host->index], host->name, host->reports);
}

/* --- the impostor --------------------------------------------------------------------------------- */

static void impostor_link(void *arg, uint8_t worker, bool up, const char *why)
{
    struct sim *sim = arg;
    (void)worker;
    (void)why;
    if (up)
        world_fail(&sim->w, "impostor let in", "a client without the key has a session");
}

/* A host that has everything but the key; half of them use a name that does not exist either. */
void impostor_start(struct sim *sim)
{
    struct rng *rng = &sim->w.rng;
    struct or_dispatch_config config = {.link = impostor_link, .arg = sim};
    uint8_t psk[32];
    rng_fill(rng, psk, sizeof psk);
    const char *name = rng_chance(rng, PPM / 2) ? sim->hosts[0].name : "nobody";
    sim->impostor_engine = engine_create(&sim->net, NIC_IMPOSTOR, 1);
    fill_config(&config.client, sim, sim->impostor_engine, name, psk);
    struct or_placement at = {.worker = (uint8_t)rng_below(rng, sim->plan.workers)};
    int err = 0;
    sim->impostor = or_dispatch_create(&config, &err);
    if (!sim->impostor)
        world_fail(&sim->w, "api", "or_dispatch_create: %d", err);
    err = or_route_open(sim->impostor, &sim->impostor_route, 1, at); /* so it tries this worker too */
    if (err)
        world_fail(&sim->w, "api", "or_route_open: %d", err);
    engine_start(sim->impostor_engine, &dispatch_engine, sim->impostor);
    world_count(&sim->w, COV_IMPOSTORS, 1);
}

void impostor_stop(struct sim *sim)
{
    if (!sim->impostor)
        return;
    engine_kill(sim->impostor_engine);
    or_dispatch_destroy(sim->impostor);
    sim->impostor = NULL;
}
