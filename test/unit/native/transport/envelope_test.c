/* Envelopes by themselves: what is written, what is read of it, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "transport/envelope.h"

#define ETHERTYPE 0x88B5
#define SEGMENT 1024u

static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 7};

/* In memory of its exact size, so that the sanitizers see a read of one byte too many. */
struct sample {
    uint8_t *frame;
    uint32_t length;
};

/* Segments of these lengths, all but the last padded to SEGMENT with garbage; what counts of segment i has all bytes
 * i + 1. */
static struct sample make(const uint32_t *lengths, uint32_t count)
{
    uint32_t payload = (count - 1) * SEGMENT + lengths[count - 1];
    struct sample s = {.length = OR_ENVELOPE_HEAD + payload};
    s.frame = malloc(s.length);
    memset(s.frame, 0xee, s.length);
    or_envelope_write(s.frame, addresses, ETHERTYPE, payload, SEGMENT);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *segment = s.frame + OR_ENVELOPE_HEAD + i * SEGMENT;
        memset(segment, (int)i + 1, lengths[i]);
        ((struct or_frame_header *)segment)->length = (uint16_t)lengths[i];
    }
    return s;
}

static void put16(const struct sample *s, uint32_t at, uint16_t value)
{
    s->frame[at] = (uint8_t)(value >> 8);
    s->frame[at + 1] = (uint8_t)value;
}

static bool reads(const struct sample *s)
{
    struct or_envelope envelope;
    return or_envelope_read(&envelope, s->frame, s->length, ETHERTYPE);
}

static uint16_t checksum(uint32_t sum, const uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i += 2)
        sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* ---- tests ---- */

static void frames_come_out_as_they_went_in_without_their_padding(void **state)
{
    (void)state;
    const uint32_t lengths[] = {SEGMENT, 40, 1000, SEGMENT, 41};
    struct sample s = make(lengths, 5);
    struct or_envelope envelope;
    assert_true(or_envelope_read(&envelope, s.frame, s.length, ETHERTYPE));
    assert_int_equal(envelope.segment_bytes, SEGMENT);
    assert_int_equal(envelope.payload_bytes, 4 * SEGMENT + 41);
    uint32_t at = 0, length;
    for (uint32_t i = 0; i < 5; i++) {
        const uint8_t *frame = or_envelope_segment(&envelope, s.frame, ETHERTYPE, &at, &length);
        assert_non_null(frame);
        assert_int_equal(length, OR_ETH_HEADER + lengths[i]);
        assert_memory_equal(frame, addresses, 12);
        assert_int_equal(frame[12], ETHERTYPE >> 8);
        assert_int_equal(frame[13], ETHERTYPE & 0xff);
        for (uint32_t k = sizeof(struct or_frame_header); k < lengths[i]; k++)
            assert_int_equal(frame[OR_ETH_HEADER + k], i + 1);
    }
    assert_int_equal(at, envelope.payload_bytes);
    free(s.frame);
}

static void a_head_is_that_of_a_datagram_to_the_group(void **state)
{
    (void)state;
    const uint32_t lengths[] = {SEGMENT, 500};
    struct sample s = make(lengths, 2);
    const uint8_t ip[] = {0x45, 0, 0x06, 0x10, 0, 0, 0x40, 0, 1, 17}; /* 1552 bytes, DF, TTL 1, UDP */
    const uint8_t group[] = {224, 0, 0, 254}, ports[] = {SEGMENT >> 8, SEGMENT & 0xff, 0x88, 0xb5, 0x05, 0xfc};
    assert_memory_equal(s.frame, addresses, 12);
    assert_int_equal(s.frame[12] << 8 | s.frame[13], 0x0800);
    assert_memory_equal(s.frame + 14, ip, sizeof ip);
    assert_memory_equal(s.frame + 30, group, 4);
    assert_memory_equal(s.frame + 34, ports, sizeof ports);
    assert_int_equal(checksum(0, s.frame + 14, 20), 0xffff);
    /* The pseudo-header, of which the kernel goes on. */
    assert_int_equal(s.frame[40] << 8 | s.frame[41], checksum(17 + 0x5fc, s.frame + 26, 8));
    free(s.frame);
}

static void what_is_not_ours_is_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t at;
        uint16_t value;
    } changes[] = {
        {12, 0x88b5},               /* EtherType */
        {14, 0x4600}, {14, 0x6500}, /* options, version */
        {20, 0},      {20, 0x6000}, /* not DF; a first fragment */
        {20, 0x4001},               /* another fragment */
        {22, 0x0106},               /* TCP */
        {30, 0x0a09}, {32, 0x00fd}, /* another address */
        {36, 0x88b6},               /* another port */
        {34, 0},      {34, 32},     /* segments of nothing, of less than a frame */
        {34, 1025},                 /* segments that are not aligned */
        {16, 1000},   {16, 0xffff}, /* the IP length is another than the UDP length */
        {38, 1000},   {38, 0},      /* and the reverse */
    };
    const uint32_t lengths[] = {SEGMENT, 500};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct sample s = make(lengths, 2);
        assert_true(reads(&s));
        put16(&s, changes[i].at, changes[i].value);
        assert_false(reads(&s));
        free(s.frame);
    }
}

