/* The client of a session. Life of a request:
 *
 *   submit ──> overlap rule ──> pending ──> slot ──> fragments in frames ──> reply ──> done
 *                 (waits)      (no slot or credit)      ^        |
 *                                                       └─ lost ─┘   session lost: back to pending
 *
 * The path (path.c) carries fragments reliably; this file decides what they mean. A slot holds one
 * request and its number within the slot, the sequence; the server answers each (slot, sequence)
 * once, however often it was sent. A slot is used again only after its reply, so a reply that does
 * not bear the slot's current sequence is late and means nothing.
 *
 * When the session is lost, every unanswered request goes back to pending, in the order of admission,
 * and is sent anew in the next session. That is safe because of the overlap rule and because the
 * server lets the old session's I/O end before it executes anything of the new one. */
#include "client_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"

static struct or_client_slot *slot_of(struct or_client *c, const struct or_item *item)
{
    if (item->slot >= OR_SLOTS_MAX)
        return NULL;
    struct or_client_slot *s = &c->slots[item->slot];
    return s->req && s->sequence == item->sequence && item->fragment < s->fragments ? s : NULL;
}

/* Bytes of the message with this part of the request. */
static uint32_t message_bytes(const struct or_client *c, const struct or_req *r, uint32_t fragment)
{
    uint32_t data = 0, at = fragment * c->fragment_bytes;
    if (or_op_sends_data(r->op))
        data = r->length - at < c->fragment_bytes ? r->length - at : c->fragment_bytes;
    return (uint32_t)sizeof(struct or_message_request) + data;
}

static void set_unsent(struct or_client *c, struct or_client_slot *s, uint32_t bytes)
{
    c->unsent += bytes;
    c->unsent -= s->unsent;
    s->unsent = bytes;
}

/* This part is in a frame, or has arrived. */
static void sent(struct or_client *c, struct or_client_slot *s, uint32_t fragment)
{
    if (or_bitmap_test(&s->todo, fragment))
        set_unsent(c, s, s->unsent - message_bytes(c, s->req, fragment));
    or_bitmap_clear(&s->todo, fragment);
}

void or_client_acked(void *arg, struct or_item item)
{
    struct or_client_slot *s = slot_of(arg, &item);
    if (!s)
        return;
    or_bitmap_set(&s->acked, item.fragment);
    sent(arg, s, item.fragment);
    if (!s->todo.count)
        or_list_remove(&s->sending);
}

void or_client_lost(void *arg, struct or_item item)
{
    struct or_client *c = arg;
    struct or_client_slot *s = slot_of(c, &item);
    if (item.slot == OR_ITEM_PACKET)
        or_packets_lost(&c->packets);
    if (!s || or_bitmap_test(&s->acked, item.fragment))
        return;
    c->stats.retransmits++;
    if (or_bitmap_set(&s->todo, item.fragment))
        set_unsent(c, s, s->unsent + message_bytes(c, s->req, item.fragment));
    or_list_remove(&s->sending);
    or_list_prepend(&c->sending, &s->sending); /* what was lost is older than what waits */
}

/* --- slots and credits -------------------------------------------------------------------------- */

/* Bytes of server buffer that a request occupies. */
static uint32_t cost(const struct or_req *r)
{
    return r->op == OR_OP_READ || r->op == OR_OP_WRITE ? or_wire_buffer_bytes(r->length) : 0;
}

static struct or_client_share *share_of(struct or_client *c, const struct or_req *r)
{
    return &c->shares[r->device % OR_CLIENT_TURNS];
}

static struct or_req *first_pending(const struct or_client_share *share)
{
    return OR_CONTAINER(share->pending.next, struct or_req, link);
}

static void pending_changed(struct or_client *c, struct or_client_share *share)
{
    bool waits = !or_list_empty(&share->pending);
    if (waits == or_fair_waits(&share->flow))
        return;
    if (waits)
        or_fair_enter(&c->fair, &share->flow);
    else
        or_fair_leave(&share->flow);
}

static int free_slot(const struct or_client *c)
{
    for (uint32_t w = 0; w < OR_SLOTS_MAX / 64; w++)
        if (c->free_slots[w]) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(c->free_slots[w]);
            return i < c->slots_granted ? (int)i : -1;
        }
    return -1;
}

