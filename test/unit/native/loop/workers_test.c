/* Two workers of an I/O hypervisor, each a thread with a port of its own on one interface, and volumes that move
 * between them while a host writes and reads, with and without a block cache: real engines over a real link. Run under
 * ThreadSanitizer too. Needs root, for the link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "loop_fixture.h"

#define VOLUMES 3u
#define BLOCK 4096u
#define BLOCKS 32u
#define REQUESTS 24u
#define MOVES 300u

struct volume {
    struct served served;
    int file;              /* a volume in a file: that; else -1 */
    uint32_t last[BLOCKS]; /* number of the last write to the block that was submitted */
};

struct world {
    struct site site;
    char store_path[64];
    struct volume volumes[VOLUMES];
    struct request requests[REQUESTS];
    uint32_t number;
};

/* --- the host ------------------------------------------------------------------------------------ */

static void ended(struct site *s, struct request *r)
{
    assert_true(r->req.status == OR_OK || s->deaf); /* what nobody answers ends with an error */
}

static void submit(struct world *w, struct request *r, struct volume *v, uint8_t op, uint32_t block)
{
    if (op == OR_OP_WRITE) {
        v->last[block] = ++w->number;
        memcpy(r->data, &w->number, sizeof w->number);
    }
    begin_request(&w->site, r, &v->served, op, block * BLOCK, BLOCK);
}

static void load(struct site *s)
{
    struct world *w = (struct world *)s;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct volume *v = &w->volumes[any(s, VOLUMES)];
        uint32_t block = any(s, BLOCKS), what = any(s, 8);
        if (!w->requests[i].busy)
            submit(w, &w->requests[i], v, what < 5 ? OR_OP_WRITE : what < 7 ? OR_OP_READ : OR_OP_FLUSH, block);
    }
}

/* --- the world ----------------------------------------------------------------------------------- */

static void open_volume(struct world *w, struct volume *v)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, &v->served);
    c->kind = v->served.id % 2 && !w->site.cache_bytes ? OR_VOLUME_RAM : OR_VOLUME_FILE;
    c->content = 1000 + v->served.id;
    c->cache = (struct or_cache_change){.mode = OR_CACHE_WRITE_BACK, .has_mode = true};
    c->size = BLOCK * BLOCKS;
    c->block_size = BLOCK;
    if (c->kind == OR_VOLUME_FILE) {
        if (v->file < 0)
            v->file = memfd_create("volume", MFD_CLOEXEC);
        assert_int_equal(ftruncate(v->file, BLOCK * BLOCKS), 0);
        c->fd = dup(v->file);
    }
    do_command(&w->site, v->served.at, c);
}

/* Each block holds what was written to it last. */
static void verify(struct world *w)
{
    for (uint32_t i = 0; i < VOLUMES; i++)
        for (uint32_t block = 0; block < BLOCKS; block++) {
            struct request *r = &w->requests[0];
            struct volume *v = &w->volumes[i];
            submit(w, r, v, OR_OP_READ, block);
            quiesce(&w->site);
            assert_memory_equal(r->data, &v->last[block], sizeof v->last[block]);
        }
}

static struct world *new_world(bool cached)
{
    struct world *w = calloc(1, sizeof *w);
    w->site = (struct site){.segment = lay_link(9000), .load = load, .ended = ended, .seed = 1};
    w->site.cache_bytes = cached ? 2 << 20 : 0;
    return w;
}

static void begin_clients(struct world *w)
{
    begin_host(&w->site);
    for (uint32_t i = 0; i < VOLUMES; i++)
        open_route(&w->site, &w->volumes[i].served);
}

/* cached: the workers have a cache, and the volumes are files. */
static struct world *begin_world(bool cached)
{
    struct world *w = new_world(cached);
    begin_workers(&w->site);
    for (uint32_t i = 0; i < VOLUMES; i++) {
        struct volume *v = &w->volumes[i];
        *v = (struct volume){.served = {.id = i + 1, .at = i % WORKERS}, .file = -1};
        snprintf(v->served.name, sizeof v->served.name, "v%u", i);
        open_volume(w, v);
        export_everywhere(&w->site, &v->served);
    }
    admit_host(&w->site);
    begin_clients(w);
    return w;
}

/* Every file has what was written to it last. */
static void end_world(struct world *w)
{
    end_site(&w->site);
    for (uint32_t i = 0; i < VOLUMES; i++) {
        const struct volume *v = &w->volumes[i];
        for (uint32_t block = 0; block < BLOCKS && v->file >= 0; block++) {
            uint32_t number;
            assert_int_equal(pread(v->file, &number, sizeof number, block * BLOCK), sizeof number);
            assert_int_equal(number, v->last[block]);
        }
        close(v->file);
    }
    free(w);
}

