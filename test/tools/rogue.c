/* Somebody on the segment who has no key: hears what passes and sends what they like.
 *
 *   rogue --interface IF --iohv MAC --host MAC --name HOST [--dead MAC] [--seconds N] [--rate N]
 *         [--kinds A,B] [--seed N]
 *
 * They send frames of these kinds, mixed evenly or as --kinds says, to both victims under each other's
 * address:
 *
 *   random    our EtherType, then noise of any length
 *   replay    a frame that was overheard, unchanged
 *   session   the header of an overheard data frame with a new counter, then noise
 *   mutate    an overheard handshake frame with some bytes changed
 *   flood     HELLO of the host, with noise for keys, from an address that is always another
 *   unknown   "I know no such session" about an overheard session
 *   answer    RETRY and WELCOME for an overheard handshake, with noise for keys
 *
 * With --dead the very same frames go to an address that nobody has, so the difference between two runs is
 * what the attack does to its victims, and not what it takes from the machine that all share. --rate:
 * frames per second, 0 for as many as go. At the end, or on SIGTERM, it prints its counters as one line of
 * JSON. It must hear the segment: put it on a hub, or a switch that mirrors. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire/wire.h"

#define FRAME_BYTES 9014u
#define NOISE_BYTES_MAX 1500u /* of frames that are made up */
#define BATCH 32u
#define HEARD_PER_BATCH 16u
#define DATA_KEPT 512u
#define HANDSHAKES_KEPT 64u

struct frame {
    uint8_t bytes[FRAME_BYTES];
    uint32_t length;
};

/* What was overheard: the first so many, then each takes the place of a random one. */
struct kept {
    struct frame *frames;
    uint32_t count, size;
};

