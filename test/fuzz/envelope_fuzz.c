/* An envelope from the wire, in memory of its exact size, so that AddressSanitizer sees a read of one byte too many.
 * First byte: 1 the headers are made right, for a segment size of the next two bytes. The rest is the frame, or its
 * payload. What is taken for an envelope must be walked from its beginning to its end, and each segment must lie in
 * it and be what the checks of frames can be asked about. */
#include <stdlib.h>

#include "input.h"
#include "transport/envelope.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void walk(uint8_t *frame, uint32_t length, const struct or_envelope *e)
{
    uint32_t at = 0, segments = 0;
    must(OR_ENVELOPE_HEAD + e->payload_bytes <= length && e->segment_bytes > 0);
    while (at < e->payload_bytes) {
        uint32_t before = at, bytes = 0;
        const uint8_t *segment = or_envelope_segment(e, frame, OR_ETHERTYPE_DEFAULT, &at, &bytes);
        must(at > before && at <= e->payload_bytes && ++segments <= OR_ENVELOPE_SEGMENTS_MAX);
        if (!segment)
            continue;
        must(segment >= frame && segment + bytes <= frame + length && bytes >= OR_ETH_HEADER);
        const struct or_frame_header *h;
        if (or_wire_check_frame(segment, bytes, &h) == OR_REFUSE_NONE)
            must(h->length <= bytes - OR_ETH_HEADER);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    bool right = input_u8(&in) & 1;
    uint32_t segment = right ? input_u16(&in) : 0, head = right ? OR_ENVELOPE_HEAD : 0;
    uint32_t payload = (uint32_t)(in.left < 70000 ? in.left : 70000), length = head + payload;
    uint8_t *frame = malloc(length ? length : 1);
    static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
    if (right)
        or_envelope_write(frame, addresses, OR_ETHERTYPE_DEFAULT, payload, segment);
    input_bytes(&in, frame + head, payload);
    struct or_envelope e;
    if (or_envelope_read(&e, frame, length, OR_ETHERTYPE_DEFAULT))
        walk(frame, length, &e);
    free(frame);
    return 0;
}
