/* What a port with a filter lets in, AF_PACKET and AF_XDP, over a real link. A stranger sends from the left side. Needs
 * root, and skips without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "segment.h"
#include "wire/wire.h"

#define SESSIONS_MAX 4
#define ALL_TYPES ((1u << OR_FRAME_MAX) - 2)
#define WAIT_MS_MAX 20000
#define FRAME_BYTES 200 /* as long as a handshake's */

static void filter(struct or_port *port)
{
    char why[512] = "";
    if (or_port_set_filter(port, &(struct or_port_door){ALL_TYPES, SESSIONS_MAX, OR_ANY_CHANNEL}, why, sizeof why))
        fail_msg("%s", why);
}

static struct segment open_filtered(void)
{
    struct segment s = open_segment(1500);
    filter(s.port[RIGHT]);
    assert_int_equal(s.port[RIGHT]->filter, OR_FILTER_SESSION);
    return s;
}

static uint8_t channel; /* of the frames that are sent */

/* From the address that ends in `source`. */
static void send_frame(const struct segment *s, uint8_t source, uint8_t version, uint8_t type, uint32_t session)
{
    struct or_port *from = s->port[LEFT];
    uint8_t *frame = or_port_tx_begin(from, s->port[RIGHT]->mac);
    memset(frame + OR_ETH_HEADER, 0, FRAME_BYTES - OR_ETH_HEADER);
    frame[11] = source;
    struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
    h->version = version;
    h->type = type;
    h->channel = channel;
    h->session = session;
    or_port_tx_commit(from, FRAME_BYTES);
    or_port_tx_flush(from);
}

static void send_data(const struct segment *s, uint8_t source, uint32_t session)
{
    send_frame(s, source, OR_WIRE_VERSION, OR_FRAME_DATA, session);
}

/* Waits until the kernel is done with what was sent: with a frame that comes last, on another port. */
static void settle(const struct segment *s)
{
    struct or_port *last = open_port(s, RIGHT, ETHERTYPE + 1, 1500);
    struct or_port *from = s->port[LEFT];
    uint8_t *frame = or_port_tx_begin(from, s->port[RIGHT]->mac);
    memset(frame + 6, 0, FRAME_BYTES - 6);
    frame[12] = (ETHERTYPE + 1) >> 8;
    frame[13] = (ETHERTYPE + 1) & 0xff;
    or_port_tx_commit(from, FRAME_BYTES);
    or_port_tx_flush(from);
    struct pollfd p = {.fd = last->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
    or_port_close(last);
}

struct taken {
    uint32_t data, others, session; /* session: of the last data frame */
};

static void take_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    struct taken *taken = arg;
    const struct or_frame_header *h = (const void *)(frame + OR_ETH_HEADER);
    assert_int_equal(length, FRAME_BYTES);
    if (h->type == OR_FRAME_DATA) {
        taken->data++;
        taken->session = h->session;
    } else {
        taken->others++;
    }
}

static struct taken take_all(const struct segment *s)
{
    struct taken taken = {0};
    settle(s);
    while (or_port_rx_burst(s->port[RIGHT], 64, take_frame, &taken))
        ;
    return taken;
}

static uint64_t filtered(const struct segment *s)
{
    settle(s);
    return or_port_stats(s->port[RIGHT]).rx_filtered;
}

/* ---- tests ---- */

static void data_of_a_session_gets_in_while_it_is_allowed(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    const uint32_t session = 0x12345678;
    assert_int_equal(or_port_allow(s.port[RIGHT], session), 0);
    for (uint32_t i = 0; i < 100; i++)
        send_data(&s, 1, session);
    struct taken taken = take_all(&s);
    assert_int_equal(taken.data, 100);
    assert_int_equal(taken.session, session);
    assert_int_equal(filtered(&s), 0);

    or_port_disallow(s.port[RIGHT], session);
    for (uint32_t i = 0; i < 100; i++)
        send_data(&s, 1, session);
    taken = take_all(&s);
    assert_true(taken.data < 100);
    assert_int_equal(filtered(&s), 100 - taken.data);
    close_segment(&s);
}

