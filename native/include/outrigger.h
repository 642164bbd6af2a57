/* The engine: one polling worker thread that carries all I/O of a process, and the two bounded rings
 * through which its owner talks to it. This is the only header that the addon needs.
 *
 *     owner's thread                         worker thread
 *     or_engine_submit(command)  ──ring──>   runs it between two steps of the loop
 *     or_engine_reap()           <──ring──   the same command with its result; events
 *
 * config.wake is called on the worker's thread when something can be reaped. A command belongs to the
 * engine from submit to reap. Nothing here blocks but the functions that open, begin, halt and
 * close an engine. */
#ifndef OUTRIGGER_H
#define OUTRIGGER_H

#include "cache/cache.h"
#include "frontend/vhost_blk.h"
#include "frontend/vhost_net.h"
#include "intercept/intercept.h"
#include "layers/layers.h"
#include "net/nic.h"
#include "or_types.h"
#include "transport/dispatch.h"
#include "transport/server.h"

#define OR_ENGINE_COMMANDS_MAX 256u /* submitted and not reaped */
#define OR_WHY_MAX 256u

struct or_engine;

enum or_role { OR_ROLE_IOHV, OR_ROLE_HOST };
enum or_port_mode { OR_PORT_PACKET, OR_PORT_XDP };

struct or_engine_config {
    enum or_role role;
    uint8_t worker;                    /* OR_ROLE_IOHV: its number, the channel of its frames; below OR_CHANNELS_MAX */
    char interfaces[OR_LINKS_MAX][16]; /* the first is required; "": no more */
    enum or_port_mode port_mode;
    uint32_t mtu; /* 0: the link's */
    uint16_t ethertype;
    enum or_super_frames super_frames;
    int cpu;          /* the worker is pinned to it; -1: not pinned */
    int nice;         /* of the worker */
    uint32_t spin_us; /* it polls this long after the last work before it sleeps */
    /* OR_ROLE_IOHV */
    uint8_t integrity; /* enum or_integrity */
    uint32_t slots;
    uint64_t buffer_bytes;
    bool fifo;            /* as in or_server_config */
    uint64_t cache_bytes; /* of this worker's block cache; 0: it has none, and its volumes are not cached */
    enum or_cache_policy cache_policy;
    /* OR_ROLE_HOST */
    char name[OR_NAME_MAX + 1];
    uint8_t psk[32];
    uint8_t server_macs[OR_LINKS_MAX][6]; /* the first is required; zeroes: no more */
    uint8_t integrity_min;

    void (*wake)(void *arg);
    void *arg;
};

