/* The rules that model.h introduces, one check each. A check's name says what went wrong; the text
 * says to whom. README.md lists them. */
#include "model.h"

#include "sim.h"
#include "stamp.h"

bool requests_conflict(const struct request *a, const struct request *b)
{
    return a->req.device == b->req.device && (or_op_writes(a->req.op) || or_op_writes(b->req.op)) &&
           a->req.offset < b->req.offset + b->req.length && b->req.offset < a->req.offset + a->req.length;
}

static struct world *world_of(struct request *request)
{
    return &request->host->sim->w;
}

/* What a block holds after this request. */
static uint32_t content_of(const struct request *request)
{
    return request->req.op == OR_OP_WRITE ? request->id : 0;
}

static void link_open(struct request *request)
{
    struct disk *disk = request->disk;
    request->next = disk->open;
    request->prev = NULL;
    if (disk->open)
        disk->open->prev = request;
    disk->open = request;
}

static void unlink_open(struct request *request)
{
    if (request->prev)
        request->prev->next = request->next;
    else
        request->disk->open = request->next;
    if (request->next)
        request->next->prev = request->prev;
}

void model_submit(struct request *request)
{
    struct world *w = world_of(request);
    request->submitted = w->now;
    request->first_life = request->life = request->host->life;
    world_count(w, COV_REQUESTS, 1);
    for (struct request *r = request->disk->open; r; r = r->next)
        if (r->state == REQUEST_OPEN && requests_conflict(r, request)) {
            world_count(w, COV_REQUESTS_OVERLAPPING, 1);
            break;
        }
    link_open(request);
    request->host->sim->open++;
    world_note(w, "request.submit", request->id, (uint64_t)request->req.op << 32 | request->disk->index,
               request->req.offset << 24 | request->req.length);
}

void model_submit_again(struct request *request)
{
    request->life = request->host->life;
    world_count(world_of(request), COV_REQUESTS_RESUBMITTED, 1);
    world_note(world_of(request), "request.again", request->id, request->life, 0);
}

static void float_writes(struct request *request)
{
    if (!or_op_writes(request->req.op))
        return;
    for (uint32_t i = 0; i < request->blocks; i++) {
        struct block_state *block = &request->disk->state[request->first_block + i];
        if (block->replaced > request->id)
            continue; /* whatever it did is gone by now */
        struct floating *floating = world_alloc(world_of(request), sizeof *floating);
        *floating = (struct floating){.id = content_of(request), .next = block->floating};
        block->floating = floating;
    }
}

static void end(struct request *request, enum request_state state)
{
    request->state = (uint8_t)state;
    request->host->sim->open--;
    request->host->sim->last_answer = world_of(request)->now;
    /* A discard of unknown outcome may still arrive at the storage, which knows it by its range only. */
    if (state == REQUEST_DONE || request->req.op == OR_OP_READ || request->req.op == OR_OP_FLUSH)
        unlink_open(request);
}

void model_unknown(struct request *request)
{
    world_count(world_of(request), COV_REQUESTS_UNKNOWN, 1);
    world_note(world_of(request), "request.unknown", request->id, 0, 0);
    float_writes(request);
    end(request, REQUEST_UNKNOWN);
}

/* The disk went to another host while this request was under way. Then its answer, if there is one, may
 * be older than those of the next holder: it tells nothing about the present. */
static bool outlived(const struct request *request)
{
    return request->disk->moved_at >= request->submitted;
}

static void acknowledge_write(struct request *request)
{
    if (!request->executed_ok)
        world_fail(world_of(request), "acknowledged, not executed",
                   "request %u (%s) ended well without having been executed", request->id, or_op_name(request->req.op));
    for (uint32_t i = 0; i < request->blocks; i++) {
        struct block_state *block = &request->disk->state[request->first_block + i];
        if (outlived(request) && block->acked > request->id)
            continue;
        block->acked = request->id;
        if (request->req.op != OR_OP_DISCARD) {
            block->replaced = request->id;
            block->content = content_of(request);
            block->floating = NULL;
        }
    }
    if (request->req.op == OR_OP_DISCARD) /* zeroes, or what was there */
        float_writes(request);
}

