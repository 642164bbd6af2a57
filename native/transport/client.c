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
#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/bitmap.h"
#include "mem/list.h"
#include "noise.h"
#include "overlap.h"
#include "path.h"
#include "plant.h"

#define MS 1000000ull
#define HEARTBEAT_NS (1000 * MS) /* a ping after this long without sending */
#define DEAD_NS (1500 * MS)      /* unanswered for this long: the session is lost */
#define SUSPECT_NS (20 * MS)     /* the same after the peer said that it knows no such session */
#define HELLO_FIRST_NS (20 * MS)
#define HELLO_MAX_NS (250 * MS)

struct slot {
    struct or_req *req; /* NULL: free */
    uint32_t sequence;
    uint32_t fragments;     /* of the request */
    struct or_bitmap todo;  /* fragments to be sent */
    struct or_bitmap acked; /* fragments that the server has */
    uint32_t reply_total;   /* bytes; valid when received.count > 0 */
    struct or_bitmap received;
    struct or_list sending; /* in client.sending while todo.count > 0 */
};

/* A control request and its memory: the long poll for the document, the report. */
struct control {
    struct or_req req;
    uint8_t *data;
    uint32_t length; /* bytes in data */
};

enum state { DOWN, UP };

struct or_client {
    struct or_client_config config;
    enum state state;

    /* Handshake. */
    struct or_noise noise;
    struct or_hello hello;
    uint64_t instance, hello_at, hello_interval;
    uint32_t session; /* our index */
    uint64_t suspect_at;

    /* Session. */
    struct or_path path;
    uint32_t fragment_bytes;
    uint32_t slots_granted, credit_epoch;
    uint64_t bytes_granted, bytes_out;
    struct slot slots[OR_SLOTS_MAX];
    uint64_t free_slots[OR_SLOTS_MAX / 64];
    struct or_list sending;

    /* Requests. */
    struct or_overlap overlap;
    struct or_list pending;
    uint32_t count;
    uint64_t next_order;

    struct control get, put;
    uint64_t document_version;
    uint8_t *report; /* the latest; NULL: none */
    uint32_t report_length;
    bool report_unsent;

    struct or_client_stats stats;
};

static void random_bytes(struct or_client *c, void *out, size_t n)
{
    c->config.env.random(c->config.env.arg, out, n);
}

static struct slot *slot_of(struct or_client *c, const struct or_item *item)
{
    if (item->slot >= OR_SLOTS_MAX)
        return NULL;
    struct slot *s = &c->slots[item->slot];
    return s->req && s->sequence == item->sequence && item->fragment < s->fragments ? s : NULL;
}

static void path_acked(void *arg, struct or_item item)
{
    struct slot *s = slot_of(arg, &item);
    if (!s)
        return;
    or_bitmap_set(&s->acked, item.fragment);
    or_bitmap_clear(&s->todo, item.fragment);
    if (!s->todo.count)
        or_list_remove(&s->sending);
}

static void path_lost(void *arg, struct or_item item)
{
    struct or_client *c = arg;
    struct slot *s = slot_of(c, &item);
    if (!s || or_bitmap_test(&s->acked, item.fragment))
        return;
    c->stats.retransmits++;
    or_bitmap_set(&s->todo, item.fragment);
    or_list_remove(&s->sending);
    or_list_prepend(&c->sending, &s->sending); /* what was lost is older than what waits */
}

/* --- slots and credits -------------------------------------------------------------------------- */

/* Bytes of server buffer that a request occupies. */
static uint32_t cost(const struct or_req *r)
{
    return r->op == OR_OP_READ || r->op == OR_OP_WRITE ? or_wire_buffer_bytes(r->length) : 0;
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
    struct slot *s = &c->slots[index];
    uint32_t n = or_op_sends_data(r->op) ? (r->length + c->fragment_bytes - 1) / c->fragment_bytes : 1;
    s->req = r;
    s->sequence++;
    s->fragments = n;
    or_bitmap_fill(&s->todo, n);
    or_bitmap_reset(&s->acked, n);
    or_bitmap_reset(&s->received,
                    (r->length < OR_REQ_BYTES_MAX ? r->length : OR_REQ_BYTES_MAX) / c->fragment_bytes + 1);
    s->reply_total = 0;
    c->free_slots[index / 64] &= ~(1ull << index % 64);
    c->bytes_out += cost(r);
    or_list_append(&c->sending, &s->sending);
}

