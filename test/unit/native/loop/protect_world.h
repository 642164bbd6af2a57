/* A world for tests of protection domains: a host that writes and reads, over a real link, a volume in a file of a real
 * engine, which comes to a domain and leaves it. Needs root, for the link. */
#ifndef OR_PROTECT_WORLD_H
#define OR_PROTECT_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <sys/mount.h>

#include "../transport/segment.h"
#include "loop/engine_internal.h"
#include "transport/dispatch.h"

#define BLOCK 512u
#define BLOCKS 256u
#define SIZE (BLOCK * BLOCKS)
#define REQUESTS 16u
#define BYTES (1u << 20) /* that the domain holds */
#define JOURNAL (4u << 20)
#define WAIT_MS_MAX 60000u
#define VOLUME_ID 0x1234u

struct request {
    struct or_req req;
    struct world *world;
    uint8_t data[BLOCK];
    bool busy;
};

struct world {
    struct segment segment;
    struct or_engine *engine;
    uint8_t mac[6];
    struct or_port *port;
    struct or_dispatch *dispatch;
    struct or_route route;
    struct request requests[REQUESTS];
    uint32_t submitted[BLOCKS], ended[BLOCKS];
    uint32_t seed, number, busy;
    uint64_t done;
    bool quiet, fails;
    uint8_t status;
    uint32_t events[OR_DOMAIN_EVENT_EPOCHS + 1];
    char folder[256];
};

static inline uint32_t any(struct world *w, uint32_t below)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return (w->seed >> 8) % below;
}

static inline void wake(void *arg)
{
    (void)arg; /* the test looks often enough */
}

static uint32_t domain = 7; /* of each world another one: the region stays in the process */

/* --- the host ------------------------------------------------------------------------------------ */

static inline void pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, ((struct request *)r)->data + offset, length);
}

static inline void push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(((struct request *)r)->data + offset, src, length);
}

/* A read shows the last write that had ended, or one that has not. */
static inline void done(struct or_req *r)
{
    struct request *request = (struct request *)r;
    struct world *w = request->world;
    uint32_t number, block = (uint32_t)(r->offset / BLOCK);
    w->status = r->status;
    assert_true(r->status == OR_OK || w->fails);
    request->busy = false;
    w->busy--;
    w->done++;
    memcpy(&number, request->data, sizeof number);
    if (r->status == OR_OK && r->op == OR_OP_WRITE)
        w->ended[block] = number;
    if (r->status == OR_OK && r->op == OR_OP_READ && !w->fails)
        assert_int_equal(number, w->ended[block]); /* nothing that overlaps is under way */
}

static const struct or_req_ops host_ops = {pull, push, done};

static inline void submit(struct world *w, struct request *r, uint8_t op, uint32_t block)
{
    r->req = (struct or_req){.ops = &host_ops,
                             .op = op,
                             .offset = op == OR_OP_FLUSH ? 0 : block * BLOCK,
                             .length = op == OR_OP_FLUSH ? 0 : BLOCK,
                             .device = 1,
                             .generation = 1};
    r->world = w;
    r->busy = true;
    w->busy++;
    or_route_submit(&w->route, &r->req, or_clock_ns());
}

/* Each request has blocks of its own. */
static inline void submit_some(struct world *w)
{
    for (uint32_t i = 0; i < REQUESTS && !w->quiet; i++) {
        struct request *r = &w->requests[i];
        uint32_t block = any(w, BLOCKS / REQUESTS) * REQUESTS + i, what = any(w, 16);
        if (r->busy)
            continue;
        if (what < 10) {
            memset(r->data, 0, BLOCK);
            w->submitted[block] = ++w->number;
            memcpy(r->data, &w->number, sizeof w->number);
        }
        submit(w, r, what < 10 ? OR_OP_WRITE : what < 15 ? OR_OP_READ : OR_OP_FLUSH, block);
    }
}

static inline void receive(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    or_dispatch_rx(w->dispatch, frame, length, or_clock_ns());
}