static void lengths_beyond_what_arrived_are_refused(void **state)
{
    (void)state;
    const uint32_t lengths[] = {SEGMENT, 500};
    struct sample s = make(lengths, 2);
    put16(&s, 16, 0x0611); /* both one byte longer */
    put16(&s, 38, 0x05fd);
    assert_false(reads(&s));
    free(s.frame);
    for (uint32_t length = 0; length < OR_ENVELOPE_HEAD + SEGMENT + 500; length++) {
        struct sample whole = make(lengths, 2), cut = {malloc(length ? length : 1), length};
        memcpy(cut.frame, whole.frame, length);
        assert_false(reads(&cut));
        free(cut.frame);
        free(whole.frame);
    }
}

static void more_segments_than_there_may_be_are_refused(void **state)
{
    (void)state;
    for (uint32_t more = 0; more <= 1; more++) {
        uint32_t payload = OR_ENVELOPE_SEGMENT_MIN * OR_ENVELOPE_SEGMENTS_MAX + more;
        struct sample s = {calloc(1, OR_ENVELOPE_HEAD + payload), OR_ENVELOPE_HEAD + payload};
        or_envelope_write(s.frame, addresses, ETHERTYPE, payload, OR_ENVELOPE_SEGMENT_MIN);
        assert_int_equal(reads(&s), !more);
        free(s.frame);
    }
}

/* A last segment that is too short for a frame ends the envelope; a length that lies costs its own frame only. */
static void segments_that_lie_stay_within_themselves(void **state)
{
    (void)state;
    const uint32_t lengths[] = {SEGMENT, SEGMENT, SEGMENT, 39};
    const uint16_t told[] = {0, 39, 0xffff};
    struct sample s = make(lengths, 4);
    for (uint32_t i = 0; i < 3; i++)
        ((struct or_frame_header *)(s.frame + OR_ENVELOPE_HEAD + i * SEGMENT))->length = told[i];
    struct or_envelope envelope;
    assert_true(or_envelope_read(&envelope, s.frame, s.length, ETHERTYPE));
    uint32_t at = 0, length;
    for (uint32_t i = 0; i < 3; i++) {
        assert_non_null(or_envelope_segment(&envelope, s.frame, ETHERTYPE, &at, &length));
        assert_int_equal(length, OR_ETH_HEADER + SEGMENT);
        assert_int_equal(at, (i + 1) * SEGMENT);
    }
    assert_null(or_envelope_segment(&envelope, s.frame, ETHERTYPE, &at, &length));
    assert_int_equal(at, envelope.payload_bytes);
    free(s.frame);
}

/* Whatever is read ends, within what arrived. */
static void random_bytes_do_no_harm(void **state)
{
    (void)state;
    uint32_t seed = 1, taken = 0;
    const uint32_t lengths[] = {SEGMENT, 300, SEGMENT, 77};
    for (int round = 0; round < 200000; round++) {
        struct sample s = make(lengths, 1 + round % 4);
        for (int changes = 0; changes < 3; changes++) {
            seed = seed * 1664525u + 1013904223u;
            s.frame[(seed >> 16) % (OR_ENVELOPE_HEAD + 20)] = (uint8_t)(seed >> 8);
        }
        struct or_envelope envelope;
        if (or_envelope_read(&envelope, s.frame, s.length, ETHERTYPE)) {
            uint32_t at = 0, length, segments = 0;
            while (at < envelope.payload_bytes) {
                const uint8_t *frame = or_envelope_segment(&envelope, s.frame, ETHERTYPE, &at, &length);
                assert_true(++segments <= OR_ENVELOPE_SEGMENTS_MAX);
                assert_true(!frame || frame + length <= s.frame + s.length);
            }
            taken++;
        }
        free(s.frame);
    }
    assert_in_range(taken, 1, 199999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_out_as_they_went_in_without_their_padding),
        cmocka_unit_test(a_head_is_that_of_a_datagram_to_the_group),
        cmocka_unit_test(what_is_not_ours_is_refused),
        cmocka_unit_test(lengths_beyond_what_arrived_are_refused),
        cmocka_unit_test(more_segments_than_there_may_be_are_refused),
        cmocka_unit_test(segments_that_lie_stay_within_themselves),
        cmocka_unit_test(random_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
