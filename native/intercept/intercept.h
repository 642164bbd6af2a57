/* The fault-tolerance output interceptor: what a checkpointed VM puts out is held until the checkpoint that it
 * belongs to is safe.
 *
 * A protection domain is a VM, or several that are checkpointed together. Its time goes in epochs, one for each
 * checkpoint. Whatever it writes and sends in an epoch is held in memory: writes end at once, for they are as
 * speculative as the guest's own memory. A cut closes the open epoch and opens the next. When the checkpoint is safe
 * the epoch is committed: first its writes go into the domain's journal with one sync, then its packets are
 * released, then its writes are applied to the volumes below, in the background.
 *
 *   OPEN ──cut──> CLOSED ──commit: journal, sync──> COMMITTED ──packets out, applied, flushed──> APPLIED ──> (freed)
 *     └─────────────┴──abort──> (dropped)
 *
 * So nobody outside ever sees an effect of an epoch that could still be undone, and after a crash each volume is at
 * the boundary of exactly one epoch, never older than the last whose packets were released. docs/intercept.md has
 * the proof.
 *
 * A hold is the memory: a region given by the caller, which may outlive the process. Whoever takes it up after a
 * crash, at whatever instruction, finds every write that had ended, and of others perhaps a part, even of a sector.
 * Without the region the journal alone says what is committed; what the guest was told beyond that is lost, so the
 * domain refuses all I/O (OR_DOMAIN_REWIND) until the VM was taken back to the last committed epoch.
 *
 * A generation is a permission to run. Operations, packets, cuts and commits carry one; a fence raises it, and from
 * then on nothing of an older one has an effect.
 *
 * One thread: a hold, its domains and volumes belong to the thread that polls it. Nothing is global, and nothing is
 * allocated but by the functions that make something. Callbacks come out of any call here; they may submit, cut and
 * commit, but not destroy. */
#ifndef OR_INTERCEPT_H
#define OR_INTERCEPT_H

#include "backend/backend.h"

#define OR_HOLD_PAGE 4096u
#define OR_HOLD_DOMAINS 63u              /* in a hold; with the header they fill two pages */
#define OR_HOLD_SLOTS_MAX (1u << 26)     /* 256 GiB */
#define OR_DOMAIN_EPOCHS 64u             /* open, closed, or committed and not yet freed */
#define OR_DOMAIN_EMPTY 31u              /* so many epochs in turn that hold nothing are committed without a sync */
#define OR_DOMAIN_BYTES_MIN (256u << 10) /* bound of a domain: a packet of the largest size and some writes */
#define OR_DOMAIN_PACKET_MAX ((64u << 10) + 64) /* bytes of a packet */

struct or_hold;
struct or_domain;

/* --- the hold --------------------------------------------------------------------------------------- */

struct or_hold_info {
    uint64_t bytes, bytes_free; /* of pages */
    bool kept;                  /* the region was taken up as it was, not made */
};

/* Bytes of a region for `slots` pages of held data: 1.6 % more than these. */
uint64_t or_hold_bytes(uint32_t slots);
/* memory: `bytes` of it, aligned to a page, the caller's, not touched after or_hold_destroy(). A region that an
 * earlier hold has left is taken up; anything else, also of another size or version, is made anew, which loses what
 * it held. seed: secret, so that no guest can choose blocks that collide.
 * NULL with *err: -EINVAL (no room for a slot, not aligned), -ENOMEM. */
struct or_hold *or_hold_create(void *memory, uint64_t bytes, uint64_t seed, int *err);
/* Frees what is not the region, in which all stays as it is; domains that are left are destroyed. */
void or_hold_destroy(struct or_hold *hold);
/* Once per loop iteration, before it sleeps. now_ns: a monotonic clock. Returns when it wants to be called again at the
 * latest; UINT64_MAX: nothing waits for time. */
uint64_t or_hold_poll(struct or_hold *hold, uint64_t now_ns);
void or_hold_read_info(const struct or_hold *hold, struct or_hold_info *info);

/* --- domains ---------------------------------------------------------------------------------------- */

enum or_domain_state {
    OR_DOMAIN_OPENING, /* reads its journal                          > RUNNING, REWIND, UNUSABLE */
    OR_DOMAIN_RUNNING, /*                                            > (fence, abort: stays) */
    OR_DOMAIN_REWIND,  /* acknowledged writes are lost; refuses I/O  > RUNNING (reset) */
    OR_DOMAIN_UNUSABLE /* its journal is not what it should be: see `opened` */
};