static void vacate(struct or_client *c, struct slot *s)
{
    uint32_t index = (uint32_t)(s - c->slots);
    if (!OR_PLANTED(OR_PLANT_CREDIT_LEAK))
        c->bytes_out -= cost(s->req);
    s->req = NULL;
    or_list_remove(&s->sending);
    if (index >= OR_SLOT_DATA)
        c->free_slots[index / 64] |= 1ull << index % 64;
}

/* Gives waiting requests slots, in order, as far as the credits reach. */
static void fill_slots(struct or_client *c)
{
    while (!or_list_empty(&c->pending)) {
        struct or_req *r = OR_CONTAINER(c->pending.next, struct or_req, link);
        int i = free_slot(c);
        if (i < 0 || (c->bytes_out && c->bytes_out + cost(r) > c->bytes_granted)) {
            c->stats.credit_waits++;
            return;
        }
        or_list_remove(&r->link);
        occupy(c, (uint32_t)i, r);
    }
}

/* Puts the request's next fragments into frames, a bounded number, so that a large request does not keep
 * small ones back. False: the path takes no more now. */
static bool send_slot(struct or_client *c, struct slot *s, uint64_t now)
{
    struct or_req *r = s->req;
    for (uint32_t turn = 0; s->todo.count && turn < OR_FRAGMENTS_PER_TURN; turn++) {
        uint32_t f = or_bitmap_first(&s->todo);
        uint32_t at = f * c->fragment_bytes, data = 0;
        if (or_op_sends_data(r->op))
            data = r->length - at < c->fragment_bytes ? r->length - at : c->fragment_bytes;
        uint32_t bytes = (uint32_t)sizeof(struct or_message_request) + data;
        uint16_t index = (uint16_t)(s - c->slots);
        struct or_message_request *m =
            or_path_message(&c->path, bytes, (struct or_item){index, (uint16_t)f, s->sequence}, now);
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
        };
        if (data)
            r->ops->pull(r, at, m->data, data);
        or_bitmap_clear(&s->todo, f);
    }
    or_list_remove(&s->sending);
    if (s->todo.count)
        or_list_append(&c->sending, &s->sending);
    return true;
}

static void admitted(void *arg, struct or_req *r)
{
    struct or_client *c = arg;
    r->order = c->next_order++;
    or_list_append(&c->pending, &r->link);
}

void or_client_submit(struct or_client *c, struct or_req *r, uint64_t now)
{
    (void)now;
    assert(r->op != 0 && r->op < OR_OP_CONTROL_GET);
    r->status = OR_OK;
    or_list_init(&r->active);
    or_list_init(&r->link);
    c->count++;
    c->stats.requests++;
    if (or_overlap_admit(&c->overlap, r))
        admitted(c, r);
}

/* --- replies ------------------------------------------------------------------------------------ */

static void finish(struct or_client *c, struct slot *s, uint8_t status)
{
    struct or_req *r = s->req;
    vacate(c, s);
    r->status = status;
    if (r->op < OR_OP_CONTROL_GET) {
        c->stats.replies++;
        if (r->op == OR_OP_READ)
            c->stats.bytes_read += r->length;
        if (r->op == OR_OP_WRITE)
            c->stats.bytes_written += r->length;
        c->count--;
        or_overlap_release(&c->overlap, r, admitted, c);
    }
    r->ops->done(r);
}

static enum or_refuse on_reply(struct or_client *c, const struct or_message_reply *m)
{
    enum or_refuse refuse = or_wire_check_reply(m, c->fragment_bytes);
    if (refuse)
        return refuse;
    struct slot *s = &c->slots[m->slot];
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
    memcpy(OR_CONTAINER(r, struct control, req)->data + offset, src, length);
}

static void control_pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, OR_CONTAINER(r, struct control, req)->data + offset, length);
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
    if (c->state == UP)
        ask_for_document(c);
}

