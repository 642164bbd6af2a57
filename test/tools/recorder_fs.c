/* A file system of one file, `volume`, that keeps a journal of every write that it executes (journal.h).
 *
 *   recorder_fs --log FILE [--delay-ms N] [--delay-share F] [--seed S]
 *               [--replay-every N] [--lose-every N] BACKING MOUNTPOINT
 *
 * The content lies in the file BACKING. A share F of the writes waits for up to N ms before it is executed,
 * so a client of this file system that is killed leaves writes behind in the kernel that land after its
 * death, as a slow disk does: the case in which a successor could overwrite what it was just told is there.
 * A dead process's open file, and the flock on it, lives until its last write was answered: locks are the
 * kernel's own here, as on a local file system.
 *
 * Two faults prove that what looks at the outcome would notice: every Nth write is executed once more, a
 * second later, with what it wrote then (--replay-every); or is answered, but not executed (--lose-every).
 *
 * Nothing survives a crash of the machine: syncing is left to the kernel, because only processes die here. */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal.h"

#define FILE_INODE 2
#define FILE_NAME "volume"
#define CACHE_SECONDS 3600.0
#define THREADS 64 /* a delayed write occupies one */
#define WRITE_MAX (1u << 20)
#define REPLAY_AFTER_NS 1000000000u
#define BLOCKS_MAX (WRITE_MAX / JOURNAL_BLOCK)

struct recorder {
    int backing;
    FILE *log;
    pthread_mutex_t lock; /* of the log: a record is written whole, in the order of end_ns */
    uint64_t delay_max_ns;
    double delay_share;
    uint64_t replay_every, lose_every; /* 0: never */
    atomic_uint_fast64_t writes;
    atomic_uint_fast64_t random;
};

struct replay {
    struct recorder *recorder;
    off_t offset;
    size_t length;
    uint8_t data[];
};

static struct recorder *recorder_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* --- executing ----------------------------------------------------------------------------------- */

/* SplitMix64 over a shared counter: any thread, no lock. */
static uint64_t random_u64(struct recorder *r)
{
    uint64_t x = atomic_fetch_add(&r->random, 0x9e3779b97f4a7c15u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void sleep_ns(uint64_t ns)
{
    struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, &pause) == EINTR)
        continue;
}

static void maybe_delay(struct recorder *r)
{
    if (r->delay_max_ns > 0 && (double)(random_u64(r) >> 11) * 0x1p-53 < r->delay_share)
        sleep_ns(random_u64(r) % r->delay_max_ns);
}

static void journal(struct recorder *r, uint64_t begin_ns, const uint8_t *data, size_t length, off_t offset)
{
    uint64_t stamps[BLOCKS_MAX];
    uint32_t blocks = (uint32_t)(length / JOURNAL_BLOCK);
    for (uint32_t i = 0; i < blocks; i++)
        memcpy(&stamps[i], data + (size_t)i * JOURNAL_BLOCK, sizeof(stamps[i]));
    pthread_mutex_lock(&r->lock);
    struct journal_write record = {.begin_ns = begin_ns,
                                   .end_ns = journal_now_ns(),
                                   .offset = (uint64_t)offset,
                                   .length = (uint32_t)length,
                                   .blocks = blocks};
    fwrite(&record, sizeof(record), 1, r->log);
    fwrite(stamps, sizeof(stamps[0]), blocks, r->log);
    pthread_mutex_unlock(&r->lock);
}

/* 0 or an errno value. */
static int execute(struct recorder *r, const uint8_t *data, size_t length, off_t offset)
{
    uint64_t begin_ns = journal_now_ns();
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(r->backing, data + done, length - done, offset + (off_t)done);
        if (n <= 0)
            return n < 0 ? errno : EIO;
        done += (size_t)n;
    }
    journal(r, begin_ns, data, length, offset);
    return 0;
}

static void *replay_run(void *arg)
{
    struct replay *replay = arg;
    sleep_ns(REPLAY_AFTER_NS);
    execute(replay->recorder, replay->data, replay->length, replay->offset);
    free(replay);
    return NULL;
}

static void replay_later(struct recorder *r, const uint8_t *data, size_t length, off_t offset)
{
    struct replay *replay = malloc(sizeof(*replay) + length);
    if (replay == NULL)
        return;
    *replay = (struct replay){.recorder = r, .offset = offset, .length = length};
    memcpy(replay->data, data, length);
    pthread_t thread;
    if (pthread_create(&thread, NULL, replay_run, replay) == 0)
        pthread_detach(thread);
    else
        free(replay);
}

static bool is_nth(uint64_t number, uint64_t every)
{
    return every != 0 && number % every == 0;
}

/* 0 or an errno value. */
static int take_write(struct recorder *r, const uint8_t *data, size_t length, off_t offset)
{
    uint64_t number = atomic_fetch_add(&r->writes, 1) + 1;
    if (is_nth(number, r->lose_every))
        return 0;
    maybe_delay(r);
    int err = execute(r, data, length, offset);
    if (err == 0 && is_nth(number, r->replay_every))
        replay_later(r, data, length, offset);
    return err;
}

/* --- the file system ----------------------------------------------------------------------------- */

