/* Workers of an I/O hypervisor, each a thread with a port of its own on one end of a real link, and a host on the other
 * end that reads and writes their volumes: real engines, told what to do by the commands that the addon gives them.
 *
 *     the test ── requests ── or_dispatch ── port "left" ══ link ══ port "right" ── worker 0
 *        └──────────── commands ──────────────────────────────────────────────┴── worker 1
 *
 * The host's part runs in the test's thread: in host_step, and while a command is waited for. A test's world begins
 * with a struct site. Needs root, for the link, and a network namespace of its own. Include after cmocka.h. */
#ifndef LOOP_FIXTURE_H
#define LOOP_FIXTURE_H

#include <poll.h>
#include <string.h>

#include "../transport/segment.h"
#include "keep/store.h"
#include "loop/engine_internal.h"
#include "transport/dispatch.h"

#define WORKERS 2u
#define WAIT_MS_MAX 60000u
#define REQUEST_BYTES_MAX 4096u
#define HOST "vmhost1"

struct site;

struct request {
    struct or_req req;
    struct site *site;
    uint8_t data[REQUEST_BYTES_MAX];
    bool busy;
};

/* A volume, and the host's way to it. */
struct served {
    char name[8];
    uint32_t id, at, placement; /* at: which worker has it */
    struct or_route route;
};

struct site {
    struct segment segment;
    struct or_engine *workers[WORKERS];
    uint8_t mac[6]; /* of the workers' end */
    struct or_port *port;
    struct or_dispatch *dispatch;                   /* NULL: the host has not begun */
    struct or_keep_store *store;                    /* the supervisor's; NULL: there is none */
    uint64_t cache_bytes;                           /* of each worker; 0: it has no cache */
    void (*load)(struct site *);                    /* in every step, unless the host is quiet: begins requests */
    void (*ended)(struct site *, struct request *); /* a request did; checks its status */
    void (*event)(struct site *, const struct or_event *); /* optional: a worker told it */
    uint32_t seed, busy;
    uint64_t done;
    uint64_t errors, lost; /* that workers told of: storage errors; bytes */
    bool quiet;            /* the host begins nothing new */
    bool deaf;             /* it receives nothing */
};

static inline uint32_t any(struct site *s, uint32_t below)
{
    s->seed = s->seed * 1664525u + 1013904223u;
    return (s->seed >> 8) % below;
}

/* --- the host ------------------------------------------------------------------------------------ */

static inline void pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, ((struct request *)r)->data + offset, length);
}

static inline void push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(((struct request *)r)->data + offset, src, length);
}

static inline void done(struct or_req *r)
{
    struct request *request = (struct request *)r;
    struct site *s = request->site;
    assert_true(request->busy);
    request->busy = false;
    s->busy--;
    s->done++;
    s->ended(s, request);
}

/* Of a flush, offset and length do not count. */
static inline void begin_request(struct site *s, struct request *r, struct served *v, uint8_t op, uint64_t offset,
                                 uint32_t length)
{
    static const struct or_req_ops ops = {pull, push, done};
    bool flush = op == OR_OP_FLUSH;
    r->req = (struct or_req){.ops = &ops,
                             .op = op,
                             .offset = flush ? 0 : offset,
                             .length = flush ? 0 : length,
                             .device = v->id,
                             .generation = 1};
    r->site = s;
    r->busy = true;
    s->busy++;
    or_route_submit(&v->route, &r->req, or_clock_ns());
}

static inline void receive(void *arg, const uint8_t *frame, uint32_t length)
{
    struct site *s = arg;
    or_dispatch_rx(s->dispatch, frame, length, or_clock_ns());
}

static inline void host_step(struct site *s)
{
    struct pollfd p[] = {{.fd = s->port->fd, .events = POLLIN}, {.fd = s->port->handshake_fd, .events = POLLIN}};
    poll(p, 2, 1);
    if (!s->deaf)
        or_port_rx_burst(s->port, 64, receive, s);
    uint64_t now = or_clock_ns();
    if (now >= or_dispatch_deadline(s->dispatch))
        or_dispatch_tick(s->dispatch, now);
    if (!s->quiet)
        s->load(s);
    or_dispatch_flush(s->dispatch, now);
    or_port_tx_flush(s->port);
}

static inline uint64_t wait_end(void)
{
    return or_clock_ns() + WAIT_MS_MAX * 1000000ull;
}

/* Nothing is under way any more, and nothing new begins. */
static inline void quiesce(struct site *s)
{
    uint64_t end = wait_end();
    s->quiet = true;
    while (s->busy && or_clock_ns() < end)
        host_step(s);
    assert_int_equal(s->busy, 0);
}

/* --- commands ------------------------------------------------------------------------------------ */

/* The next command of this worker that has ended. The host goes on meanwhile. */
static inline struct or_command *next_command(struct site *s, uint32_t worker)
{
    uint64_t end = wait_end();
    for (;;) {
        struct or_command *finished;
        struct or_event *event;
        while (or_engine_reap(s->workers[worker], &finished, &event)) {
            if (!event)
                return finished;
            s->errors += event->type == OR_EVENT_VOLUME_ERROR ? event->error.count : 0;
            s->lost += event->type == OR_EVENT_VOLUME_LOST ? event->bytes_lost : 0;
            if (s->event)
                s->event(s, event);
            or_event_free(event);
        }
        if (or_clock_ns() > end)
            return NULL;
        if (s->store)
            or_keep_store_serve(s->store);
        if (s->dispatch)
            host_step(s);
    }
}

