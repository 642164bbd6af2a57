/* A peer that holds the key and lies: an established session into which the input puts messages of its own,
 * protected as the other end would, towards the server and towards the client, while real requests are under way
 * and frames are lost, doubled, reordered and late.
 *
 * First byte: see world_open. Then commands, see run_command. */
#include "session_world.h"

static uint32_t blocks(uint8_t n)
{
    return n < 128 ? n * 512u : (n - 127u) * 8192u;
}

static void submit_request(struct world *w, struct input *in)
{
    static const uint8_t ops[] = {OR_OP_READ,    OR_OP_WRITE,        OR_OP_READ,  OR_OP_WRITE,
                                  OR_OP_DISCARD, OR_OP_WRITE_ZEROES, OR_OP_FLUSH, OR_OP_WRITE};
    uint8_t how = input_u8(in), op = ops[how & 7];
    uint32_t device = how & 8 ? EXPORT_RAM : EXPORT_ASYNC;
    uint64_t offset = input_u8(in) * 512ull;
    uint32_t length = op == OR_OP_FLUSH ? 0 : blocks(input_u8(in));
    if (length == 0 && op != OR_OP_FLUSH)
        length = 512;
    if (length > OR_REQ_BYTES_MAX)
        length = OR_REQ_BYTES_MAX;
    submit(w, op, how & 16 ? EXPORT_FOREIGN : device, offset, length, how >> 6);
}

/* --- invented messages ----------------------------------------------------------------------------- */

static uint32_t put_request(struct world *w, struct input *in, uint8_t *to)
{
    uint8_t how = input_u8(in);
    uint32_t fragment_bytes = or_wire_fragment_bytes(w->ports[CLIENT].port.mtu);
    struct or_message_request m = {.type = OR_MSG_REQUEST,
                                   .op = input_u8(in) % (OR_OP_MAX + 1),
                                   .slot = input_u8(in) % (SLOTS + 2),
                                   .flags = how >> 6,
                                   .sequence = input_u8(in),
                                   .device = EXPORT_ASYNC + (how & 3),
                                   .generation = GENERATION + (how >> 2 & 1),
                                   .io_length = blocks(input_u8(in)),
                                   .offset = input_u8(in) * 512ull};
    uint32_t data = 0;
    if (how & 8)
        m.offset = input_u64(in);
    if (how & 16)
        m.io_length = input_u32(in);
    if (or_op_sends_data(m.op)) {
        m.fragment = input_u8(in) * fragment_bytes;
        uint32_t rest = m.io_length > m.fragment ? m.io_length - m.fragment : 0;
        data = rest < fragment_bytes ? rest : fragment_bytes;
        if (how & 32)
            data = input_u16(in) % fragment_bytes;
    }
    m.length = (uint16_t)(sizeof m + data);
    memcpy(to, &m, sizeof m);
    memset(to + sizeof m, how, data);
    return m.length;
}

/* How many bytes a fragment has: what it should, or `any`. */
static uint32_t data_of(struct input *in, uint32_t total, uint32_t fragment, uint32_t fragment_bytes, bool any)
{
    uint32_t rest = total > fragment ? total - fragment : 0;
    if (any)
        return input_u16(in) % fragment_bytes;
    return rest < fragment_bytes ? rest : fragment_bytes;
}

static uint32_t put_reply(struct world *w, struct input *in, uint8_t *to)
{
    uint8_t how = input_u8(in);
    uint32_t fragment_bytes = or_wire_fragment_bytes(w->ports[CLIENT].port.mtu);
    struct or_message_reply m = {.type = OR_MSG_REPLY,
                                 .status = how & 1 ? input_u8(in) : OR_OK,
                                 .slot = input_u8(in) % (SLOTS + 2),
                                 .sequence = input_u8(in),
                                 .total = blocks(input_u8(in)),
                                 .fragment = input_u8(in) * fragment_bytes,
                                 .value = how >> 2};
    if (how & 2)
        m.total = input_u32(in);
    uint32_t data = data_of(in, m.total, m.fragment, fragment_bytes, how & 4);
    m.length = (uint16_t)(sizeof m + data);
    memcpy(to, &m, sizeof m);
    memset(to + sizeof m, how, data);
    return m.length;
}