static inline void host_step(struct world *w)
{
    struct pollfd p[] = {{.fd = w->port->fd, .events = POLLIN}, {.fd = w->port->handshake_fd, .events = POLLIN}};
    poll(p, 2, 1);
    or_port_rx_burst(w->port, 64, receive, w);
    uint64_t now = or_clock_ns();
    if (now >= or_dispatch_deadline(w->dispatch))
        or_dispatch_tick(w->dispatch, now);
    submit_some(w);
    or_dispatch_flush(w->dispatch, now);
    or_port_tx_flush(w->port);
}

static inline void load(struct world *w, uint32_t more)
{
    for (uint64_t to = w->done + more; w->done < to;)
        host_step(w);
}

/* --- commands ------------------------------------------------------------------------------------ */

static inline void note(struct world *w, struct or_event *event)
{
    if (event->type == OR_EVENT_DOMAIN)
        w->events[event->state]++;
    or_event_free(event);
}

/* The host goes on meanwhile. Returns the command. */
static inline struct or_command *try_command(struct world *w, struct or_command *c)
{
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    enum or_command_type type = c->type;
    assert_int_equal(or_engine_submit(w->engine, c), 0);
    for (;;) {
        struct or_command *finished;
        struct or_event *event;
        while (or_engine_reap(w->engine, &finished, &event)) {
            if (!event)
                return finished;
            note(w, event);
        }
        if (or_clock_ns() > end)
            fail_msg("command %d did not end", type);
        if (w->dispatch)
            host_step(w);
    }
}

/* Ends it, and returns its epoch. */
static inline uint64_t do_command(struct world *w, struct or_command *c)
{
    c = try_command(w, c);
    if (c->error)
        fail_msg("command %d: %s", c->type, c->why);
    uint64_t epoch = c->epoch;
    or_command_free(c);
    return epoch;
}

static inline void refused(struct world *w, struct or_command *c, int error)
{
    c = try_command(w, c);
    assert_int_equal(c->error, error);
    assert_true(strlen(c->why) > 0);
    or_command_free(c);
}

static inline struct or_command *named(enum or_command_type type, const char *name)
{
    struct or_command *c = or_command_new(type);
    strcpy(c->name, name);
    return c;
}

static inline struct or_command *of_domain(enum or_command_type type, uint64_t generation, uint64_t epoch)
{
    struct or_command *c = or_command_new(type);
    c->id = domain;
    c->domain_generation = generation;
    c->epoch = epoch;
    return c;
}

static const char *path_of(const struct world *w, const char *file)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", w->folder, file);
    return path;
}

static inline int lock_file(const struct world *w, const char *file)
{
    char why[OR_WHY_MAX];
    int fd = or_volume_file_lock(path_of(w, file), false, WAIT_MS_MAX, why);
    if (fd < 0)
        fail_msg("%s", why);
    return fd;
}

static inline struct or_command *new_domain(struct world *w)
{
    char why[OR_WHY_MAX];
    if (or_journal_file_create(path_of(w, "journal"), JOURNAL, why))
        fail_msg("%s", why);
    struct or_command *c = named(OR_CMD_DOMAIN_OPEN, "d");
    c->id = domain;
    c->size = BYTES;
    c->journal_id = 5;
    c->fd = lock_file(w, "journal");
    return c;
}

