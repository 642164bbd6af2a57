/* Theory of operation: schedule.h. */
#include "schedule.h"

#include "plant.h"
#include "server_internal.h"

static enum or_lane_kind kind_of(const struct or_server_export *x)
{
    return x->info.volume->synchronous ? OR_LANE_MEMORY : OR_LANE_STORAGE;
}

static struct or_server_slot *first_of(const struct or_server_export *x)
{
    return OR_CONTAINER(x->waiting.next, struct or_server_slot, waiting);
}

static uint32_t data_of(const struct or_server_slot *s)
{
    return s->op == OR_OP_READ || s->op == OR_OP_WRITE ? s->length : 0;
}

static uint64_t cost_of(const struct or_server_slot *s)
{
    return OR_LINKS_REQUEST_COST + data_of(s);
}

/* --- room --------------------------------------------------------------------------------------- */

static bool is_blocked(const struct or_session *session)
{
    return session->unsent >= OR_LINKS_UNSENT_MAX && !session->server->config.fifo;
}

static bool has_room(const struct or_server *server, enum or_lane_kind kind)
{
    const struct or_server_config *config = &server->config;
    if (config->fifo)
        return true;
    if (kind == OR_LANE_MEMORY)
        return server->step_cost < OR_SCHEDULE_STEP_COST;
    return server->out_requests < config->out_requests && server->out_bytes < config->out_bytes;
}

bool or_schedule_is_idle(const struct or_session *session, const struct or_server_export *x)
{
    if (session->server->config.fifo)
        return true;
    return !x->stalled && !is_blocked(session) && !or_fair_anyone_waits(&session->server->lanes[kind_of(x)]);
}

bool or_schedule_takes(const struct or_session *session, const struct or_server_export *x)
{
    return has_room(session->server, kind_of(x)) && or_schedule_is_idle(session, x);
}

/* What of this export is out counts, or counts no more. */
static void count_out(struct or_server *server, const struct or_server_export *x, bool counts)
{
    server->out_requests += counts ? x->in_flight : -x->in_flight;
    server->out_bytes += counts ? x->out_bytes : -x->out_bytes;
}

void or_schedule_out(struct or_server_export *x, const struct or_server_slot *s)
{
    struct or_server *server = s->session->server;
    if (or_list_empty(&x->out)) {
        x->progress_ns = 0;
        or_list_append(&server->out, &x->out);
    }
    x->out_bytes += data_of(s);
    server->out_requests++;
    server->out_bytes += data_of(s);
}

void or_schedule_in(struct or_server_export *x, const struct or_server_slot *s)
{
    struct or_server *server = s->session->server;
    if (x->stalled)
        count_out(server, x, true);
    x->stalled = false;
    x->out_bytes -= data_of(s);
    server->out_requests--;
    server->out_bytes -= data_of(s);
    x->progress_ns = 0;
    or_list_remove(&x->out);
    if (x->in_flight > 1)
        or_list_append(&server->out, &x->out); /* the one that is silent for longest is the first */
}

/* Gives the room of volumes free that do not answer. What has ended without a look at the clock counts from the
 * first time that somebody asks. */
static void find_stalled(struct or_server *server, uint64_t now)
{
    while (!or_list_empty(&server->out) && !has_room(server, OR_LANE_STORAGE)) {
        struct or_server_export *x = OR_CONTAINER(server->out.next, struct or_server_export, out);
        if (!x->progress_ns)
            x->progress_ns = now;
        if (now < x->progress_ns + OR_SCHEDULE_STALL_NS)
            return;
        x->stalled = true;
        server->stats.stalled++;
        or_list_remove(&x->out);
        count_out(server, x, false);
        or_schedule_look(x);
    }
}

/* --- lanes -------------------------------------------------------------------------------------- */

/* A session waits among the others while exports of its wait and it may begin something. */
static void follow(struct or_session *session, enum or_lane_kind kind)
{
    struct or_lane *lane = &session->lanes[kind];
    bool waits = or_fair_anyone_waits(&lane->exports) && !is_blocked(session);
    if (waits == or_fair_waits(&lane->flow))
        return;
    if (waits)
        or_fair_enter(&session->server->lanes[kind], &lane->flow);
    else
        or_fair_leave(&lane->flow);
}

void or_schedule_unsent(struct or_session *session, int64_t bytes)
{
    bool before = is_blocked(session);
    session->unsent += (uint64_t)bytes;
    if (before != is_blocked(session))
        for (int kind = 0; kind < OR_LANE_KINDS; kind++)
            follow(session, kind);
}

/* What an export was served in another session says nothing in this one. */
static void adopt(struct or_server_export *x, const struct or_session *session, const struct or_lane *lane)
{
    if (x->flow_session != session->id)
        or_fair_flow_init(&x->flow, &lane->exports);
    x->flow_session = session->id;
}

static void enter(struct or_server_export *x, struct or_session *session)
{
    struct or_lane *lane = &session->lanes[kind_of(x)];
    adopt(x, session, lane);
    or_fair_enter(&lane->exports, &x->flow);
    lane->weight += x->info.weight;
    x->waits_in = session;
}

