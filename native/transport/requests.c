/* Requests at the server: received in fragments, checked, executed once, answered until the answer is
 * acknowledged. The states of a slot are drawn in server_internal.h.
 *
 * A message may be refused for want of a buffer (OR_REFUSE_CREDIT). Then its frame is not acknowledged
 * and comes again; what the frame's other messages did is recognised as a duplicate. */
#include "plant.h"
#include "server_internal.h"

#include <stdlib.h>

/* A buffer for the request's data, or NULL: the session holds what it may, or the arena is exhausted. A
 * host within its credits is refused only while these change, or where more hosts are connected than
 * the arena has MiB. Reports have memory of their own, one per session, so that data never starves them. */
static uint8_t *take_buffer(struct or_session *session, uint8_t op, uint32_t length)
{
    if (op == OR_OP_CONTROL_PUT)
        return malloc(length);
    uint64_t block = or_wire_buffer_bytes(length);
    if (session->held_bytes && session->held_bytes + block > 2 * session->credit_bytes)
        return NULL;
    uint8_t *buffer = or_buddy_alloc(&session->server->buffers, length);
    if (buffer)
        session->held_bytes += block;
    return buffer;
}

static void give_back_buffer(struct or_server_slot *s)
{
    if (s->op == OR_OP_CONTROL_PUT) {
        free(s->buffer);
    } else {
        s->session->held_bytes -= or_wire_buffer_bytes(s->length);
        or_buddy_free(&s->session->server->buffers, s->buffer);
    }
}

static void release_memory(struct or_server_slot *s)
{
    if (s->pinned)
        s->pinned->ops->unpeek(s->pinned, s->reply);
    s->pinned = NULL;
    if (s->buffer)
        give_back_buffer(s);
    if (s->document)
        or_document_release(s->document);
    s->buffer = NULL;
    s->document = NULL;
    s->reply = NULL;
    s->export = NULL;
}

void or_document_release(struct or_document *d)
{
    if (--d->refs == 0)
        free(d);
}

struct or_server_export *or_requests_export(struct or_server *server, uint32_t id)
{
    struct or_list *head = &server->exports[id % OR_EXPORT_BUCKETS];
    for (struct or_list *l = head->next; l != head; l = l->next) {
        struct or_server_export *x = OR_CONTAINER(l, struct or_server_export, link);
        if (x->info.id == id)
            return x;
    }
    return NULL;
}

/* --- replying ----------------------------------------------------------------------------------- */

/* A reply may be replaced by an error while parts of it are under way (or_requests_forget_memory). This
 * bit changes from reply to reply, so that the end of the first one's items is not taken for the end of
 * the second one's. */
#define OTHER_REPLY 0x8000u
static_assert(OR_FRAGMENTS_MAX <= OTHER_REPLY, "the bit is free in a fragment's number");

/* Bytes of one message of the reply. */
static uint32_t message_bytes(const struct or_server_slot *s, uint32_t fragment)
{
    uint32_t at = fragment * s->session->fragment_bytes, left = s->total - at;
    return (uint32_t)sizeof(struct or_message_reply) +
           (left < s->session->fragment_bytes ? left : s->session->fragment_bytes);
}

static void set_unsent(struct or_server_slot *s, uint32_t bytes)
{
    or_schedule_unsent(s->session, (int64_t)bytes - s->unsent);
    s->unsent = bytes;
}

/* This part is in a frame, or has arrived. */
static void sent(struct or_server_slot *s, uint32_t fragment)
{
    if (or_bitmap_test(&s->todo, fragment))
        set_unsent(s, s->unsent - message_bytes(s, fragment));
    or_bitmap_clear(&s->todo, fragment);
}