static void of_data_without_a_session_only_a_sample_gets_in(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    send_data(&s, 1, 7);
    assert_int_equal(take_all(&s).data, 1);
    for (uint32_t i = 0; i < 10000; i++)
        send_data(&s, 1, i);
    struct taken taken = take_all(&s);
    assert_true(taken.data < 5000); /* 100 in a second, however slow this machine is */
    assert_int_equal(filtered(&s), 10000 - taken.data);
    /* Another's sample is its own. */
    send_data(&s, 2, 7);
    assert_int_equal(take_all(&s).data, 1);
    close_segment(&s);
}

static void frames_of_no_type_of_ours_get_nowhere(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    for (uint32_t type = 0; type < 256; type++)
        send_frame(&s, 1, OR_WIRE_VERSION + 1, (uint8_t)type, 0);
    assert_int_equal(filtered(&s), 256);
    send_frame(&s, 1, OR_WIRE_VERSION, 0, 0);
    for (uint32_t type = OR_FRAME_MAX; type < 256; type++)
        send_frame(&s, 1, OR_WIRE_VERSION, (uint8_t)type, 0);
    assert_int_equal(filtered(&s), 256 + 257 - OR_FRAME_MAX);
    struct taken taken = take_all(&s);
    assert_int_equal(taken.data + taken.others, 0);
    close_segment(&s);
}

static void frames_for_others_neither_get_in_nor_count(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    uint8_t mac[6];
    memcpy(mac, s.port[RIGHT]->mac, 6);
    s.port[RIGHT]->mac[5] ^= 1; /* whom send_frame sends to */
    send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
    send_data(&s, 1, 7);
    memcpy(s.port[RIGHT]->mac, mac, 6);
    struct taken taken = take_all(&s);
    assert_int_equal(taken.data + taken.others, 0);
    assert_int_equal(filtered(&s), 0);
    close_segment(&s);
}

static void frames_of_types_that_are_not_wanted_get_nowhere(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    char why[512];
    assert_int_equal(or_port_set_filter(s.port[RIGHT],
                                        &(struct or_port_door){1u << OR_FRAME_DATA | 1u << OR_FRAME_HELLO, SESSIONS_MAX,
                                                               OR_ANY_CHANNEL},
                                        why, sizeof why),
                     0);
    send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_WELCOME, 0);
    send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
    send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_RETRY, 0);
    assert_int_equal(take_all(&s).others, 1);
    assert_int_equal(filtered(&s), 2);
    close_segment(&s);
}

static void handshakes_get_in_beside_data(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    struct pollfd p = {.fd = s.port[RIGHT]->handshake_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    for (uint8_t type = 1; type < OR_FRAME_MAX; type++)
        if (type != OR_FRAME_DATA)
            send_frame(&s, 1, OR_WIRE_VERSION, type, 0);
    assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
    assert_int_equal(take_all(&s).others, OR_FRAME_MAX - 2);
    assert_int_equal(filtered(&s), 0);
    close_segment(&s);
}

static void a_flood_of_handshakes_pushes_no_data_out(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    assert_int_equal(or_port_allow(s.port[RIGHT], 5), 0);
    for (uint32_t i = 0; i < 10000; i++) {
        send_frame(&s, (uint8_t)i, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
        if (i % 100 == 0)
            send_data(&s, 1, 5);
    }
    struct taken taken = {0};
    settle(&s);
    or_port_rx_burst(s.port[RIGHT], 64, take_frame, &taken);
    assert_int_equal(taken.data, 64);
    assert_int_equal(taken.others, 1); /* nor does it keep the worker from its work */
    taken = take_all(&s);
    assert_int_equal(taken.data, 100 - 64);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_dropped, 0);
    send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
    take_all(&s);
    assert_int_equal(filtered(&s) + taken.others + 1, 10000);
    close_segment(&s);
}

static void no_more_sessions_are_allowed_than_was_agreed(void **state)
{
    (void)state;
    struct segment s = open_filtered();
    for (uint32_t i = 1; i <= SESSIONS_MAX; i++)
        assert_int_equal(or_port_allow(s.port[RIGHT], i), 0);
    assert_int_equal(or_port_allow(s.port[RIGHT], SESSIONS_MAX + 1), -E2BIG);
    or_port_disallow(s.port[RIGHT], 1);
    assert_int_equal(or_port_allow(s.port[RIGHT], SESSIONS_MAX + 1), 0);
    close_segment(&s);
}

/* As the workers of an I/O hypervisor have it. */
static void ports_of_one_interface_share_the_frames_by_channel(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    struct or_port *ports[2] = {s.port[RIGHT], open_port(&s, RIGHT, ETHERTYPE, 1500)};
    char why[512];
    for (uint8_t i = 0; i < 2; i++) {
        struct or_port_door door = {ALL_TYPES, SESSIONS_MAX, i};
        assert_int_equal(or_port_set_filter(ports[i], &door, why, sizeof why), 0);
        assert_int_equal(or_port_allow(ports[i], 7), 0);
    }
    for (channel = 0; channel < 3; channel++) {
        for (uint32_t i = 0; i < 10u * (channel + 1); i++)
            send_data(&s, 1, 7);
        send_data(&s, 2, 8); /* a sample for its own port, and counted there alone */
        send_data(&s, 2, 8);
        send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
    }
    channel = 0;
    for (uint32_t i = 0; i < 2; i++) {
        s.port[RIGHT] = ports[i];
        struct taken taken = take_all(&s);
        assert_int_equal(taken.data, 10 * (i + 1) + 1);
        assert_int_equal(taken.others, 1);
        assert_int_equal(filtered(&s), 1);
    }
    or_port_close(ports[0]);
    close_segment(&s);
}

static bool drop_capabilities_but_net_raw(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = 1u << CAP_NET_RAW, .permitted = 1u << CAP_NET_RAW}};
    return syscall(SYS_capset, &header, data) == 0;
}

