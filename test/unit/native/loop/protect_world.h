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
#include <sys/mount.h>

#include "loop_fixture.h"

#define BLOCK 512u
#define BLOCKS 256u
#define SIZE (BLOCK * BLOCKS)
#define REQUESTS 16u
#define BYTES (1u << 20) /* that the domain holds */
#define JOURNAL (4u << 20)
#define VOLUME_ID 0x1234u

struct world {
    struct site site; /* one worker */
    struct served volume;
    struct request requests[REQUESTS];
    uint32_t submitted[BLOCKS], ended[BLOCKS];
    uint32_t number;
    bool fails;
    uint8_t status;
    uint32_t events[OR_DOMAIN_EVENT_EPOCHS + 1];
    char folder[256];
};

static uint32_t domain = 7; /* of each world another one: the region stays in the process */

/* --- the host ------------------------------------------------------------------------------------ */

/* A read shows the last write that had ended, or one that has not. */
static inline void ended(struct site *s, struct request *r)
{
    struct world *w = (struct world *)s;
    uint32_t number, block = (uint32_t)(r->req.offset / BLOCK);
    w->status = r->req.status;
    assert_true(w->status == OR_OK || w->fails);
    memcpy(&number, r->data, sizeof number);
    if (w->status == OR_OK && r->req.op == OR_OP_WRITE)
        w->ended[block] = number;
    if (w->status == OR_OK && r->req.op == OR_OP_READ && !w->fails)
        assert_int_equal(number, w->ended[block]); /* nothing that overlaps is under way */
}

static inline void submit(struct world *w, struct request *r, uint8_t op, uint32_t block)
{
    begin_request(&w->site, r, &w->volume, op, block * BLOCK, BLOCK);
}

/* Each request has blocks of its own. */
static inline void submit_some(struct site *s)
{
    struct world *w = (struct world *)s;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request *r = &w->requests[i];
        uint32_t block = any(s, BLOCKS / REQUESTS) * REQUESTS + i, what = any(s, 16);
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

/* The host is busy until so many more requests have ended, and stays so. */
static inline void load(struct world *w, uint32_t more)
{
    w->site.quiet = false;
    for (uint64_t to = w->site.done + more; w->site.done < to;)
        host_step(&w->site);
}

/* --- commands ------------------------------------------------------------------------------------ */

static inline void note(struct site *s, const struct or_event *event)
{
    if (event->type == OR_EVENT_DOMAIN)
        ((struct world *)s)->events[event->state]++;
}

/* Runs one that must succeed, and returns its epoch. */
static inline uint64_t order(struct world *w, struct or_command *c)
{
    c = run_command(&w->site, 0, c);
    uint64_t epoch = c->epoch;
    or_command_free(c);
    return epoch;
}

static inline void refused(struct world *w, struct or_command *c, int error)
{
    c = try_command(&w->site, 0, c);
    assert_int_equal(c->error, error);
    assert_true(strlen(c->why) > 0);
    or_command_free(c);
}

static inline struct or_command *of_volume(struct world *w, enum or_command_type type)
{
    return named(type, &w->volume);
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
    struct or_command *c = or_command_new(OR_CMD_DOMAIN_OPEN);
    strcpy(c->name, "d");
    c->id = domain;
    c->size = BYTES;
    c->journal_id = 5;
    c->fd = lock_file(w, "journal");
    return c;
}

static inline void open_volume(struct world *w)
{
    struct or_command *c = of_volume(w, OR_CMD_VOLUME_OPEN);
    int fd = open(path_of(w, "v"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    c->kind = OR_VOLUME_FILE;
    c->content = 3;
    c->fd = lock_file(w, "v");
    order(w, c);
}

static inline struct or_command *new_protect(struct world *w, bool comes)
{
    struct or_command *c = of_volume(w, OR_CMD_VOLUME_PROTECT);
    c->domain = comes ? domain : 0;
    c->content = VOLUME_ID;
    c->domain_generation = 1;
    return c;
}

static inline struct or_command *new_export(struct world *w, uint64_t generation)
{
    struct or_command *c = of_volume(w, OR_CMD_EXPORT_ADD);
    strcpy(c->host, HOST);
    c->id = w->volume.id;
    c->generation = 1;
    c->domain_generation = generation;
    return c;
}

static inline struct or_domain_status status(struct world *w)
{
    struct or_command *c = try_command(&w->site, 0, or_command_new(OR_CMD_DOMAIN_LIST));
    assert_int_equal(c->count, 1);
    struct or_domain_status s = c->domains[0];
    or_command_free(c);
    return s;
}

static inline uint64_t checkpoint(struct world *w, uint64_t generation)
{
    uint64_t epoch = order(w, of_domain(OR_CMD_DOMAIN_CUT, generation, 0));
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, generation, epoch));
    return epoch;
}

/* --- the world ----------------------------------------------------------------------------------- */

static inline void begin_engine(struct world *w)
{
    begin_worker(&w->site, 0);
    host_command(&w->site, 0, OR_CMD_HOST_ADD);
}

static inline void begin_client(struct world *w)
{
    host_command(&w->site, 0, OR_CMD_HOST_ADMIT);
    begin_host(&w->site);
    open_route(&w->site, &w->volume);
}

static inline struct world *begin_world(void)
{
    struct world *w = calloc(1, sizeof *w);
    char exe[128] = {0};
    w->site = (struct site){.segment = lay_link(9000), .load = submit_some, .ended = ended, .event = note, .seed = 1};
    w->volume = (struct served){.name = "v", .id = 1};
    assert_true(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    snprintf(w->folder, sizeof w->folder, "%s/or-protect-XXXXXX", dirname(exe));
    assert_non_null(mkdtemp(w->folder));
    begin_engine(w);
    open_volume(w);
    return w;
}

/* Opens the domain, with the volume in it, which the host may use. */
static inline void protect(struct world *w, struct or_command *open)
{
    order(w, open);
    order(w, new_protect(w, true));
    order(w, new_export(w, 1));
    w->site.quiet = true;
    begin_client(w);
}

static inline struct world *begin_protected(void)
{
    struct world *w = begin_world();
    protect(w, new_domain(w));
    return w;
}

static inline void end_world(struct world *w)
{
    end_site(&w->site);
    unlink(path_of(w, "v"));
    unlink(path_of(w, "journal"));
    rmdir(w->folder);
    free(w);
    domain += 2;
}

static inline uint8_t one(struct world *w, uint8_t op, uint32_t block, uint32_t number)
{
    quiesce(&w->site);
    memset(w->requests[0].data, 0, BLOCK);
    memcpy(w->requests[0].data, &number, sizeof number);
    submit(w, &w->requests[0], op, block);
    quiesce(&w->site);
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
    uint64_t end = wait_end();
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