static void reply(struct or_server_slot *s, uint8_t status, uint32_t total)
{
    struct or_session *session = s->session;
    s->reply_mark ^= OTHER_REPLY;
    s->status = status;
    s->total = status == OR_OK ? total : 0;
    if (!s->total)
        release_memory(s);
    s->fragments = s->total ? (s->total + session->fragment_bytes - 1) / session->fragment_bytes : 1;
    s->state = OR_SLOT_REPLYING;
    or_bitmap_fill(&s->todo, s->fragments);
    or_bitmap_reset(&s->acked, s->fragments);
    or_list_remove(&s->sending);
    if (s < &session->slots[OR_SLOT_DATA])
        or_list_prepend(&session->sending, &s->sending); /* control does not wait behind data */
    else
        or_list_append(&session->sending, &s->sending);
    set_unsent(s, s->fragments * (uint32_t)sizeof(struct or_message_reply) + s->total);
}

static bool send_reply(struct or_session *session, struct or_server_slot *s, uint64_t now)
{
    uint16_t index = (uint16_t)(s - session->slots);
    for (uint32_t turn = 0; s->todo.count && turn < OR_TURN_BYTES;) {
        uint32_t f = or_bitmap_first(&s->todo);
        uint32_t at = f * session->fragment_bytes;
        uint32_t bytes = message_bytes(s, f), data = bytes - (uint32_t)sizeof(struct or_message_reply);
        struct or_item item = {index, (uint16_t)(f | s->reply_mark), s->sequence};
        struct or_message_reply *m = or_links_message(&session->links, bytes, item, now);
        if (!m)
            return false;
        *m = (struct or_message_reply){
            .type = OR_MSG_REPLY,
            .status = s->status,
            .length = (uint16_t)bytes,
            .slot = index,
            .sequence = s->sequence,
            .total = s->total,
            .fragment = at,
            .value = s->document ? s->document->version : 0,
        };
        if (data)
            memcpy(m->data, s->reply + at, data);
        sent(s, f);
        turn += bytes;
        session->step_bytes += bytes;
    }
    or_list_remove(&s->sending);
    if (s->todo.count)
        or_list_append(&session->sending, &s->sending);
    return true;
}

static bool send_credit(struct or_session *session, uint64_t now)
{
    struct or_message_credit *m =
        or_links_message(&session->links, sizeof *m, (struct or_item){OR_ITEM_CREDIT, 0, session->credit_epoch}, now);
    if (!m)
        return false;
    *m = (struct or_message_credit){
        .type = OR_MSG_CREDIT,
        .length = sizeof *m,
        .epoch = session->credit_epoch,
        .slots = session->server->config.slots,
        .frames = session->credit_frames,
        .bytes = session->credit_bytes,
    };
    session->credit_todo = false;
    return true;
}

bool or_requests_send(void *arg, uint64_t now)
{
    struct or_session *session = arg;
    if (session->credit_todo && !send_credit(session, now))
        return false;
    if (or_list_empty(&session->sending))
        return false;
    if (session->step_bytes >= OR_SCHEDULE_STEP_BYTES && !session->server->config.fifo) {
        session->server->more = true;
        return false;
    }
    return send_reply(session, OR_CONTAINER(session->sending.next, struct or_server_slot, sending), now);
}

/* The slot whose present reply the item is of, or NULL; takes the mark off the fragment's number. */
static struct or_server_slot *slot_of(struct or_session *session, struct or_item *item)
{
    if (item->slot >= OR_SLOTS_MAX)
        return NULL;
    struct or_server_slot *s = &session->slots[item->slot];
    if (s->state != OR_SLOT_REPLYING || s->sequence != item->sequence ||
        (item->fragment & OTHER_REPLY) != s->reply_mark)
        return NULL;
    item->fragment &= (uint16_t)~OTHER_REPLY;
    return s;
}

void or_requests_acked(void *arg, struct or_item item)
{
    struct or_server_slot *s = slot_of(arg, &item);
    if (!s || !or_bitmap_set(&s->acked, item.fragment))
        return;
    sent(s, item.fragment);
    if (!s->todo.count)
        or_list_remove(&s->sending);
    if (s->acked.count == s->fragments) {
        s->state = OR_SLOT_DONE;
        release_memory(s);
    }
}

