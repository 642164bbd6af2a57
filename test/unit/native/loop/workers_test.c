/* Two workers of an I/O hypervisor, each a thread with a port of its own on one interface, and volumes that move
 * between them while a host writes and reads, with and without a block cache: real engines over a real link. Run under
 * ThreadSanitizer too. Needs root, for the link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "../transport/segment.h"
#include "keep/store.h"
#include "loop/engine_internal.h"
#include "transport/dispatch.h"

#define WORKERS 2u
#define VOLUMES 3u
#define BLOCK 4096u
#define BLOCKS 32u
#define REQUESTS 24u
#define MOVES 300u
#define WAIT_MS_MAX 60000u

struct volume {
    char name[8];
    uint32_t id, at, placement;
    struct or_route route;
    int file;              /* a volume in a file: that; else -1 */
    uint32_t last[BLOCKS]; /* number of the last write to the block that was submitted */
};

struct request {
    struct or_req req;
    struct world *world;
    uint8_t data[BLOCK];
    bool busy;
};

struct world {
    struct segment segment;
    struct or_engine *workers[WORKERS];
    uint8_t mac[6];
    struct or_port *port;
    struct or_dispatch *dispatch;
    struct or_keep_store *store; /* the supervisor's, */
    char store_path[64];
    struct volume volumes[VOLUMES];
    struct request requests[REQUESTS];
    uint32_t seed, number, busy;
    uint64_t done;
    bool cached; /* the workers have a cache, and the volumes are files */
    bool quiet;  /* the host begins nothing new */
    bool deaf;   /* it receives nothing */
};

static uint32_t any(struct world *w, uint32_t below)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return (w->seed >> 8) % below;
}

static void wake(void *arg)
{
    (void)arg; /* the test looks often enough */
}

/* --- the host ------------------------------------------------------------------------------------ */

static void pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, ((struct request *)r)->data + offset, length);
}

static void push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(((struct request *)r)->data + offset, src, length);
}

static void done(struct or_req *r)
{
    struct request *request = (struct request *)r;
    assert_true(r->status == OR_OK || request->world->deaf); /* what nobody answers ends with an error */
    assert_true(request->busy);
    request->busy = false;
    request->world->busy--;
    request->world->done++;
}

static const struct or_req_ops ops = {pull, push, done};

static void submit(struct world *w, struct request *r, struct volume *v, uint8_t op, uint32_t block)
{
    bool flush = op == OR_OP_FLUSH;
    r->req = (struct or_req){.ops = &ops,
                             .op = op,
                             .offset = flush ? 0 : block * BLOCK,
                             .length = flush ? 0 : BLOCK,
                             .device = v->id,
                             .generation = 1};
    if (op == OR_OP_WRITE) {
        v->last[block] = ++w->number;
        memcpy(r->data, &w->number, sizeof w->number);
    }
    r->world = w;
    r->busy = true;
    w->busy++;
    or_route_submit(&v->route, &r->req, or_clock_ns());
}

static void submit_some(struct world *w)
{
    for (uint32_t i = 0; i < REQUESTS && !w->quiet; i++) {
        struct volume *v = &w->volumes[any(w, VOLUMES)];
        uint32_t block = any(w, BLOCKS), what = any(w, 8);
        if (!w->requests[i].busy)
            submit(w, &w->requests[i], v, what < 5 ? OR_OP_WRITE : what < 7 ? OR_OP_READ : OR_OP_FLUSH, block);
    }
}

static void receive(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    or_dispatch_rx(w->dispatch, frame, length, or_clock_ns());
}

static void host_step(struct world *w)
{
    struct pollfd p[] = {{.fd = w->port->fd, .events = POLLIN}, {.fd = w->port->handshake_fd, .events = POLLIN}};
    poll(p, 2, 1);
    if (!w->deaf)
        or_port_rx_burst(w->port, 64, receive, w);
    uint64_t now = or_clock_ns();
    if (now >= or_dispatch_deadline(w->dispatch))
        or_dispatch_tick(w->dispatch, now);
    submit_some(w);
    or_dispatch_flush(w->dispatch, now);
    or_port_tx_flush(w->port);
}

/* --- commands ------------------------------------------------------------------------------------ */

