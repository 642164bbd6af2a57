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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "keep/snapshot.h"
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
    uint64_t quota; /* of each in the cache; 0: none */
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

static struct or_command *opening(struct world *w, struct volume *v)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, &v->served);
    c->kind = v->served.id % 2 && !w->site.cache_bytes && v->file < 0 ? OR_VOLUME_RAM : OR_VOLUME_FILE;
    c->content = 1000 + v->served.id;
    c->cache = (struct or_cache_change){
        .mode = OR_CACHE_WRITE_BACK, .has_mode = true, .quota = w->quota, .has_quota = w->quota != 0};
    c->size = BLOCK * BLOCKS;
    c->block_size = BLOCK;
    if (c->kind == OR_VOLUME_FILE) {
        if (v->file < 0)
            v->file = memfd_create("volume", MFD_CLOEXEC);
        assert_int_equal(ftruncate(v->file, BLOCK * BLOCKS), 0);
        c->fd = dup(v->file);
    }
    return c;
}

static void open_volume(struct world *w, struct volume *v)
{
    do_command(&w->site, v->served.at, opening(w, v));
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

static void begin_store(struct world *w)
{
    int err;
    w->site.store = or_keep_store_open(w->store_path, ignore, NULL, &err);
    assert_non_null(w->site.store);
}

static struct or_command *keeping(const struct world *w)
{
    struct or_command *c = or_command_new(OR_CMD_KEEP);
    strcpy(c->path, w->store_path);
    return c;
}

static void begin_kept(struct world *w)
{
    begin_worker(&w->site, 0);
    host_command(&w->site, 0, OR_CMD_HOST_ADD);
    do_command(&w->site, 0, keeping(w));
}

static void serve_volume(struct world *w)
{
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
            begin_kept(w);
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

static struct world *new_kept_world(void)
{
    struct world *w = new_world(true);
    w->site.quiet = true;
    for (uint32_t i = 0; i < VOLUMES; i++)
        w->volumes[i] = (struct volume){.served = {.id = i + 1, .name = "v"}, .file = -1};
    w->volumes[0].file = memfd_create("volume", MFD_CLOEXEC);
    assert_int_equal(ftruncate(w->volumes[0].file, BLOCK * BLOCKS), 0);
    snprintf(w->store_path, sizeof w->store_path, "/tmp/outrigger-workers-test-%d", getpid());
    begin_store(w);
    return w;
}

static void end_kept_world(struct world *w)
{
    end_site(&w->site);
    assert_int_equal(stale_blocks(&w->volumes[0]), 0);
    or_keep_store_close(w->site.store);
    close(w->volumes[0].file);
    free(w);
}

/* The guest lives on and was told that its writes are done: no flush may be needed for them to be there. */
static void acknowledged_writes_outlive_a_killed_engine(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    struct volume *v = &w->volumes[0];
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
    begin_kept(w);
    serve_volume(w); /* the third one, which nobody wrote to, had everything too */
    quiesce(&w->site);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        submit(w, &w->requests[0], v, OR_OP_READ, block);
        quiesce(&w->site);
        assert_memory_equal(w->requests[0].data, &v->last[block], sizeof v->last[block]);
    }
    end_kept_world(w);
}

/* One engine has lived and was killed, with writes that the file does not have. */
static struct world *begin_after_a_kill(void)
{
    struct world *w = new_kept_world();
    struct process life = make_process(w);
    begin_process(w, &life);
    begin_clients(w);
    write_some(w, 500);
    kill_process(&life);
    assert_true(stale_blocks(&w->volumes[0]) > REQUESTS);
    return w;
}

static void assert_refused(struct world *w, int error, const char *why)
{
    struct or_command *c = try_command(&w->site, 0, opening(w, &w->volumes[0]));
    assert_int_equal(c->error, error);
    if (!strstr(c->why, why) || !strstr(c->why, "cache drop --kept"))
        fail_msg("\"%s\" says nothing of \"%s\"", c->why, why);
    or_command_free(c);
}

/* What the file lacks was under way when the engine was killed, and comes again. */
static void serve_to_the_end(struct world *w)
{
    open_volume(w, &w->volumes[0]);
    assert_true(stale_blocks(&w->volumes[0]) <= w->site.busy);
    do_command(&w->site, 0, named(OR_CMD_VOLUME_CLOSE, &w->volumes[0].served));
    serve_volume(w);
    quiesce(&w->site);
    end_kept_world(w);
}

static void an_engine_without_a_cache_writes_out_what_a_killed_one_had(void **state)
{
    (void)state;
    struct world *w = begin_after_a_kill();
    w->site.cache_bytes = 0;
    begin_kept(w);
    serve_to_the_end(w);
}

static void refuse_until_there_is_room(struct world *w)
{
    begin_kept(w);
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    assert_refused(w, -EIO, "cannot be written out");
    assert_refused(w, -EIO, "cannot be written out");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    serve_to_the_end(w); /* nothing was forgotten */
}

static void a_volume_whose_storage_does_not_take_it_is_refused(void **state)
{
    (void)state;
    struct world *w = begin_after_a_kill();
    w->site.cache_bytes = 0;
    refuse_until_there_is_room(w);
}

static void so_is_one_for_which_there_is_no_room_in_the_cache(void **state)
{
    (void)state;
    struct world *w = begin_after_a_kill();
    w->quota = 4 * BLOCK;
    refuse_until_there_is_room(w);
}

/* So many soon. */
static void assert_store_has(struct world *w, uint32_t count)
{
    uint64_t end = wait_end();
    while (or_keep_store_devices(w->site.store, NULL, 0) != count && or_clock_ns() < end)
        or_keep_store_serve(w->site.store);
    assert_int_equal(or_keep_store_devices(w->site.store, NULL, 0), count);
}

static void what_is_given_up_keeps_no_volume_closed(void **state)
{
    (void)state;
    struct world *w = begin_after_a_kill();
    w->site.cache_bytes = 0;
    begin_kept(w);
    struct or_command *c = or_command_new(OR_CMD_KEEP_GIVE_UP);
    c->content = UINT64_MAX; /* nobody's */
    c = run_command(&w->site, 0, c);
    assert_int_equal(c->size, 0);
    or_command_free(c);
    c = run_command(&w->site, 0, or_command_new(OR_CMD_KEEP_GIVE_UP));
    assert_in_range(c->size, BLOCK, BLOCKS * BLOCK);
    or_command_free(c);
    open_volume(w, &w->volumes[0]);
    struct volume *v = &w->volumes[0];
    assert_true(stale_blocks(v) > w->site.busy);
    do_command(&w->site, 0, named(OR_CMD_VOLUME_CLOSE, &v->served));
    assert_store_has(w, 0); /* nor will the next engine find it */
    serve_volume(w);
    quiesce(&w->site);
    for (uint32_t block = 0; block < BLOCKS; block++)
        submit(w, &w->requests[0], v, OR_OP_WRITE, block), quiesce(&w->site);
    end_kept_world(w);
}

#define FOREIGN_ID 7u

/* The store has so many memories of another version, the first with this id. */
static void leave_foreign_memory(struct world *w, uint32_t id, uint32_t count)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, w->store_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    static struct or_keep_snapshot s;
    while (or_keep_receive(fd, &s) != OR_KEEP_END)
        or_keep_store_serve(w->site.store);
    s = (struct or_keep_snapshot){.length = sizeof s.bytes, .bytes = "future"};
    or_keep_put_fd(&s, w->volumes[0].file);
    for (s.id = id; s.id < id + count; s.id++) {
        assert_int_equal(or_keep_send(fd, OR_KEEP_SNAPSHOT, s.id, &s), 0);
        or_keep_store_serve(w->site.store);
    }
    close(fd);
    while (or_keep_store_connected(w->site.store) || or_keep_store_devices(w->site.store, NULL, 0) < count)
        or_keep_store_serve(w->site.store);
}