enum or_domain_trouble {
    OR_TROUBLE_JOURNAL,   /* an epoch could not be written to the journal: the commit failed, and may be tried again */
    OR_TROUBLE_CONDEMNED, /* a sync of the journal failed: nothing can be committed before it was opened anew */
    OR_TROUBLE_APPLY,     /* a volume below failed; it is tried again, and what it shall hold stays readable */
};

struct or_domain_config {
    uint64_t id;               /* durable, of the supervisor; not 0 */
    uint64_t bytes_max;        /* that it may hold; at least OR_DOMAIN_BYTES_MIN, and an epoch of it fits the journal */
    struct or_volume *journal; /* the domain's from now on; zeroes when it is new */
    uint64_t journal_id;       /* random, not 0: for a journal that is new */
    void *arg;                 /* of the callbacks, all of which are optional but `packet` */
    /* It has read its journal: 0, or why not: -EBADMSG (damaged, not a journal, not this domain's, or lacks what was
     * committed), -EFBIG (an epoch in it is larger than the hold), -EIO. */
    void (*opened)(void *arg, int err);
    /* A packet goes out. False: no room, later; `bytes` are valid during the call. Crashes repeat a packet at worst. */
    bool (*packet)(void *arg, uint32_t nic, const uint8_t *bytes, uint32_t length);
    /* Something waits because the domain holds all that it may, or the hold is full: a commit is wanted. Once, until
     * something came free. */
    void (*overflow)(void *arg);
    void (*trouble)(void *arg, enum or_domain_trouble what);
};

struct or_domain_info {
    enum or_domain_state state;
    uint64_t generation;
    uint64_t open, committed, released, applied; /* epochs */
    uint64_t bytes;                              /* held */
    uint64_t packets, packets_fenced;            /* taken; dropped because of their generation */
    uint64_t writes_fenced;                      /* operations ended with OR_EFENCED */
    uint64_t syncs;                              /* of the journal that made epochs durable */
    uint32_t waiting;                            /* operations that wait for room */
    bool fencing;                                /* a fence is under way, or failed: nothing is cut or committed */
    bool fenced;                                 /* an abort is possible */
    bool exposed;                                /* more is out than the last checkpoint knows of: or_domain_expose */
    bool uncovered;                              /* and none was cut since */
};

/* Opens a domain, which takes up what the hold has of it, or begins a new one, from the next or_hold_poll() on.
 * Everything but adding volumes waits for `opened`.
 * NULL with *err: -EINVAL, -EEXIST (it is open), -ENOSPC (OR_HOLD_DOMAINS), -EFBIG (the journal is too small for
 * bytes_max), -ENOMEM; then the journal stays the caller's. */
struct or_domain *or_domain_open(struct or_hold *hold, const struct or_domain_config *config, int *err);
/* Ends it without a trace in the hold, which a later or_domain_open() takes up. No operation of its volumes may be
 * under way, or ever end, above or below. Closes the journal, the volumes below, and frees all volumes of it. */
void or_domain_destroy(struct or_domain *domain);
/* The same, and drops all that the hold has of it, as for a domain that is given up. */
void or_domain_remove(struct or_domain *domain);
void or_domain_read_info(const struct or_domain *domain, struct or_domain_info *info);

/* A volume of the domain: `lower` is the domain's from now on; id: durable, unique in the hold, not 0. What the hold
 * has for it is applied when it is there. 0, -EEXIST, -ENOMEM. */
int or_domain_add_volume(struct or_domain *domain, uint64_t id, struct or_volume *lower);
/* Another volume in the place of the lower one, with what was submitted to that: the caller holds it (or_volume_hold)
 * and releases it to the new one. 0 or -ENOENT. */
int or_domain_replace_volume(struct or_domain *domain, uint64_t id, struct or_volume *lower);
/* The volume is the caller's again; what the hold has of it stays there until it is added again. All ways into it are
 * closed, and or_domain_may_take says that nothing is being written to it or read from it. */