struct rogue {
    int fd, ear_fd;
    uint8_t iohv[6], host[6], dead[6];
    bool is_dead;
    const char *name;
    uint32_t kinds; /* a bit for each */
    uint64_t random, heard, sent, failed, by_kind[8];
    struct kept data, handshakes;
    struct frame *out; /* BATCH of them; allocated, because it is written as bytes and as headers */
    struct iovec iov[BATCH];
    struct mmsghdr messages[BATCH];
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "rogue: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64* */
static uint64_t next_random(struct rogue *r)
{
    r->random ^= r->random >> 12;
    r->random ^= r->random << 25;
    r->random ^= r->random >> 27;
    return r->random * 2685821657736338717u;
}

static uint32_t below(struct rogue *r, uint32_t n)
{
    return (uint32_t)(next_random(r) >> 32) % n;
}

static void noise(struct rogue *r, void *out, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 8) {
        uint64_t word = next_random(r);
        memcpy((uint8_t *)out + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

static struct or_frame_header *header_of(struct frame *f)
{
    return (struct or_frame_header *)(f->bytes + OR_ETH_HEADER);
}

/* ---- hearing ---- */

static void keep(struct rogue *r, struct kept *kept, const uint8_t *bytes, uint32_t length)
{
    uint32_t at = kept->count < kept->size ? kept->count++ : below(r, kept->size);
    memcpy(kept->frames[at].bytes, bytes, length);
    kept->frames[at].length = length;
}

static void hear(struct rogue *r)
{
    static uint8_t bytes[FRAME_BYTES];
    for (uint32_t i = 0; i < HEARD_PER_BATCH; i++) {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(r->ear_fd, bytes, sizeof bytes, MSG_TRUNC | MSG_DONTWAIT, (struct sockaddr *)&from, &size);
        if (n < 0)
            return;
        if (n < (ssize_t)(OR_ETH_HEADER + sizeof(struct or_frame_header)) || n > (ssize_t)sizeof bytes)
            continue;
        r->heard++;
        const struct or_frame_header *h = (const void *)(bytes + OR_ETH_HEADER);
        keep(r, h->type == OR_FRAME_DATA ? &r->data : &r->handshakes, bytes, (uint32_t)n);
    }
}

/* ---- making frames: each returns false when it has not heard yet what it needs ---- */

/* Between the victims, in either direction. */
static void address(struct rogue *r, struct frame *f)
{
    bool up = below(r, 2) != 0;
    memcpy(f->bytes, up ? r->iohv : r->host, 6);
    memcpy(f->bytes + 6, up ? r->host : r->iohv, 6);
}

static bool borrow(struct rogue *r, const struct kept *kept, struct frame *f)
{
    if (kept->count == 0)
        return false;
    const struct frame *from = &kept->frames[below(r, kept->count)];
    memcpy(f->bytes, from->bytes, from->length);
    f->length = from->length;
    return true;
}

static bool make_random(struct rogue *r, struct frame *f)
{
    f->length = OR_ETH_HEADER + below(r, NOISE_BYTES_MAX);
    noise(r, f->bytes + OR_ETH_HEADER, f->length - OR_ETH_HEADER);
    address(r, f);
    return true;
}

static bool make_replay(struct rogue *r, struct frame *f)
{
    return borrow(r, below(r, 4) ? &r->data : &r->handshakes, f);
}

static bool make_session(struct rogue *r, struct frame *f)
{
    if (!borrow(r, &r->data, f))
        return false;
    struct or_frame_header *h = header_of(f);
    uint32_t body = below(r, NOISE_BYTES_MAX - sizeof *h) & ~7u;
    h->counter += 1 + below(r, 1000);
    h->length = (uint16_t)(sizeof *h + body);
    noise(r, h->digest, sizeof h->digest);
    noise(r, h + 1, body);
    f->length = OR_ETH_HEADER + h->length;
    return true;
}

static bool make_mutation(struct rogue *r, struct frame *f)
{
    if (!borrow(r, &r->handshakes, f))
        return false;
    for (uint32_t changes = 1 + below(r, 4); changes; changes--)
        f->bytes[OR_ETH_HEADER + below(r, f->length - OR_ETH_HEADER)] = (uint8_t)next_random(r);
    return true;
}

static void start_frame(struct frame *f, uint8_t type, uint32_t session, uint32_t body)
{
    struct or_frame_header *h = header_of(f);
    *h = (struct or_frame_header){
        .version = OR_WIRE_VERSION, .type = type, .session = session, .length = (uint16_t)(sizeof *h + body)};
    f->length = OR_ETH_HEADER + h->length;
}

static bool make_hello(struct rogue *r, struct frame *f)
{
    struct or_hello *hello = (void *)(header_of(f) + 1);
    start_frame(f, OR_FRAME_HELLO, 0, sizeof *hello);
    noise(r, header_of(f)->digest, OR_DIGEST_BYTES);
    noise(r, hello, sizeof *hello);
    memset(hello->reserved, 0, sizeof hello->reserved);
    memset(hello->name, 0, sizeof hello->name);
    strcpy(hello->name, r->name);
    hello->name_length = (uint8_t)strlen(r->name);
    memcpy(f->bytes, r->iohv, 6);
    noise(r, f->bytes + 6, 6);
    f->bytes[6] = (uint8_t)((f->bytes[6] & ~1u) | 2u); /* a station's, locally given */
    return true;
}

static bool make_unknown(struct rogue *r, struct frame *f)
{
    if (!borrow(r, &r->data, f))
        return false;
    uint8_t receiver[6];
    memcpy(receiver, f->bytes, 6); /* the session is the receiver's number: its sender is told of it */
    memcpy(f->bytes, f->bytes + 6, 6);
    memcpy(f->bytes + 6, receiver, 6);
    start_frame(f, OR_FRAME_UNKNOWN, header_of(f)->session, 0);
    return true;
}

/* For the host's last handshakes. */
static bool make_answer(struct rogue *r, struct frame *f)
{
    if (!borrow(r, &r->handshakes, f) || header_of(f)->type != OR_FRAME_HELLO)
        return false;
    uint32_t session = ((const struct or_hello *)(header_of(f) + 1))->session;
    bool retry = below(r, 2) != 0;
    uint32_t body = retry ? sizeof(struct or_retry) : sizeof(struct or_welcome);
    start_frame(f, retry ? OR_FRAME_RETRY : OR_FRAME_WELCOME, session, body);
    noise(r, header_of(f)->digest, OR_DIGEST_BYTES + body);
    memcpy(f->bytes, r->host, 6);
    memcpy(f->bytes + 6, r->iohv, 6);
    return true;
}

static const struct kind {
    const char *name;
    bool (*make)(struct rogue *r, struct frame *f);
} kinds[] = {
    {"random", make_random}, {"replay", make_replay},   {"session", make_session}, {"mutate", make_mutation},
    {"flood", make_hello},   {"unknown", make_unknown}, {"answer", make_answer},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void make_frame(struct rogue *r, struct frame *f)
{
    uint32_t kind;
    do
        kind = below(r, KINDS);
    while (!(r->kinds & 1u << kind));
    while (!kinds[kind].make(r, f))
        kind = 0; /* until something was overheard */
    r->by_kind[kind]++;
    f->bytes[12] = OR_ETHERTYPE_DEFAULT >> 8;
    f->bytes[13] = OR_ETHERTYPE_DEFAULT & 0xff;
    if (f->length < 60)
        f->length = 60;
    if (r->is_dead)
        memcpy(f->bytes, r->dead, 6);
}

/* ---- sending ---- */

static void send_batch(struct rogue *r)
{
    for (uint32_t i = 0; i < BATCH; i++) {
        make_frame(r, &r->out[i]);
        r->iov[i].iov_len = r->out[i].length;
    }
    for (uint32_t done = 0; done < BATCH;) {
        int n = sendmmsg(r->fd, r->messages + done, BATCH - done, 0);
        if (n > 0) {
            r->sent += (uint32_t)n;
            done += (uint32_t)n;
        } else { /* a queue is full: that frame is lost */
            r->failed++;
            done++;
        }
    }
}

static void attack(struct rogue *r, uint64_t rate, double seconds)
{
    uint64_t start = now_ns(), end = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX;
    uint64_t batches = 0;
    for (uint64_t now = start; now < end && !stopped; now = now_ns()) {
        uint64_t due = rate ? start + batches * BATCH * 1000000000u / rate : now;
        if (now < due) {
            struct timespec pause = {0, (long)(due - now < 1000000 ? due - now : 1000000)};
            nanosleep(&pause, NULL);
            continue;
        }
        hear(r);
        send_batch(r);
        batches++;
    }
}

static void report(const struct rogue *r, uint64_t elapsed_ns)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu =
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"sent\":%llu,\"failed\":%llu,\"heard\":%llu,\"kinds\":{",
           (double)elapsed_ns / 1e9, cpu, (unsigned long long)r->sent, (unsigned long long)r->failed,
           (unsigned long long)r->heard);
    for (uint32_t i = 0; i < KINDS; i++)
        printf("%s\"%s\":%llu", i ? "," : "", kinds[i].name, (unsigned long long)r->by_kind[i]);
    printf("}}\n");
}

/* ---- set-up ---- */

static int open_socket(const char *interface, uint16_t protocol)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = (int)if_nametoindex(interface)};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die(interface);
    return fd;
}