static void leave(struct or_server_export *x)
{
    or_fair_leave(&x->flow);
    x->waits_in->lanes[kind_of(x)].weight -= x->info.weight;
    x->waits_in = NULL;
}

/* Something that waits at the export may begin, as far as the export is concerned: its volume is there, does answer,
 * and has nothing of another session (docs/architecture.md, "Drain"). */
static bool is_ready(const struct or_server_export *x)
{
    if (or_list_empty(&x->waiting) || x->removed || x->elsewhere || !x->info.volume || x->stalled)
        return false;
    return !x->in_flight || x->owner == first_of(x)->session || OR_PLANTED(OR_PLANT_NO_DRAIN);
}

void or_schedule_look(struct or_server_export *x)
{
    struct or_session *now = is_ready(x) ? first_of(x)->session : NULL, *before = x->waits_in;
    if (now == before)
        return;
    if (before) {
        leave(x);
        follow(before, kind_of(x));
    }
    if (now) {
        enter(x, now);
        follow(now, kind_of(x));
    }
}

void or_schedule_weigh(struct or_server_export *x, uint32_t weight)
{
    if (x->waits_in)
        x->waits_in->lanes[kind_of(x)].weight += weight - x->info.weight;
    x->info.weight = weight;
    x->unit = OR_FAIR_UNIT / weight;
}

void or_schedule_open_session(struct or_session *session)
{
    for (int kind = 0; kind < OR_LANE_KINDS; kind++) {
        or_fair_init(&session->lanes[kind].exports);
        or_fair_flow_init(&session->lanes[kind].flow, &session->server->lanes[kind]);
    }
}

void or_schedule_open(struct or_server *server)
{
    or_list_init(&server->out);
    for (int kind = 0; kind < OR_LANE_KINDS; kind++)
        or_fair_init(&server->lanes[kind]);
}

/* --- beginning ---------------------------------------------------------------------------------- */

static void serve(struct or_session *session, struct or_server_export *x, uint64_t cost, uint64_t session_unit)
{
    enum or_lane_kind kind = kind_of(x);
    struct or_lane *lane = &session->lanes[kind];
    or_fair_serve(&lane->exports, &x->flow, cost, x->unit);
    or_fair_serve(&session->server->lanes[kind], &lane->flow, cost, session_unit);
    if (kind == OR_LANE_MEMORY)
        session->server->step_cost += cost;
}

void or_schedule_at_once(struct or_server_slot *s, struct or_server_export *x)
{
    struct or_session *session = s->session;
    if (session->server->config.fifo)
        return;
    struct or_lane *lane = &session->lanes[kind_of(x)];
    adopt(x, session, lane);
    or_fair_begin(&lane->exports, &x->flow);
    or_fair_begin(&session->server->lanes[kind_of(x)], &lane->flow);
    serve(session, x, cost_of(s), x->unit);
}

bool or_schedule_takes_hit(const struct or_session *session, const struct or_server_export *x)
{
    const struct or_server *server = session->server;
    if (server->config.fifo)
        return true;
    return !x->stalled && !is_blocked(session) && has_room(server, OR_LANE_MEMORY) &&
           !or_fair_anyone_waits(&server->lanes[OR_LANE_MEMORY]);
}

void or_schedule_hit(struct or_server_slot *s)
{
    s->session->server->step_cost += cost_of(s);
}

static bool begin_next(struct or_server *server, enum or_lane_kind kind)
{
    struct or_fair_flow *next = or_fair_next(&server->lanes[kind]);
    if (!next || !has_room(server, kind))
        return false;
    struct or_lane *lane = OR_CONTAINER(next, struct or_lane, flow);
    struct or_server_export *x = OR_CONTAINER(or_fair_next(&lane->exports), struct or_server_export, flow);
    struct or_server_slot *s = first_of(x);
    struct or_session *session = s->session;
    uint64_t session_unit = OR_FAIR_UNIT / lane->weight;
    or_fair_leave(&lane->flow);
    leave(x);
    serve(session, x, cost_of(s), session_unit);
    or_list_remove(&s->waiting);
    or_requests_run(s, x);
    or_schedule_look(x);
    follow(session, kind);
    return true;
}

bool or_schedule(struct or_server *server, uint64_t now)
{
    bool began = false;
    if (or_fair_anyone_waits(&server->lanes[OR_LANE_STORAGE]))
        find_stalled(server, now);
    for (int kind = OR_LANE_KINDS; kind-- > 0;)
        while (begin_next(server, kind))
            began = true;
    return began;
}

uint64_t or_schedule_deadline(const struct or_server *server)
{
    if (or_fair_anyone_waits(&server->lanes[OR_LANE_MEMORY]))
        return 0;
    if (!or_fair_anyone_waits(&server->lanes[OR_LANE_STORAGE]))
        return UINT64_MAX;
    if (has_room(server, OR_LANE_STORAGE) || or_list_empty(&server->out))
        return 0;
    const struct or_server_export *x = OR_CONTAINER(server->out.next, struct or_server_export, out);
    return x->progress_ns ? x->progress_ns + OR_SCHEDULE_STALL_NS : 0;
}