static uint32_t put_ack(struct input *in, uint8_t *to)
{
    uint8_t words = input_u8(in) % OR_ACK_WORDS_MAX + 1;
    struct or_message_ack m = {.type = OR_MSG_ACK, .words = words, .length = 16 + 8 * words, .delay_us = input_u16(in)};
    m.largest = words & 1 ? input_u8(in) : input_u64(in);
    uint64_t bits[OR_ACK_WORDS_MAX];
    input_bytes(in, bits, 8u * words);
    memcpy(m.bits, bits, sizeof bits);
    memcpy(to, &m, m.length);
    return m.length;
}

static uint32_t put_credit(struct input *in, uint8_t *to)
{
    struct or_message_credit m = {.type = OR_MSG_CREDIT,
                                  .length = sizeof m,
                                  .epoch = input_u8(in),
                                  .slots = input_u16(in),
                                  .frames = input_u16(in),
                                  .bytes = input_u32(in)};
    memcpy(to, &m, sizeof m);
    return m.length;
}

static uint32_t put_packet(struct world *w, struct input *in, uint8_t *to)
{
    uint8_t how = input_u8(in);
    uint32_t fragment_bytes = or_wire_fragment_bytes(w->ports[CLIENT].port.mtu);
    struct or_message_packet m = {.type = OR_MSG_PACKET,
                                  .device = NIC_OWN + (how & 3),
                                  .generation = GENERATION + (how >> 2 & 1),
                                  .number = how >> 6,
                                  .total = input_u16(in) + 2u * OR_PACKET_MIN,
                                  .fragment = input_u8(in) % 64 * fragment_bytes};
    if (how & 8)
        m.total = input_u32(in);
    uint32_t data = data_of(in, m.total, m.fragment, fragment_bytes, how & 16);
    m.length = (uint16_t)(sizeof m + data);
    memcpy(to, &m, sizeof m);
    memset(to + sizeof m, how, data);
    return m.length;
}

static uint32_t put_raw(struct input *in, uint8_t *to)
{
    uint32_t length = input_u8(in) % 65 + sizeof(struct or_message);
    input_bytes(in, to, length);
    if (to[7] & 1) /* a length that fits */
        memcpy(to + 2, &(uint16_t){(uint16_t)length}, 2);
    return length;
}

static uint32_t put_message(struct world *w, struct input *in, uint8_t *to)
{
    uint8_t kind = input_u8(in);
    if (kind >= 128)
        return put_packet(w, in, to);
    switch (kind % 8) {
    case 0:
    case 1:
        return put_request(w, in, to);
    case 2:
    case 3:
        return put_reply(w, in, to);
    case 4:
        return put_ack(in, to);
    case 5:
        return put_credit(in, to);
    case 6:
        return put_raw(in, to);
    default:
        *(struct or_message *)to = (struct or_message){.type = OR_MSG_PING, .length = sizeof(struct or_message)};
        return sizeof(struct or_message);
    }
}

/* --- frames ---------------------------------------------------------------------------------------- */

/* A frame of some messages, with the session and key of the last one that `from` sent. */
static void inject(struct world *w, struct input *in, enum side from)
{
    struct memory_port *p = &w->ports[from];
    if (!p->last.bytes)
        return;
    struct frame pattern = frame_new(p->last.bytes, p->last.length);
    struct key *key = unprotect(w, &pattern);
    free(pattern.bytes);
    if (!key)
        return;
    static uint8_t bytes[OR_ETH_HEADER + OR_MTU_MAX + 65536];
    uint8_t how = input_u8(in);
    uint32_t used = OR_ETH_HEADER + sizeof(struct or_frame_header), count = how % 4 + 1;
    memcpy(bytes, p->last.bytes, used);
    struct or_frame_header *h = (void *)(bytes + OR_ETH_HEADER);
    h->counter += (how >> 4) * 3u;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = (put_message(w, in, bytes + used) + 7) & ~7u;
        if (used + length > OR_ETH_HEADER + p->port.mtu)
            break;
        used += length;
    }
    struct frame f = frame_new(bytes, used);
    protect(key, &f);
    if (how >> 4) { /* the pattern of the next one, whose number then is new again */
        free(p->last.bytes);
        p->last = frame_new(f.bytes, f.length);
    }
    receive(w, from, &f);
    free(f.bytes);
}