static bool store_has(struct world *w, uint32_t id)
{
    uint32_t ids[8], n = or_keep_store_devices(w->site.store, ids, 8);
    while (n && ids[n - 1] != id)
        n--;
    return n > 0;
}

/* Soon: what the engine has told is read here. */
static void await_in_store(struct world *w, uint32_t id, bool there)
{
    uint64_t end = wait_end();
    while (store_has(w, id) != there && or_clock_ns() < end)
        or_keep_store_serve(w->site.store);
    assert_int_equal(store_has(w, id), there);
}

static void note_unreadable(struct site *s, const struct or_event *event)
{
    s->lost += event->type == OR_EVENT_CACHE_UNREAD;
}

static void no_volume_is_opened_while_memory_cannot_be_read(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    w->site.event = note_unreadable;
    leave_foreign_memory(w, FOREIGN_ID, 1);
    begin_kept(w);
    assert_refused(w, -EPROTO, "another version");
    assert_int_equal(w->site.lost, 1);
    assert_true(store_has(w, FOREIGN_ID)); /* for an engine that can */
    do_command(&w->site, 0, or_command_new(OR_CMD_KEEP_GIVE_UP));
    open_volume(w, &w->volumes[0]);
    await_in_store(w, FOREIGN_ID, false);
    end_kept_world(w);
}