void or_requests_lost(void *arg, struct or_item item)
{
    struct or_session *session = arg;
    if (item.slot == OR_ITEM_CREDIT && item.sequence == session->credit_epoch)
        session->credit_todo = true;
    if (item.slot == OR_ITEM_PACKET)
        or_packets_lost(&session->host->packets);
    struct or_server_slot *s = slot_of(session, &item);
    if (!s || or_bitmap_test(&s->acked, item.fragment))
        return;
    session->server->stats.retransmits++;
    if (or_bitmap_set(&s->todo, item.fragment))
        set_unsent(s, s->unsent + message_bytes(s, item.fragment));
    or_list_remove(&s->sending);
    or_list_prepend(&session->sending, &s->sending);
}

/* --- executing ---------------------------------------------------------------------------------- */

/* May this host do this to this export now? Everything the back-end relies on is checked here. */
static uint8_t authorize(const struct or_server_slot *s, const struct or_server_export *x)
{
    if (!x || x->removed || strcmp(x->info.host, s->session->host->name) != 0)
        return OR_ENODEV;
    if (x->elsewhere)
        return OR_EMOVED;
    if (s->generation != x->info.generation && !OR_PLANTED(OR_PLANT_STALE_GENERATION))
        return OR_EFENCED;
    if (s->placement != x->info.placement)
        return OR_EMOVED;
    const struct or_volume *v = x->info.volume;
    if (or_op_writes(s->op) && (x->info.read_only || (v && v->read_only)))
        return OR_EREADONLY;
    if (s->op == OR_OP_FLUSH || !v)
        return OR_OK; /* what needs the volume is checked when it is there */
    if (s->offset % v->block_size || s->length % v->block_size || !s->length)
        return OR_EALIGN;
    if (s->offset > v->size || s->length > v->size - s->offset)
        return OR_ERANGE;
    if ((s->op == OR_OP_DISCARD && !v->discard_granularity) || (s->op == OR_OP_WRITE_ZEROES && !v->write_zeroes))
        return OR_EUNSUPP;
    return OR_OK;
}

/* The export is removed, and the back-end has nothing of it any more. */
static void free_export(struct or_server_export *x)
{
    void (*call)(void *) = x->drained;
    void *arg = x->drained_arg;
    or_list_remove(&x->link);
    free(x);
    if (call)
        call(arg);
}

void or_requests_recheck(struct or_server_export *x)
{
    struct or_list *next;
    for (struct or_list *l = x->waiting.next; l != &x->waiting; l = next) {
        struct or_server_slot *s = OR_CONTAINER(l, struct or_server_slot, waiting);
        next = l->next;
        uint8_t status = OR_PLANTED(OR_PLANT_WAITED_UNCHECKED) ? OR_OK : authorize(s, x);
        if (status) {
            or_list_remove(&s->waiting);
            reply(s, status, 0);
        }
    }
    or_schedule_look(x);
}

/* Who waits until the back-end has nothing of the export hears of it, if so. */
static void settle(struct or_server_export *x)
{
    if (x->left && (!x->in_flight || OR_PLANTED(OR_PLANT_MOVE_NO_DRAIN))) {
        void (*call)(void *) = x->left;
        x->left = NULL;
        x->info.volume = NULL;
        call(x->left_arg);
    }
    if (x->removed && !x->in_flight)
        free_export(x);
}

/* It is removed, or elsewhere. */
static void refuse_waiting(struct or_server_export *x, uint8_t status)
{
    or_schedule_look(x);
    while (!or_list_empty(&x->waiting)) {
        struct or_server_slot *s = OR_CONTAINER(x->waiting.next, struct or_server_slot, waiting);
        or_list_remove(&s->waiting);
        reply(s, status, 0);
    }
    settle(x);
}

void or_requests_leave(struct or_server_export *x)
{
    x->elsewhere = true;
    refuse_waiting(x, OR_EMOVED);
}

void or_requests_remove(struct or_server_export *x)
{
    x->removed = true;
    refuse_waiting(x, OR_ENODEV);
}