/* Returns it when it has ended. */
static inline struct or_command *try_command(struct site *s, uint32_t worker, struct or_command *c)
{
    enum or_command_type type = c->type;
    assert_int_equal(or_engine_submit(s->workers[worker], c), 0);
    c = next_command(s, worker);
    if (!c)
        fail_msg("command %d did not end", type);
    return c;
}

/* Likewise, of one that must succeed. */
static inline struct or_command *run_command(struct site *s, uint32_t worker, struct or_command *c)
{
    c = try_command(s, worker, c);
    if (c->error)
        fail_msg("command %d: %s", c->type, c->why);
    return c;
}

static inline void do_command(struct site *s, uint32_t worker, struct or_command *c)
{
    or_command_free(run_command(s, worker, c));
}

static inline struct or_command *named(enum or_command_type type, const struct served *v)
{
    struct or_command *c = or_command_new(type);
    memcpy(c->name, v->name, sizeof v->name);
    return c;
}

static inline void host_command(struct site *s, uint32_t worker, enum or_command_type type)
{
    struct or_command *c = or_command_new(type);
    strcpy(c->name, HOST);
    memset(c->key, 7, sizeof c->key);
    do_command(s, worker, c);
}

static inline void export(struct site *s, uint32_t worker, const struct served *v)
{
    struct or_command *c = named(OR_CMD_EXPORT_ADD, v);
    strcpy(c->host, HOST);
    c->id = v->id;
    c->generation = 1;
    c->placement.number = v->placement;
    c->elsewhere = worker != v->at;
    do_command(s, worker, c);
}

static inline void export_everywhere(struct site *s, const struct served *v)
{
    for (uint32_t i = 0; i < WORKERS; i++)
        export(s, i, v);
}

/* To the other worker. */
static inline void move(struct site *s, struct served *v)
{
    uint32_t from = v->at;
    v->at = 1 - from;
    export(s, from, v);
    do_command(s, from, named(OR_CMD_VOLUME_GIVE, v));
    struct or_command *open = named(OR_CMD_VOLUME_OPEN, v);
    open->passed = true;
    do_command(s, v->at, open);
    v->placement++;
    export(s, v->at, v);
    assert_int_equal(or_route_move(&v->route, (struct or_placement){(uint8_t)v->at, v->placement}), 0);
}

/* --- beginning and end --------------------------------------------------------------------------- */

static inline void wake(void *arg)
{
    (void)arg; /* the test looks often enough */
}

static inline void begin_worker(struct site *s, uint8_t number)
{
    struct or_engine_config config = {.role = OR_ROLE_IOHV,
                                      .worker = number,
                                      .interfaces = {"right"},
                                      .ethertype = ETHERTYPE,
                                      .cpu = -1,
                                      .spin_us = 20,
                                      .integrity = OR_INTEGRITY_CRC,
                                      .slots = 64,
                                      .buffer_bytes = 4 << 20,
                                      .cache_bytes = s->cache_bytes,
                                      .wake = wake};
    char why[OR_WHY_MAX] = "";
    uint32_t mtu;
    enter(&s->segment, RIGHT);
    s->workers[number] = or_engine_open(&config, why);
    if (!s->workers[number] || or_engine_begin(s->workers[number], why))
        fail_msg("%s", why);
    or_engine_port(s->workers[number], s->mac, &mtu);
}

/* All workers know the host; what it may use comes before admit_host. */
static inline void begin_workers(struct site *s)
{
    for (uint8_t i = 0; i < WORKERS; i++) {
        begin_worker(s, i);
        host_command(s, i, OR_CMD_HOST_ADD);
    }
}

static inline void admit_host(struct site *s)
{
    for (uint32_t i = 0; i < WORKERS; i++)
        host_command(s, i, OR_CMD_HOST_ADMIT);
}

static inline void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    (void)arg;
    (void)worker;
    (void)up;
    (void)why;
}

static inline void begin_host(struct site *s)
{
    char why[512];
    s->port = open_port(&s->segment, LEFT, ETHERTYPE, 9000);
    struct or_port_door door = {OR_CLIENT_FRAMES, OR_CHANNELS_MAX, OR_ANY_CHANNEL};
    assert_int_equal(or_port_set_filter(s->port, &door, why, sizeof why), 0);
    struct or_dispatch_config config = {
        .client = {.ports = {s->port}, .env = or_env_system, .name = HOST},
        .link = on_link,
    };
    memcpy(config.client.server_macs[0], s->mac, 6);
    memset(config.client.psk, 7, sizeof config.client.psk);
    int err;
    s->dispatch = or_dispatch_create(&config, &err);
}

static inline void open_route(struct site *s, struct served *v)
{
    struct or_placement placement = {(uint8_t)v->at, v->placement};
    assert_int_equal(or_route_open(s->dispatch, &v->route, v->id, placement), 0);
}

/* Stops the workers that there are, in order: what their caches hold is written out. */
static inline void end_site(struct site *s)
{
    if (s->dispatch) {
        or_dispatch_destroy(s->dispatch);
        or_port_close(s->port);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        if (s->workers[i])
            or_engine_close(s->workers[i]);
    close_segment(&s->segment);
}

#endif