enum or_command_type {
    OR_CMD_STATS,        /* both roles */
    OR_CMD_HOST_ADD,     /* name, key; sessions only from OR_CMD_HOST_ADMIT on */
    OR_CMD_HOST_ADMIT,   /* name */
    OR_CMD_HOST_REMOVE,  /* name */
    OR_CMD_HOSTS,        /* -> hosts, count */
    OR_CMD_VOLUME_OPEN,  /* name, kind, fd (FILE) or layers (FILE) or size and block_size, read_only, content, cache,
                            flush_failed; or name, passed -> volume */
    OR_CMD_VOLUME_CLOSE, /* name; ends when what the cache holds of it is written out, see OR_EVENT_VOLUME_LOST */
    OR_CMD_VOLUME_GIVE, /* name; out of this worker's hands, as it is, for the next OR_CMD_VOLUME_OPEN of this name with
                           `passed`, of another engine in this process. Ends when what the cache holds of it is written
                           out; when that fails it stays */
    OR_CMD_VOLUME_CACHE,   /* name, and of `cache` what changes; drop: forgets what is clean */
    OR_CMD_EXPORT_ADD,     /* id, generation, placement, host, name, read_only, weight; pending: the volume may
                              not be open yet, requests wait for a second OR_CMD_EXPORT_ADD; standby: they wait though
                              it may be. elsewhere: another worker has it; ends when nothing of it executes here any
                              more. Of a volume in a domain: domain_generation; once more with another one changes it */
    OR_CMD_EXPORT_SET,     /* id, weight */
    OR_CMD_EXPORT_REMOVE,  /* id; ends when drained */
    OR_CMD_VOLUME_CUT,     /* name, layers (one): what was answered before is in the volume's files, none of which is
                              written to any more; from now on the empty overlay is. Ends when nothing has changed, or
                              with all of it */
    OR_CMD_VOLUME_LAYERS,  /* name -> layer_infos, count; of a raw volume one, raw */
    OR_CMD_VOLUME_FLUSH,   /* name; ends when all that was answered before is durable */
    OR_CMD_LAYER_CREATE,   /* made by or_layer_create, on another thread: only answered */
    OR_CMD_LAYER_MERGE,    /* layers (two: OR_LAYER_READ and the one below it, OR_LAYER_MERGE), merge.next, size: a part
                              of a merge (layers/merge.h), of about so many bytes -> merge */
    OR_CMD_VOLUME_REBASE,  /* name, layers: what is below the head. Together they hold what those before do, which are
                              closed. Ends when nothing has changed, or with all of it */
    OR_CMD_LOADS,          /* -> loads, count: of what is exported here */
    OR_CMD_CACHE_SET,      /* size: the cache's budget, in bytes. It shrinks as blocks come free */
    OR_CMD_CACHE_LIST,     /* -> cache_info, cached, count; all zero without a cache */
    OR_CMD_DOCUMENT_SET,   /* name (host), bytes */
    OR_CMD_DRAIN,          /* timeout_ms; both roles -> in_flight: takes no more requests, and ends when none is under
                              way or the time is over. Only or_engine_halt makes sense after it */
    OR_CMD_KEEP,           /* path of the supervisor's store -> ids, count: devices that OR_CMD_DEVICE_ADD restores. At
                              an I/O hypervisor none: the store keeps the caches of all engines of this process, and
                              volumes that are opened later take what those of a dead one had not written out. When it
                              fails nothing is lost, and it may be tried again */
    OR_CMD_KEEP_GIVE_UP,   /* content, or 0 -> size: what caches of dead engines had not written out, and no volume has
                              taken, is nobody's: of the content so many bytes; or of all, and what cannot be read */
    OR_CMD_DEVICE_ADD,     /* device_kind, id, generation, path (of the socket), queues, limit; of a disk size,
                              timeout_ms, ...; placement; of a NIC mtu, link_up; its queues are pairs -> restored */
    OR_CMD_DEVICE_SET,     /* id, and what changes: of a disk timeout_ms (of its requests, 0 for none; has_timeout),
                              of a NIC link_up (has_link), of both limit (has_limit) and
                              placement (has_placement) */
    OR_CMD_DEVICE_REMOVE,  /* id; ends when the device is gone; also one that was kept and not added */
    OR_CMD_DEVICES,        /* -> devices, count */
    OR_CMD_REPORT,         /* bytes */
    OR_CMD_NIC_OPEN,       /* id, generation, host, name, nic, fd (of or_tap_open, or_macvtap_open) or path (the hub's
                              name; the first NIC makes it, the last one ends it) */
    OR_CMD_NIC_SET,        /* id, nic_change */
    OR_CMD_NIC_CLOSE,      /* id */
    OR_CMD_NICS,           /* -> nics, count */
    OR_CMD_DOMAIN_OPEN,    /* id, name, size (bytes that it may hold), fd (of its journal: or_volume_file_lock),
                              journal_id, path (of its socket; "": none), overflow, timeout_ms -> domains (one). Ends when
                              the journal was read, and the supervisor's store, if there is one, has its memory */
    OR_CMD_DOMAIN_SET,     /* id, and what changes: overflow (has_overflow), timeout_ms (has_timeout) */
    OR_CMD_DOMAIN_CLOSE,   /* id; with its volumes, none of which may be exported. forget: drops what it holds, or held
                              when it is not open; else the next OR_CMD_DOMAIN_OPEN finds it */
    OR_CMD_DOMAIN_CUT,     /* id, domain_generation -> epoch, unprotected */
    OR_CMD_DOMAIN_COMMIT,  /* id, domain_generation, epoch -> unprotected */
    OR_CMD_DOMAIN_FENCE,   /* id, domain_generation (the new one) -> epoch: the last that is committed */
    OR_CMD_DOMAIN_RESET,   /* likewise, of one in the state REWIND */
    OR_CMD_DOMAIN_ABORT,   /* id */
    OR_CMD_DOMAIN_LIST,    /* -> domains, count */
    OR_CMD_VOLUME_PROTECT, /* name, domain, content (its durable id there), domain_generation (of its present exports);
                              domain 0: it leaves its domain, which commits and applies what it holds. Ends when done */
    OR_CMD_JOURNAL_CREATE, /* made by or_journal_file_create, on another thread: only answered */
    OR_CMD_COUNT
};