static void move_volumes(bool cached)
{
    struct world *w = begin_world(cached);
    while (w->site.done < 1000)
        host_step(&w->site);
    for (uint32_t i = 0; i < MOVES; i++) {
        move(&w->site, &w->volumes[any(&w->site, VOLUMES)].served);
        if (any(&w->site, 4) == 0)
            host_step(&w->site);
        enum or_command_type asks[] = {OR_CMD_STATS, OR_CMD_LOADS, OR_CMD_CACHE_LIST};
        do_command(&w->site, any(&w->site, WORKERS), or_command_new(asks[i % 3]));
    }
    quiesce(&w->site);
    verify(w);
    for (uint32_t k = 0; k < 2 * REQUESTS; k++) /* and something dirty is there when the workers are stopped */
        submit(w, &w->requests[0], &w->volumes[k % VOLUMES], OR_OP_WRITE, k % BLOCKS), quiesce(&w->site);
    assert_true(w->site.done > MOVES);
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
    struct or_command *c = run_command(&w->site, v->served.at, or_command_new(OR_CMD_CACHE_LIST));
    struct or_cache_stats stats = {0};
    assert_int_equal(c->cache_info.bytes_target / (1 << 20), 1); /* 2 MiB, rounded down to whole blocks */
    for (uint32_t n = 0; n < c->count; n++)
        if (strcmp(c->cached[n].name, v->served.name) == 0)
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
    w->site.quiet = true;
    for (uint32_t block = 0; block < REQUESTS; block++)
        submit(w, &w->requests[block], v, OR_OP_WRITE, block);
    quiesce(&w->site);
    w->site.deaf = true;
    for (uint32_t block = 0; block < REQUESTS; block++)
        submit(w, &w->requests[block], v, OR_OP_READ, block);
    uint64_t end = wait_end();
    while (!cache_stats(w, v).pinned && or_clock_ns() < end)
        ;
    struct or_cache_stats stats = cache_stats(w, v);
    assert_true(stats.pinned > 0);
    assert_true(stats.hits > 0);
    assert_int_equal(stats.misses, 0);
    struct or_command *c = named(OR_CMD_EXPORT_REMOVE, &v->served);
    c->id = v->served.id;
    do_command(&w->site, v->served.at, c);
    do_command(&w->site, v->served.at, named(OR_CMD_VOLUME_CLOSE, &v->served));
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
    begin_worker(&w->site, 0);
    host_command(&w->site, 0, OR_CMD_HOST_ADD);
    struct or_command *c = or_command_new(OR_CMD_KEEP);
    strcpy(c->path, w->store_path);
    do_command(&w->site, 0, c);
    open_volume(w, &w->volumes[0]);
    export(&w->site, 0, &w->volumes[0].served);
    host_command(&w->site, 0, OR_CMD_HOST_ADMIT);
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
        w->site.store = NULL;
        close(go[1]);
        if (read(go[0], w->site.mac, 1) == 1) {
            serve_volume(w);
            if (write(ready[1], w->site.mac, sizeof w->site.mac) == sizeof w->site.mac)
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
    uint64_t end = wait_end();
    while (poll(&p, 1, 1) == 0 && or_clock_ns() < end)
        or_keep_store_serve(w->site.store);
    assert_int_equal(read(process->ready, w->site.mac, sizeof w->site.mac), sizeof w->site.mac);
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
    for (uint64_t done = w->site.done + how_many; w->site.done < done;) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            if (!w->requests[i].busy)
                submit(w, &w->requests[i], &w->volumes[0], OR_OP_WRITE, any(&w->site, BLOCKS));
        or_keep_store_serve(w->site.store);
        host_step(&w->site);
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
    struct world *w = new_world(true);
    w->site.quiet = true;
    for (uint32_t i = 0; i < VOLUMES; i++)
        w->volumes[i] = (struct volume){.served = {.id = i + 1, .name = "v"}, .file = -1};
    struct volume *v = &w->volumes[0];
    v->file = memfd_create("volume", MFD_CLOEXEC);
    assert_int_equal(ftruncate(v->file, BLOCK * BLOCKS), 0);
    snprintf(w->store_path, sizeof w->store_path, "/tmp/outrigger-workers-test-%d", getpid());
    int err;
    w->site.store = or_keep_store_open(w->store_path, ignore, NULL, &err);
    assert_non_null(w->site.store);
    struct process lives[3];
    for (int life = 0; life < 3; life++)
        lives[life] = make_process(w);
    begin_process(w, &lives[0]);
    begin_clients(w);
    for (int life = 0; life < 2; life++) {
        write_some(w, 500);
        kill_process(&lives[life]);
        assert_true(stale_blocks(v) > REQUESTS); /* more than what was under way */
        begin_process(w, &lives[life + 1]);
    }
    kill_process(&lives[2]);
    serve_volume(w); /* the third one, which nobody wrote to, had everything too */
    quiesce(&w->site);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        submit(w, &w->requests[0], v, OR_OP_READ, block);
        quiesce(&w->site);
        assert_memory_equal(w->requests[0].data, &v->last[block], sizeof v->last[block]);
    }
    end_site(&w->site);
    assert_int_equal(stale_blocks(v), 0);
    or_keep_store_close(w->site.store);
    close(v->file);
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
