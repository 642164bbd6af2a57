/* What checking a frame that has arrived costs: its header, and each of its messages. */
#include "wire/wire.h"
#include "micro.h"
#include <stdlib.h>
#include <string.h>

#define FRAME_BYTES 8984u

struct packed {
    uint8_t *frame; /* from the Ethernet header on */
    uint32_t length;
    struct or_frame_header *header;
};

/* A frame with as many requests without data as fit into FRAME_BYTES. */
static void *requests_frame(uint64_t bytes)
{
    (void)bytes;
    const struct or_message_request request = {.type = OR_MSG_REQUEST,
                                               .op = OR_OP_READ,
                                               .slot = OR_SLOT_CONTROL_PUT + 1,
                                               .length = sizeof request,
                                               .sequence = 1,
                                               .device = 1,
                                               .generation = 1,
                                               .io_length = 4096};
    struct packed *p = micro_memory(sizeof *p);
    p->frame = micro_memory(OR_ETH_HEADER + FRAME_BYTES);
    p->frame[6] = 2; /* the sender's address is one that a NIC can have */
    p->header = (struct or_frame_header *)(p->frame + OR_ETH_HEADER);
    uint32_t at = sizeof *p->header;
    for (; at + sizeof request <= FRAME_BYTES; at += sizeof request)
        memcpy((uint8_t *)p->header + at, &request, sizeof request);
    p->length = OR_ETH_HEADER + at;
    *p->header = (struct or_frame_header){
        .version = OR_WIRE_VERSION, .type = OR_FRAME_DATA, .session = 1, .counter = 1, .length = (uint16_t)at};
    return p;
}

static void packed_free(void *state)
{
    struct packed *p = state;
    free(p->frame);
    free(p);
}

static void check_frame(void *state, uint64_t count)
{
    struct packed *p = state;
    for (uint64_t i = 0; i < count; i++) {
        const struct or_frame_header *header;
        micro_must(or_wire_check_frame(p->frame, p->length, &header) == OR_REFUSE_NONE, "the frame is refused");
        micro_use((uintptr_t)header);
    }
}

/* `count` messages, frame by frame. */
static void walk_requests(void *state, uint64_t count)
{
    struct packed *p = state;
    uint32_t fragment_bytes = or_wire_fragment_bytes(9000);
    for (uint64_t i = 0; i < count;) {
        uint32_t offset = sizeof *p->header;
        enum or_refuse refuse;
        const struct or_message *m;
        while (i < count && (m = or_wire_next(p->header, &offset, &refuse))) {
            const struct or_message_request *request = (const struct or_message_request *)m;
            micro_must(or_wire_check_request(request, fragment_bytes) == OR_REFUSE_NONE, "the request is refused");
            i++;
        }
    }
}

static const struct micro_case cases[] = {
    {"wire", "check a frame", 0, requests_frame, check_frame, packed_free},
    {"wire", "find and check a request in it", 0, requests_frame, walk_requests, packed_free},
};

const struct micro_group micro_wire = {cases, sizeof cases / sizeof *cases};