static void occupy(struct or_client *c, uint32_t index, struct or_req *r)
{
    struct or_client_slot *s = &c->slots[index];
    uint32_t n = or_op_sends_data(r->op) ? (r->length + c->fragment_bytes - 1) / c->fragment_bytes : 1;
    s->req = r;
    s->sequence++;
    s->fragments = n;
    or_bitmap_fill(&s->todo, n);
    or_bitmap_reset(&s->acked, n);
    or_bitmap_reset(&s->received,
                    (r->length < OR_REQ_BYTES_MAX ? r->length : OR_REQ_BYTES_MAX) / c->fragment_bytes + 1);
    s->reply_total = 0;
    set_unsent(c, s, n * (uint32_t)sizeof(struct or_message_request) + (or_op_sends_data(r->op) ? r->length : 0));
    c->free_slots[index / 64] &= ~(1ull << index % 64);
    c->bytes_out += cost(r);
    if (index >= OR_SLOT_DATA) {
        share_of(c, r)->slots++;
        share_of(c, r)->bytes += cost(r);
        or_list_append(&c->sending, &s->sending);
    } else {
        or_list_prepend(&c->sending, &s->sending); /* control does not wait behind data */
    }
}

void or_client_vacate(struct or_client *c, struct or_client_slot *s)
{
    uint32_t index = (uint32_t)(s - c->slots);
    if (index >= OR_SLOT_DATA) {
        share_of(c, s->req)->slots--;
        share_of(c, s->req)->bytes -= cost(s->req);
    }
    if (!OR_PLANTED(OR_PLANT_CREDIT_LEAK))
        c->bytes_out -= cost(s->req);
    s->req = NULL;
    set_unsent(c, s, 0);
    or_list_remove(&s->sending);
    if (index >= OR_SLOT_DATA)
        c->free_slots[index / 64] |= 1ull << index % 64;
}

/* Three quarters of what there is, for one device. */
static bool has_its_share(const struct or_client *c, const struct or_client_share *share)
{
    uint32_t slots = (c->slots_granted - OR_SLOT_DATA) * 3 / 4;
    return share->slots &&
           (share->slots >= slots || share->bytes + cost(first_pending(share)) > c->bytes_granted / 4 * 3);
}

/* The device that is next, of those that wait and have not got their share; NULL: none. */
static struct or_client_share *next_share(const struct or_client *c)
{
    for (struct or_list *l = c->fair.waiting.next; l != &c->fair.waiting; l = l->next) {
        struct or_client_share *share = OR_CONTAINER(l, struct or_client_share, flow.link);
        if (!has_its_share(c, share))
            return share;
    }
    return NULL;
}

/* Gives waiting requests slots, those of a device in order, as far as the credits reach, and as it makes sense: what
 * finds no room in frames waits here, where devices take turns by bytes. False: none got one. */
static bool fill_slots(struct or_client *c)
{
    bool any = false;
    while (or_fair_anyone_waits(&c->fair) && c->unsent < OR_LINKS_UNSENT_MAX) {
        struct or_client_share *share = next_share(c);
        int i = share ? free_slot(c) : -1;
        struct or_req *r = i >= 0 ? first_pending(share) : NULL;
        if (!r || (c->bytes_out && c->bytes_out + cost(r) > c->bytes_granted))
            break;
        or_list_remove(&r->link);
        or_fair_leave(&share->flow);
        or_fair_serve(&c->fair, &share->flow, OR_LINKS_REQUEST_COST + cost(r), OR_FAIR_UNIT);
        pending_changed(c, share);
        occupy(c, (uint32_t)i, r);
        any = true;
    }
    return any;
}

/* Puts the request's next fragments into frames, a bounded number, so that a large request does not keep
 * small ones back. False: the path takes no more now. */
static bool send_slot(struct or_client *c, struct or_client_slot *s, uint64_t now)
{
    struct or_req *r = s->req;
    for (uint32_t turn = 0; s->todo.count && turn < OR_TURN_BYTES;) {
        uint32_t f = or_bitmap_first(&s->todo);
        uint32_t at = f * c->fragment_bytes;
        uint32_t bytes = message_bytes(c, r, f), data = bytes - (uint32_t)sizeof(struct or_message_request);
        uint16_t index = (uint16_t)(s - c->slots);
        struct or_message_request *m =
            or_links_message(&c->links, bytes, (struct or_item){index, (uint16_t)f, s->sequence}, now);
        if (!m)
            return false;
        *m = (struct or_message_request){
            .type = OR_MSG_REQUEST,
            .op = r->op,
            .length = (uint16_t)bytes,
            .slot = index,
            .flags = r->flags,
            .sequence = s->sequence,
            .device = r->device,
            .generation = r->generation,
            .io_length = r->length,
            .offset = r->offset,
            .fragment = at,
            .placement = r->placement,
        };
        if (data)
            r->ops->pull(r, at, m->data, data);
        sent(c, s, f);
        turn += bytes;
    }
    or_list_remove(&s->sending);
    if (s->todo.count)
        or_list_append(&c->sending, &s->sending);
    return true;
}