/* The host goes on meanwhile. Returns the finished command. */
static struct or_command *run_command(struct world *w, uint32_t worker, struct or_command *c)
{
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    enum or_command_type type = c->type;
    assert_int_equal(or_engine_submit(w->workers[worker], c), 0);
    for (;;) {
        struct or_command *finished;
        struct or_event *event;
        while (or_engine_reap(w->workers[worker], &finished, &event)) {
            if (event) {
                or_event_free(event);
                continue;
            }
            if (finished->error)
                fail_msg("command %d: %s", type, finished->why);
            return finished;
        }
        if (or_clock_ns() > end)
            fail_msg("command %d did not end", type);
        if (w->store)
            or_keep_store_serve(w->store);
        if (w->dispatch)
            host_step(w);
    }
}

static void do_command(struct world *w, uint32_t worker, struct or_command *c)
{
    or_command_free(run_command(w, worker, c));
}

static struct or_command *named(enum or_command_type type, const struct volume *v)
{
    struct or_command *c = or_command_new(type);
    memcpy(c->name, v->name, sizeof v->name);
    return c;
}

static void export(struct world *w, uint32_t worker, const struct volume *v, bool elsewhere)
{
    struct or_command *c = named(OR_CMD_EXPORT_ADD, v);
    strcpy(c->host, "vmhost1");
    c->id = v->id;
    c->generation = 1;
    c->placement.number = v->placement;
    c->elsewhere = elsewhere;
    do_command(w, worker, c);
}

static void open_volume(struct world *w, struct volume *v)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, v);
    c->kind = v->id % 2 && !w->cached ? OR_VOLUME_RAM : OR_VOLUME_FILE;
    c->content = 1000 + v->id;
    c->cache = (struct or_cache_change){.mode = OR_CACHE_WRITE_BACK, .has_mode = true};
    c->size = BLOCK * BLOCKS;
    c->block_size = BLOCK;
    if (c->kind == OR_VOLUME_FILE) {
        if (v->file < 0)
            v->file = memfd_create("volume", MFD_CLOEXEC);
        assert_int_equal(ftruncate(v->file, BLOCK * BLOCKS), 0);
        c->fd = dup(v->file);
    }
    do_command(w, v->at, c);
}

static void move(struct world *w, struct volume *v)
{
    uint32_t to = 1 - v->at;
    export(w, v->at, v, true);
    do_command(w, v->at, named(OR_CMD_VOLUME_GIVE, v));
    struct or_command *open = named(OR_CMD_VOLUME_OPEN, v);
    open->passed = true;
    do_command(w, to, open);
    v->at = to;
    v->placement++;
    export(w, to, v, false);
    assert_int_equal(or_route_move(&v->route, (struct or_placement){(uint8_t)to, v->placement}), 0);
}

static void host_command(struct world *w, uint32_t worker, enum or_command_type type)
{
    struct or_command *c = or_command_new(type);
    strcpy(c->name, "vmhost1");
    memset(c->key, 7, sizeof c->key);
    do_command(w, worker, c);
}

/* --- the world ----------------------------------------------------------------------------------- */

static void begin_worker(struct world *w, uint8_t number)
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
                                      .cache_bytes = w->cached ? 2 << 20 : 0,
                                      .wake = wake};
    char why[OR_WHY_MAX] = "";
    uint32_t mtu;
    enter(&w->segment, RIGHT);
    w->workers[number] = or_engine_open(&config, why);
    if (!w->workers[number] || or_engine_begin(w->workers[number], why))
        fail_msg("%s", why);
    or_engine_port(w->workers[number], w->mac, &mtu);
}

static void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    (void)arg;
    (void)worker;
    (void)up;
    (void)why;
}

static void begin_host(struct world *w)
{
    char why[512];
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
    for (uint32_t i = 0; i < VOLUMES; i++)
        assert_int_equal(or_route_open(w->dispatch, &w->volumes[i].route, w->volumes[i].id,
                                       (struct or_placement){(uint8_t)w->volumes[i].at, 0}),
                         0);
}

static void quiesce(struct world *w)
{
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    w->quiet = true;
    while (w->busy && or_clock_ns() < end)
        host_step(w);
    assert_int_equal(w->busy, 0);
}

/* Each block holds what was written to it last. */
static void verify(struct world *w)
{
    for (uint32_t i = 0; i < VOLUMES; i++)
        for (uint32_t block = 0; block < BLOCKS; block++) {
            struct request *r = &w->requests[0];
            struct volume *v = &w->volumes[i];
            submit(w, r, v, OR_OP_READ, block);
            quiesce(w);
            assert_memory_equal(r->data, &v->last[block], sizeof v->last[block]);
        }
}

