/* What guests do: mostly reads and writes, many of them to a small hot area so that they overlap, now
 * and then something large, and some requests that must be refused. */
#include "sim.h"

#include <string.h>

struct draw {
    struct host *host;
    struct disk *disk;
    struct rng *rng;
    struct request *request;
};

static uint8_t draw_op(struct rng *rng)
{
    uint64_t dice = rng_below(rng, 100);
    if (dice < 44)
        return OR_OP_WRITE;
    if (dice < 88)
        return OR_OP_READ;
    if (dice < 92)
        return OR_OP_FLUSH;
    return dice < 96 ? OR_OP_WRITE_ZEROES : OR_OP_DISCARD;
}

/* Reads and writes of the first blocks, whose buffers the guest rewrites meanwhile. */
static void place_scribbled(struct draw *d)
{
    struct request *request = d->request;
    request->req.op = rng_chance(d->rng, PPM / 2) ? OR_OP_WRITE : OR_OP_READ;
    request->first_block = (uint32_t)rng_below(d->rng, d->disk->scribble_blocks);
    request->blocks = (uint32_t)rng_between(d->rng, 1, d->disk->scribble_blocks - request->first_block);
    request->scribbled = request->req.op == OR_OP_WRITE;
}

static void place(struct draw *d)
{
    const struct plan *plan = &d->host->sim->plan;
    struct request *request = d->request;
    uint32_t from = d->disk->scribble_blocks, span = d->disk->blocks - from;
    if (rng_chance(d->rng, plan->hot_ppm))
        span = plan->hot_blocks < span ? plan->hot_blocks : span;
    uint32_t longest = plan->length_blocks_max;
    if (rng_chance(d->rng, plan->big_ppm)) {
        span = d->disk->blocks - from;
        longest = OR_REQ_BYTES_MAX / d->disk->block_size;
        if (!or_op_sends_data(request->req.op) && request->req.op != OR_OP_READ)
            longest = span; /* these may be larger than any transfer */
    }
    request->blocks = (uint32_t)rng_scale(d->rng, 1, longest < span ? longest : span);
    request->first_block = from + (uint32_t)rng_below(d->rng, span - request->blocks + 1);
}

static uint8_t expected_status(const struct draw *d)
{
    const struct plan *plan = &d->host->sim->plan;
    uint8_t op = d->request->req.op;
    if (d->disk->read_only && or_op_writes(op))
        return OR_EREADONLY;
    if ((op == OR_OP_DISCARD && !plan->discard) || (op == OR_OP_WRITE_ZEROES && !plan->write_zeroes))
        return OR_EUNSUPP;
    return OR_OK;
}

/* Somebody else's attachment, with everything right but the host; or one that does not exist. */
static void use_foreign(struct draw *d)
{
    const struct sim *sim = d->host->sim;
    const struct disk *other = &sim->disks[rng_below(d->rng, sim->disk_count)];
    bool foreign = other->owner != d->host->index && sim->plan.moves == 0;
    d->request->req.device = foreign ? other->id : 99999;
    d->request->req.generation = foreign ? other->generation : 1;
    d->request->expected = OR_ENODEV;
}

/* Makes a good request one that the server has to refuse. It covers no block as far as the model goes. */
static void spoil(struct draw *d)
{
    struct or_req *req = &d->request->req;
    uint32_t half = d->disk->block_size / 2;
    if (req->op == OR_OP_FLUSH || d->request->expected != OR_OK)
        return;
    switch (rng_below(d->rng, 5)) {
    case 0:
        req->offset = d->disk->size - req->length + d->disk->block_size;
        d->request->expected = OR_ERANGE;
        break;
    case 1:
        req->offset = (UINT64_MAX - (uint64_t)rng_below(d->rng, 1u << 22)) & ~(uint64_t)(d->disk->block_size - 1);
        d->request->expected = OR_ERANGE;
        break;
    case 2:
        req->offset += half;
        req->length -= half;
        d->request->expected = OR_EALIGN;
        break;
    case 3:
        use_foreign(d);
        break;
    default:
        req->length -= half;
        d->request->expected = OR_EALIGN;
        break;
    }
    d->request->blocks = 0;
    world_count(&d->host->sim->w, COV_REQUESTS_BAD, 1);
}

struct request *workload_next(struct host *host)
{
    struct sim *sim = host->sim;
    struct rng *rng = &sim->w.rng;
    if (host->view_count == 0)
        return NULL;
    const struct view *view = &host->views[rng_below(rng, host->view_count)];
    struct draw d = {.host = host, .disk = &sim->disks[view->disk], .rng = rng};
    struct request *request = d.request = world_alloc(&sim->w, sizeof *request);
    request->disk = d.disk;
    request->req.device = view->id;
    request->req.generation = view->generation;
    request->req.op = draw_op(rng);
    if (request->req.op == OR_OP_FLUSH) {
        request->blocks = 0;
    } else {
        if (d.disk->scribble_blocks && rng_chance(rng, PPM / 8))
            place_scribbled(&d);
        else
            place(&d);
        request->req.offset = (uint64_t)request->first_block * d.disk->block_size;
        request->req.length = request->blocks * d.disk->block_size;
    }
    /* Of two discards of the same blocks nobody could say whether the one that timed out is executed. */
    if (request->req.op == OR_OP_READ || request->req.op == OR_OP_WRITE || request->req.op == OR_OP_FLUSH)
        request->req.timeout_ns = sim->plan.timeout_ns;
    if (request->req.op == OR_OP_WRITE && rng_chance(rng, PPM / 10))
        request->req.flags = OR_REQ_FUA;
    if (request->req.op == OR_OP_WRITE_ZEROES && rng_chance(rng, PPM / 2))
        request->req.flags = OR_REQ_UNMAP;
    request->expected = expected_status(&d);
    if (rng_chance(rng, sim->plan.bad_ppm))
        spoil(&d);
    if (request->req.op == OR_OP_READ) {
        request->buffer = world_alloc(&sim->w, request->req.length);
        memset(request->buffer, 0xee, request->req.length);
    }
    return request;
}