bool or_client_send_requests(void *arg, uint64_t now)
{
    struct or_client *c = arg;
    return !or_list_empty(&c->sending) &&
           send_slot(c, OR_CONTAINER(c->sending.next, struct or_client_slot, sending), now);
}

static void admitted(void *arg, struct or_req *r)
{
    struct or_client *c = arg;
    or_list_append(&share_of(c, r)->pending, &r->link);
    pending_changed(c, share_of(c, r));
}

void or_client_submit(struct or_client *c, struct or_req *r, uint64_t now)
{
    assert(r->op != 0 && r->op < OR_OP_CONTROL_GET);
    r->status = OR_OK;
    r->order = c->next_order++;
    or_list_init(&r->active);
    or_list_init(&r->link);
    or_list_init(&r->timed);
    if (r->timeout_ns)
        or_client_timed(c, r, now);
    c->count++;
    c->stats.requests++;
    if (or_overlap_admit(&c->overlap, r))
        admitted(c, r);
}

void or_client_release(struct or_client *c, struct or_req *r)
{
    if (!or_list_empty(&r->link)) {
        or_list_remove(&r->link);
        pending_changed(c, share_of(c, r));
    }
    or_list_remove(&r->timed);
    or_overlap_release(&c->overlap, r, admitted, c);
}

/* --- replies ------------------------------------------------------------------------------------ */

/* The request is the owner's again. What waited for its end may go now, unless the owner withdraws it first. */
static void give_back(struct or_client *c, struct or_client_slot *s)
{
    struct or_req *r = s->req;
    or_client_vacate(c, s);
    or_list_remove(&r->timed);
    c->count--;
    c->config.moved(c->config.arg, r);
    or_overlap_release(&c->overlap, r, admitted, c);
}

static void finish(struct or_client *c, struct or_client_slot *s, uint8_t status)
{
    struct or_req *r = s->req;
    if (status == OR_EMOVED && c->config.moved && !or_client_is_ghost(r) && r->op < OR_OP_CONTROL_GET) {
        give_back(c, s);
        return;
    }
    or_client_vacate(c, s);
    r->status = status == OR_EMOVED ? OR_ENODEV : status;
    if (or_client_is_ghost(r)) {
        or_client_release(c, r);
    } else if (r->op < OR_OP_CONTROL_GET) {
        c->stats.replies++;
        if (r->op == OR_OP_READ)
            c->stats.bytes_read += r->length;
        if (r->op == OR_OP_WRITE)
            c->stats.bytes_written += r->length;
        c->count--;
        or_client_release(c, r);
    }
    r->ops->done(r);
}

enum or_refuse or_client_on_reply(struct or_client *c, const struct or_message_reply *m)
{
    enum or_refuse refuse = or_wire_check_reply(m, c->fragment_bytes);
    if (refuse)
        return refuse;
    struct or_client_slot *s = &c->slots[m->slot];
    if (!s->req)
        return OR_REFUSE_STALE;
    if (m->sequence != s->sequence && !OR_PLANTED(OR_PLANT_LATE_REPLY_ACCEPTED))
        return OR_REFUSE_STALE;
    struct or_req *r = s->req;
    if (m->status != OR_OK) {
        finish(c, s, m->status);
        return OR_REFUSE_NONE;
    }
    bool any_length = r->op == OR_OP_CONTROL_GET;
    uint32_t want = r->op == OR_OP_READ ? r->length : 0;
    if (any_length ? m->total == 0 || m->total > r->length : m->total != want)
        return OR_REFUSE_MESSAGE;
    if (s->received.count && m->total != s->reply_total)
        return OR_REFUSE_MESSAGE;
    if (m->total) {
        uint32_t data = m->length - (uint32_t)sizeof *m;
        if (!or_bitmap_set(&s->received, m->fragment / c->fragment_bytes))
            return OR_REFUSE_NONE; /* a duplicate */
        s->reply_total = m->total;
        r->ops->push(r, m->fragment, m->data, data);
        if (s->received.count < (m->total + c->fragment_bytes - 1) / c->fragment_bytes)
            return OR_REFUSE_NONE;
    }
    if (any_length) {
        c->get.length = m->total;
        c->document_version = m->value;
    }
    finish(c, s, OR_OK);
    return OR_REFUSE_NONE;
}

/* --- control ------------------------------------------------------------------------------------ */