static void without_bpf_types_and_channels_are_still_kept_apart(void **state)
{
    (void)state;
    if (is_xdp())
        skip(); /* nor is there AF_XDP then */
    struct segment s = open_segment(1500);
    pid_t child = fork();
    if (child == 0) {
        char why[512];
        if (!drop_capabilities_but_net_raw() ||
            or_port_set_filter(s.port[RIGHT], &(struct or_port_door){ALL_TYPES, SESSIONS_MAX, 0}, why, sizeof why) ||
            s.port[RIGHT]->filter != OR_FILTER_CLASSIC || or_port_allow(s.port[RIGHT], 1))
            _exit(1);
        send_data(&s, 1, 1);
        send_data(&s, 1, 2); /* of a session that nobody allowed */
        channel = 1;         /* another port's */
        send_data(&s, 1, 1);
        send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
        channel = 0;
        send_frame(&s, 1, OR_WIRE_VERSION + 1, OR_FRAME_DATA, 1);
        send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_HELLO, 0);
        send_frame(&s, 1, OR_WIRE_VERSION, OR_FRAME_MAX, 0);
        struct pollfd p = {.fd = s.port[RIGHT]->handshake_fd, .events = POLLIN};
        struct taken taken = {0};
        if (poll(&p, 1, WAIT_MS_MAX) != 1) /* it was sent last but one */
            _exit(3);
        or_port_rx_burst(s.port[RIGHT], 64, take_frame, &taken);
        _exit(taken.data == 2 && taken.others == 1 ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close_segment(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_of_a_session_gets_in_while_it_is_allowed),
        cmocka_unit_test(of_data_without_a_session_only_a_sample_gets_in),
        cmocka_unit_test(frames_of_no_type_of_ours_get_nowhere),
        cmocka_unit_test(frames_for_others_neither_get_in_nor_count),
        cmocka_unit_test(frames_of_types_that_are_not_wanted_get_nowhere),
        cmocka_unit_test(handshakes_get_in_beside_data),
        cmocka_unit_test(a_flood_of_handshakes_pushes_no_data_out),
        cmocka_unit_test(no_more_sessions_are_allowed_than_was_agreed),
        cmocka_unit_test(ports_of_one_interface_share_the_frames_by_channel),
        cmocka_unit_test(without_bpf_types_and_channels_are_still_kept_apart),
    };
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    int failed = cmocka_run_group_tests_name("AF_PACKET", tests, NULL, NULL);
    opener = or_port_xdp_open;
    return failed + cmocka_run_group_tests_name("AF_XDP", tests, NULL, NULL);
}
