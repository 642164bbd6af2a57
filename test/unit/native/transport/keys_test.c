/* Key phases: what the sender does when a key is used up, and what the receiver makes of it and of those who
 * pretend. Every test runs in every integrity mode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "transport/keys.h"

#define MS 1000000ull
#define FRAMES_MAX 10u
#define BODY_BYTES 100u

struct frame {
    struct or_frame_header header;
    uint8_t body[BODY_BYTES];
};

static uint8_t secret[OR_SECRET_BYTES];
static struct or_tx_keys tx;
static struct or_rx_keys rx;

static void begin(uint8_t integrity)
{
    for (uint8_t i = 0; i < sizeof secret; i++)
        secret[i] = i;
    assert_int_equal(or_tx_keys_open(&tx, integrity, secret, FRAMES_MAX, 0), 0);
    assert_int_equal(or_rx_keys_open(&rx, integrity, secret), 0);
}

static void end(void)
{
    or_tx_keys_close(&tx);
    or_rx_keys_close(&rx);
}

static uint8_t body_byte(uint64_t counter, uint32_t i)
{
    return (uint8_t)(counter * 31 + i);
}

static struct frame sent(uint64_t counter, uint64_t largest_acked, uint64_t now)
{
    struct frame f = {
        .header = {
            .version = OR_WIRE_VERSION, .type = OR_FRAME_DATA, .session = 7, .counter = counter, .length = sizeof f}};
    for (uint32_t i = 0; i < BODY_BYTES; i++)
        f.body[i] = body_byte(counter, i);
    or_tx_keys_protect(&tx, &f.header, largest_acked, now);
    return f;
}

static bool taken(const struct frame *f, uint64_t now)
{
    const struct frame before = *f;
    const struct frame *clear = (const void *)or_rx_keys_unprotect(&rx, &f->header, now);
    assert_memory_equal(f, &before, sizeof before); /* a receive ring is not written to */
    for (uint32_t i = 0; clear && i < BODY_BYTES; i++)
        assert_int_equal(clear->body[i], body_byte(f->header.counter, i));
    return clear != NULL;
}

static bool odd(const struct frame *f)
{
    return f->header.flags & OR_FRAME_PHASE;
}

/* Computed with Python's hmac from RFC 5869: the keys of the first three phases of the secret 00 01 .. 1f. */
static const char *const known_keys[] = {
    "4ddfa9fca96b9b594ec1cf84734b813df5e8377a8cd66270da25bf16da008bbc",
    "e2f2b55243084399b8af6915aed3b2ba2a633914903dc503282f770a0d3ed5ae",
    "5df0802d08db969597e4677d53448e65f186db1f2bd36188eec032e69925464c",
};

static void keys_are_those_of_hkdf(uint8_t integrity)
{
    begin(integrity);
    for (uint32_t phase = 0; phase < 3; phase++) {
        struct or_seal seal;
        struct frame clear, f = sent(1 + phase * FRAMES_MAX, 1 + phase * FRAMES_MAX, 0);
        uint8_t key[32];
        for (uint32_t i = 0; i < sizeof key; i++) {
            unsigned byte;
            assert_int_equal(sscanf(known_keys[phase] + 2 * i, "%2x", &byte), 1);
            key[i] = (uint8_t)byte;
        }
        assert_int_equal(odd(&f), phase % 2);
        assert_int_equal(or_seal_open(&seal, integrity, key), 0);
        assert_non_null(or_seal_unprotect(&seal, &f.header, &clear.header));
        or_seal_close(&seal);
    }
    end();
}

static void a_phase_ends_with_its_last_frame(uint8_t integrity)
{
    begin(integrity);
    for (uint64_t n = 1; n <= 200; n++) {
        struct frame f = sent(n, n - 1, 0);
        assert_int_equal(odd(&f), (n - 1) / FRAMES_MAX % 2);
        assert_true(taken(&f, 0));
    }
    end();
}

static void a_phase_ends_with_its_time(uint8_t integrity)
{
    begin(integrity);
    struct frame a = sent(1, 0, OR_PHASE_NS - 1), b = sent(2, 1, OR_PHASE_NS), c = sent(3, 2, 2 * OR_PHASE_NS - 1);
    assert_false(odd(&a));
    assert_true(odd(&b) && odd(&c));
    assert_true(taken(&a, 0) && taken(&b, 0) && taken(&c, 0));
    end();
}

static void the_sender_waits_for_an_acknowledgement(uint8_t integrity)
{
    begin(integrity);
    for (uint64_t n = 1; n <= 50; n++) {
        struct frame f = sent(n, 0, 0);
        assert_false(odd(&f));
    }
    struct frame f = sent(51, 1, 0); /* one frame of the phase has arrived: that is enough */
    assert_true(odd(&f));
    for (uint64_t n = 52; n <= 100; n++) {
        f = sent(n, 50, 0); /* but of this phase none */
        assert_true(odd(&f));
    }
    f = sent(101, 51, 0);
    assert_false(odd(&f));
    end();
}