static void executed(struct or_io *io)
{
    struct or_server_slot *s = OR_CONTAINER(io, struct or_server_slot, io);
    struct or_session *session = s->session;
    struct or_server_export *x = s->export;
    struct or_server_stats *stats = &session->server->stats;
    if (!io->volume->synchronous)
        or_schedule_in(x, s);
    x->in_flight--;
    session->executing--;
    if (session->retired) {
        s->state = OR_SLOT_DONE;
        release_memory(s);
    } else {
        bool read = s->op == OR_OP_READ;
        if (io->status == OR_OK && read)
            stats->bytes_read += s->length;
        if (io->status == OR_OK && s->op == OR_OP_WRITE)
            stats->bytes_written += s->length;
        s->export = NULL;
        reply(s, io->status, read ? s->length : 0);
    }
    if (!or_list_empty(&x->waiting))
        or_schedule_look(x);
    settle(x);
    if (session->retired && !session->executing)
        or_server_session_drained(session);
}

/* Gives the request to the back-end. For a read that needs no copy there is nothing to give. */
static void run(struct or_server_slot *s, struct or_server_export *x)
{
    x->requests++;
    if (s->op == OR_OP_READ || s->op == OR_OP_WRITE)
        x->bytes += s->length;
    if (s->op == OR_OP_READ && !s->buffer) {
        s->session->server->stats.bytes_read += s->length;
        s->export = x;
        reply(s, OR_OK, s->length);
        return;
    }
    s->export = x;
    s->state = OR_SLOT_EXECUTING;
    s->session->executing++;
    x->in_flight++;
    s->io = (struct or_io){
        .offset = s->offset,
        .length = s->length,
        .op = s->op,
        .flags = s->flags,
        .data = s->buffer ? s->buffer : (uint8_t *)s->reply,
        .done = executed,
    };
    if (s->op == OR_OP_READ)
        s->reply = s->buffer;
    if (!x->info.volume->synchronous)
        or_schedule_out(x, s);
    or_volume_submit(x->info.volume, &s->io);
}

void or_requests_run(struct or_server_slot *s, struct or_server_export *x)
{
    uint8_t status = OR_PLANTED(OR_PLANT_WAITED_UNCHECKED) ? OR_OK : authorize(s, x);
    if (status) {
        reply(s, status, 0);
    } else {
        x->owner = s->session;
        run(s, x);
    }
}

/* The export's volume is there, and nothing of it waits, or has to be waited for. */
static bool is_free(const struct or_session *session, const struct or_server_export *x)
{
    return x->info.volume && or_list_empty(&x->waiting) &&
           (!x->in_flight || x->owner == session || OR_PLANTED(OR_PLANT_NO_DRAIN));
}

/* An authorized request. in_place: it lies in a received frame, and now is its turn. */
static void execute(struct or_server_slot *s, struct or_server_export *x, bool in_place)
{
    struct or_session *session = s->session;
    if (s->pinned) {
        or_schedule_hit(s);
        x->owner = session;
        run(s, x);
        return;
    }
    if (in_place || (is_free(session, x) && or_schedule_takes(session, x))) {
        or_schedule_at_once(s, x);
        x->owner = session;
        run(s, x);
        return;
    }
    session->server->stats.queued++;
    s->state = OR_SLOT_WAITING;
    s->export = x;
    or_list_append(&x->waiting, &s->waiting);
    or_schedule_look(x);
}

/* --- control ------------------------------------------------------------------------------------ */

static void reply_document(struct or_server_slot *s, struct or_document *d)
{
    d->refs++;
    s->document = d;
    s->reply = d->bytes;
    reply(s, OR_OK, d->length);
}

static void poll_document(struct or_server_slot *s)
{
    struct or_document *d = s->session->host->document;
    if (d && d->version != s->offset)
        reply_document(s, d);
    else
        s->state = OR_SLOT_POLLING;
}

void or_requests_document(struct or_host *host)
{
    struct or_server_slot *s = host->live ? &host->live->slots[OR_SLOT_CONTROL_GET] : NULL;
    if (s && s->state == OR_SLOT_POLLING)
        reply_document(s, host->document);
}

