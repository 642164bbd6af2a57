#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/seal.h"
#include "wire/wire.h"

static uint8_t frame[OR_ETH_HEADER + 9000];
static struct or_frame_header *const header = (void *)(frame + OR_ETH_HEADER);

static void fresh_frame(uint16_t length)
{
    memset(frame, 0, sizeof frame);
    *header =
        (struct or_frame_header){.version = 1, .type = OR_FRAME_DATA, .session = 9, .counter = 1, .length = length};
}

static void frames_are_checked_in_every_field(void **state)
{
    (void)state;
    const struct or_frame_header *h;
    fresh_frame(48);
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_NONE);
    assert_ptr_equal(h, header);
    for (uint32_t n = 0; n < 62; n++)
        assert_int_equal(or_wire_check_frame(frame, n, &h), OR_REFUSE_SHORT);
    header->length = 47;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_SHORT);
    header->length = 49;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_SHORT);
    header->length = 48;
    header->version = 2;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_VERSION);
    header->version = 1;
    header->type = 0;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_TYPE);
    header->type = OR_FRAME_DATA;
    header->channel = OR_CHANNELS_MAX;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_CHANNEL);
    header->channel = 0;
    header->link = OR_LINKS_MAX;
    assert_int_equal(or_wire_check_frame(frame, 62, &h), OR_REFUSE_CHANNEL);
}

static void messages_end_where_the_frame_ends(void **state)
{
    (void)state;
    enum or_refuse refuse;
    fresh_frame(40 + 8 + 24);
    struct or_message *ping = (void *)(header + 1);
    *ping = (struct or_message){.type = OR_MSG_PING, .length = 8};
    struct or_message_reply *reply = (void *)(ping + 1);
    *reply = (struct or_message_reply){.type = OR_MSG_REPLY, .length = 24};
    uint32_t at = sizeof *header;
    assert_ptr_equal(or_wire_next(header, &at, &refuse), ping);
    assert_ptr_equal(or_wire_next(header, &at, &refuse), reply);
    assert_null(or_wire_next(header, &at, &refuse));
    assert_int_equal(refuse, OR_REFUSE_NONE);
    for (uint16_t cut = 41; cut < 72; cut++) { /* truncated in the middle of a message */
        header->length = cut;
        at = sizeof *header;
        while (or_wire_next(header, &at, &refuse))
            ;
        assert_int_equal(refuse, cut == 48 ? OR_REFUSE_NONE : OR_REFUSE_MESSAGE);
    }
    header->length = 72;
    uint8_t wrong_types[] = {0, OR_MSG_PACKET + 1, 255};
    for (size_t i = 0; i < sizeof wrong_types; i++) {
        ping->type = wrong_types[i];
        at = sizeof *header;
        assert_null(or_wire_next(header, &at, &refuse));
        assert_int_equal(refuse, OR_REFUSE_MESSAGE);
    }
}

static void fragments_must_lie_on_the_grid(void **state)
{
    (void)state;
    const uint32_t size = or_wire_fragment_bytes(9000);
    assert_int_equal(size, 8896);
    struct or_message_request r = {
        .type = OR_MSG_REQUEST, .op = OR_OP_WRITE, .slot = 2, .sequence = 1, .io_length = 10000};
    r.length = (uint16_t)(sizeof r + size);
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_NONE);
    r.sequence = 0; /* numbers wrap */
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_NONE);
    r.length--;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_FRAGMENT);
    r.fragment = size;
    r.length = (uint16_t)(sizeof r + 10000 - size);
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_NONE);
    r.fragment = size - 64;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_FRAGMENT);
    r.fragment = 2 * size;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_FRAGMENT);
    r.fragment = UINT32_MAX / size * size;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_FRAGMENT);
    r.fragment = 0;
    r.io_length = OR_REQ_BYTES_MAX + 1;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_MESSAGE);
    r.io_length = 0;
    assert_int_equal(or_wire_check_request(&r, size), OR_REFUSE_MESSAGE);
}