static void late_frames_of_the_phase_before_are_taken_for_a_second(uint8_t integrity)
{
    begin(integrity);
    struct frame first = sent(1, 0, 0), late = sent(9, 1, 0), too_late = sent(10, 1, 0);
    struct frame next = sent(12, 1, 0), before_it = sent(11, 1, 0);
    assert_true(odd(&next) && odd(&before_it) && !odd(&too_late));
    assert_true(taken(&first, 0));
    assert_true(taken(&next, 5 * MS));
    assert_true(taken(&before_it, 6 * MS)); /* of the new phase, though older than the frame that began it */
    assert_true(taken(&late, 5 * MS + OR_OLD_PHASE_NS - 1));
    assert_false(taken(&too_late, 5 * MS + OR_OLD_PHASE_NS));
    struct frame f = sent(13, 11, 0);
    assert_true(taken(&f, 2 * OR_OLD_PHASE_NS));
    end();
}

static void frames_of_older_and_of_skipped_phases_are_refused(uint8_t integrity)
{
    begin(integrity);
    struct frame zero[2] = {sent(1, 0, 0), sent(2, 0, 0)};
    struct frame one[2] = {sent(11, 1, 0), sent(12, 1, 0)};
    struct frame two = sent(21, 11, 0), three = sent(31, 21, 0);
    assert_true(odd(&one[0]) && !odd(&two) && odd(&three));
    assert_true(taken(&zero[0], 0));
    assert_false(taken(&two, 0)); /* the receiver has seen nothing of phase 1 */
    assert_false(taken(&three, 0));
    assert_true(taken(&one[0], 0));
    assert_true(taken(&two, 0));
    assert_true(taken(&one[1], 0));   /* late, of the phase before */
    assert_false(taken(&zero[1], 0)); /* later still */
    assert_true(taken(&three, 0));
    end();
}

/* Neither the bit nor a new number moves the receiver, whatever it has seen. */
static void a_flipped_phase_changes_nothing(uint8_t integrity)
{
    begin(integrity);
    struct frame forged = sent(1, 0, 0);
    forged.header.flags ^= OR_FRAME_PHASE; /* before any frame has verified */
    assert_false(taken(&forged, 0));
    for (uint64_t n = 1; n <= 45; n++) {
        struct frame f = sent(n, n - 1, n * MS);
        uint64_t phase = rx.phase;
        for (int i = 0; i < 6; i++) {
            forged = f;
            forged.header.flags ^= i % 2 ? OR_FRAME_PHASE : 0;
            forged.header.counter = i < 2 ? n + (i == 0) : i < 4 ? n + 1000 : n / 2;
            if (forged.header.counter != n || i % 2)
                assert_false(taken(&forged, n * MS));
        }
        assert_int_equal(rx.phase, phase);
        assert_true(taken(&f, n * MS));
        assert_int_equal(rx.phase, (n - 1) / FRAMES_MAX);
    }
    end();
}

static void every_byte_counts(uint8_t integrity)
{
    begin(integrity);
    struct frame f = sent(1, 0, 0);
    for (uint32_t i = 0; i < sizeof f; i++)
        for (uint32_t bit = 0; bit < 8; bit++) {
            struct frame changed = f;
            if (i == offsetof(struct or_frame_header, length) || i == offsetof(struct or_frame_header, length) + 1)
                continue; /* changes what is read; or_wire_check_frame bounds it */
            ((uint8_t *)&changed)[i] ^= (uint8_t)(1u << bit);
            assert_false(taken(&changed, 0));
        }
    struct frame shorter = f;
    shorter.header.length--;
    assert_false(taken(&shorter, 0));
    assert_true(taken(&f, 0));
    end();
}

static void only_the_first_phase_proves(uint8_t integrity)
{
    begin(integrity);
    struct frame first = sent(1, 0, 0), forged = first, next = sent(11, 1, 0);
    forged.header.counter++;
    assert_true(or_keys_prove(integrity, secret, &first.header));
    assert_false(or_keys_prove(integrity, secret, &forged.header));
    assert_false(or_keys_prove(integrity, secret, &next.header));
    secret[0]++;
    assert_false(or_keys_prove(integrity, secret, &first.header));
    end();
}

static void only_encryption_hides(uint8_t integrity)
{
    begin(integrity);
    struct frame f = sent(3, 0, 0);
    uint32_t same = 0;
    for (uint32_t i = 0; i < BODY_BYTES; i++)
        same += f.body[i] == body_byte(3, i);
    if (integrity == OR_INTEGRITY_ENCRYPT)
        assert_in_range(same, 0, 8);
    else
        assert_int_equal(same, BODY_BYTES);
    end();
}

typedef void test_fn(uint8_t integrity);

static void in_every_mode(void **state)
{
    test_fn *const *test = *state;
    for (uint8_t integrity = OR_INTEGRITY_CRC; integrity <= OR_INTEGRITY_ENCRYPT; integrity++)
        (*test)(integrity);
}

/* clang-format off */
#define TEST(name) {#name, in_every_mode, NULL, NULL, &(test_fn *){name}}
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(keys_are_those_of_hkdf),
        TEST(a_phase_ends_with_its_last_frame),
        TEST(a_phase_ends_with_its_time),
        TEST(the_sender_waits_for_an_acknowledgement),
        TEST(late_frames_of_the_phase_before_are_taken_for_a_second),
        TEST(frames_of_older_and_of_skipped_phases_are_refused),
        TEST(a_flipped_phase_changes_nothing),
        TEST(every_byte_counts),
        TEST(only_the_first_phase_proves),
        TEST(only_encryption_hides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
