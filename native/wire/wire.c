/* Checks of what arrives. Every function here reads only bytes that it has proved to be there; what
 * it lets through needs no second look (docs/wire.md, "What is refused"). */
#include "wire.h"

enum or_refuse or_wire_check_frame(const uint8_t *frame, uint32_t length, const struct or_frame_header **header)
{
    if (length < OR_ETH_HEADER + sizeof(struct or_frame_header))
        return OR_REFUSE_SHORT;
    const struct or_frame_header *h = (const void *)(frame + OR_ETH_HEADER);
    if (h->version != OR_WIRE_VERSION)
        return OR_REFUSE_VERSION;
    uint32_t least = sizeof *h;
    switch (h->type) {
    case OR_FRAME_HELLO:
        least += sizeof(struct or_hello);
        break;
    case OR_FRAME_WELCOME:
        least += sizeof(struct or_welcome);
        break;
    case OR_FRAME_DATA:
        least += sizeof(struct or_message);
        break;
    case OR_FRAME_RETRY:
        least += sizeof(struct or_retry);
        break;
    case OR_FRAME_UNKNOWN:
        break;
    default:
        return OR_REFUSE_TYPE;
    }
    if (h->length < least || h->length > length - OR_ETH_HEADER)
        return OR_REFUSE_SHORT;
    if (h->channel >= OR_CHANNELS_MAX || h->link >= OR_LINKS_MAX)
        return OR_REFUSE_CHANNEL;
    *header = h;
    return OR_REFUSE_NONE;
}

static bool message_length_ok(const struct or_message *m)
{
    switch (m->type) {
    case OR_MSG_ACK:
        return m->code >= 1 && m->code <= OR_ACK_WORDS_MAX && m->length == 16u + 8u * m->code;
    case OR_MSG_REQUEST:
        return m->length >= sizeof(struct or_message_request);
    case OR_MSG_REPLY:
        return m->length >= sizeof(struct or_message_reply);
    case OR_MSG_PACKET:
        return m->length >= sizeof(struct or_message_packet);
    case OR_MSG_CREDIT:
        return m->length == sizeof(struct or_message_credit);
    case OR_MSG_PING:
    case OR_MSG_BYE:
        return m->length == sizeof(struct or_message);
    default:
        return false;
    }
}

const struct or_message *or_wire_next(const struct or_frame_header *header, uint32_t *offset, enum or_refuse *refuse)
{
    *refuse = OR_REFUSE_NONE;
    if (*offset >= header->length)
        return NULL;
    const struct or_message *m = (const void *)((const uint8_t *)header + *offset);
    uint32_t left = header->length - *offset;
    if (left < sizeof *m || m->length > left || !message_length_ok(m)) {
        *refuse = OR_REFUSE_MESSAGE;
        return NULL;
    }
    *offset += (m->length + 7u) & ~7u;
    return m;
}

/* A fragment starts at a multiple of the fragment size and is as long as the rest of the data, or one
 * fragment, whichever is less: so fragments cannot overlap in part. */
static bool fragment_ok(uint32_t fragment, uint32_t data, uint32_t total, uint32_t fragment_bytes)
{
    if (total == 0)
        return fragment == 0 && data == 0;
    if (fragment >= total || fragment % fragment_bytes)
        return false;
    uint32_t rest = total - fragment;
    return data == (rest < fragment_bytes ? rest : fragment_bytes);
}

enum or_refuse or_wire_check_request(const struct or_message_request *r, uint32_t fragment_bytes)
{
    uint32_t data = r->length - (uint32_t)sizeof *r;
    if (r->op == 0 || r->op >= OR_OP_MAX || r->slot >= OR_SLOTS_MAX)
        return OR_REFUSE_MESSAGE;
    /* Control operations have slots of their own, and those have nothing else. */
    if ((r->op == OR_OP_CONTROL_GET) != (r->slot == OR_SLOT_CONTROL_GET) ||
        (r->op == OR_OP_CONTROL_PUT) != (r->slot == OR_SLOT_CONTROL_PUT))
        return OR_REFUSE_MESSAGE;
    bool bounded = r->op != OR_OP_DISCARD && r->op != OR_OP_WRITE_ZEROES && r->op != OR_OP_FLUSH;
    if (r->io_length > (bounded ? OR_REQ_BYTES_MAX : OR_RANGE_BYTES_MAX) || (bounded && r->io_length == 0))
        return OR_REFUSE_MESSAGE;
    if (!or_op_sends_data(r->op))
        return data == 0 && r->fragment == 0 ? OR_REFUSE_NONE : OR_REFUSE_FRAGMENT;
    return fragment_ok(r->fragment, data, r->io_length, fragment_bytes) ? OR_REFUSE_NONE : OR_REFUSE_FRAGMENT;
}

enum or_refuse or_wire_check_reply(const struct or_message_reply *r, uint32_t fragment_bytes)
{
    uint32_t data = r->length - (uint32_t)sizeof *r;
    if (r->status >= OR_STATUS_MAX || r->slot >= OR_SLOTS_MAX || r->total > OR_REQ_BYTES_MAX)
        return OR_REFUSE_MESSAGE;
    if (r->status != OR_OK && r->total != 0)
        return OR_REFUSE_MESSAGE;
    return fragment_ok(r->fragment, data, r->total, fragment_bytes) ? OR_REFUSE_NONE : OR_REFUSE_FRAGMENT;
}

enum or_refuse or_wire_check_packet(const struct or_message_packet *p, uint32_t fragment_bytes)
{
    uint32_t data = p->length - (uint32_t)sizeof *p;
    if (p->total < OR_PACKET_MIN || p->total > OR_PACKET_MAX)
        return OR_REFUSE_MESSAGE;
    return fragment_ok(p->fragment, data, p->total, fragment_bytes) ? OR_REFUSE_NONE : OR_REFUSE_FRAGMENT;
}