static void control_operations_have_their_own_slots(void **state)
{
    (void)state;
    struct or_message_request r = {
        .type = OR_MSG_REQUEST, .length = sizeof r, .op = OR_OP_READ, .sequence = 1, .io_length = 512};
    for (uint16_t slot = 0; slot < 4; slot++) {
        r.slot = slot;
        r.op = OR_OP_READ;
        assert_int_equal(or_wire_check_request(&r, 8896), slot < OR_SLOT_DATA ? OR_REFUSE_MESSAGE : OR_REFUSE_NONE);
        r.op = OR_OP_CONTROL_GET;
        assert_int_equal(or_wire_check_request(&r, 8896),
                         slot == OR_SLOT_CONTROL_GET ? OR_REFUSE_NONE : OR_REFUSE_MESSAGE);
    }
    r.slot = OR_SLOTS_MAX;
    r.op = OR_OP_READ;
    assert_int_equal(or_wire_check_request(&r, 8896), OR_REFUSE_MESSAGE);
}

static uint8_t pattern(uint16_t k)
{
    return (uint8_t)(k * 7);
}

static void protection_covers_every_byte(uint8_t integrity)
{
    static struct or_frame_header clear[OR_MTU_MAX / sizeof(struct or_frame_header)];
    uint8_t key[32] = {1, 2, 3}, other[32] = {1, 2, 4, 9};
    struct or_seal a, b, c;
    assert_int_equal(or_seal_open(&a, integrity, key), 0);
    assert_int_equal(or_seal_open(&b, integrity, key), 0);
    other[0] = 99;
    assert_int_equal(or_seal_open(&c, integrity, other), 0);
    uint16_t lengths[] = {48, 49, 63, 64, 100, 1000, 8999};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        fresh_frame(lengths[i]);
        for (uint16_t k = sizeof *header; k < lengths[i]; k++)
            frame[OR_ETH_HEADER + k] = pattern(k);
        or_seal_protect(&a, header);
        const uint8_t *out = (const void *)or_seal_unprotect(&b, header, clear);
        assert_non_null(out);
        assert_memory_equal(out, header, sizeof *header);
        for (uint16_t k = sizeof *header; k < lengths[i]; k++)
            assert_int_equal(out[k], pattern(k));
        assert_null(or_seal_unprotect(&c, header, clear)); /* another session's key */
        for (uint16_t k = 0; k<lengths[i]; k += lengths[i]> 200 ? 13 : 1) {
            if (k == offsetof(struct or_frame_header, length) || k == offsetof(struct or_frame_header, length) + 1)
                continue; /* changes what is read; or_wire_check_frame bounds it */
            frame[OR_ETH_HEADER + k] ^= 0x10;
            assert_null(or_seal_unprotect(&b, header, clear));
            frame[OR_ETH_HEADER + k] ^= 0x10;
        }
        header->length--;
        assert_null(or_seal_unprotect(&b, header, clear));
    }
    or_seal_close(&a);
    or_seal_close(&b);
    or_seal_close(&c);
}

static void a_mac_covers_every_byte(void **state)
{
    (void)state;
    protection_covers_every_byte(OR_INTEGRITY_MAC);
}

static void a_crc_covers_every_byte(void **state)
{
    (void)state;
    protection_covers_every_byte(OR_INTEGRITY_CRC);
}

static void encryption_covers_every_byte(void **state)
{
    (void)state;
    protection_covers_every_byte(OR_INTEGRITY_ENCRYPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_checked_in_every_field), cmocka_unit_test(messages_end_where_the_frame_ends),
        cmocka_unit_test(fragments_must_lie_on_the_grid),    cmocka_unit_test(control_operations_have_their_own_slots),
        cmocka_unit_test(a_mac_covers_every_byte),           cmocka_unit_test(a_crc_covers_every_byte),
        cmocka_unit_test(encryption_covers_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