static void open_sockets(struct rogue *r, const char *interface)
{
    int on = 1, bytes = 1 << 20;
    struct packet_mreq all = {.mr_ifindex = (int)if_nametoindex(interface), .mr_type = PACKET_MR_PROMISC};

    r->fd = open_socket(interface, 0);
    r->ear_fd = open_socket(interface, OR_ETHERTYPE_DEFAULT);
    if (setsockopt(r->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) != 0 ||
        setsockopt(r->ear_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) != 0 ||
        setsockopt(r->ear_fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0 ||
        setsockopt(r->ear_fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) != 0)
        die("setsockopt");
    for (uint32_t i = 0; i < BATCH; i++) {
        r->iov[i].iov_base = r->out[i].bytes;
        r->messages[i].msg_hdr = (struct msghdr){.msg_iov = &r->iov[i], .msg_iovlen = 1};
    }
}

static void usage(const char *what)
{
    fprintf(stderr,
            "rogue: %s\nusage: rogue --interface IF --iohv MAC --host MAC --name HOST [--dead MAC] [--seconds N] "
            "[--rate N] [--kinds A,B] [--seed N]\n",
            what);
    exit(2);
}

static void parse_mac(const char *text, uint8_t mac[6])
{
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) != 6)
        usage("a MAC address is six bytes in hexadecimal with colons");
}

static uint32_t parse_kinds(char *text)
{
    uint32_t chosen = 0;
    for (char *name = strtok(text, ","); name; name = strtok(NULL, ",")) {
        uint32_t i = 0;
        while (i < KINDS && strcmp(kinds[i].name, name) != 0)
            i++;
        if (i == KINDS)
            usage("there is no such kind");
        chosen |= 1u << i;
    }
    return chosen;
}

static struct kept new_kept(uint32_t size)
{
    struct kept kept = {.frames = calloc(size, sizeof *kept.frames), .size = size};
    if (!kept.frames)
        die("memory");
    return kept;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"interface", 1, NULL, 'i'}, {"iohv", 1, NULL, 'v'},    {"host", 1, NULL, 'h'}, {"name", 1, NULL, 'n'},
        {"dead", 1, NULL, 'd'},      {"seconds", 1, NULL, 's'}, {"rate", 1, NULL, 'r'}, {"kinds", 1, NULL, 'k'},
        {"seed", 1, NULL, 'e'},      {NULL, 0, NULL, 0},
    };
    static struct rogue r = {.kinds = (1u << KINDS) - 1, .random = 1};
    const char *interface = NULL;
    uint64_t rate = 0;
    double seconds = 0;
    int macs = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'i':
            interface = optarg;
            break;
        case 'v':
            parse_mac(optarg, r.iohv);
            macs++;
            break;
        case 'h':
            parse_mac(optarg, r.host);
            macs++;
            break;
        case 'n':
            r.name = optarg;
            break;
        case 'd':
            parse_mac(optarg, r.dead);
            r.is_dead = true;
            break;
        case 's':
            seconds = atof(optarg);
            break;
        case 'r':
            rate = strtoull(optarg, NULL, 10);
            break;
        case 'k':
            r.kinds = parse_kinds(optarg);
            break;
        case 'e':
            r.random = strtoull(optarg, NULL, 10) * 2 + 1;
            break;
        default:
            usage("what is that?");
        }
    }
    if (!interface || !r.name || macs != 2 || strlen(r.name) > OR_NAME_MAX || !r.kinds)
        usage("something is missing");
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    r.out = new_kept(BATCH).frames;
    r.data = new_kept(DATA_KEPT);
    r.handshakes = new_kept(HANDSHAKES_KEPT);
    open_sockets(&r, interface);
    fprintf(stderr, "ready\n");
    uint64_t start = now_ns();
    attack(&r, rate, seconds);
    report(&r, now_ns() - start);
    return 0;
}