static struct world *begin_world(bool cached)
{
    struct world *w = calloc(1, sizeof *w);
    w->segment = lay_link(9000);
    w->seed = 1;
    w->cached = cached;
    for (uint8_t i = 0; i < WORKERS; i++) {
        begin_worker(w, i);
        host_command(w, i, OR_CMD_HOST_ADD);
    }
    for (uint32_t i = 0; i < VOLUMES; i++) {
        struct volume *v = &w->volumes[i];
        *v = (struct volume){.id = i + 1, .at = i % WORKERS, .file = -1};
        snprintf(v->name, sizeof v->name, "v%u", i);
        open_volume(w, v);
        for (uint32_t k = 0; k < WORKERS; k++)
            export(w, k, v, k != v->at);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        host_command(w, i, OR_CMD_HOST_ADMIT);
    begin_host(w);
    return w;
}

/* Stops the workers, in order: after that every file has what was written to it last. */
static void end_world(struct world *w)
{
    or_dispatch_destroy(w->dispatch);
    or_port_close(w->port);
    for (uint32_t i = 0; i < WORKERS; i++)
        or_engine_close(w->workers[i]);
    for (uint32_t i = 0; i < VOLUMES; i++) {
        const struct volume *v = &w->volumes[i];
        for (uint32_t block = 0; block < BLOCKS && v->file >= 0; block++) {
            uint32_t number;
            assert_int_equal(pread(v->file, &number, sizeof number, block * BLOCK), sizeof number);
            assert_int_equal(number, v->last[block]);
        }
        close(v->file);
    }
    close_segment(&w->segment);
    free(w);
}

static void move_volumes(bool cached)
{
    struct world *w = begin_world(cached);
    while (w->done < 1000)
        host_step(w);
    for (uint32_t i = 0; i < MOVES; i++) {
        move(w, &w->volumes[any(w, VOLUMES)]);
        if (any(w, 4) == 0)
            host_step(w);
        enum or_command_type asks[] = {OR_CMD_STATS, OR_CMD_LOADS, OR_CMD_CACHE_LIST};
        do_command(w, any(w, WORKERS), or_command_new(asks[i % 3]));
    }
    quiesce(w);
    verify(w);
    for (uint32_t k = 0; k < 2 * REQUESTS; k++) /* and something dirty is there when the workers are stopped */
        submit(w, &w->requests[0], &w->volumes[k % VOLUMES], OR_OP_WRITE, k % BLOCKS), quiesce(w);
    assert_true(w->done > MOVES);
    end_world(w);
}

static void volumes_move_between_threads_under_load(void **state)
{
    (void)state;
    move_volumes(false);
}

static void cached_volumes_move_with_what_is_dirty(void **state)
{
    (void)state;
    move_volumes(true);
}

static struct or_cache_stats cache_stats(struct world *w, const struct volume *v)
{
    struct or_command *c = run_command(w, v->at, or_command_new(OR_CMD_CACHE_LIST));
    struct or_cache_stats stats = {0};
    assert_int_equal(c->cache_info.bytes_target / (1 << 20), 1); /* 2 MiB, rounded down to whole blocks */
    for (uint32_t n = 0; n < c->count; n++)
        if (strcmp(c->cached[n].name, v->name) == 0)
            stats = c->cached[n].stats;
    or_command_free(c);
    return stats;
}

/* Replies out of the cache's memory that never arrive: what they hold is let go when the export goes. */
static void a_host_that_is_deaf_does_not_keep_a_volume_open(void **state)
{
    (void)state;
    struct world *w = begin_world(true);
    struct volume *v = &w->volumes[0];
    w->quiet = true;
    for (uint32_t block = 0; block < REQUESTS; block++)
        submit(w, &w->requests[block], v, OR_OP_WRITE, block);
    quiesce(w);
    w->deaf = true;
    for (uint32_t block = 0; block < REQUESTS; block++)
        submit(w, &w->requests[block], v, OR_OP_READ, block);
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    while (!cache_stats(w, v).pinned && or_clock_ns() < end)
        ;
    struct or_cache_stats stats = cache_stats(w, v);
    assert_true(stats.pinned > 0);
    assert_true(stats.hits > 0);
    assert_int_equal(stats.misses, 0);
    struct or_command *c = named(OR_CMD_EXPORT_REMOVE, v);
    c->id = v->id;
    do_command(w, v->at, c);
    do_command(w, v->at, named(OR_CMD_VOLUME_CLOSE, v));
    assert_int_equal(cache_stats(w, v).pinned, 0);
    end_world(w);
}

/* --- an engine is killed ------------------------------------------------------------------------- */

static void ignore(void *arg)
{
    (void)arg;
}

static void serve_volume(struct world *w)
{
    begin_worker(w, 0);
    host_command(w, 0, OR_CMD_HOST_ADD);
    struct or_command *c = or_command_new(OR_CMD_KEEP);
    strcpy(c->path, w->store_path);
    do_command(w, 0, c);
    open_volume(w, &w->volumes[0]);
    export(w, 0, &w->volumes[0], false);
    host_command(w, 0, OR_CMD_HOST_ADMIT);
}

/* A process that becomes an engine when it is told to: made before this one has a port of its own. */
struct process {
    pid_t pid;
    int go, ready;
};

static struct process make_process(struct world *w)
{
    int go[2], ready[2];
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        w->store = NULL;
        close(go[1]);
        if (read(go[0], w->mac, 1) == 1) {
            serve_volume(w);
            if (write(ready[1], w->mac, sizeof w->mac) == sizeof w->mac)
                for (;;)
                    pause();
        }
        _exit(1);
    }
    close(go[0]);
    close(ready[1]);
    return (struct process){pid, go[1], ready[0]};
}