void or_domain_take_volume(struct or_domain *domain, uint64_t id);
bool or_domain_may_take(struct or_domain *domain, uint64_t id);
/* Something is held in the open epoch. */
bool or_domain_dirty(const struct or_domain *domain);
/* A way into volume `id` for one generation: a volume to submit to, valid until it is closed (ops->close, with
 * nothing in flight) or the domain is destroyed. One of an older generation than the current one refuses everything.
 * NULL with *err: -EAGAIN (not opened yet), -ENOENT, -ESTALE (above the current generation), -ENOMEM. */
struct or_volume *or_domain_attach(struct or_domain *domain, uint64_t id, uint64_t generation, int *err);

/* A packet of a NIC, copied. 0; -EAGAIN: no room, offer it again later; dropped: -ESTALE (its generation), -EINVAL
 * (empty or above OR_DOMAIN_PACKET_MAX), -EIO (not RUNNING). */
int or_domain_packet(struct or_domain *domain, uint64_t generation, uint32_t nic, const void *bytes, uint32_t length);

/* Closes the open epoch; *epoch: its number. Operations that have ended are in it or an earlier one. 0, -ESTALE, -EIO
 * (not RUNNING), -EAGAIN (OR_DOMAIN_EPOCHS are not freed yet, or a fence is under way, or failed). */
int or_domain_cut(struct or_domain *domain, uint64_t generation, uint64_t *epoch);

/* Something is to be let out that no checkpoint has: before it is committed, or goes another way. From now on more is
 * out than the last checkpoint knows of, until an epoch is committed that was cut for a checkpoint after this. The next
 * engine that takes up the region knows it, too. */
void or_domain_expose(struct or_domain *domain);
/* This epoch, the last that was cut, was cut for a checkpoint. */
void or_domain_cover(struct or_domain *domain, uint64_t epoch);

/* A commit under way; the caller's, until done(). */
struct or_commit {
    uint64_t epoch, generation;
    /* 0: all epochs up to `epoch` are durable, and their packets go out. Epochs that hold nothing, at most
     * OR_DOMAIN_EMPTY of them, are as good as that without a sync: when the region and the machine are lost, the
     * domain may be at the last one before them, which is the same. -ESTALE; -EINVAL (not closed yet); -EIO (not
     * RUNNING, or the journal failed); -EAGAIN (a fence is under way, or failed). */
    void (*done)(struct or_commit *commit, int err);
    void *owner;
    struct or_list link;
};
/* May end inside the call. */
void or_domain_commit(struct or_domain *domain, struct or_commit *commit);

/* A fence under way; the caller's, until done(). */
struct or_fence {
    uint64_t generation; /* the new one */
    /* 0: nothing of an older generation can have any effect any more, nor after any crash. `committed`: the epoch at
     * which a VM may resume. -EIO: the journal failed; older generations are refused all the same, until a crash. */
    void (*done)(struct or_fence *fence, int err, uint64_t committed);
    void *owner;
};
/* Older generations are refused from this call on. 0: done() will be called; -EBUSY (another one is under way),
 * -EIO (not RUNNING), -ESTALE (not above the current generation; the same again is fine after a failed one). */
int or_domain_fence(struct or_domain *domain, struct or_fence *fence);
/* The same for a domain in the state REWIND whose VM was taken back to the last committed epoch, or whose operator
 * knows that it was not: RUNNING when done() says 0. -EBUSY also while the journal is still being applied. */
int or_domain_reset(struct or_domain *domain, struct or_fence *fence);

/* Drops all that is not committed. 0, or -EBUSY unless the last thing that happened to the domain is a fence: nothing
 * waited for it, and nothing was submitted, sent, cut or committed since it was done. */
int or_domain_abort(struct or_domain *domain);

/* Applying pauses at the boundary of an epoch, so that the volumes below are of one moment: or_domain_paused says 1
 * when they are, 0: not yet, -EIO: a volume below fails. Each pause needs its resume. */
void or_domain_pause(struct or_domain *domain);
void or_domain_resume(struct or_domain *domain);
int or_domain_paused(const struct or_domain *domain);

/* Before an end in good order: nothing is begun any more. Operations that wait, and new ones, end with OR_EIO, which
 * the caller keeps from whoever sent them: the next engine gets them again. Nothing is under way when it is idle. */
void or_domain_halt(struct or_domain *domain);
bool or_domain_idle(const struct or_domain *domain);

#endif