/* A layer's file for a command: see or_layer_file_open. */
struct or_layer_file {
    int fd;                   /* -1: taken over */
    struct or_layer_map *map; /* NULL: raw, or taken over */
    uint64_t content;
};

/* What a layer's file is opened for. */
enum or_layer_use {
    OR_LAYER_READ,  /* it is sealed */
    OR_LAYER_HEAD,  /* it is written to, by a guest */
    OR_LAYER_MERGE, /* it is sealed, and the layer above is merged into it: others may read it meanwhile */
};

struct or_layer_place {
    const char *path;
    uint64_t content;
    uint64_t header; /* the content that the file's header names, when another layer's was merged into it; or 0 */
    bool raw;
    enum or_layer_use use;
};

enum or_volume_kind { OR_VOLUME_FILE, OR_VOLUME_RAM, OR_VOLUME_NULL };

struct or_volume_info {
    uint64_t size;
    uint32_t block_size, physical_block_size;
    bool direct, discard, write_zeroes;
};

enum or_device_kind { OR_DEVICE_BLK, OR_DEVICE_NET };

struct or_device_info {
    uint32_t id;
    enum or_device_kind kind;
    uint8_t state; /* enum or_vhost_state */
    /* OR_DEVICE_BLK */
    struct or_vhost_blk_stats blk;
    /* OR_DEVICE_NET */
    bool link_up;
    uint64_t features; /* that the guest negotiated; 0 unless running */
    struct or_vhost_net_stats net;
};

/* What an attachment has asked for since it is exported here. */
struct or_load_info {
    uint32_t id;
    uint64_t requests, bytes;
    uint32_t in_flight;
};

/* What a command says of a volume's cache: as in or_cache_volume_config. */
struct or_cache_change {
    enum or_cache_mode mode;
    uint64_t quota, dirty_max, dirty_age_ns, read_ahead_max;
    bool has_mode, has_quota, has_dirty_max, has_dirty_age, has_read_ahead;
};

struct or_cached_info {
    char name[OR_NAME_MAX + 1];
    enum or_cache_mode mode;
    struct or_cache_stats stats; /* since it came to this worker */
};

/* What happens when a domain holds all that it may, or hears of no commit in its time. */
enum or_domain_overflow {
    OR_DOMAIN_PUSH_BACK, /* writes wait, packets wait and are dropped then; an event asks for a commit */
    OR_DOMAIN_UNPROTECT, /* it commits by itself, without any checkpoint, until the next cut */
};

struct or_timing {
    uint64_t count, total_ns, max_ns;
};

/* A protection domain, here. */
struct or_domain_status {
    uint32_t id;
    char name[OR_NAME_MAX + 1];
    struct or_domain_info info;
    uint64_t bytes_max;
    uint64_t packets_lost; /* committed, of a NIC that is not open any more */
    uint64_t cuts, commits, overflows;
    bool unprotected;                           /* more is out than the last checkpoint knows of */
    uint32_t connections;                       /* to its socket */
    uint64_t records_bad;                       /* on it */
    struct or_timing cut, sync, release, apply; /* sync: of the journal, since a commit first waited for it */
};

/* A NIC at the I/O hypervisor. */
struct or_nic_info {
    uint32_t id, generation, domain; /* domain 0: none */
    char name[OR_NAME_MAX + 1], host[OR_NAME_MAX + 1];
    enum or_nic_kind kind;
    bool link_up, gone; /* gone: its interface was deleted; close it, and open it anew */
    struct or_nic_stats stats;
};

struct or_engine_stats {
    struct or_port_stats port;         /* of all ports together */
    struct or_port_xdp xdp;            /* likewise */
    bool session_filter;               /* the kernel keeps frames of unknown sessions out; else the worker does */
    struct or_server_stats server;     /* OR_ROLE_IOHV */
    struct or_uring_stats uring;       /* OR_ROLE_IOHV */
    struct or_dispatch_stats dispatch; /* OR_ROLE_HOST */
    uint64_t steps, sleeps, slept_ns;
    uint64_t events_dropped;
    uint64_t packets_unknown, packets_fenced; /* OR_ROLE_HOST: of no NIC here, of another generation of it */
};

struct or_command {
    enum or_command_type type;
    uint64_t tag; /* the owner's */

