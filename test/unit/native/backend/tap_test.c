/* Taps and macvtaps, real ones, in a network namespace of this process. Needs root, and skips without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <net/if.h>
#include <poll.h>

#include "../net/frames.h"
#include "../net/netlab.h"
#include "backend/net/uplink.h"
#include "outrigger.h"

static int lab = -1;

static int begin(void **state)
{
    (void)state;
    lab = netlab_new();
    return 0;
}

static void need_lab(void)
{
    if (lab < 0)
        skip();
}

static struct or_uplink *plug(int fd)
{
    int err;
    assert_true(fd >= 0);
    struct or_uplink *u = or_uplink_tap(fd, &err);
    assert_non_null(u);
    return u;
}

static void transmit(struct or_uplink *u, const uint8_t *to, const uint8_t *from, const char *text,
                     enum or_uplink_sent expected)
{
    uint8_t packet[OR_VNET_HEADER + 100] = {0};
    struct or_offload o;
    memcpy(packet + OR_VNET_HEADER, to, 6);
    memcpy(packet + OR_VNET_HEADER + 6, from, 6);
    or_put_be16(packet + OR_VNET_HEADER + 12, 0x88b6);
    strcpy((char *)packet + OR_VNET_HEADER + 14, text);
    assert_true(or_offload_check(packet, sizeof packet, &o));
    assert_int_equal(u->ops->send(u, &o, 0), expected);
}

/* Waits for the next packet that a test has sent; others (of the kernel itself) are passed over. */
static void expect(struct or_uplink *u, const char *text)
{
    struct pollfd p = {u->fd, POLLIN, 0};
    uint8_t *packet;
    for (;;) {
        uint32_t length = u->ops->next(u, &packet);
        if (length == 0) {
            assert_int_equal(poll(&p, 1, 20000), 1);
            continue;
        }
        bool ours = or_be16(packet + OR_VNET_HEADER + 12) == 0x88b6;
        if (ours) {
            assert_string_equal((char *)packet + OR_VNET_HEADER + 14, text);
            assert_int_equal(u->ops->next(u, &packet), length); /* it stays until taken */
        }
        u->ops->taken(u);
        if (ours)
            return;
    }
}

static void taps_on_a_bridge_reach_each_other(void **state)
{
    (void)state;
    need_lab();
    char why[OR_WHY_MAX];
    run("ip link add br0 type bridge");
    struct or_uplink *a = plug(or_tap_open("tapa", false, 0, why)), *b = plug(or_tap_open("tapb", false, 0, why));
    run("ip link set tapa master br0 up && ip link set tapb master br0 up && ip link set br0 up");
    transmit(a, MAC_ALL, MAC_A, "hello", OR_UPLINK_SENT);
    expect(b, "hello");
    transmit(b, MAC_A, MAC_B, "answer", OR_UPLINK_SENT);
    expect(a, "answer");
    run("ip link set tapa down");
    transmit(a, MAC_ALL, MAC_A, "nobody", OR_UPLINK_DOWN);
    assert_false(a->ops->gone(a));
    run("ip link del tapa");
    transmit(a, MAC_ALL, MAC_A, "nobody", OR_UPLINK_DOWN);
    assert_true(a->ops->gone(a));
    a->ops->close(a);
    b->ops->close(b);
    assert_true(if_nametoindex("tapb") != 0); /* it persists */
    run("ip link del tapb && ip link del br0");
}

static void a_tap_that_exists_is_attached_to_whatever_its_queues(void **state)
{
    (void)state;
    need_lab();
    char why[OR_WHY_MAX];
    run("ip tuntap add tap1 mode tap && ip tuntap add tap2 mode tap multi_queue");
    for (int multi_queue = 0; multi_queue < 2; multi_queue++) {
        struct or_uplink *a = plug(or_tap_open("tap1", multi_queue, 0, why));
        struct or_uplink *b = plug(or_tap_open("tap2", multi_queue, 0, why));
        a->ops->close(a);
        b->ops->close(b);
    }
    run("ip link del tap1 && ip link del tap2");
}

static void what_cannot_be_opened_is_said(void **state)
{
    (void)state;
    need_lab();
    char why[OR_WHY_MAX];
    int fd = or_tap_open("tap1", false, 0, why);
    assert_true(fd >= 0);
    assert_int_equal(or_tap_open("tap1", false, 20, why), -EBUSY);
    assert_non_null(strstr(why, "another process has it"));
    close(fd);
    fd = or_tap_open("tap1", false, 20, why);
    assert_true(fd >= 0);
    close(fd);
    run("ip link del tap1 && ip link add dummy1 type bridge");
    assert_int_equal(or_tap_open("dummy1", false, 0, why), -EINVAL);
    assert_non_null(strstr(why, "is it a tap"));
    assert_int_equal(or_tap_open("sixteen-letters!", false, 0, why), -EINVAL);
    assert_int_equal(or_macvtap_open("nothing", 0, why), -ENODEV);
    assert_int_equal(or_macvtap_open("dummy1", 0, why), -ENOENT);
    assert_non_null(strstr(why, "is it a macvtap"));
    run("ip link del dummy1");
}

static void macvtaps_reach_what_is_behind_their_parent(void **state)
{
    (void)state;
    need_lab();
    char why[OR_WHY_MAX];
    run("ip link add left type veth peer name right");
    run("ip link add link left name mv0 address 52:54:00:00:00:0a type macvtap mode bridge");
    struct or_uplink *a = plug(or_macvtap_open("mv0", 0, why)), *b = plug(or_tap_open("tapb", false, 0, why));
    run("ip link add br0 type bridge && ip link set tapb master br0 up && ip link set right master br0 up");
    run("ip link set left up && ip link set mv0 up && ip link set br0 up");
    transmit(a, MAC_ALL, MAC_A, "hello", OR_UPLINK_SENT);
    expect(b, "hello");
    transmit(b, MAC_A, MAC_B, "answer", OR_UPLINK_SENT);
    expect(a, "answer");
    assert_false(a->ops->gone(a));
    run("ip link del mv0");
    assert_true(a->ops->gone(a));
    a->ops->close(a);
    b->ops->close(b);
    run("ip link del left && ip link del tapb && ip link del br0");
}

static void the_links_state_is_the_carrier(void **state)
{
    (void)state;
    need_lab();
    char why[OR_WHY_MAX];
    struct or_uplink *a = plug(or_tap_open("tap1", false, 0, why));
    run("ip link set tap1 up && ip link show tap1 | grep -q LOWER_UP");
    a->ops->link(a, false);
    run("ip link show tap1 | grep -q NO-CARRIER");
    a->ops->link(a, true);
    run("ip link show tap1 | grep -q LOWER_UP");
    a->ops->close(a);
    run("ip link del tap1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taps_on_a_bridge_reach_each_other),
        cmocka_unit_test(a_tap_that_exists_is_attached_to_whatever_its_queues),
        cmocka_unit_test(what_cannot_be_opened_is_said),
        cmocka_unit_test(macvtaps_reach_what_is_behind_their_parent),
        cmocka_unit_test(the_links_state_is_the_carrier),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