/* May a reader find the content of `id` in this block? */
static bool may_be_read(const struct request *reader, uint32_t number, uint32_t id)
{
    const struct disk *disk = reader->disk;
    const struct block_state *block = &disk->state[number];
    if (id == block->content)
        return true;
    for (const struct floating *f = block->floating; f; f = f->next)
        if (f->id == id)
            return true;
    /* A write that an earlier holder of the disk has not got its answer to, and never will. */
    for (const struct request *r = disk->open; r; r = r->next) {
        bool earlier = r->host != reader->host || r->req.device != reader->req.device;
        bool covers = number - r->first_block < r->blocks;
        if (r->state == REQUEST_OPEN && earlier && covers && or_op_writes(r->req.op) && content_of(r) == id &&
            r->id > block->replaced)
            return true;
    }
    return false;
}

static void check_read(struct request *request)
{
    struct disk *disk = request->disk;
    for (uint32_t i = 0; i < request->blocks; i++) {
        uint32_t number = request->first_block + i;
        uint32_t id = stamp_read(request->buffer + (uint64_t)i * disk->block_size, number, disk->block_size,
                                 number < disk->scribble_blocks);
        if (id == STAMP_GARBAGE)
            world_fail(world_of(request), "garbage read",
                       "request %u: block %u of disk %u holds what nobody wrote there", request->id, number,
                       disk->index);
        if (!outlived(request) && !may_be_read(request, number, id))
            world_fail(world_of(request), "wrong data read",
                       "request %u: block %u of disk %u holds write %u; the last acknowledged is %u", request->id,
                       number, disk->index, id, disk->state[number].content);
    }
}

static void check_order(struct request *request)
{
    for (struct request *r = request->disk->open; r; r = r->next)
        if (r->state == REQUEST_OPEN && r->host == request->host && r->id < request->id &&
            requests_conflict(r, request))
            world_fail(world_of(request), "overtaken", "request %u ended before %u, which it overlaps", request->id,
                       r->id);
}

/* May a request end like this? */
static bool explained(const struct request *request, uint8_t status)
{
    const struct disk *disk = request->disk;
    bool fenced = request->req.generation != disk->generation;
    bool detached = disk->owner != request->host->index || !disk->attached || disk->draining ||
                    disk->detached_at >= request->submitted || request->req.device != disk->id;
    switch (status) {
    case OR_OK:
        return request->expected == OR_OK;
    case OR_EIO:
        return or_op_writes(request->req.op) ? request->executed_error : disk->failed_at >= request->submitted;
    case OR_EFENCED:
        return fenced;
    case OR_ENODEV:
        return detached;
    case OR_ETIMEOUT: {
        const struct sim *sim = request->host->sim;
        return sim->plan.timeout_ns && sim->w.now - request->submitted >= sim->plan.timeout_ns;
    }
    default:
        return status == request->expected;
    }
}

/* The disk has served this life of the host, or a newer one. */
static void life_seen(struct disk *disk, struct host *host, uint32_t life)
{
    if (disk->last_host == host && disk->last_life >= life)
        return;
    disk->last_host = host;
    disk->last_life = life;
}

void model_done(struct request *request)
{
    struct world *w = world_of(request);
    struct disk *disk = request->disk;
    uint8_t status = request->req.status;
    world_note(w, "request.done", request->id, status, 0);
    if (request->state != REQUEST_OPEN)
        world_fail(w, "ended twice", "request %u", request->id);
    if (!explained(request, status))
        world_fail(w, "wrong status",
                   "request %u (%s, offset %llu, length %u) of %s on disk %u ended with %s, expected %s", request->id,
                   or_op_name(request->req.op), (unsigned long long)request->req.offset, request->req.length,
                   request->host->name, disk->index, or_status_name(status), or_status_name(request->expected));
    if (status != OR_ETIMEOUT) /* which a request may meet while it waits */
        check_order(request);
    if (status == OR_EFENCED || status == OR_ENODEV)
        world_count(w, COV_REQUESTS_FENCED, 1);
    if (status != OR_OK && status != request->expected) {
        float_writes(request);
        end(request, REQUEST_UNKNOWN);
        return;
    }
    if (status == OR_OK) {
        if (or_op_writes(request->req.op))
            acknowledge_write(request);
        else if (request->req.op == OR_OP_READ)
            check_read(request);
        else if (disk->flush_began < request->submitted)
            world_fail(w, "flush without flush", "request %u ended well, the storage was not asked", request->id);
        life_seen(disk, request->host, request->life);
    }
    end(request, REQUEST_DONE);
}

