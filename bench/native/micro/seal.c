/* What protecting and verifying a frame costs, by protection and by the frame's size: of a message without data,
 * of MTU 1500, of a 4 KiB block, of MTU 9000, and of the largest frame. */
#include "wire/seal.h"
#include "micro.h"
#include <stdlib.h>

struct frame {
    struct or_seal seal;
    struct or_frame_header *header, *clear;
};

static struct frame *frame_create(uint8_t integrity, uint64_t bytes)
{
    static const uint8_t key[32] = {1, 2, 3};
    struct frame *f = micro_memory(sizeof *f);
    micro_must(or_seal_open(&f->seal, integrity, key) == 0, "no seal");
    f->header = micro_memory(bytes);
    f->clear = micro_memory(bytes);
    *f->header = (struct or_frame_header){
        .version = OR_WIRE_VERSION, .type = OR_FRAME_DATA, .session = 1, .counter = 1, .length = (uint16_t)bytes};
    or_seal_protect(&f->seal, f->header);
    return f;
}

static void *crc_frame(uint64_t bytes)
{
    return frame_create(OR_INTEGRITY_CRC, bytes);
}

static void *mac_frame(uint64_t bytes)
{
    return frame_create(OR_INTEGRITY_MAC, bytes);
}

static void *encrypt_frame(uint64_t bytes)
{
    return frame_create(OR_INTEGRITY_ENCRYPT, bytes);
}

static void frame_free(void *state)
{
    struct frame *f = state;
    or_seal_close(&f->seal);
    free(f->header);
    free(f->clear);
    free(f);
}

static void protect(void *state, uint64_t count)
{
    struct frame *f = state;
    for (uint64_t i = 0; i < count; i++) {
        f->header->counter++;
        or_seal_protect(&f->seal, f->header);
    }
}

static void verify(void *state, uint64_t count)
{
    struct frame *f = state;
    for (uint64_t i = 0; i < count; i++)
        micro_must(or_seal_unprotect(&f->seal, f->header, f->clear) != NULL, "the frame does not verify");
}

#define SIZES(mode)                                                                                                    \
    {#mode, "protect", 104, mode##_frame, protect, frame_free},                                                        \
        {#mode, "protect", 1496, mode##_frame, protect, frame_free},                                                   \
        {#mode, "protect", 4176, mode##_frame, protect, frame_free},                                                   \
        {#mode, "protect", 8984, mode##_frame, protect, frame_free},                                                   \
        {#mode, "protect", 65528, mode##_frame, protect, frame_free},                                                  \
        {#mode, "verify", 104, mode##_frame, verify, frame_free},                                                      \
        {#mode, "verify", 1496, mode##_frame, verify, frame_free},                                                     \
        {#mode, "verify", 4176, mode##_frame, verify, frame_free},                                                     \
        {#mode, "verify", 8984, mode##_frame, verify, frame_free},                                                     \
    {                                                                                                                  \
#mode, "verify", 65528, mode##_frame, verify, frame_free                                                       \
    }

static const struct micro_case cases[] = {SIZES(crc), SIZES(mac), SIZES(encrypt)};

const struct micro_group micro_seal = {cases, sizeof cases / sizeof *cases};