/* Changes bytes of a frame under way, and protects it again. */
static void mutate(struct world *w, struct input *in, enum side from)
{
    struct memory_port *p = &w->ports[from];
    uint8_t which = input_u8(in);
    if (p->count == 0)
        return;
    struct frame *f = &p->queue[which % p->count];
    struct key *key = header_of(f)->type == OR_FRAME_DATA ? unprotect(w, f) : NULL;
    uint32_t head = OR_ETH_HEADER + sizeof(struct or_frame_header);
    for (uint32_t n = which >> 6; f->length > head && n < 4; n++) {
        uint16_t at = input_u16(in);
        f->bytes[head + at % (f->length - head)] ^= input_u8(in);
    }
    if (key && which & 32)
        header_of(f)->counter += input_u8(in);
    if (key)
        protect(key, f);
}

static void unknown(struct world *w, enum side from)
{
    struct memory_port *p = &w->ports[from == CLIENT ? SERVER : CLIENT];
    if (!p->last.bytes)
        return;
    struct frame f = frame_new(p->last.bytes, OR_ETH_HEADER + sizeof(struct or_frame_header));
    header_of(&f)->type = OR_FRAME_UNKNOWN;
    header_of(&f)->length = sizeof(struct or_frame_header);
    receive(w, from, &f);
    free(f.bytes);
}

static void reorder(struct world *w, enum side from, uint8_t how)
{
    struct memory_port *p = &w->ports[from];
    if (p->count < 2)
        return;
    struct frame *a = &p->queue[how % p->count], *b = &p->queue[(how >> 4) % p->count], t = *a;
    *a = *b;
    *b = t;
}

static void duplicate(struct world *w, enum side from, uint8_t which)
{
    struct memory_port *p = &w->ports[from];
    if (p->count == 0)
        return;
    const struct frame *f = &p->queue[which % p->count];
    struct frame copy = frame_new(f->bytes, f->length);
    receive(w, from, &copy);
    free(copy.bytes);
}

static void control(struct world *w, uint8_t how)
{
    static const char text[4096] = "{\"devices\":[]}";
    w->acting = SERVER;
    switch (how % 9) {
    case 0:
        or_server_set_document(w->server, "vmhost1", text, how & 128 ? sizeof text : 14);
        break;
    case 1:
        w->acting = CLIENT;
        or_client_report(w->client, text, how & 128 ? sizeof text : 14);
        break;
    case 2:
        add_export(w, EXPORT_ASYNC, GENERATION + (how >> 4), "vmhost1", &w->async);
        break;
    case 3:
        remove_export(w, EXPORT_ASYNC + (how >> 4 & 1));
        break;
    case 4:
        add_export(w, EXPORT_ASYNC, GENERATION, "vmhost1", how & 128 ? NULL : &w->async);
        break;
    case 6:
        send_packet(w, CLIENT, how);
        break;
    case 7:
        send_packet(w, SERVER, how);
        break;
    case 8:
        or_server_remove_nic(w->server, NIC_OWN);
        add_nic(w, NIC_OWN, GENERATION + (how >> 7), "vmhost1");
        break;
    default:
        or_server_admit_host(w->server, "vmhost1", how & 128);
        break;
    }
}

static void run_command(struct world *w, struct input *in)
{
    uint8_t command = input_u8(in);
    enum side from = command >> 7 ? SERVER : CLIENT;
    switch (command % 16) {
    case 0:
    case 1:
        submit_request(w, in);
        break;
    case 2:
    case 3:
    case 4:
        inject(w, in, from);
        break;
    case 5:
        mutate(w, in, from);
        break;
    case 6:
        for (uint32_t n = command >> 4 & 7; n > 0; n--)
            deliver(w, from, 0);
        break;
    case 7:
        if (w->ports[from].count > 0)
            frame_remove(&w->ports[from], input_u8(in) % w->ports[from].count);
        break;
    case 8:
        reorder(w, from, input_u8(in));
        break;
    case 9:
        duplicate(w, from, input_u8(in));
        break;
    case 10:
        unknown(w, from);
        break;
    case 11:
        end_ios(w, command >> 4, input_u8(in) % OR_STATUS_MAX);
        break;
    case 12:
        control(w, input_u8(in));
        break;
    case 13:
        turn(w, (uint64_t)input_u16(in) * 100000);
        break;
    default:
        run(w, (command >> 4) + 1u);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t how = input_u8(&in);
    world_open(&world, how, OR_INTEGRITY_CRC);
    run(&world, 6);
    for (int i = 0; i < 100 && !input_end(&in); i++)
        run_command(&world, &in);
    run(&world, 3);
    world_close(&world);
    return 0;
}