static int stat_of(struct recorder *r, fuse_ino_t inode, struct stat *out)
{
    memset(out, 0, sizeof(*out));
    if (inode == FUSE_ROOT_ID) {
        *out = (struct stat){.st_ino = inode, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
        return 0;
    }
    if (fstat(r->backing, out) != 0)
        return errno;
    out->st_ino = inode;
    return 0;
}

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->max_write = WRITE_MAX;
    conn->max_background = 4 * THREADS;
    conn->congestion_threshold = 4 * THREADS;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = FILE_INODE, .attr_timeout = CACHE_SECONDS, .entry_timeout = CACHE_SECONDS};
    int err = parent == FUSE_ROOT_ID && strcmp(name, FILE_NAME) == 0
                  ? stat_of(recorder_of(req), FILE_INODE, &entry.attr)
                  : ENOENT;
    if (err != 0)
        fuse_reply_err(req, err);
    else
        fuse_reply_entry(req, &entry);
}

static void on_getattr(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *info)
{
    (void)info;
    struct stat attributes;
    int err = stat_of(recorder_of(req), inode, &attributes);
    if (err != 0)
        fuse_reply_err(req, err);
    else
        fuse_reply_attr(req, &attributes, CACHE_SECONDS);
}

static void on_open(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *info)
{
    if (inode != FILE_INODE) {
        fuse_reply_err(req, EISDIR);
        return;
    }
    /* Whatever the client does, its writes come here and not into a page cache. */
    info->direct_io = 1;
    fuse_reply_open(req, info);
}

static void on_read(fuse_req_t req, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *info)
{
    (void)inode;
    (void)info;
    struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(size);
    buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    buffer.buf[0].fd = recorder_of(req)->backing;
    buffer.buf[0].pos = offset;
    fuse_reply_data(req, &buffer, 0);
}

static void on_write(fuse_req_t req, fuse_ino_t inode, const char *data, size_t length, off_t offset,
                     struct fuse_file_info *info)
{
    (void)inode;
    (void)info;
    int err = length > WRITE_MAX ? EINVAL : take_write(recorder_of(req), (const uint8_t *)data, length, offset);
    if (err != 0)
        fuse_reply_err(req, err);
    else
        fuse_reply_write(req, length);
}

static void on_fsync(fuse_req_t req, fuse_ino_t inode, int data_only, struct fuse_file_info *info)
{
    (void)inode;
    (void)data_only;
    (void)info;
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
};

/* --- main ---------------------------------------------------------------------------------------- */

static int usage(void)
{
    fputs("usage: recorder_fs --log FILE [--delay-ms N] [--delay-share F] [--seed S]"
          " [--replay-every N] [--lose-every N] BACKING MOUNTPOINT\n",
          stderr);
    return 2;
}

static bool parse(struct recorder *r, int argc, char **argv)
{
    static const struct option options[] = {{"log", required_argument, NULL, 'l'},
                                            {"delay-ms", required_argument, NULL, 'd'},
                                            {"delay-share", required_argument, NULL, 'f'},
                                            {"replay-every", required_argument, NULL, 'r'},
                                            {"lose-every", required_argument, NULL, 'o'},
                                            {"seed", required_argument, NULL, 's'},
                                            {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'l':
            r->log = fopen(optarg, "wbe");
            if (r->log == NULL)
                perror(optarg);
            break;
        case 'd':
            r->delay_max_ns = strtoull(optarg, NULL, 10) * 1000000u;
            break;
        case 'f':
            r->delay_share = strtod(optarg, NULL);
            break;
        case 'r':
            r->replay_every = strtoull(optarg, NULL, 10);
            break;
        case 'o':
            r->lose_every = strtoull(optarg, NULL, 10);
            break;
        case 's':
            atomic_store(&r->random, strtoull(optarg, NULL, 10));
            break;
        default:
            return false;
        }
    }
    return r->log != NULL && argc - optind == 2;
}

static int serve(struct recorder *r, const char *mountpoint)
{
    char *words[] = {"recorder_fs", "-o", "fsname=recorder,default_permissions"};
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), r);
    if (session == NULL || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, mountpoint) != 0)
        return 1;
    puts("ready");
    fflush(stdout);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, THREADS);
    fuse_loop_cfg_set_idle_threads(config, THREADS);
    int err = fuse_session_loop_mt(session, config);
    signal(SIGTERM, SIG_IGN); /* unmounted already: a signal must not cost the end of the journal */
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    return err < 0;
}

int main(int argc, char **argv)
{
    static struct recorder r = {.lock = PTHREAD_MUTEX_INITIALIZER};
    if (!parse(&r, argc, argv))
        return usage();
    /* A mount must not outlive what uses it, even when that ends without a word. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    r.backing = open(argv[optind], O_RDWR | O_CLOEXEC);
    if (r.backing < 0) {
        perror(argv[optind]);
        return 1;
    }
    int status = serve(&r, argv[optind + 1]);
    pthread_mutex_lock(&r.lock); /* a replay may still come; it is late */
    if (fclose(r.log) != 0) {
        perror("log");
        status = 1;
    }
    return status;
}