    char name[OR_NAME_MAX + 1], host[OR_NAME_MAX + 1];
    uint8_t key[32];
    uint32_t id, generation, weight, block_size, physical_block_size, queues;
    uint64_t size;
    enum or_volume_kind kind;
    struct or_layer_file *layers; /* malloc()ed, as what it holds; head first */
    uint32_t layer_count;
    int fd; /* taken over by the engine, also when the command fails; -1: none */
    bool read_only, flush_failed, discard, write_zeroes, pending, elsewhere, passed;
    struct or_placement placement; /* of the device; of an export, only its number */
    char serial[21];
    char path[108];
    uint32_t timeout_ms;
    enum or_device_kind device_kind;
    uint32_t mtu;
    bool link_up;
    struct or_limit limit;
    bool has_timeout, has_limit, has_link, has_placement;
    uint64_t content; /* of the volume's own, see or_cache_volume_config; 0: nobody knows it by name */
    struct or_cache_change cache;
    bool drop;
    uint8_t *bytes; /* malloc()ed */
    uint32_t length;
    struct or_nic_config nic;
    struct or_nic_change nic_change;
    uint32_t domain; /* of a volume or a NIC; 0: none */
    uint64_t domain_generation, journal_id;
    enum or_domain_overflow overflow;
    bool has_domain, has_overflow, forget, standby;
    uint64_t epoch;   /* also a result */
    bool unprotected; /* a result of a cut: protection was dropped since the one before; of a commit: since the last */

    int error; /* 0 or -errno */
    char why[OR_WHY_MAX];
    struct or_volume_info volume;
    struct or_host_info *hosts;
    struct or_device_info *devices;
    uint32_t *ids;
    struct or_nic_info *nics;
    struct or_load_info *loads;
    struct or_cache_info cache_info;
    struct or_cached_info *cached;
    struct or_layer_info *layer_infos;
    struct {
        uint64_t next;   /* cluster: all before it are merged, durably */
        uint64_t copied; /* bytes, now */
        bool complete;
    } merge;
    struct or_domain_status *domains;
    uint32_t count, in_flight;
    bool restored; /* QEMU's connection with a predecessor goes on */
    struct or_engine_stats stats;

    void *engine; /* private: what answers the command later */
};

enum or_event_type {
    OR_EVENT_HOST_UP,     /* name */
    OR_EVENT_HOST_DOWN,   /* name, reason */
    OR_EVENT_HOST_REPORT, /* name, bytes */
    OR_EVENT_SESSION_UP,
    OR_EVENT_SESSION_DOWN, /* reason */
    OR_EVENT_DOCUMENT,     /* bytes */
    OR_EVENT_DEVICE_STATE, /* id, device_kind, state, reason, features (of a NIC) */
    OR_EVENT_LINK_UP,      /* name (of the host; "" at a host), id (of the link), interface */
    OR_EVENT_LINK_DOWN,    /* likewise */
    OR_EVENT_PORT_UP,      /* interface: it is there, and has carrier */
    OR_EVENT_PORT_DOWN,    /* interface */
    OR_EVENT_VOLUME_ERROR, /* name, error: the latest of them; at most one per volume and second */
    OR_EVENT_VOLUME_LOST,  /* name, bytes_lost: acknowledged writes that the cache held when the volume was closed, and
                              that its storage would not take */
    OR_EVENT_CACHE_UNREAD, /* reason: the memory of a dead engine's cache cannot be read, so nobody knows which
                              volumes have writes in it: none in a file is opened before OR_CMD_KEEP_GIVE_UP */
    OR_EVENT_DOMAIN,       /* id, name, state (enum or_domain_event), epochs */
    OR_EVENT_INTRUSION,    /* reason (of most of them), id (how many there were in a second), name (the last one's
                              source address, or "") */
};

/* Storage errors of a volume since the last event. */
struct or_volume_error {
    uint32_t count;
    uint8_t op;      /* enum or_op; FLUSH also for the sync of a write with OR_REQ_FUA */
    int error;       /* -errno */
    uint64_t offset; /* bytes */
    bool flush_failed;
};

enum or_domain_event {
    OR_DOMAIN_EVENT_OVERFLOW,    /* a commit is wanted: it holds all that it may */
    OR_DOMAIN_EVENT_TIMEOUT,     /* a commit is wanted: there was none for too long */
    OR_DOMAIN_EVENT_UNPROTECTED, /* it commits by itself from now on */
    OR_DOMAIN_EVENT_JOURNAL,     /* as enum or_domain_trouble */
    OR_DOMAIN_EVENT_CONDEMNED,
    OR_DOMAIN_EVENT_APPLY,
    OR_DOMAIN_EVENT_REWIND, /* it was opened in that state */
    OR_DOMAIN_EVENT_EPOCHS, /* they have changed; at most once in a second */
};

