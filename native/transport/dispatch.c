#include "dispatch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/list.h"
#include "plant.h"

#define RETRY_NS 5000000ull /* a worker that does not have a device is asked again */

struct channel {
    struct or_dispatch *dispatch;
    struct or_client *client;
    uint8_t number; /* of the worker */
};

struct or_dispatch {
    struct or_dispatch_config config;
    struct channel channels[OR_CHANNELS_MAX];     /* worker 0's is the first */
    uint32_t count;                               /* of them: workers to which something was ever to go */
    struct or_client *of_worker[OR_CHANNELS_MAX]; /* or NULL */
    struct or_list routes;                        /* all */
    uint32_t holding;                             /* of them */
    uint64_t moved;
};

/* --- what the clients call ----------------------------------------------------------------------- */

static void on_link(void *arg, bool up, const char *why)
{
    const struct channel *c = arg;
    c->dispatch->config.link(c->dispatch->config.arg, c->number, up, why);
}

static void on_link_changed(void *arg, uint32_t link, bool up)
{
    const struct or_dispatch_config *config = &((struct channel *)arg)->dispatch->config;
    if (config->client.link_changed)
        config->client.link_changed(config->arg, link, up);
}

static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    const struct or_dispatch_config *config = &((struct channel *)arg)->dispatch->config;
    config->client.document(config->arg, document, length);
}

static void on_packet(void *arg, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length)
{
    const struct or_dispatch_config *config = &((struct channel *)arg)->dispatch->config;
    config->client.packet(config->arg, device, generation, packet, length);
}

static struct or_route *route_of(const struct or_dispatch *d, uint32_t device)
{
    for (struct or_list *l = d->routes.next; l != &d->routes; l = l->next) {
        struct or_route *route = OR_CONTAINER(l, struct or_route, link);
        if (route->device == device)
            return route;
    }
    return NULL;
}

/* Older requests come before newer ones, whatever came back first. */
static void take(void *arg, struct or_req *r)
{
    struct or_route *route = arg;
    struct or_list *before = &route->returned;
    while (!OR_PLANTED(OR_PLANT_MOVE_FORGETS_ORDER) && before->prev != &route->returned &&
           OR_CONTAINER(before->prev, struct or_req, link)->order > r->order)
        before = before->prev;
    or_list_append(before, &r->link);
}

static struct or_client *client_of(const struct or_route *route)
{
    return route->dispatch->of_worker[route->now.worker];
}

static void hold(struct or_route *route)
{
    if (!route->holding)
        route->dispatch->holding++;
    route->holding = true;
}

static void on_moved(void *arg, struct or_req *r)
{
    const struct channel *c = arg;
    struct or_route *route = route_of(c->dispatch, r->device);
    assert(route); /* closed with requests under way otherwise */
    c->dispatch->moved++;
    take(route, r);
    hold(route);
}

/* --- routes -------------------------------------------------------------------------------------- */

static int make_client(struct or_dispatch *d, uint8_t number)
{
    if (number >= OR_CHANNELS_MAX)
        return -EINVAL;
    if (d->of_worker[number])
        return 0;
    struct channel *c = &d->channels[d->count];
    struct or_client_config config = d->config.client;
    *c = (struct channel){.dispatch = d, .number = number};
    config.channel = number;
    config.link = on_link;
    config.link_changed = number == 0 ? on_link_changed : NULL;
    config.document = number == 0 && d->config.client.document ? on_document : NULL;
    config.packet = d->config.client.packet ? on_packet : NULL;
    config.moved = on_moved;
    config.arg = c;
    int err = 0;
    c->client = or_client_create(&config, &err);
    d->of_worker[number] = c->client;
    d->count += c->client != NULL;
    return err;
}

int or_route_open(struct or_dispatch *d, struct or_route *route, uint32_t device, struct or_placement at)
{
    int err = make_client(d, at.worker);
    if (err)
        return err;
    *route = (struct or_route){.dispatch = d, .device = device, .now = at, .target = at};
    or_list_init(&route->returned);
    or_list_init(&route->fresh);
    or_list_append(&d->routes, &route->link);
    return 0;
}

