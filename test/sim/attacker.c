/* Someone else on the segment, who sees every frame but has no key. They keep some frames (which may
 * be from a session or a server that is gone by now) and send them again, unchanged or changed; steal
 * frames and deliver them much later; send garbage with believable headers; and tell both sides "I
 * know no such session". None of this may change what executes, and none may end a session for good. */
#include "network.h"

#include <string.h>

static struct frame *copy_of(struct net *net, struct frame *frame)
{
    struct frame *copy = net_frame(net, frame->length);
    memcpy(copy->bytes, frame->bytes, frame->length);
    copy->from = frame->from;
    copy->sequence = frame->sequence;
    return copy;
}

/* Right behind a frame, claims that the keys have changed. */
static void flip_phase(struct net *net, struct frame *frame)
{
    struct frame *copy = copy_of(net, frame);
    frame_header(copy)->flags ^= OR_FRAME_PHASE;
    frame_header(copy)->counter += rng_scale(&net->w->rng, 1, 64);
    net_mark(copy, frame);
    world_count(net->w, COV_PHASES_FLIPPED, 1);
    world_note(net->w, "attacker.flips", frame->from, frame->length, 0);
    net_carry(net, copy, 0);
}

bool attacker_sees(struct net *net, struct frame *frame)
{
    struct rng *rng = &net->w->rng;
    if (!rng_chance(rng, PPM / 12))
        return false;
    bool steal = !net->plan->calm && rng_chance(rng, PPM / 6);
    if (!steal)
        frame->refs++;
    else
        world_count(net->w, COV_STOLEN, 1);
    world_note(net->w, "attacker.keeps", frame->from, frame->length, steal);
    if (net->attacks_left && frame_header(frame)->type == OR_FRAME_DATA && rng_chance(rng, PPM / 4)) {
        net->attacks_left--;
        flip_phase(net, frame);
    }
    if (net->captured_count == CAPTURE_MAX) {
        uint32_t victim = (uint32_t)rng_below(rng, CAPTURE_MAX);
        net_frame_unref(net, net->captured[victim]);
        net->captured[victim] = frame;
    } else {
        net->captured[net->captured_count++] = frame;
    }
    return steal;
}

static void replay(struct net *net, struct frame *frame)
{
    world_count(net->w, COV_REPLAYED, 1);
    world_note(net->w, "attacker.replays", frame->from, frame->length, 0);
    frame->refs++;
    net_carry(net, frame, 0);
}

/* Changes a captured frame where it hurts: the header's fields or the message that follows. */
static void mutate(struct net *net, struct frame *frame)
{
    struct rng *rng = &net->w->rng;
    struct frame *copy = copy_of(net, frame);
    uint32_t from = OR_ETH_HEADER, span = frame->length - from < 128 ? frame->length - from : 128;
    for (uint64_t changes = rng_scale(rng, 1, 8); changes > 0; changes--)
        copy->bytes[from + rng_below(rng, span)] = (uint8_t)rng_next(rng);
    if (rng_chance(rng, PPM / 2)) /* look like something new */
        frame_header(copy)->counter = frame_header(frame)->counter + rng_scale(rng, 1, 1u << 20);
    net_mark(copy, frame);
    world_count(net->w, COV_MUTATED, 1);
    world_note(net->w, "attacker.mutates", frame->from, frame->length, 0);
    net_carry(net, copy, 0);
}

/* A frame of the attacker's own with a header as the victim expects it. */
static void inject(struct net *net, struct frame *model)
{
    struct rng *rng = &net->w->rng;
    uint32_t size = OR_ETH_HEADER + (uint32_t)rng_scale(rng, 1, net->plan->mtu);
    struct frame *frame = net_frame(net, size);
    rng_fill(rng, frame->bytes, size);
    memcpy(frame->bytes, model->bytes, OR_ETH_HEADER);
    frame->from = model->from;
    if (size >= OR_ETH_HEADER + sizeof(struct or_frame_header)) {
        struct or_frame_header *header = frame_header(frame);
        header->version = OR_WIRE_VERSION;
        header->type = (uint8_t)rng_between(rng, OR_FRAME_HELLO, OR_FRAME_MAX);
        header->channel = 0;
        header->link = (uint8_t)rng_below(rng, OR_LINKS_MAX);
        header->session = frame_header(model)->session;
        header->counter = frame_header(model)->counter + rng_scale(rng, 1, 1000);
        header->length = (uint16_t)(size - OR_ETH_HEADER);
        header->flags = (uint8_t)rng_below(rng, 2) ? OR_FRAME_PHASE : 0;
        header->reserved0 = 0;
        header->reserved1 = 0;
        frame->must_refuse = header->type == OR_FRAME_DATA;
    }
    world_count(net->w, COV_INJECTED, 1);
    world_note(net->w, "attacker.injects", frame->from, size, 0);
    net_carry(net, frame, 0);
}

static void forge_unknown(struct net *net, struct frame *model)
{
    struct frame *frame = copy_of(net, model);
    frame->length = OR_ETH_HEADER + sizeof(struct or_frame_header);
    struct or_frame_header *header = frame_header(frame);
    header->type = OR_FRAME_UNKNOWN;
    header->length = sizeof *header;
    if (rng_chance(&net->w->rng, PPM / 2)) /* towards the sender, about the index that it sent to */
        for (int i = 0; i < 6; i++) {
            uint8_t other = frame->bytes[i];
            frame->bytes[i] = frame->bytes[6 + i];
            frame->bytes[6 + i] = other;
        }
    world_count(net->w, COV_FORGED_UNKNOWN, 1);
    world_note(net->w, "attacker.unknown", frame->from, header->session, 0);
    net_carry(net, frame, 0);
}

static void act(void *arg)
{
    struct net *net = arg;
    struct rng *rng = &net->w->rng;
    if (net->healthy || net->attacks_left == 0)
        return;
    if (net->captured_count > 0) {
        net->attacks_left--;
        struct frame *frame = net->captured[rng_below(rng, net->captured_count)];
        uint64_t dice = rng_below(rng, 100);
        if (dice < 55)
            replay(net, frame);
        else if (dice < 75)
            mutate(net, frame);
        else if (dice < 92)
            inject(net, frame);
        else
            forge_unknown(net, frame);
    }
    world_at(net->w, net->w->now + rng_scale(rng, 10 * US, 4 * MS), act, net);
}

void attacker_start(struct net *net)
{
    net->attacks_left = 600;
    world_at(net->w, net->w->now + 50 * US, act, net);
}
