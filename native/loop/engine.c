/* The loop. A step takes in what has arrived, works on it and sends out what is ready; while there is
 * work, and for up to spin_us after (spin.h), steps follow each other without a system call for waiting. Then the
 * worker asks its guests for kicks and sleeps on one epoll descriptor until something arrives or the
 * next timer is due. So load is served by polling and idleness costs nothing.
 *
 * Rare things come by descriptor even while the worker polls: it looks at them every RARE_NS. */
#include "engine_internal.h"
#include "spin.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define RARE_NS 1000000ull
#define CLOSING_NS 1000000ull /* so often an engine that ends looks whether it can, whatever wakes it or does not */
#define RARE_BATCH 4          /* the ports' own descriptors are mostly among them */

uint64_t or_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* --- commands and events ------------------------------------------------------------------------ */

struct or_command *or_command_new(enum or_command_type type)
{
    struct or_command *c = calloc(1, sizeof *c);
    if (c) {
        c->type = type;
        c->fd = -1;
    }
    return c;
}

void or_command_free(struct or_command *c)
{
    if (c->fd >= 0)
        close(c->fd);
    for (uint32_t i = 0; i < c->layer_count; i++)
        or_layer_file_close(&c->layers[i]);
    free(c->layers);
    free(c->layer_infos);
    free(c->bytes);
    free(c->hosts);
    free(c->devices);
    free(c->ids);
    free(c->nics);
    free(c->loads);
    free(c->cached);
    free(c->domains);
    free(c->nic_change.filter);
    memset(c->key, 0, sizeof c->key);
    free(c);
}

void or_event_free(struct or_event *e)
{
    free(e->bytes);
    free(e);
}

int or_engine_submit(struct or_engine *e, struct or_command *c)
{
    if (e->outstanding >= OR_ENGINE_COMMANDS_MAX || !or_spsc_push(&e->commands, c))
        return -EAGAIN;
    e->outstanding++;
    eventfd_write(e->bell.fd, 1);
    return 0;
}

/* Finished commands and events share a ring, so that the owner learns of both in the order in which they
 * happened. An event's entry has the lowest bit set, which the address of an allocation never has. */
#define IS_EVENT ((uintptr_t)1)
static_assert(OR_SPSC_SIZE > 2 * OR_ENGINE_COMMANDS_MAX, "room for answers, and for events too");

bool or_engine_reap(struct or_engine *e, struct or_command **command, struct or_event **event)
{
    uintptr_t entry = (uintptr_t)or_spsc_pop(&e->results);
    bool is_event = entry & IS_EVENT;
    *command = is_event ? NULL : (struct or_command *)entry;
    *event = is_event ? (struct or_event *)(entry - IS_EVENT) : NULL;
    if (*command)
        e->outstanding--;
    return entry != 0;
}

void or_engine_succeed(struct or_engine *e, struct or_command *c)
{
    bool pushed = or_spsc_push(&e->results, c);
    assert(pushed); /* at most OR_ENGINE_COMMANDS_MAX are under way, and events leave so much room */
    e->config.wake(e->config.arg);
}

void or_engine_finish(struct or_engine *e, struct or_command *c, int error, const char *format, ...)
{
    c->error = error;
    if (error) {
        va_list args;
        va_start(args, format);
        vsnprintf(c->why, sizeof c->why, format, args);
        va_end(args);
    }
    or_engine_succeed(e, c);
}

struct or_event *or_engine_event(struct or_engine *e, enum or_event_type type, const uint8_t *bytes, uint32_t length)
{
    struct or_event *event = calloc(1, sizeof *event);
    if (event && length) {
        event->bytes = malloc(length);
        if (event->bytes)
            memcpy(event->bytes, bytes, length);
        event->length = length;
    }
    if (!event || (length && !event->bytes)) {
        free(event);
        e->stats.events_dropped++;
        return NULL;
    }
    event->type = type;
    return event;
}

void or_engine_emit(struct or_engine *e, struct or_event *event)
{
    void *entry = (void *)((uintptr_t)event | IS_EVENT);
    if (or_spsc_room(&e->results) <= OR_ENGINE_COMMANDS_MAX || !or_spsc_push(&e->results, entry)) {
        or_event_free(event);
        e->stats.events_dropped++;
        return;
    }
    e->config.wake(e->config.arg);
}

static uint32_t run_commands(struct or_engine *e)
{
    uint32_t n = 0;
    struct or_command *c;
    while ((c = or_spsc_pop(&e->commands))) {
        e->role->command(e, c);
        n++;
    }
    return n;
}

/* --- the loop ----------------------------------------------------------------------------------- */

static uint32_t loop_step(struct or_engine *e, uint64_t now)
{
    e->stats.steps++;
    or_ports_follow(e, now);
    if (now >= e->watch.look_at)
        or_watch_look(e, now);
    uint32_t work = run_commands(e);
    work += e->role->step(e, now);
    or_ports_flush(e);
    return work;
}

/* Serves one ready descriptor, waiting for it until `deadline`. One at a time, because a source may be
 * removed by what another one does. */
static bool serve_descriptor(struct or_engine *e, uint64_t now, uint64_t deadline)
{
    struct epoll_event event;
    uint64_t wait = deadline > now ? deadline - now : 0;
    struct timespec timeout = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
    int n = epoll_pwait2(e->epoll_fd, &event, 1, deadline == UINT64_MAX ? NULL : &timeout, NULL);
    if (n != 1)
        return false;
    struct or_fd_source *source = event.data.ptr;
    source->ready(source, event.events);
    return true;
}

