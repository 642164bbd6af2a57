/* Two NICs joined by a patch cable: what the guest of one sends the guest of the other receives, through the
 * front-end of the product and nothing else.
 *
 *   nic_patch SOCKET SOCKET [--pairs N] [--mtu N]
 *
 * Prints a line for each change of a NIC's state, and at the end (SIGTERM) each NIC's counters. */
#include <getopt.h>
#include <linux/virtio_net.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "frontend/vhost_handover.h"
#include "frontend/vhost_net.h"
#include "loop/fd_source.h"
#include "net/packet.h"

struct end {
    const char *name;
    struct or_vhost_net *dev;
    struct end *peer;
};

static struct end ends[2];
static volatile sig_atomic_t stop;

static void on_signal(int signal)
{
    (void)signal;
    stop = 1;
}

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static enum or_packet_verdict cross(void *client, uint32_t device, uint32_t generation, const struct or_packet *packet,
                                    uint64_t now)
{
    static uint8_t bytes[OR_PACKET_MAX];
    const struct end *end = client;
    uint32_t length = 0;
    (void)device, (void)generation, (void)now;
    for (uint32_t i = 0; i < packet->count; i++) {
        memcpy(bytes + length, packet->iov[i].iov_base, packet->iov[i].iov_len);
        length += (uint32_t)packet->iov[i].iov_len;
    }
    or_vhost_net_receive(end->peer->dev, bytes, length);
    return OR_PACKET_SENT;
}

static void on_state(void *arg, enum or_vhost_state state, const char *reason, uint64_t features)
{
    static const char *const names[] = {"listening", "connected", "running", "broken"};
    const struct end *end = arg;
    printf("%s %s features=%#llx %s\n", end->name, names[state], (unsigned long long)features, reason);
    fflush(stdout);
}

static void serve(int epoll_fd)
{
    while (!stop) {
        bool idle = true;
        for (int i = 0; i < 2; i++)
            idle = or_vhost_net_poll(ends[i].dev, clock_ns()) == 0 && idle;
        for (int i = 0; i < 2; i++)
            or_vhost_net_flush(ends[i].dev);
        if (idle)
            for (int i = 0; i < 2; i++)
                idle = !or_vhost_net_arm(ends[i].dev) && idle;
        struct epoll_event event;
        if (epoll_wait(epoll_fd, &event, 1, idle ? 1000 : 0) == 1) {
            struct or_fd_source *source = event.data.ptr;
            source->ready(source, event.events);
        }
        for (int i = 0; i < 2; i++)
            or_vhost_net_disarm(ends[i].dev);
    }
}

static void print_stats(const struct end *end)
{
    struct or_vhost_net_stats s;
    or_vhost_net_stats(end->dev, &s);
    printf("%s tx_packets=%llu tx_bytes=%llu tx_bad_header=%llu tx_too_long=%llu rx_packets=%llu rx_bytes=%llu "
           "rx_no_buffers=%llu rx_not_running=%llu rx_too_long=%llu rx_unsuited=%llu kicks=%llu calls=%llu\n",
           end->name, (unsigned long long)s.tx_packets, (unsigned long long)s.tx_bytes,
           (unsigned long long)s.tx_bad_header, (unsigned long long)s.tx_too_long, (unsigned long long)s.rx_packets,
           (unsigned long long)s.rx_bytes, (unsigned long long)s.rx_no_buffers, (unsigned long long)s.rx_not_running,
           (unsigned long long)s.rx_too_long, (unsigned long long)s.rx_unsuited, (unsigned long long)s.kicks,
           (unsigned long long)s.calls);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"pairs", required_argument, NULL, 'p'}, {"mtu", required_argument, NULL, 'm'}, {0}};
    struct or_vhost_net_config config = {.packet = cross, .pairs = 1, .mtu = 1500, .generation = 1, .state = on_state};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint32_t value = optarg ? (uint32_t)atoi(optarg) : 0;
        if (option == 'p')
            config.pairs = value;
        else if (option == 'm')
            config.mtu = value;
    }
    if (argc - optind != 2) {
        fprintf(stderr, "usage: nic_patch SOCKET SOCKET [--pairs N] [--mtu N]\n");
        return 2;
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    config.epoll_fd = epoll_fd;
    for (int i = 0; i < 2; i++) {
        int err;
        ends[i] = (struct end){.name = argv[optind + i], .peer = &ends[1 - i]};
        config.client = config.arg = &ends[i];
        config.device = (uint32_t)i + 1;
        config.listen_fd = or_vhost_listen(ends[i].name, 0600);
        ends[i].dev = config.listen_fd < 0 ? NULL : or_vhost_net_create(&config, &err);
        if (ends[i].dev == NULL) {
            fprintf(stderr, "cannot serve a NIC at %s\n", ends[i].name);
            return 1;
        }
    }
    serve(epoll_fd);
    for (int i = 0; i < 2; i++) {
        print_stats(&ends[i]);
        or_vhost_net_destroy(ends[i].dev);
    }
    return 0;
}