void or_route_close(struct or_route *route)
{
    if (route->holding)
        route->dispatch->holding--;
    or_list_remove(&route->link);
}

/* The device is where its requests go to. */
static bool is_there(const struct or_route *route)
{
    return route->now.worker == route->target.worker && route->now.number == route->target.number;
}

int or_route_move(struct or_route *route, struct or_placement to)
{
    int err = make_client(route->dispatch, to.worker);
    if (err)
        return err;
    route->target = to;
    if (!is_there(route))
        hold(route);
    return 0;
}

static void send_on(const struct or_route *route, struct or_req *r, uint64_t now)
{
    r->placement = route->now.number;
    or_client_submit(client_of(route), r, now);
}

void or_route_submit(struct or_route *route, struct or_req *r, uint64_t now)
{
    if (!route->holding) {
        send_on(route, r, now);
        return;
    }
    or_list_init(&r->link);
    or_list_append(&route->fresh, &r->link);
}

enum or_packet_verdict or_route_packet(struct or_route *route, uint32_t generation, const struct or_packet *packet,
                                       uint64_t now)
{
    return or_client_packet(route->dispatch->of_worker[route->target.worker], route->device, generation, packet, now);
}

/* The oldest that is held, or NULL. */
static struct or_req *pop(struct or_route *route)
{
    struct or_list *list = or_list_empty(&route->returned) ? &route->fresh : &route->returned;
    if (or_list_empty(list))
        return NULL;
    struct or_req *r = OR_CONTAINER(list->next, struct or_req, link);
    or_list_remove(&r->link);
    return r;
}

/* Goes on once the former worker has nothing of the device any more. */
static void go_on(struct or_route *route, uint64_t now)
{
    if (or_client_withdraw(client_of(route), route->device, take, route) > 0)
        return;
    if (is_there(route)) {
        if (route->retry_at == 0)
            route->retry_at = now + RETRY_NS;
        if (now < route->retry_at)
            return;
    }
    route->now = route->target;
    route->retry_at = 0;
    route->holding = false;
    route->dispatch->holding--;
    struct or_req *r;
    while ((r = pop(route)))
        send_on(route, r, now);
}

/* --- as of a client ------------------------------------------------------------------------------ */

void or_dispatch_rx(struct or_dispatch *d, const uint8_t *frame, uint32_t length, uint64_t now)
{
    uint32_t at = OR_ETH_HEADER + offsetof(struct or_frame_header, channel);
    uint32_t number = length > at && frame[at] < OR_CHANNELS_MAX && d->of_worker[frame[at]] ? frame[at] : 0;
    or_client_rx(d->of_worker[number], frame, length, now); /* which refuses what is for none */
}

void or_dispatch_tick(struct or_dispatch *d, uint64_t now)
{
    for (uint32_t i = 0; i < d->count; i++)
        if (now >= or_client_deadline(d->channels[i].client))
            or_client_tick(d->channels[i].client, now);
}

void or_dispatch_flush(struct or_dispatch *d, uint64_t now)
{
    for (struct or_list *l = d->routes.next; l != &d->routes && d->holding; l = l->next) {
        struct or_route *route = OR_CONTAINER(l, struct or_route, link);
        if (route->holding)
            go_on(route, now);
    }
    for (uint32_t i = 0; i < d->count; i++)
        or_client_flush(d->channels[i].client, now);
}

uint64_t or_dispatch_deadline(const struct or_dispatch *d)
{
    uint64_t deadline = UINT64_MAX;
    for (uint32_t i = 0; i < d->count; i++) {
        uint64_t due = or_client_deadline(d->channels[i].client);
        if (due < deadline)
            deadline = due;
    }
    for (struct or_list *l = d->routes.next; l != &d->routes && d->holding; l = l->next) {
        const struct or_route *route = OR_CONTAINER(l, struct or_route, link);
        if (route->holding && route->retry_at && route->retry_at < deadline)
            deadline = route->retry_at;
    }
    return deadline;
}