static void loop(struct or_engine *e)
{
    uint64_t now = or_clock_ns(), last_work = now, rare = now;
    struct or_spin spin = or_spin_new((uint64_t)e->config.spin_us * 1000);
    bool closing = false, closed = false;
    while (!closed) {
        bool busy = loop_step(e, now) != 0;
        closing = atomic_load_explicit(&e->stopping, memory_order_relaxed);
        if (closing)
            closed = e->role->close(e); /* what it begins is for the next step */
        now = or_clock_ns();
        if (busy)
            last_work = now;
        if (now - rare > RARE_NS) {
            rare = now;
            for (int i = 0; i < RARE_BATCH && serve_descriptor(e, now, now); i++)
                last_work = now; /* a bell that was heard here is for the next step: it must not sleep before */
        }
        if (busy || now - last_work <= spin.window_ns || closed)
            continue;
        if (!e->role->arm(e)) {
            uint64_t asleep = now, deadline = e->role->deadline(e);
            if (e->ports.look_at < deadline)
                deadline = e->ports.look_at;
            if (closing && now + CLOSING_NS < deadline)
                deadline = now + CLOSING_NS;
            e->stats.sleeps++;
            serve_descriptor(e, now, deadline);
            now = rare = or_clock_ns();
            e->stats.slept_ns += now - asleep;
            or_spin_slept(&spin, now - last_work);
            last_work = now;
        }
        e->role->disarm(e);
    }
}

static void bell_ready(struct or_fd_source *source, uint32_t events)
{
    (void)events;
    eventfd_t count;
    eventfd_read(source->fd, &count); /* the next step runs the commands */
}

/* Where the kernel groups processes by session (CONFIG_SCHED_AUTOGROUP), nice values count within a session only;
 * between sessions the group's does. It is ours to set when the session is: as a rule an engine has one of its own. */
static void place_session(int nice)
{
    FILE *file = getsid(0) == getpid() ? fopen("/proc/self/autogroup", "we") : NULL;
    if (file) {
        fprintf(file, "%d", nice);
        fclose(file);
    }
}

static void place_thread(const struct or_engine *e)
{
    if (e->config.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(e->config.cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    if (e->config.nice) {
        setpriority(PRIO_PROCESS, (id_t)gettid(), e->config.nice);
        place_session(e->config.nice);
    }
    pthread_setname_np(pthread_self(), "or-worker");
}

static void *worker(void *arg)
{
    struct or_engine *e = arg;
    place_thread(e);
    e->started_ok = e->role->open(e, e->why) == 0;
    bool ok = e->started_ok; /* the owner may free e once it is told of a failure */
    eventfd_write(e->ready_fd, 1);
    if (ok)
        loop(e);
    return NULL;
}

/* --- life --------------------------------------------------------------------------------------- */

static void free_engine(struct or_engine *e)
{
    struct or_command *c;
    struct or_event *event;
    while ((c = or_spsc_pop(&e->commands)))
        or_command_free(c);
    while (or_engine_reap(e, &c, &event)) {
        if (c)
            or_command_free(c);
        else
            or_event_free(event);
    }
    or_ports_close(e);
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    if (e->bell.fd >= 0)
        close(e->bell.fd);
    if (e->ready_fd >= 0)
        close(e->ready_fd);
    memset(e->config.psk, 0, sizeof e->config.psk);
    free(e);
}

static int open_descriptors(struct or_engine *e, char *why)
{
    int err = 0;
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->bell = (struct or_fd_source){.ready = bell_ready, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    e->ready_fd = eventfd(0, EFD_CLOEXEC);
    if (e->epoll_fd < 0 || e->bell.fd < 0 || e->ready_fd < 0)
        err = -errno;
    if (!err)
        err = or_fd_source_add(e->epoll_fd, &e->bell, EPOLLIN);
    if (err)
        snprintf(why, OR_WHY_MAX, "cannot make the worker's descriptors: %s", strerror(-err));
    return err ? err : or_ports_open(e, why);
}

struct or_engine *or_engine_open(const struct or_engine_config *config, char *why)
{
    struct or_engine *e = aligned_alloc(64, (sizeof *e + 63) & ~63ul);
    if (!e) {
        snprintf(why, OR_WHY_MAX, "out of memory");
        return NULL;
    }
    memset(e, 0, sizeof *e);
    e->config = *config;
    e->role = config->role == OR_ROLE_IOHV ? &or_role_iohv : &or_role_host;
    e->epoll_fd = e->bell.fd = e->ready_fd = e->ports.news.fd = -1;
    if (open_descriptors(e, why)) {
        free_engine(e);
        return NULL;
    }
    return e;
}

int or_engine_begin(struct or_engine *e, char *why)
{
    int err = pthread_create(&e->thread, NULL, worker, e);
    if (err) {
        snprintf(why, OR_WHY_MAX, "cannot start the worker thread: %s", strerror(err));
        return -err;
    }
    eventfd_t ready;
    eventfd_read(e->ready_fd, &ready);
    if (!e->started_ok) {
        pthread_join(e->thread, NULL);
        memcpy(why, e->why, OR_WHY_MAX);
        return -EIO;
    }
    return 0;
}

void or_engine_halt(struct or_engine *e)
{
    if (!e->started_ok)
        return;
    atomic_store(&e->stopping, true);
    eventfd_write(e->bell.fd, 1);
    pthread_join(e->thread, NULL);
    e->started_ok = false;
}

void or_engine_close(struct or_engine *e)
{
    or_engine_halt(e);
    free_engine(e);
}

void or_engine_port(const struct or_engine *e, uint8_t mac[6], uint32_t *mtu)
{
    uint64_t first = atomic_load_explicit(&e->ports.first, memory_order_relaxed);
    *mtu = (uint32_t)(first & 0xffff);
    for (uint32_t i = 0; i < 6; i++)
        mac[i] = (uint8_t)(first >> (56 - 8 * i));
}
