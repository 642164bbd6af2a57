/* Listens on a network interface, as anybody on the segment can, and looks for texts in what it hears.
 *
 *   wiretap INTERFACE TEXT...
 *
 * Writes `ready` when it listens. Ends on SIGTERM with one line of JSON: how many frames it heard, how many
 * of them the kernel dropped because it was too slow, and for each text how many frames held it. Frames that
 * this machine sends past its queues (PACKET_QDISC_BYPASS, as ours do) are heard at the other end only. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_BYTES (65536u + ETH_HLEN)
#define SOCKET_BYTES (32 << 20)
#define TEXTS_MAX 8

static void die(const char *what)
{
    fprintf(stderr, "wiretap: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_tap(const char *interface)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), bytes = SOCKET_BYTES;
    if (fd < 0)
        die("socket");
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface)};
    if (!address.sll_ifindex || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die(interface);
    return fd;
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0)
        die("signalfd");
    return fd;
}

static void report(int tap, uint64_t frames, const uint64_t *found, int texts)
{
    struct tpacket_stats stats = {0};
    socklen_t size = sizeof stats;
    getsockopt(tap, SOL_PACKET, PACKET_STATISTICS, &stats, &size);
    printf("{\"frames\":%lu,\"dropped\":%u,\"found\":[", (unsigned long)frames, stats.tp_drops);
    for (int i = 0; i < texts; i++)
        printf("%s%lu", i ? "," : "", (unsigned long)found[i]);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    static uint8_t frame[FRAME_BYTES];
    uint64_t frames = 0, found[TEXTS_MAX] = {0};
    int texts = argc - 2;
    if (texts < 1 || texts > TEXTS_MAX) {
        fprintf(stderr, "usage: wiretap INTERFACE TEXT...\n");
        return 2;
    }
    struct pollfd fds[] = {{.fd = open_tap(argv[1]), .events = POLLIN}, {.fd = open_signals(), .events = POLLIN}};
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            die("poll");
        ssize_t length;
        while ((length = recv(fds[0].fd, frame, sizeof frame, 0)) > 0) {
            frames++;
            for (int i = 0; i < texts; i++)
                found[i] += memmem(frame, (size_t)length, argv[i + 2], strlen(argv[i + 2])) != NULL;
        }
        if (fds[1].revents)
            break;
    }
    report(fds[0].fd, frames, found, texts);
    return 0;
}