static void take_report(struct or_server_slot *s)
{
    const struct or_server_config *config = &s->session->server->config;
    if (config->report)
        config->report(config->arg, s->session->host->name, s->buffer, s->length);
    reply(s, OR_OK, 0);
}

/* --- receiving ---------------------------------------------------------------------------------- */

/* All of the request is here. */
static void start(struct or_server_slot *s, bool in_place)
{
    s->session->requests++;
    s->session->server->stats.requests++;
    if (s->op == OR_OP_CONTROL_GET) {
        poll_document(s);
    } else if (s->op == OR_OP_CONTROL_PUT) {
        take_report(s);
    } else {
        struct or_server_export *x = or_requests_export(s->session->server, s->device);
        uint8_t status = authorize(s, x);
        if (status)
            reply(s, status, 0);
        else
            execute(s, x, in_place);
    }
}

static enum or_refuse receive_fragment(struct or_server_slot *s, const struct or_message_request *m)
{
    uint32_t index = m->fragment / s->session->fragment_bytes;
    if (m->op != s->op || m->io_length != s->length || m->offset != s->offset || m->device != s->device)
        return OR_REFUSE_FRAGMENT;
    if (!or_bitmap_set(&s->received, index)) {
        s->session->server->stats.duplicates++;
        if (!OR_PLANTED(OR_PLANT_FRAGMENT_OVERLAP))
            return OR_REFUSE_NONE;
        s->received.count++;
    }
    memcpy(s->buffer + m->fragment, m->data, m->length - sizeof *m);
    if (s->received.count >= s->fragments)
        start(s, false);
    return OR_REFUSE_NONE;
}

/* A write that came whole in one frame, for a back-end that is done before it returns: executed from the frame's
 * memory, if nothing that waits would be overtaken. To let it wait would cost more than to execute it: what limits
 * those of a step is the number of its frames. */
static bool executes_in_place(const struct or_session *session, const struct or_message_request *m,
                              const struct or_server_export *x, uint32_t fragments)
{
    return m->op == OR_OP_WRITE && fragments == 1 && x && !x->removed && !x->elsewhere && x->info.volume &&
           x->info.volume->synchronous && is_free(session, x) && or_schedule_is_idle(session, x);
}

/* The volume's memory that a read can be answered out of, or NULL. What is pinned for it (or_backend_ops.unpeek) holds
 * what the volume does now: so only when the read begins now, and is one of whoever the export is for. */
static const uint8_t *peek(const struct or_session *session, const struct or_message_request *m,
                           const struct or_server_export *x)
{
    struct or_volume *v = m->op == OR_OP_READ && x ? x->info.volume : NULL;
    if (!v || !v->ops->peek || m->offset > v->size || m->io_length > v->size - m->offset)
        return NULL;
    if (or_volume_peeked(v)->ops->unpeek &&
        (x->removed || x->elsewhere || !is_free(session, x) || !or_schedule_takes_hit(session, x) ||
         strcmp(x->info.host, session->host->name) != 0))
        return NULL;
    return v->ops->peek(v, m->offset, m->io_length);
}

static enum or_refuse begin(struct or_server_slot *s, const struct or_message_request *m)
{
    struct or_session *session = s->session;
    struct or_server *server = session->server;
    struct or_server_export *x = or_requests_export(server, m->device);
    bool sends = or_op_sends_data(m->op);
    uint32_t fragments = sends ? (m->io_length + session->fragment_bytes - 1) / session->fragment_bytes : 1;
    bool in_place = executes_in_place(session, m, x, fragments);

    /* All that may be refused comes first; nothing has changed until then. */
    const uint8_t *memory = peek(session, m, x);
    uint8_t *buffer = NULL;
    if ((sends && !in_place) || (m->op == OR_OP_READ && !memory)) {
        buffer = take_buffer(session, m->op, m->io_length);
        if (!buffer)
            return OR_REFUSE_CREDIT;
    }