static void send_report(struct or_client *c)
{
    if (c->state != UP || !c->report_unsent || c->slots[OR_SLOT_CONTROL_PUT].req)
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

/* --- handshake ---------------------------------------------------------------------------------- */

static void prepare_hello(struct or_client *c)
{
    const struct or_client_config *config = &c->config;
    uint8_t ephemeral[32];
    random_bytes(c, ephemeral, sizeof ephemeral);
    do
        random_bytes(c, &c->session, sizeof c->session);
    while (!c->session);
    c->hello = (struct or_hello){.session = c->session, .name_length = (uint8_t)strlen(config->name)};
    memcpy(c->hello.name, config->name, c->hello.name_length);
    struct or_hello_payload payload = {
        .instance = c->instance,
        .mtu = config->port->mtu,
        .rx_frames = config->port->rx_frames,
        .channels = 1,
        .links = 1,
        .integrity_min = config->integrity_min,
    };
    int n = or_noise_init(&c->noise, true, &c->hello, offsetof(struct or_hello, message), config->psk, ephemeral);
    if (n == 0)
        n = or_noise_write(&c->noise, &payload, sizeof payload, c->hello.message, sizeof c->hello.message);
    assert(n < 0 || n == sizeof c->hello.message);
    if (n < 0)
        c->session = 0; /* memory is short: tried again at the next time-out */
}

static void send_hello(struct or_client *c, uint64_t now)
{
    if (!c->session)
        prepare_hello(c);
    uint8_t *frame = c->session ? or_port_tx_begin(c->config.port, c->config.server_mac) : NULL;
    if (frame) {
        struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
        *h = (struct or_frame_header){
            .version = OR_WIRE_VERSION,
            .type = OR_FRAME_HELLO,
            .length = sizeof *h + sizeof c->hello,
        };
        memcpy(h + 1, &c->hello, sizeof c->hello);
        or_port_tx_commit(c->config.port, OR_ETH_HEADER + h->length);
    }
    uint8_t jitter;
    random_bytes(c, &jitter, 1);
    c->hello_at = now + c->hello_interval + c->hello_interval * jitter / 1024;
    c->hello_interval = c->hello_interval * 2 < HELLO_MAX_NS ? c->hello_interval * 2 : HELLO_MAX_NS;
}

static void reconnect(struct or_client *c, uint64_t now)
{
    c->session = 0;
    c->suspect_at = UINT64_MAX;
    c->hello_at = now;
    c->hello_interval = HELLO_FIRST_NS;
}

static int by_order(const void *a, const void *b)
{
    uint64_t x = (*(struct or_req *const *)a)->order, y = (*(struct or_req *const *)b)->order;
    return x < y ? -1 : x > y;
}

/* Takes all requests out of the slots: data requests back to pending, ahead of those that wait. */
static void session_lost(struct or_client *c, const char *why, uint64_t now)
{
    struct or_req *again[OR_SLOTS_MAX];
    uint32_t n = 0;
    c->stats.frames_lost += c->path.frames_lost;
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        struct or_req *r = c->slots[i].req;
        if (!r)
            continue;
        vacate(c, &c->slots[i]);
        if (i >= OR_SLOT_DATA)
            again[n++] = r;
    }
    qsort(again, n, sizeof again[0], by_order);
    while (n)
        or_list_prepend(&c->pending, &again[--n]->link);
    c->bytes_out = 0;
    or_path_close(&c->path);
    c->state = DOWN;
    /* A report under way is sent again, unless a newer one waits. */
    if (!c->report_unsent && c->put.data) {
        c->report = c->put.data;
        c->report_length = c->put.length;
        c->put.data = NULL;
    }
    c->report_unsent = c->report != NULL;
    reconnect(c, now);
    c->config.link(c->config.arg, false, why);
}

static bool welcome_ok(const struct or_client *c, const struct or_welcome_payload *w)
{
    return w->session != 0 && w->mtu >= OR_MTU_MIN && w->mtu <= c->config.port->mtu && w->rx_frames >= 1 &&
           w->slots > OR_SLOT_DATA && w->slots <= OR_SLOTS_MAX && w->channels == 1 &&
           (w->integrity == OR_INTEGRITY_CRC || w->integrity == OR_INTEGRITY_MAC) &&
           w->integrity >= c->config.integrity_min;
}

