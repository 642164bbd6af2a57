/* A guest: strands that write, read, flush, zero and send, and what a zombie of an older generation tries. */
#include "world.h"

#include <errno.h>
#include <string.h>

static void submit_again(struct upper *u);

/* --- ends ------------------------------------------------------------------------------------------- */

static void on_done(struct or_io *io)
{
    struct upper *u = (struct upper *)(void *)io; /* its first member */
    struct guest *g = u->g;
    struct checker *c = g->c;
    world_note(&c->w, "upper.done", g->index, (uint64_t)io->op << 32 | io->offset / SECTOR, io->status);
    if (!u->busy)
        world_fail(&c->w, "ended twice", "guest %u", g->index);
    if (c->halted && io->status == OR_EIO)
        return; /* its host keeps that from it, and sends it again to the next engine */
    u->busy = false;
    if (io->status == OR_EFENCED && u->generation == g->generation && g->phase != PHASE_FENCING)
        world_fail(&c->w, "fenced without a fence", "guest %u", g->index);
    if (io->status != OR_OK && io->status != OR_EFENCED)
        world_fail(&c->w, "operation failed", "guest %u, operation %u: status %u", g->index, io->op, io->status);
    if (io->status == OR_OK && u->generation != g->generation && g->phase != PHASE_FENCING)
        world_fail(&c->w, "landed after the fence", "guest %u, operation %u", g->index, io->op);
    if (io->op == OR_OP_READ && io->status == OR_OK)
        model_read(g, u);
    else
        model_end(g, u, io->status == OR_OK);
    if (chance(c, 20))
        guest_think(u); /* from inside done() */
}

/* --- begins ----------------------------------------------------------------------------------------- */

static void submit_again(struct upper *u)
{
    uint8_t op = u->io.op;
    uint64_t offset = u->io.offset;
    uint32_t length = u->io.length;
    u->generation = u->g->generation;
    u->io = (struct or_io){
        .op = op, .offset = offset, .length = length, .data = op == OR_OP_FLUSH ? NULL : u->data, .done = on_done};
    or_volume_submit(u->g->doors[u->volume], &u->io);
}

static void draw_range(struct checker *c, uint32_t *first, uint32_t *count)
{
    struct rng *r = &c->w.rng;
    uint32_t unit = c->block_size / SECTOR;
    *count = (uint32_t)rng_scale(r, 1, chance(c, 10) ? SECTORS : 24);
    *count = (*count + unit - 1) / unit * unit;
    *first = (uint32_t)rng_below(r, SECTORS - *count + 1) / unit * unit;
    if (chance(c, 40)) { /* where others are */
        *first %= 64;
        *first -= *first % unit;
    }
    if (chance(c, 30)) {
        *first -= *first % 8;
        *count = (*count + 7) / 8 * 8;
    }
    if (*first + *count > SECTORS)
        *count = SECTORS - *first;
}

static void peek(struct guest *g, uint32_t volume, uint32_t first, uint32_t count)
{
    struct or_volume *door = g->doors[volume];
    g->c->did[DID_PEEK]++;
    if (door->ops->peek(door, (uint64_t)first * SECTOR, count * SECTOR))
        world_fail(&g->c->w, "peeked past the hold", "the disk cannot peek");
}

static void send_packet(struct guest *g)
{
    struct checker *c = g->c;
    static uint8_t bytes[OR_DOMAIN_PACKET_MAX];
    if (g->packets_count == PACKETS)
        return;
    uint32_t length = (uint32_t)rng_scale(&c->w.rng, 4, chance(c, 5) ? OR_DOMAIN_PACKET_MAX : 3000);
    packet_fill(g, bytes, length);
    g->packets[g->packets_count] = (struct packet){.epoch = g->open, .length = length};
    g->sending = true;
    int err = or_domain_packet(g->domain, g->generation, 1, bytes, length);
    g->sending = false;
    if (err == 0) {
        g->packets_count++;
        c->did[DID_PACKET]++;
    } else if (err != -EAGAIN) {
        world_fail(&c->w, "packet refused", "guest %u: %d", g->index, err);
    }
}