    release_memory(s);
    or_list_remove(&s->sending);
    set_unsent(s, 0);
    s->sequence = m->sequence;
    s->op = m->op;
    s->flags = m->flags;
    s->device = m->device;
    s->generation = m->generation;
    s->placement = m->placement;
    s->length = m->io_length;
    s->offset = m->offset;
    s->buffer = buffer;
    s->reply = in_place ? m->data : memory;
    struct or_volume *peeked = memory ? or_volume_peeked(x->info.volume) : NULL;
    s->pinned = peeked && peeked->ops->unpeek ? peeked : NULL;
    s->fragments = fragments;
    if (!sends || in_place) {
        start(s, in_place);
        return OR_REFUSE_NONE;
    }
    s->state = OR_SLOT_RECEIVING;
    or_bitmap_reset(&s->received, fragments);
    return receive_fragment(s, m);
}

enum or_refuse or_requests_receive(struct or_session *session, const struct or_message_request *m)
{
    enum or_refuse refuse = or_wire_check_request(m, session->fragment_bytes);
    if (refuse)
        return refuse;
    if (m->slot >= session->server->config.slots)
        return OR_REFUSE_SLOT;
    struct or_server_slot *s = &session->slots[m->slot];
    uint32_t ahead = m->sequence - s->sequence;
    if (ahead == 0) {
        if (s->state == OR_SLOT_RECEIVING)
            return receive_fragment(s, m);
        session->server->stats.duplicates++;
#ifdef OR_PLANTS
        if (OR_PLANTED(OR_PLANT_TWICE_ACROSS_LINKS) && s->state >= OR_SLOT_REPLYING &&
            session->rx_link != session->slot_link[m->slot])
            return begin(s, m);
#endif
        if (OR_PLANTED(OR_PLANT_NO_DUPLICATE_SUPPRESSION) && s->state >= OR_SLOT_REPLYING)
            return begin(s, m);
        return OR_REFUSE_NONE;
    }
    if (ahead != 1)
        return OR_REFUSE_STALE;
    if (s->state != OR_SLOT_FREE && s->state < OR_SLOT_REPLYING)
        return OR_REFUSE_SLOT; /* a new request before the answer to the last */
#ifdef OR_PLANTS
    session->slot_link[m->slot] = session->rx_link;
#endif
    return begin(s, m);
}

#define EXPECTED_MAX 64u

/* Only those of the first read's volume: as a rule it is that of all. */
void or_requests_expect(const struct or_session *session, const struct or_frame_header *h, uint32_t at)
{
    uint64_t offsets[EXPECTED_MAX];
    uint32_t count = 0, device = 0;
    struct or_volume *v = NULL;
    enum or_refuse refuse;
    for (const struct or_message *m; count < EXPECTED_MAX && (m = or_wire_next(h, &at, &refuse)) != NULL;) {
        const struct or_message_request *r = (const void *)m;
        if (m->type != OR_MSG_REQUEST || r->op != OR_OP_READ || (v && r->device != device))
            continue;
        if (!v) {
            struct or_server_export *x = or_requests_export(session->server, device = r->device);
            v = x && !x->removed && !x->elsewhere ? x->info.volume : NULL;
            if (!v || !v->ops->expect)
                return;
        }
        if (r->offset < v->size)
            offsets[count++] = r->offset;
    }
    if (count > 1)
        v->ops->expect(v, offsets, count);
}

/* --- ends --------------------------------------------------------------------------------------- */

void or_requests_abandon(struct or_session *session)
{
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        struct or_server_slot *s = &session->slots[i];
        or_list_remove(&s->sending);
        or_list_remove(&s->waiting);
        if (s->state == OR_SLOT_WAITING)
            or_schedule_look(s->export);
        if (s->state != OR_SLOT_EXECUTING)
            release_memory(s);
    }
}

void or_requests_forget_memory(struct or_session *session, const struct or_server_export *x, uint8_t status)
{
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        struct or_server_slot *s = &session->slots[i];
        if (s->state == OR_SLOT_REPLYING && s->export == x)
            reply(s, status, 0);
    }
}