static int open_session(struct or_client *c, const struct or_welcome_payload *w, uint64_t now)
{
    uint8_t tx_key[32], rx_key[32];
    uint32_t seed;
    random_bytes(c, &seed, sizeof seed);
    struct or_path_config path = {
        .owner = {.acked = path_acked, .lost = path_lost, .arg = c},
        .port = c->config.port,
        .peer_mac = c->config.server_mac,
        .integrity = w->integrity,
        .peer_session = w->session,
        .mtu = w->mtu,
        .peer_frames = w->rx_frames,
        .tx_key = tx_key,
        .rx_key = rx_key,
        .jitter_seed = seed,
    };
    int err = or_noise_split(&c->noise, tx_key, rx_key);
    if (!err)
        err = or_path_open(&c->path, &path, now);
    memset(tx_key, 0, sizeof tx_key);
    memset(rx_key, 0, sizeof rx_key);
    return err;
}

static enum or_refuse on_welcome(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    const struct or_welcome *m = (const void *)(h + 1);
    struct or_welcome_payload w;
    if (c->state != DOWN || !c->session || h->session != c->session)
        return OR_REFUSE_SESSION;
    if (or_noise_read(&c->noise, m->message, sizeof m->message, (uint8_t *)&w, sizeof w) != sizeof w)
        return OR_REFUSE_HANDSHAKE;
    /* From here on the server has proved the key; a welcome we cannot use is an operator's matter. */
    if (!welcome_ok(c, &w) || open_session(c, &w, now)) {
        c->session = 0;
        return OR_REFUSE_HANDSHAKE;
    }
    or_noise_wipe(&c->noise);
    c->fragment_bytes = or_wire_fragment_bytes(w.mtu);
    c->slots_granted = w.slots;
    c->bytes_granted = w.bytes;
    c->credit_epoch = 0;
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++)
        c->slots[i].sequence = 0;
    c->state = UP;
    c->stats.sessions++;
    c->path.want_ping = true; /* confirms the keys, when nothing else is to be said */
    if (c->config.document) {
        c->document_version = 0;
        ask_for_document(c);
    }
    send_report(c);
    c->config.link(c->config.arg, true, "");
    return OR_REFUSE_NONE;
}

/* --- frames ------------------------------------------------------------------------------------- */

static void on_credit(struct or_client *c, const struct or_message_credit *m)
{
    if (m->epoch <= c->credit_epoch || m->slots <= OR_SLOT_DATA || m->slots > OR_SLOTS_MAX || m->frames == 0)
        return;
    c->credit_epoch = m->epoch;
    c->slots_granted = m->slots;
    c->bytes_granted = m->bytes;
    c->path.peer_frames = m->frames;
}

static enum or_refuse on_data(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != UP || h->session != c->session || h->channel != 0 || h->link != 0)
        return OR_REFUSE_SESSION;
    enum or_refuse refuse = or_path_verify(&c->path, h);
    if (refuse)
        return refuse;
    uint32_t at = sizeof *h;
    const struct or_message *m;
    bool eliciting = false;
    enum or_refuse bad = OR_REFUSE_NONE;
    while ((m = or_wire_next(h, &at, &refuse))) {
        eliciting |= m->type != OR_MSG_ACK;
        if (m->type == OR_MSG_ACK)
            or_path_on_ack(&c->path, (const void *)m, now);
        else if (m->type == OR_MSG_REPLY)
            refuse = on_reply(c, (const void *)m);
        else if (m->type == OR_MSG_CREDIT)
            on_credit(c, (const void *)m);
        else if (m->type != OR_MSG_PING)
            refuse = OR_REFUSE_MESSAGE;
        if (refuse)
            bad = refuse;
    }
    or_path_accept(&c->path, h, eliciting, now);
    c->suspect_at = UINT64_MAX;
    return refuse ? refuse : bad;
}

/* "I know no such session", from anybody: believed only when the session is silent from now on. */
static enum or_refuse on_unknown(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != UP || h->session != c->path.peer_session)
        return OR_REFUSE_SESSION;
    if (c->path.waiting_since && c->suspect_at == UINT64_MAX)
        c->suspect_at = now + SUSPECT_NS;
    return OR_REFUSE_NONE;
}

void or_client_rx(struct or_client *c, const uint8_t *frame, uint32_t length, uint64_t now)
{
    const struct or_frame_header *h;
    enum or_refuse refuse = or_wire_check_frame(frame, length, &h);
    if (!refuse) {
        if (h->type == OR_FRAME_DATA)
            refuse = on_data(c, h, now);
        else if (h->type == OR_FRAME_WELCOME)
            refuse = on_welcome(c, h, now);
        else if (h->type == OR_FRAME_UNKNOWN)
            refuse = on_unknown(c, h, now);
        else
            refuse = OR_REFUSE_TYPE;
    }
    c->stats.refused[refuse]++;
}