struct or_event {
    enum or_event_type type;
    uint32_t id;
    uint8_t state;
    enum or_device_kind device_kind;
    uint64_t features; /* virtio feature bits that the guest negotiated; 0 unless it runs */
    char name[OR_NAME_MAX + 1];
    char interface[16];
    char reason[OR_WHY_MAX];
    struct or_volume_error error;
    uint64_t bytes_lost;
    uint64_t open, committed; /* epochs of a domain */
    uint8_t *bytes;
    uint32_t length;
};

/* The life of an engine. Opening and closing the ports takes tens of milliseconds, because the kernel
 * waits until nobody uses the old state of its lists any more; what lies between is quick. So a successor
 * is opened before its predecessor halts, and that one is closed when the successor has begun.
 *
 * Opens the ports; nothing runs yet. NULL with a sentence for the operator in why (OR_WHY_MAX). */
struct or_engine *or_engine_open(const struct or_engine_config *config, char *why);
/* Starts the worker. 0, or -errno with a sentence in why: only or_engine_close makes sense then. */
int or_engine_begin(struct or_engine *engine, char *why);
/* Ends the worker: devices are left to a successor if the supervisor keeps them (OR_CMD_KEEP), else they
 * lose their connection; volumes are closed when their I/O has ended. Commands that were submitted and
 * not reaped are never finished. Does nothing when the worker does not run. */
void or_engine_halt(struct or_engine *engine);
/* Halts it, closes the ports and frees everything. */
void or_engine_close(struct or_engine *engine);
/* Of the first port. */
void or_engine_port(const struct or_engine *engine, uint8_t mac[6], uint32_t *mtu);

/* A zeroed command (fd -1), or NULL. */
struct or_command *or_command_new(enum or_command_type type);
/* Frees a command with what it holds; closes fd. */
void or_command_free(struct or_command *command);
void or_event_free(struct or_event *event);

/* 0, or -EAGAIN when OR_ENGINE_COMMANDS_MAX are under way: the command stays the caller's. */
int or_engine_submit(struct or_engine *engine, struct or_command *command);
/* Takes the next finished command or event, in the order in which they happened; false when there is none. One
 * of the two is set. */
bool or_engine_reap(struct or_engine *engine, struct or_command **command, struct or_event **event);

/* Opens a volume's file for OR_CMD_VOLUME_OPEN and takes its flock, shared when read-only. A process
 * that died may still have I/O under way, which holds the lock: waits for it up to timeout_ms. Blocks,
 * so not for the worker or an event loop. A descriptor, or -errno with a sentence in why. */
int or_volume_file_lock(const char *path, bool read_only, uint32_t timeout_ms, char *why);
/* Likewise for the file of a sealed layer that is to be merged into: its flock is shared with those who read it, and
 * another lock, of its own, keeps it to one merge. */
int or_volume_file_lock_merge(const char *path, uint32_t timeout_ms, char *why);
/* Opens a layer's file with that lock, for writing unless it is to be read, and loads its map unless it is raw. For a
 * merge it waits, besides, until nothing of an earlier one can land in the file any more. On success *file is the
 * caller's; 0, or -errno with a sentence in why. */
int or_layer_file_open(const struct or_layer_place *place, uint32_t timeout_ms, struct or_layer_file *file, char *why);
/* or_layer_create, with a sentence in why. */
int or_layer_file_create(const char *path, uint64_t size, uint64_t content, uint64_t continues, char *why);
void or_layer_file_close(struct or_layer_file *file);
/* Makes a domain's journal of `size` bytes, zeroed, on disk with its folder. One of this size that is there stays as it
 * is: -EEXIST when it has another one. 0, or -errno with a sentence in why. Blocks. */
int or_journal_file_create(const char *path, uint64_t size, char *why);
/* Opens a tap by name, or makes it, which then persists. It is given to one process at a time: while another
 * one has it, waits up to timeout_ms. multi_queue: make one of several queues; of one that exists the kind does
 * not matter. Blocks, likewise. A descriptor, or -errno with a sentence in why. */
int or_tap_open(const char *name, bool multi_queue, uint32_t timeout_ms, char *why);
/* The same for a macvtap that exists. Its device's numbers are looked for in /sys, which must be that of the
 * interface's network namespace. */
int or_macvtap_open(const char *interface, uint32_t timeout_ms, char *why);
/* Lets every wait for a lock in this process end at once with -ECANCELED: it is about to exit. */
void or_volume_file_lock_cancel(void);

#endif