static void begin(struct upper *u)
{
    struct guest *g = u->g;
    struct checker *c = g->c;
    uint32_t first, count, dice = (uint32_t)rng_below(&c->w.rng, 100);
    uint8_t op = dice < 40 ? OR_OP_READ : dice < 75 ? OR_OP_WRITE : dice < 85 ? OR_OP_WRITE_ZEROES : OR_OP_FLUSH;
    draw_range(c, &first, &count);
    u->volume = (uint32_t)rng_below(&c->w.rng, VOLUMES);
    if (dice >= 90) {
        send_packet(g);
        return;
    }
    if (op == OR_OP_FLUSH)
        count = first = 0;
    if (!model_may(g, u->volume, op, first, count))
        return;
    if (op == OR_OP_READ && chance(c, 5)) {
        peek(g, u->volume, first, count);
        return;
    }
    u->id = op == OR_OP_WRITE ? ++c->next_id : 0;
    for (uint32_t s = 0; op == OR_OP_WRITE && s < count; s++)
        stamp_put(u->data + s * SECTOR, stamp_of(u->id, u->volume, first + s));
    u->io.op = op == OR_OP_FLUSH && chance(c, 20) ? OR_OP_DISCARD : op;
    u->io.offset = (uint64_t)first * SECTOR;
    u->io.length = count * SECTOR;
    u->busy = true;
    c->did[op == OR_OP_READ ? DID_READ : op == OR_OP_WRITE ? DID_WRITE : op == OR_OP_FLUSH ? DID_FLUSH : DID_ZERO]++;
    world_note(&c->w, "upper.submit", g->index, (uint64_t)op << 32 | first, count);
    model_begin(g, u);
    submit_again(u);
    c->did[DID_WAIT] += u->busy && op == OR_OP_WRITE;
}

void guest_think(void *arg)
{
    struct upper *u = arg;
    struct guest *g = u->g;
    if (g->c->calm || g->c->halted || !g->c->ops_left || g->phase != PHASE_RUN || u->busy)
        return;
    g->c->ops_left--;
    begin(u);
}

static void on_think(void *arg)
{
    struct upper *u = arg;
    if (!u->g->c->calm) /* first: the engine may die below */
        world_at(&u->g->c->w, u->g->c->w.now + rng_scale(&u->g->c->w.rng, 1 * US, 2 * MS), on_think, u);
    guest_think(u);
}

void guest_attach(struct guest *g)
{
    for (uint32_t v = 0; v < VOLUMES; v++) {
        int err;
        g->doors[v] = or_domain_attach(g->domain, volume_id(g, v), g->generation, &err);
        if (!g->doors[v])
            world_fail(&g->c->w, "not attached", "guest %u: %d", g->index, err);
    }
}

void guest_resume(struct guest *g)
{
    for (uint32_t n = 0; n < UPPER; n++)
        if (g->upper[n].busy)
            submit_again(&g->upper[n]);
}

void guest_init(struct guest *g)
{
    struct checker *c = g->c;
    for (uint32_t v = 0; v < VOLUMES; v++)
        disk_init(&g->disks[v], c, SECTORS * SECTOR, true);
    uint64_t pages = c->bytes_max / OR_HOLD_PAGE;
    disk_init(&g->journal, c, (pages + 4 + rng_below(&c->w.rng, 200)) * OR_HOLD_PAGE, true);
    g->boundaries = world_alloc(&c->w, IMAGES * sizeof *g->boundaries);
    memset(g->image.maybe, 0xff, sizeof g->image.maybe); /* NONE */
    g->boundaries[0] = g->image;
    g->open = 1;
    g->generation = 1;
    for (uint32_t n = 0; n < UPPER; n++) {
        struct upper *u = &g->upper[n];
        u->g = g;
        u->data = world_alloc(&c->w, SECTORS * SECTOR + OR_HOLD_PAGE);
        world_at(&c->w, rng_below(&c->w.rng, 2 * MS), on_think, u);
    }
    g->zombie_data = world_alloc(&c->w, SECTORS * SECTOR);
}

/* --- a zombie --------------------------------------------------------------------------------------- */

static void zombie_done(struct or_io *io)
{
    struct guest *g = OR_CONTAINER(io, struct guest, zombie_io);
    g->zombie_busy = false;
    if (io->status != OR_EFENCED)
        world_fail(&g->c->w, "zombie let in", "guest %u, operation %u: status %u", g->index, io->op, io->status);
}

void zombie_act(struct guest *g)
{
    struct checker *c = g->c;
    uint32_t v = (uint32_t)rng_below(&c->w.rng, VOLUMES);
    static const uint8_t ops[] = {OR_OP_READ, OR_OP_WRITE, OR_OP_WRITE_ZEROES, OR_OP_FLUSH};
    if (!g->zombies[v])
        return;
    c->did[DID_ZOMBIE]++;
    g->zombie_io = (struct or_io){
        .op = ops[rng_below(&c->w.rng, 4)], .length = SECTORS * SECTOR, .data = g->zombie_data, .done = zombie_done};
    if (g->zombie_io.op == OR_OP_FLUSH)
        g->zombie_io.length = 0;
    g->zombie_busy = true;
    or_volume_submit(g->zombies[v], &g->zombie_io);
    uint64_t epoch;
    if (or_domain_packet(g->domain, g->zombie, 1, g->zombie_data, 60) != -ESTALE ||
        or_domain_cut(g->domain, g->zombie, &epoch) != -ESTALE)
        world_fail(&c->w, "zombie let in", "guest %u", g->index);
}
