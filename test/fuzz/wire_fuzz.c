/* A frame as it comes from the wire: or_wire_check_frame, then the walk over its messages with the checks of
 * each. The input is the frame from its Ethernet header on; it lies in memory of its exact size, so that
 * AddressSanitizer sees a read of one byte too many. What passes the checks must keep what their headers
 * promise. */
#include <stdlib.h>

#include "input.h"
#include "wire/wire.h"

/* Reads every byte of the message, so that one that is not there is noticed. */
static void touch(const struct or_message *m)
{
    volatile uint8_t sum = 0;
    for (uint32_t i = 0; i < m->length; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)m)[i]);
}

static void check_request(const struct or_message_request *r, uint32_t fragment_bytes)
{
    if (or_wire_check_request(r, fragment_bytes) != OR_REFUSE_NONE)
        return;
    uint32_t data = r->length - (uint32_t)sizeof *r;
    if (r->slot >= OR_SLOTS_MAX || r->op == 0 || r->op >= OR_OP_MAX || data > fragment_bytes)
        abort();
    if (or_op_sends_data(r->op) &&
        (r->io_length > OR_REQ_BYTES_MAX || r->fragment >= r->io_length || data > r->io_length - r->fragment))
        abort();
}

static void check_reply(const struct or_message_reply *r, uint32_t fragment_bytes)
{
    if (or_wire_check_reply(r, fragment_bytes) != OR_REFUSE_NONE)
        return;
    uint32_t data = r->length - (uint32_t)sizeof *r;
    if (r->slot >= OR_SLOTS_MAX || r->total > OR_REQ_BYTES_MAX || data > fragment_bytes)
        abort();
    if (data > 0 && (r->fragment >= r->total || data > r->total - r->fragment))
        abort();
}

static void check_packet(const struct or_message_packet *p, uint32_t fragment_bytes)
{
    if (or_wire_check_packet(p, fragment_bytes) != OR_REFUSE_NONE)
        return;
    uint32_t data = p->length - (uint32_t)sizeof *p;
    if (p->total < OR_PACKET_MIN || p->total > OR_PACKET_MAX || data == 0 || data > fragment_bytes)
        abort();
    if (p->fragment >= p->total || data > p->total - p->fragment)
        abort();
}

static void walk(const struct or_frame_header *h)
{
    static const uint32_t mtus[] = {OR_MTU_MIN, 9000, OR_MTU_MAX};
    uint32_t offset = sizeof *h, before = 0;
    enum or_refuse refuse;
    const struct or_message *m;
    while ((m = or_wire_next(h, &offset, &refuse)) != NULL) {
        if (offset <= before || offset % 8 != 0)
            abort();
        before = offset;
        touch(m);
        for (uint32_t i = 0; i < sizeof mtus / sizeof mtus[0]; i++) {
            if (m->type == OR_MSG_REQUEST)
                check_request((const void *)m, or_wire_fragment_bytes(mtus[i]));
            if (m->type == OR_MSG_REPLY)
                check_reply((const void *)m, or_wire_fragment_bytes(mtus[i]));
            if (m->type == OR_MSG_PACKET)
                check_packet((const void *)m, or_wire_fragment_bytes(mtus[i]));
        }
    }
    or_refuse_name(refuse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct or_frame_header *h;
    uint8_t *frame = malloc(size > 0 ? size : 1);
    memcpy(frame, data, size);
    enum or_refuse refuse = or_wire_check_frame(frame, (uint32_t)size, &h);
    if (refuse == OR_REFUSE_NONE && h->type == OR_FRAME_DATA)
        walk(h);
    or_refuse_name(refuse);
    free(frame);
    return 0;
}