void or_dispatch_port_changed(struct or_dispatch *d, const struct or_port *port, uint64_t now)
{
    for (uint32_t i = 0; i < d->count; i++)
        or_client_port_changed(d->channels[i].client, port, now);
}

int or_dispatch_report(struct or_dispatch *d, const void *document, uint32_t length)
{
    return or_client_report(d->channels[0].client, document, length);
}

/* --- what there is to tell ----------------------------------------------------------------------- */

void or_dispatch_refused(const struct or_dispatch *d, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6])
{
    or_client_refused(d->channels[0].client, counts, source);
    for (uint32_t i = 1; i < d->count; i++) {
        uint64_t more[OR_REFUSE_MAX], sum = 0;
        uint8_t from[6];
        or_client_refused(d->channels[i].client, more, from);
        for (uint32_t k = 0; k < OR_REFUSE_MAX; k++) {
            counts[k] += more[k];
            sum += k == OR_REFUSE_NONE ? 0 : more[k];
        }
        if (sum)
            memcpy(source, from, sizeof from);
    }
}

static void add(struct or_client_stats *sum, const struct or_client_stats *s)
{
    sum->requests += s->requests;
    sum->replies += s->replies;
    sum->bytes_read += s->bytes_read;
    sum->bytes_written += s->bytes_written;
    sum->retransmits += s->retransmits;
    sum->frames_lost += s->frames_lost;
    sum->sessions += s->sessions;
    sum->overlap_waits += s->overlap_waits;
    sum->credit_waits += s->credit_waits;
    sum->timeouts += s->timeouts;
    sum->rekeys += s->rekeys;
    or_packet_stats_add(&sum->packets, &s->packets);
    for (uint32_t k = 0; k < OR_REFUSE_MAX; k++)
        sum->refused[k] += s->refused[k];
}

static uint32_t length_of(const struct or_list *list)
{
    uint32_t n = 0;
    for (const struct or_list *l = list->next; l != list; l = l->next)
        n++;
    return n;
}

void or_dispatch_stats(const struct or_dispatch *d, struct or_dispatch_stats *out)
{
    *out = (struct or_dispatch_stats){.moved = d->moved};
    or_client_stats(d->channels[0].client, &out->clients);
    for (uint32_t i = 0; i < d->count; i++) {
        const struct or_client *client = d->channels[i].client;
        struct or_client_stats stats;
        or_client_stats(client, &stats);
        if (i > 0)
            add(&out->clients, &stats);
        out->workers[d->channels[i].number] =
            (struct or_dispatch_worker){true, or_client_up(client), or_client_in_flight(client), stats.srtt_ns};
    }
    for (struct or_list *l = d->routes.next; l != &d->routes; l = l->next) {
        const struct or_route *route = OR_CONTAINER(l, struct or_route, link);
        out->held += length_of(&route->returned) + length_of(&route->fresh);
    }
}

/* --- life ---------------------------------------------------------------------------------------- */

struct or_dispatch *or_dispatch_create(const struct or_dispatch_config *config, int *err)
{
    struct or_dispatch *d = calloc(1, sizeof *d);
    *err = -ENOMEM;
    if (!d)
        return NULL;
    d->config = *config;
    or_list_init(&d->routes);
    *err = make_client(d, 0);
    if (!*err)
        return d;
    free(d);
    return NULL;
}

static void fail_all(struct or_route *route)
{
    for (struct or_req *r = pop(route), *next; r; r = next) {
        next = pop(route); /* the last one's end may be the route's */
        r->status = OR_EIO;
        r->ops->done(r);
    }
}

void or_dispatch_destroy(struct or_dispatch *d)
{
    for (uint32_t i = 0; i < d->count; i++)
        or_client_destroy(d->channels[i].client);
    for (struct or_list *l = d->routes.next, *next; l != &d->routes; l = next) {
        next = l->next;
        fail_all(OR_CONTAINER(l, struct or_route, link));
    }
    memset(&d->config, 0, sizeof d->config); /* keys */
    free(d);
}