/* --- regions of domains ----------------------------------------------------------------------------- */

#define DOMAIN 3u
#define REGION_ID (0x80000000u | DOMAIN) /* in the store */
#define JOURNAL (4u << 20)

static struct or_command *of_domain(enum or_command_type type)
{
    struct or_command *c = or_command_new(type);
    c->id = DOMAIN;
    c->forget = type == OR_CMD_DOMAIN_CLOSE;
    return c;
}

static struct or_command *opening_domain(int journal)
{
    struct or_command *c = of_domain(OR_CMD_DOMAIN_OPEN);
    strcpy(c->name, "d");
    c->size = 1 << 20;
    c->journal_id = 5;
    c->fd = journal;
    return c;
}

static int new_journal(const struct world *w)
{
    char path[80], why[OR_WHY_MAX];
    snprintf(path, sizeof path, "%s-journal", w->store_path);
    if (or_journal_file_create(path, JOURNAL, why))
        fail_msg("%s", why);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unlink(path);
    return fd;
}

static int small_journal(void)
{
    int fd = memfd_create("journal", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, JOURNAL / 64), 0);
    return fd;
}

static void refuse_domain(struct world *w, int journal, int error, const char *why)
{
    struct or_command *c = try_command(&w->site, 0, opening_domain(journal));
    assert_int_equal(c->error, error);
    if (!strstr(c->why, why))
        fail_msg("\"%s\" says nothing of \"%s\"", c->why, why);
    or_command_free(c);
}

static void a_region_that_cannot_be_read_is_the_affair_of_its_domain(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    w->site.event = note_unreadable;
    leave_foreign_memory(w, REGION_ID, 1);
    begin_kept(w);
    refuse_domain(w, new_journal(w), -EPROTO, "another version");
    open_volume(w, &w->volumes[0]);
    assert_int_equal(w->site.lost, 0);
    do_command(&w->site, 0, or_command_new(OR_CMD_KEEP_GIVE_UP)); /* not what this is about */
    refuse_domain(w, new_journal(w), -EPROTO, "protect domain rm --force");
    assert_store_has(w, 2); /* and the cache */
    do_command(&w->site, 0, of_domain(OR_CMD_DOMAIN_CLOSE));
    assert_store_has(w, 1);
    do_command(&w->site, 0, opening_domain(new_journal(w)));
    await_in_store(w, REGION_ID, true);
    do_command(&w->site, 0, of_domain(OR_CMD_DOMAIN_CLOSE));
    end_kept_world(w);
}

