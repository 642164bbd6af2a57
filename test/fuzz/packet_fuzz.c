/* A packet as a hostile guest sends it: through the check of its offloads, the guard and the receive filter, and
 * cut in software. First byte: 1 spoof check, 2 addresses are given, 4 a filter is set, 8 two more bytes follow,
 * by which the frame is lengthened with zeroes. The rest is the packet, in memory of its exact size, so that
 * AddressSanitizer sees a read of one byte too many. Whatever passes must be what its receivers are promised. */
#include <stdlib.h>

#include "input.h"
#include "net/guard.h"
#include "net/offload.h"

static const struct or_guard guard_of[] = {
    {.mac = {0x52, 0x54, 0, 0, 0, 0x0a}},
    {.mac = {0x52, 0x54, 0, 0, 0, 0x0a}, .spoof_check = true},
    {.mac = {0x52, 0x54, 0, 0, 0, 0x0a},
     .spoof_check = true,
     .count = 2,
     .addresses = {{4, 31, {10, 0, 0, 5}}, {6, 65, {0x20, 0x01, 0x0d, 0xb8, [15] = 5}}}},
};

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* Each segment is a packet that anybody can take, and they have all of the payload. */
static void check_segments(const struct or_offload *o)
{
    uint8_t *to = malloc(OR_PACKET_MAX);
    uint32_t bytes = 0;
    must(o->segments >= 1 && o->segments <= OR_SEGMENTS_MAX && o->frame_longest <= o->length);
    for (uint32_t i = 0; i < o->segments; i++) {
        struct or_offload part;
        uint32_t length = or_offload_segment(o, i, to);
        must(or_offload_check(to, length, &part) && or_offload_fits(&part, 0));
        must(part.length <= o->frame_longest && part.length >= o->payload);
        bytes += part.length - o->payload;
    }
    must(bytes == o->length - o->payload);
    free(to);
}

static void try(const struct or_guard *guard, const struct or_rx_filter *filter, const uint8_t *packet, uint32_t length)
{
    struct or_offload o;
    if (!or_offload_check(packet, length, &o))
        return;
    must(o.length == length - OR_VNET_HEADER && o.header.hdr_len <= o.length);
    if (or_guard_tx(guard, o.frame, o.length) && guard->spoof_check)
        must(memcmp(o.frame + 6, guard->mac, 6) == 0);
    or_guard_rx(guard->mac, filter, o.frame, o.length);
    check_segments(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t kind = input_u8(&in);
    const struct or_guard *guard = &guard_of[!(kind & 1) ? 0 : kind & 2 ? 2 : 1];
    struct or_rx_filter filter = {.count = 1};
    uint32_t more = kind & 8 ? input_u16(&in) : 0, length = (uint32_t)in.left + more;
    if (length > OR_PACKET_MAX + 1)
        length = OR_PACKET_MAX + 1;
    uint8_t *packet = malloc(length > 0 ? length : 1);
    input_bytes(&in, packet, length);
    try(guard, kind & 4 ? &filter : NULL, packet, length);
    free(packet);
    return 0;
}