static void begin_process(struct world *w, const struct process *process)
{
    assert_int_equal(write(process->go, "", 1), 1);
    struct pollfd p = {.fd = process->ready, .events = POLLIN};
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    while (poll(&p, 1, 1) == 0 && or_clock_ns() < end)
        or_keep_store_serve(w->store);
    assert_int_equal(read(process->ready, w->mac, sizeof w->mac), sizeof w->mac);
}

static void kill_process(struct process *process)
{
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
    close(process->go);
    close(process->ready);
}

static void write_some(struct world *w, uint32_t how_many)
{
    for (uint64_t done = w->done + how_many; w->done < done;) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            if (!w->requests[i].busy)
                submit(w, &w->requests[i], &w->volumes[0], OR_OP_WRITE, any(w, BLOCKS));
        or_keep_store_serve(w->store);
        host_step(w);
    }
}

/* Blocks of which the file has not the last write. */
static uint32_t stale_blocks(const struct volume *v)
{
    uint32_t stale = 0;
    for (uint32_t block = 0; block < BLOCKS; block++) {
        uint32_t number;
        assert_int_equal(pread(v->file, &number, sizeof number, block * BLOCK), sizeof number);
        stale += number != v->last[block];
    }
    return stale;
}

/* The guest lives on and was told that its writes are done: no flush may be needed for them to be there. */
static void acknowledged_writes_outlive_a_killed_engine(void **state)
{
    (void)state;
    struct world *w = calloc(1, sizeof *w);
    w->segment = lay_link(9000);
    w->seed = 1;
    w->cached = w->quiet = true;
    for (uint32_t i = 0; i < VOLUMES; i++)
        w->volumes[i] = (struct volume){.id = i + 1, .file = -1, .name = "v"};
    struct volume *v = &w->volumes[0];
    v->file = memfd_create("volume", MFD_CLOEXEC);
    assert_int_equal(ftruncate(v->file, BLOCK * BLOCKS), 0);
    snprintf(w->store_path, sizeof w->store_path, "/tmp/outrigger-workers-test-%d", getpid());
    int err;
    w->store = or_keep_store_open(w->store_path, ignore, NULL, &err);
    assert_non_null(w->store);
    struct process lives[3];
    for (int life = 0; life < 3; life++)
        lives[life] = make_process(w);
    begin_process(w, &lives[0]);
    begin_host(w);
    for (int life = 0; life < 2; life++) {
        write_some(w, 500);
        kill_process(&lives[life]);
        assert_true(stale_blocks(v) > REQUESTS); /* more than what was under way */
        begin_process(w, &lives[life + 1]);
    }
    kill_process(&lives[2]);
    serve_volume(w); /* the third one, which nobody wrote to, had everything too */
    quiesce(w);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        submit(w, &w->requests[0], v, OR_OP_READ, block);
        quiesce(w);
        assert_memory_equal(w->requests[0].data, &v->last[block], sizeof v->last[block]);
    }
    or_dispatch_destroy(w->dispatch);
    or_port_close(w->port);
    or_engine_close(w->workers[0]);
    assert_int_equal(stale_blocks(v), 0);
    or_keep_store_close(w->store);
    close(v->file);
    close_segment(&w->segment);
    free(w);
}

int main(void)
{
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volumes_move_between_threads_under_load),
        cmocka_unit_test(cached_volumes_move_with_what_is_dirty),
        cmocka_unit_test(a_host_that_is_deaf_does_not_keep_a_volume_open),
        cmocka_unit_test(acknowledged_writes_outlive_a_killed_engine),
    };
    cmocka_set_test_filter(getenv("ONLY")); /* a pattern; all without it */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