static void the_store_has_the_region_that_a_domain_got_last(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    begin_kept(w);
    refuse_domain(w, small_journal(), -EFBIG, "too small");
    assert_store_has(w, 2);
    struct or_command *both[] = {of_domain(OR_CMD_DOMAIN_CLOSE), opening_domain(new_journal(w))};
    for (uint32_t n = 0; n < 2; n++)
        assert_int_equal(or_engine_submit(w->site.workers[0], both[n]), 0);
    for (uint32_t n = 0; n < 2; n++) {
        struct or_command *c = next_command(&w->site, 0);
        assert_int_equal(c->error, 0);
        or_command_free(c);
    }
    do_command(&w->site, 0, or_command_new(OR_CMD_STATS));
    or_keep_store_serve(w->site.store);
    assert_store_has(w, 2);
    do_command(&w->site, 0, of_domain(OR_CMD_DOMAIN_CLOSE));
    assert_store_has(w, 1);
    end_kept_world(w);
}

/* --- a supervisor dies ------------------------------------------------------------------------------- */

#define MANY 100u /* more than a socket takes at once */

/* A new supervisor, which is busy with something else when the engine tells it what there is: the worker has gone round
 * twice, and waits. */
static void begin_telling(struct world *w)
{
    or_keep_store_close(w->site.store);
    begin_store(w);
    assert_int_equal(or_engine_submit(w->site.workers[0], keeping(w)), 0);
    while (!or_keep_store_connected(w->site.store))
        or_keep_store_serve(w->site.store);
    struct or_keep_store *store = w->site.store;
    w->site.store = NULL;
    for (uint32_t n = 0; n < 2; n++)
        do_command(&w->site, 0, or_command_new(OR_CMD_STATS));
    w->site.store = store;
}

/* It is gone, and another one comes; of the first the engine says so. */
static void end_telling(struct world *w, int error)
{
    or_keep_store_close(w->site.store);
    w->site.store = NULL;
    struct or_command *c = next_command(&w->site, 0);
    assert_non_null(c);
    assert_int_equal(c->error, error);
    or_command_free(c);
    begin_store(w);
    do_command(&w->site, 0, keeping(w));
}

static void a_supervisor_that_dies_while_it_is_told_is_not_waited_for(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    leave_foreign_memory(w, FOREIGN_ID, MANY);
    begin_kept(w);
    begin_telling(w);
    end_telling(w, -ECONNRESET);
    assert_store_has(w, MANY + 1); /* and the cache */
    begin_telling(w);
    do_command(&w->site, 0, or_command_new(OR_CMD_KEEP_GIVE_UP)); /* nothing is left to be told */
    end_telling(w, 0);
    assert_store_has(w, 1);
    end_kept_world(w);
}

static void nor_does_an_engine_that_ends_wait_for_one(void **state)
{
    (void)state;
    struct world *w = new_kept_world();
    leave_foreign_memory(w, FOREIGN_ID, MANY);
    begin_kept(w);
    begin_telling(w);
    do_command(&w->site, 0, or_command_new(OR_CMD_KEEP_GIVE_UP));
    end_kept_world(w);
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
        cmocka_unit_test(an_engine_without_a_cache_writes_out_what_a_killed_one_had),
        cmocka_unit_test(a_volume_whose_storage_does_not_take_it_is_refused),
        cmocka_unit_test(so_is_one_for_which_there_is_no_room_in_the_cache),
        cmocka_unit_test(what_is_given_up_keeps_no_volume_closed),
        cmocka_unit_test(no_volume_is_opened_while_memory_cannot_be_read),
        cmocka_unit_test(a_region_that_cannot_be_read_is_the_affair_of_its_domain),
        cmocka_unit_test(the_store_has_the_region_that_a_domain_got_last),
        cmocka_unit_test(a_supervisor_that_dies_while_it_is_told_is_not_waited_for),
        cmocka_unit_test(nor_does_an_engine_that_ends_wait_for_one),
    };
    cmocka_set_test_filter(getenv("ONLY")); /* a pattern; all without it */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