/* Whether it may be executed now: also a request that timed out, or whose host has died, while the server has it. */
static bool may_execute(const struct request *r, const struct disk_op *op)
{
    const struct disk *disk = r->disk;
    bool dead = disk->last_host == r->host && disk->last_life > r->life;
    return !dead && r->req.generation == disk->generation && r->executed_session != op->session;
}

/* Of two discards of the same blocks: which one is being executed? The one that may be; of two that may, one that
 * still has an owner, then one of the newest life, then the older, for the newer has to wait. */
static bool likelier(const struct request *a, const struct request *b, const struct disk_op *op)
{
    bool a_may = may_execute(a, op), b_may = may_execute(b, op);
    bool a_open = a->state == REQUEST_OPEN, b_open = b->state == REQUEST_OPEN;
    if (a_may != b_may)
        return a_may;
    if (a_open != b_open)
        return a_open;
    return a->life != b->life ? a->life > b->life : a->id < b->id;
}

/* Which request is this? Writes say so themselves. */
static struct request *identify(struct disk *disk, struct disk_op *op)
{
    struct sim *sim = disk->sim;
    if (op->op == OR_OP_READ || op->op == OR_OP_FLUSH)
        return NULL;
    if (op->op == OR_OP_WRITE) {
        uint32_t id =
            stamp_read(op->io->data, op->first_block, disk->block_size, op->first_block < disk->scribble_blocks);
        if (id == STAMP_GARBAGE || id == 0 || id > sim->request_count)
            world_fail(&sim->w, "garbage written", "disk %u, block %u: data that no request holds", disk->index,
                       op->first_block);
        return sim->requests[id];
    }
    struct request *best = NULL;
    for (struct request *r = disk->open; r; r = r->next)
        if (r->req.op == op->op && r->req.offset == op->offset && r->req.length == op->length &&
            (!best || likelier(r, best, op)))
            best = r;
    if (!best)
        world_fail(&sim->w, "executed after its end", "disk %u: %s at %llu + %u, and no such request is open",
                   disk->index, or_op_name(op->op), (unsigned long long)op->offset, op->length);
    return best;
}

/* Everything that has to be true of the operation alone. */
static void check_operation(struct disk *disk, const struct disk_op *op)
{
    struct world *w = &disk->sim->w;
    bool flush = op->op == OR_OP_FLUSH;
    bool fits = op->offset % disk->block_size == 0 && op->length % disk->block_size == 0 && op->length > 0 &&
                op->offset + op->length <= disk->size;
    if (op->op < OR_OP_READ || op->op > OR_OP_WRITE_ZEROES || (!flush && !fits))
        world_fail(w, "bad operation executed", "disk %u: op %u at %llu + %u", disk->index, op->op,
                   (unsigned long long)op->offset, op->length);
    if (disk->read_only && or_op_writes(op->op))
        world_fail(w, "read-only disk written", "disk %u: %s", disk->index, or_op_name(op->op));
    if (!disk->attached || disk->draining || disk->shifting)
        world_fail(w, "executed without an export", "disk %u: %s after the export was removed", disk->index,
                   or_op_name(op->op));
}