static void control_push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(OR_CONTAINER(r, struct or_client_control, req)->data + offset, src, length);
}

static void control_pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, OR_CONTAINER(r, struct or_client_control, req)->data + offset, length);
}

static void ask_for_document(struct or_client *c)
{
    c->get.req.offset = c->document_version;
    occupy(c, OR_SLOT_CONTROL_GET, &c->get.req);
}

static void document_done(struct or_req *r)
{
    struct or_client *c = OR_CONTAINER(r, struct or_client, get.req);
    if (r->status == OR_OK)
        c->config.document(c->config.arg, c->get.data, c->get.length);
    if (c->state == OR_CLIENT_UP)
        ask_for_document(c);
}

static void send_report(struct or_client *c)
{
    if (c->state != OR_CLIENT_UP || !c->report_unsent || c->slots[OR_SLOT_CONTROL_PUT].req)
        return;
    free(c->put.data);
    c->put.data = c->report;
    c->report = NULL;
    c->put.length = c->put.req.length = c->report_length;
    c->report_unsent = false;
    occupy(c, OR_SLOT_CONTROL_PUT, &c->put.req);
}

static void report_done(struct or_req *r)
{
    send_report(OR_CONTAINER(r, struct or_client, put.req));
}

static const struct or_req_ops document_ops = {.push = control_push, .done = document_done};
static const struct or_req_ops report_ops = {.pull = control_pull, .done = report_done};

int or_client_report(struct or_client *c, const void *document, uint32_t length)
{
    if (length == 0 || length > OR_REQ_BYTES_MAX)
        return -EMSGSIZE;
    uint8_t *copy = malloc(length);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, document, length);
    free(c->report);
    c->report = copy;
    c->report_length = length;
    c->report_unsent = true;
    send_report(c);
    return 0;
}

/* --- sessions ----------------------------------------------------------------------------------- */

void or_client_begin(struct or_client *c)
{
    if (c->config.document) {
        c->document_version = 0;
        ask_for_document(c);
    }
    send_report(c);
}

static int by_order(const void *a, const void *b)
{
    uint64_t x = (*(struct or_req *const *)a)->order, y = (*(struct or_req *const *)b)->order;
    return x < y ? -1 : x > y;
}

void or_client_take_back(struct or_client *c)
{
    struct or_req *again[OR_SLOTS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        struct or_req *r = c->slots[i].req;
        if (!r)
            continue;
        or_client_vacate(c, &c->slots[i]);
        if (i >= OR_SLOT_DATA)
            again[n++] = r;
    }
    qsort(again, n, sizeof again[0], by_order);
    while (n) {
        struct or_req *r = again[--n];
        if (or_client_is_ghost(r)) { /* what the server has of it ends before it does anything of a next session */
            or_client_release(c, r);
            or_client_free_ghost(r);
            continue;
        }
        or_list_prepend(&share_of(c, r)->pending, &r->link);
        pending_changed(c, share_of(c, r));
    }
    c->bytes_out = 0;
    /* A report under way is sent again, unless a newer one waits. */
    if (!c->report_unsent && c->put.data) {
        c->report = c->put.data;
        c->report_length = c->put.length;
        c->put.data = NULL;
    }
    c->report_unsent = c->report != NULL;
}

static uint32_t in_slots(const struct or_client *c, uint32_t device)
{
    uint32_t n = 0;
    for (uint32_t i = OR_SLOT_DATA; i < OR_SLOTS_MAX; i++)
        n += c->slots[i].req && c->slots[i].req->device == device;
    return n;
}

uint32_t or_client_withdraw(struct or_client *c, uint32_t device, void (*take)(void *arg, struct or_req *req),
                            void *arg)
{
    struct or_client_share *share = &c->shares[device % OR_CLIENT_TURNS];
    struct or_req *r;
    struct or_list *next;
    while ((r = or_overlap_pop_blocked(&c->overlap, device))) {
        or_list_remove(&r->timed);
        c->count--;
        take(arg, r);
    }
    for (struct or_list *l = share->pending.next; l != &share->pending; l = next) {
        r = OR_CONTAINER(l, struct or_req, link);
        next = l->next;
        if (r->device != device)
            continue;
        or_list_remove(&r->link);
        or_list_remove(&r->timed);
        or_overlap_forget(&c->overlap, r); /* nothing waits for it any more */
        c->count--;
        take(arg, r);
    }
    pending_changed(c, share);
    return in_slots(c, device);
}

enum or_packet_verdict or_client_packet(struct or_client *c, uint32_t device, uint32_t generation,
                                        const struct or_packet *packet, uint64_t now)
{
    if (c->state == OR_CLIENT_UP && or_links_requests_first(&c->links))
        fill_slots(c);
    return or_packets_send(&c->packets, device, generation, packet, now);
}

