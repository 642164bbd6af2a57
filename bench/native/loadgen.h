/* loadgen: what its parts share.
 *
 * One loop (load.c) issues operations, takes their latencies and counts CPU time; engines
 * (engine_*.c) differ only in how an operation reaches the storage. So every system is measured by
 * the same code. The same binary holds the far ends that a bench needs (serve_*.c). */
#ifndef BENCH_LOADGEN_H
#define BENCH_LOADGEN_H

#include "or_types.h"
#include "wire/wire.h"
#include <time.h>

#define SLOTS_LIMIT 1024u /* queue depth */
#define PROCESSES_MAX 8u
#define DISKS_MAX 16u /* vhost-user */
#define PAGE_BYTES 4096u

/* Whose CPU time is counted. */
struct processes {
    int32_t pids[PROCESSES_MAX];
    uint32_t count;
};

struct options {
    const char *engine, *serve, *op;
    uint64_t bs, qd, seed, area_bytes, size_bytes;
    double seconds, warmup_seconds, stall_seconds;
    bool fill, verify, json, histogram, help;
    struct processes servers, agents;
    double spin_us;
    /* io_uring */
    const char *file;
    /* vhost-user: paths, separated by commas */
    const char *sockets;
    bool no_record;
    /* nbd */
    const char *uri;
    /* tcp-echo */
    const char *address;
    uint64_t tcp_port;
    /* port-echo, outrigger */
    const char *interface, *port_mode, *name, *psk_file, *integrity, *super_frames, *volume;
    uint64_t mtu, ethertype, device, generation;
    uint8_t server_mac[6];
};

/* Ends the program with exit code 2 and a message when an argument is wrong. */
void options_parse(struct options *options, int argc, char **argv);

struct load;

/* A size such as 4096, 128k or 1g, given with option --name. */
uint64_t parse_size(const char *name, const char *text);

/* One operation: the load generator fills it, the engine executes it and calls load_done(). */
struct slot {
    struct load *load;
    uint8_t *data; /* page aligned, bs bytes; guest memory stands behind it in real life */
    uint64_t offset;
    uint32_t length;
    uint32_t generation; /* of the block's content: --verify */
    uint16_t index;
    uint8_t op; /* OR_OP_READ or OR_OP_WRITE */
    uint64_t started_ns;
    struct slot *next;
};

struct engine {
    const struct engine_ops *ops;
    uint64_t size_bytes; /* of the storage; set by open() */
};

struct engine_ops {
    const char *name;
    /* How many disks the options name, each with `qd` operations in flight; NULL: one. */
    uint32_t (*disks)(const struct options *options);
    /* Connects, or ends the program with a message. `slots`: qd of them for each disk, in place for good. */
    struct engine *(*open)(const struct options *options, struct slot *slots);
    /* Takes the slot until load_done(). May call it at once, or only queue the operation. */
    void (*submit)(struct engine *engine, struct slot *slot);
    /* Sends what is queued and handles what has ended; waits when there is nothing to do, at most
     * WAIT_MS_MAX. */
    void (*progress)(struct engine *engine);
    void (*close)(struct engine *engine);
};

extern const struct engine_ops engine_io_uring, engine_nbd, engine_tcp_echo, engine_port_echo, engine_outrigger;
extern const struct engine_ops engine_vhost_user;

/* An operation ended with an enum or_status. Only notes it: never submits. */
void load_done(struct slot *slot, uint8_t status);

/* Runs the load that the options describe and prints the result. Returns the exit code. */
int load_run(const struct options *options, const struct engine_ops *ops);

/* The far ends. They run until SIGTERM or SIGINT and print "ready" on a line when they serve. */
int serve_tcp_echo(const struct options *options);
int serve_port_echo(const struct options *options);
int serve_outrigger(const struct options *options);

/* Shared by the far ends: the signal that ends them was seen. */
void serve_catch_signals(void);
bool serve_stopped(void);
void serve_ready(void);

/* Prints "loadgen: ..." and exits with code 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Page-aligned anonymous memory, touched. Never NULL. */
uint8_t *memory_map(size_t bytes);
/* Zeroed memory. Never NULL. */
void *memory_new(size_t bytes);
/* Reads a host's pre-shared key: one line of base64, 32 bytes. */
void psk_read(const char *path, uint8_t psk[32]);
/* "encrypt", "mac" or "crc" as enum or_integrity. */
uint8_t integrity_parse(const char *text);

static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* splitmix64: a full-period generator whose outputs are well mixed from any seed. */
static inline uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return mix64(*state);
}

#endif