/* And of the operation beside the others that the storage has. */
static void check_neighbours(struct disk *disk, const struct disk_op *op)
{
    struct world *w = &disk->sim->w;
    for (const struct disk_op *o = disk->ops; o; o = o->next) {
        if (o == op)
            continue;
        if (!o->io || o->session != op->session || o->generation != op->generation)
            world_fail(
                w, "not drained",
                "disk %u: %s at %llu begins in session %u, generation %u, while %s at %llu of %s %u, generation %u is "
                "under way",
                disk->index, or_op_name(op->op), (unsigned long long)op->offset, op->session, op->generation,
                or_op_name(o->op), (unsigned long long)o->offset, o->io ? "session" : "dead session", o->session,
                o->generation);
        bool overlap = op->offset < o->offset + o->length && o->offset < op->offset + op->length;
        if (overlap && (or_op_writes(op->op) || or_op_writes(o->op)))
            world_fail(w, "overlapping operations", "disk %u: %s at %llu + %u and %s at %llu + %u at the same time",
                       disk->index, or_op_name(op->op), (unsigned long long)op->offset, op->length, or_op_name(o->op),
                       (unsigned long long)o->offset, o->length);
    }
}

/* No later request that changed the same blocks may have been acknowledged. */
static void check_late(struct disk *disk, const struct disk_op *op, const char *when)
{
    struct world *w = &disk->sim->w;
    const struct request *request = op->request;
    if (request->state == REQUEST_DONE)
        world_fail(w, "executed after its end", "request %u (%s) %s after it was acknowledged", request->id,
                   or_op_name(op->op), when);
    for (uint32_t i = 0; i < op->blocks; i++) {
        uint32_t acked = disk->state[op->first_block + i].acked;
        if (acked > request->id)
            world_fail(w, "executed too late", "request %u (%s) %s after the overlapping request %u was acknowledged",
                       request->id, or_op_name(op->op), when, acked);
    }
}

static void check_request(struct disk *disk, struct disk_op *op)
{
    struct world *w = &disk->sim->w;
    struct request *request = op->request;
    if (request->disk != disk || request->req.op != op->op || request->req.offset != op->offset ||
        request->req.length != op->length)
        world_fail(w, "another operation", "request %u is executed as %s at %llu + %u", request->id, or_op_name(op->op),
                   (unsigned long long)op->offset, op->length);
    if ((request->req.flags ^ op->io->flags) & (OR_REQ_FUA | OR_REQ_UNMAP))
        world_fail(w, "flags lost", "request %u has flags %u, the operation %u", request->id, request->req.flags,
                   op->io->flags);
    if (request->host->index != disk->owner)
        world_fail(w, "foreign host", "request %u of %s is executed on a disk of another host", request->id,
                   request->host->name);
    if (request->req.generation != disk->generation)
        world_fail(w, "stale generation", "request %u has generation %u, the attachment %u", request->id,
                   request->req.generation, disk->generation);
    if (request->executed_session == op->session)
        world_fail(w, "executed twice", "request %u (%s) in session %u", request->id, or_op_name(op->op), op->session);
    if (disk->last_host == request->host && disk->last_life > request->life)
        world_fail(w, "dead life executed", "request %u of life %u, but life %u of %s was served already", request->id,
                   request->life, disk->last_life, request->host->name);
    check_late(disk, op, "begins");
}

void model_execute(struct disk *disk, struct disk_op *op)
{
    check_operation(disk, op);
    op->request = identify(disk, op);
    check_neighbours(disk, op);
    if (!op->request)
        return;
    check_request(disk, op);
    if (op->request->executed_session != 0)
        world_count(&disk->sim->w, COV_EXECUTED_AGAIN, 1);
    op->request->executed_session = op->session;
    life_seen(disk, op->request->host, op->request->first_life);
}

void model_effect(struct disk *disk, struct disk_op *op, const uint8_t *data, uint32_t count)
{
    check_late(disk, op, "takes effect");
    if (op->op != OR_OP_WRITE)
        return;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = op->first_block + i;
        uint32_t id =
            stamp_read(data + (uint64_t)i * disk->block_size, number, disk->block_size, number < disk->scribble_blocks);
        if (id != op->request->id)
            world_fail(&disk->sim->w, "mixed data written", "request %u writes block %u with content of %d",
                       op->request->id, number, (int)id);
    }
}