void or_client_flush(struct or_client *c, uint64_t now)
{
    if (c->state != OR_CLIENT_UP)
        return;
    fill_slots(c);
    do
        or_packets_pump(&c->packets, now);
    while (fill_slots(c)); /* what is in frames makes room */
    if (or_fair_anyone_waits(&c->fair) && c->unsent < OR_LINKS_UNSENT_MAX)
        c->stats.credit_waits++;
    or_links_flush(&c->links, now);
}

/* --- life --------------------------------------------------------------------------------------- */

struct or_client *or_client_create(const struct or_client_config *config, int *err)
{
    struct or_client *c = calloc(1, sizeof *c);
    if (c)
        c->get.data = malloc(OR_REQ_BYTES_MAX);
    if (!c || !c->get.data || or_packets_open(&c->packets) || or_proof_open(&c->proof, config->psk)) {
        if (c) {
            or_packets_close(&c->packets);
            free(c->get.data);
        }
        free(c);
        *err = -ENOMEM;
        return NULL;
    }
    c->config = *config;
    config->env.random(config->env.arg, &c->instance, sizeof c->instance);
    or_list_init(&c->sending);
    or_list_init(&c->timed);
    or_fair_init(&c->fair);
    for (uint32_t i = 0; i < OR_CLIENT_TURNS; i++) {
        or_list_init(&c->shares[i].pending);
        or_fair_flow_init(&c->shares[i].flow, &c->fair);
    }
    or_overlap_init(&c->overlap);
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        or_list_init(&c->slots[i].sending);
        if (i >= OR_SLOT_DATA)
            c->free_slots[i / 64] |= 1ull << i % 64;
    }
    c->get.req = (struct or_req){.ops = &document_ops, .op = OR_OP_CONTROL_GET, .length = OR_REQ_BYTES_MAX};
    c->put.req = (struct or_req){.ops = &report_ops, .op = OR_OP_CONTROL_PUT};
    or_client_count_links(c);
    or_client_connect(c, 0);
    return c;
}

static void fail(struct or_client *c, struct or_req *r)
{
    if (or_client_is_ghost(r)) {
        or_client_free_ghost(r);
        return;
    }
    or_list_remove(&r->timed);
    r->status = OR_EIO;
    c->count--;
    r->ops->done(r);
}

void or_client_destroy(struct or_client *c)
{
    if (c->state == OR_CLIENT_UP) {
        or_links_close(&c->links);
        or_client_disallow(c);
    }
    or_packets_close(&c->packets);
    or_noise_wipe(&c->noise);
    for (uint32_t i = OR_SLOT_DATA; i < OR_SLOTS_MAX; i++)
        if (c->slots[i].req)
            fail(c, c->slots[i].req);
    for (uint32_t i = 0; i < OR_CLIENT_TURNS; i++)
        while (!or_list_empty(&c->shares[i].pending)) {
            struct or_req *r = first_pending(&c->shares[i]);
            or_list_remove(&r->link);
            fail(c, r);
        }
    struct or_req *r;
    while ((r = or_overlap_pop_blocked(&c->overlap, 0)))
        fail(c, r);
    free(c->get.data);
    free(c->put.data);
    free(c->report);
    memset(c, 0, sizeof *c);
    free(c);
}

bool or_client_up(const struct or_client *c)
{
    return c->state == OR_CLIENT_UP;
}

uint32_t or_client_in_flight(const struct or_client *c)
{
    return c->count;
}

void or_client_refused(const struct or_client *c, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6])
{
    memcpy(counts, c->stats.refused, sizeof c->stats.refused);
    memcpy(source, c->refused_source, sizeof c->refused_source);
}

void or_client_stats(const struct or_client *c, struct or_client_stats *out)
{
    *out = c->stats;
    out->packets = c->packets.stats;
    out->overlap_waits = c->overlap.waits;
    if (c->state == OR_CLIENT_UP) {
        out->frames_lost += or_links_frames_lost(&c->links);
        out->rekeys += or_links_rekeys(&c->links);
        out->link_count = c->links.count;
        for (uint32_t i = c->links.count; i-- > 0;) {
            struct or_link_info *link = &out->links[i];
            *link = or_links_info(&c->links, i);
            if (link->up || i == 0) {
                out->srtt_ns = link->srtt_ns;
                out->cwnd_frames = link->cwnd_frames;
                out->in_flight_frames = link->in_flight_frames;
            }
        }
    }
}