void or_client_flush(struct or_client *c, uint64_t now)
{
    if (c->state != UP)
        return;
    fill_slots(c);
    while (!or_list_empty(&c->sending) && send_slot(c, OR_CONTAINER(c->sending.next, struct slot, sending), now))
        ;
    or_path_flush(&c->path, now);
}

/* --- time --------------------------------------------------------------------------------------- */

static uint64_t heartbeat_at(const struct or_client *c)
{
    return c->path.in_flight ? UINT64_MAX : c->path.last_sent_ns + HEARTBEAT_NS;
}

static uint64_t dead_at(const struct or_client *c)
{
    return c->path.waiting_since ? c->path.waiting_since + DEAD_NS : UINT64_MAX;
}

void or_client_tick(struct or_client *c, uint64_t now)
{
    if (c->state == DOWN) {
        if (now >= c->hello_at)
            send_hello(c, now);
        return;
    }
    or_path_tick(&c->path, now);
    if (now >= c->suspect_at)
        session_lost(c, "the I/O hypervisor no longer knows the session", now);
    else if (now >= dead_at(c))
        session_lost(c, "no answer from the I/O hypervisor", now);
    else if (now >= heartbeat_at(c))
        c->path.want_ping = true;
}

uint64_t or_client_deadline(const struct or_client *c)
{
    if (c->state == DOWN)
        return c->hello_at;
    uint64_t d = or_path_deadline(&c->path);
    uint64_t others[] = {c->suspect_at, dead_at(c), heartbeat_at(c)};
    for (uint32_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] < d)
            d = others[i];
    return d;
}

/* --- life --------------------------------------------------------------------------------------- */

struct or_client *or_client_create(const struct or_client_config *config, int *err)
{
    struct or_client *c = calloc(1, sizeof *c);
    if (c)
        c->get.data = malloc(OR_REQ_BYTES_MAX);
    if (!c || !c->get.data) {
        free(c);
        *err = -ENOMEM;
        return NULL;
    }
    c->config = *config;
    random_bytes(c, &c->instance, sizeof c->instance);
    or_list_init(&c->sending);
    or_list_init(&c->pending);
    or_overlap_init(&c->overlap);
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        or_list_init(&c->slots[i].sending);
        if (i >= OR_SLOT_DATA)
            c->free_slots[i / 64] |= 1ull << i % 64;
    }
    c->get.req = (struct or_req){.ops = &document_ops, .op = OR_OP_CONTROL_GET, .length = OR_REQ_BYTES_MAX};
    c->put.req = (struct or_req){.ops = &report_ops, .op = OR_OP_CONTROL_PUT};
    reconnect(c, 0);
    return c;
}

static void fail(struct or_client *c, struct or_req *r)
{
    r->status = OR_EIO;
    c->count--;
    r->ops->done(r);
}

void or_client_destroy(struct or_client *c)
{
    if (c->state == UP)
        or_path_close(&c->path);
    or_noise_wipe(&c->noise);
    for (uint32_t i = OR_SLOT_DATA; i < OR_SLOTS_MAX; i++)
        if (c->slots[i].req)
            fail(c, c->slots[i].req);
    while (!or_list_empty(&c->pending)) {
        struct or_req *r = OR_CONTAINER(c->pending.next, struct or_req, link);
        or_list_remove(&r->link);
        fail(c, r);
    }
    struct or_req *r;
    while ((r = or_overlap_pop_blocked(&c->overlap)))
        fail(c, r);
    free(c->get.data);
    free(c->put.data);
    free(c->report);
    memset(c, 0, sizeof *c);
    free(c);
}

bool or_client_up(const struct or_client *c)
{
    return c->state == UP;
}

uint32_t or_client_in_flight(const struct or_client *c)
{
    return c->count;
}

void or_client_stats(const struct or_client *c, struct or_client_stats *out)
{
    *out = c->stats;
    out->overlap_waits = c->overlap.waits;
    if (c->state == UP) {
        out->frames_lost += c->path.frames_lost;
        out->srtt_ns = c->path.srtt_ns;
        out->cwnd_frames = c->path.cwnd_x16 / 16;
        out->in_flight_frames = c->path.in_flight;
    }
}