static inline void open_volume(struct world *w)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, "v");
    int fd = open(path_of(w, "v"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    c->kind = OR_VOLUME_FILE;
    c->content = 3;
    c->fd = lock_file(w, "v");
    do_command(w, c);
}

static inline struct or_command *new_protect(bool comes)
{
    struct or_command *c = named(OR_CMD_VOLUME_PROTECT, "v");
    c->domain = comes ? domain : 0;
    c->content = VOLUME_ID;
    c->domain_generation = 1;
    return c;
}

static inline struct or_command *new_export(uint64_t generation)
{
    struct or_command *c = named(OR_CMD_EXPORT_ADD, "v");
    strcpy(c->host, "vmhost1");
    c->id = c->generation = 1;
    c->domain_generation = generation;
    return c;
}

static inline struct or_domain_status status(struct world *w)
{
    struct or_command *c = try_command(w, or_command_new(OR_CMD_DOMAIN_LIST));
    assert_int_equal(c->count, 1);
    struct or_domain_status s = c->domains[0];
    or_command_free(c);
    return s;
}

static inline uint64_t checkpoint(struct world *w, uint64_t generation)
{
    uint64_t epoch = do_command(w, of_domain(OR_CMD_DOMAIN_CUT, generation, 0));
    do_command(w, of_domain(OR_CMD_DOMAIN_COMMIT, generation, epoch));
    return epoch;
}

/* --- the world ----------------------------------------------------------------------------------- */

static inline void begin_engine(struct world *w)
{
    struct or_engine_config config = {.role = OR_ROLE_IOHV,
                                      .interfaces = {"right"},
                                      .ethertype = ETHERTYPE,
                                      .cpu = -1,
                                      .spin_us = 20,
                                      .integrity = OR_INTEGRITY_CRC,
                                      .slots = 64,
                                      .buffer_bytes = 4 << 20,
                                      .wake = wake};
    char why[OR_WHY_MAX] = "";
    uint32_t mtu;
    enter(&w->segment, RIGHT);
    w->engine = or_engine_open(&config, why);
    if (!w->engine || or_engine_begin(w->engine, why))
        fail_msg("%s", why);
    or_engine_port(w->engine, w->mac, &mtu);
    struct or_command *c = named(OR_CMD_HOST_ADD, "vmhost1");
    memset(c->key, 7, sizeof c->key);
    do_command(w, c);
}

static inline void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    (void)arg;
    (void)worker;
    (void)up;
    (void)why;
}

static inline void begin_host(struct world *w)
{
    char why[512];
    do_command(w, named(OR_CMD_HOST_ADMIT, "vmhost1"));
    w->port = open_port(&w->segment, LEFT, ETHERTYPE, 9000);
    struct or_port_door door = {OR_CLIENT_FRAMES, OR_CHANNELS_MAX, OR_ANY_CHANNEL};
    assert_int_equal(or_port_set_filter(w->port, &door, why, sizeof why), 0);
    struct or_dispatch_config config = {
        .client = {.ports = {w->port}, .env = or_env_system, .name = "vmhost1"},
        .link = on_link,
        .arg = w,
    };
    memcpy(config.client.server_macs[0], w->mac, 6);
    memset(config.client.psk, 7, sizeof config.client.psk);
    int err;
    w->dispatch = or_dispatch_create(&config, &err);
    assert_int_equal(or_route_open(w->dispatch, &w->route, 1, (struct or_placement){0}), 0);
}

static inline struct world *begin_world(void)
{
    struct world *w = calloc(1, sizeof *w);
    char exe[128] = {0};
    w->seed = 1;
    assert_true(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    snprintf(w->folder, sizeof w->folder, "%s/or-protect-XXXXXX", dirname(exe));
    assert_non_null(mkdtemp(w->folder));
    w->segment = lay_link(9000);
    begin_engine(w);
    open_volume(w);
    return w;
}

static inline void end_world(struct world *w)
{
    if (w->dispatch) {
        or_dispatch_destroy(w->dispatch);
        or_port_close(w->port);
    }
    or_engine_close(w->engine);
    close_segment(&w->segment);
    unlink(path_of(w, "v"));
    unlink(path_of(w, "journal"));
    rmdir(w->folder);
    free(w);
    domain += 2;
}

static inline void quiesce(struct world *w)
{
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    w->quiet = true;
    while (w->busy && or_clock_ns() < end)
        host_step(w);
    assert_int_equal(w->busy, 0);
}

static inline uint8_t one(struct world *w, uint8_t op, uint32_t block, uint32_t number)
{
    quiesce(w);
    memset(w->requests[0].data, 0, BLOCK);
    memcpy(w->requests[0].data, &number, sizeof number);
    submit(w, &w->requests[0], op, block);
    quiesce(w);
    return w->status;
}

static inline uint32_t on_disk(const struct world *w, uint32_t block)
{
    uint32_t number;
    int fd = open(path_of(w, "v"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, &number, sizeof number, (off_t)block * BLOCK), sizeof number);
    close(fd);
    return number;
}

static inline void wait_applied(struct world *w, uint64_t epoch)
{
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    while (status(w).info.applied < epoch)
        assert_true(or_clock_ns() < end);
}

/* Namespaces of the test's own; false: it may not. */
static inline bool isolate(void)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        return true;
    printf("skipped: making namespaces needs root (unshare: %s)\n", strerror(errno));
    return false;
}

#endif
