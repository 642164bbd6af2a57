/* A bad cable: passes frames between two network interfaces and loses, doubles, reorders, damages and
 * delays some of them, as it is told.
 *
 *   impair --seed N --control SOCKET INTERFACE-A INTERFACE-B
 *
 * What it does to a frame is decided by a generator per direction that starts from the seed: the same
 * frames meet the same fate. Whoever connects to the control socket writes lines; the first word is the
 * direction, `ab`, `ba` or `both`, the rest are settings, which stay until they are changed:
 *
 *   loss=P duplicate=P reorder=P corrupt=P   probabilities, 0 to 1
 *   reorder_frames=N reorder_ms=N            a frame is held back until so many have overtaken it, or so long
 *   delay_us=N                               of every frame
 *   mtu=N                                    larger frames vanish, as in a switch; 0: none do
 *
 * Each line is answered with one of JSON: the counters of both directions. The line `counters` changes
 * nothing. A frame passes the stages in this order: mtu, loss, corruption, doubling, holding back, delay.
 * Every queue is bounded; what finds one full is lost and counted as `overflow`. It sleeps when nothing
 * is to be done, and ends on SIGTERM with the counters on its standard output. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FRAME_BYTES (65536u + ETH_HLEN)
#define DELAYED_MAX 1024u /* frames */
#define HELD_MAX 64u      /* frames */
#define BURST 64u         /* frames of one direction before it is the other's turn */
#define SOCKET_BYTES (32 << 20)
#define HEAD_BYTES 112u /* where the lengths, offsets and numbers of our frames are */

struct frame {
    uint64_t due_ns;    /* in the delay line; or until when it is held back */
    uint64_t due_frame; /* held back until this frame has passed */
    uint32_t length;
    uint8_t *bytes; /* FRAME_BYTES */
};

struct settings {
    double loss, duplicate, reorder, corrupt;
    uint64_t reorder_frames, reorder_ms, delay_us, mtu;
};

struct counters {
    uint64_t frames, bytes, passed, lost, duplicated, reordered, corrupted, delayed, oversized, overflow;
};

struct direction {
    const char *name;
    int from_fd, to_fd;
    struct settings set;
    struct counters count;
    uint64_t random; /* state of the generator */
    uint8_t *incoming;
    struct frame held[HELD_MAX];
    uint32_t held_count;
    struct frame delayed[DELAYED_MAX]; /* a ring: [head, tail), free-running */
    uint32_t delayed_head, delayed_tail;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "impair: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- chance (splitmix64) ---- */

static uint64_t draw(struct direction *d)
{
    uint64_t z = d->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool chance(struct direction *d, double probability)
{
    return (double)(draw(d) >> 11) * 0x1p-53 < probability;
}

/* Flips one to three bits after the Ethernet header, every other time in our headers, or cuts the frame. */
static void damage(struct direction *d, uint8_t *bytes, uint32_t *length)
{
    uint32_t payload = *length - ETH_HLEN;
    if (payload == 0)
        return;
    if (draw(d) % 8 == 0) {
        *length = ETH_HLEN + (uint32_t)(draw(d) % payload);
        return;
    }
    uint32_t range = draw(d) % 2 && payload > HEAD_BYTES ? HEAD_BYTES : payload;
    for (uint64_t flips = 1 + draw(d) % 3; flips > 0; flips--)
        bytes[ETH_HLEN + draw(d) % range] ^= (uint8_t)(1u << draw(d) % 8);
}

/* ---- the stages, last first ---- */

static void put_out(struct direction *d, const uint8_t *bytes, uint32_t length)
{
    if (send(d->to_fd, bytes, length, MSG_DONTWAIT) >= 0)
        d->count.passed++;
    else
        d->count.overflow++; /* or the cable behind us is down */
}

static void delay(struct direction *d, const uint8_t *bytes, uint32_t length, uint64_t now)
{
    if (d->set.delay_us == 0 && d->delayed_head == d->delayed_tail) {
        put_out(d, bytes, length);
        return;
    }
    if (d->delayed_tail - d->delayed_head == DELAYED_MAX) {
        d->count.overflow++;
        return;
    }
    struct frame *f = &d->delayed[d->delayed_tail++ % DELAYED_MAX];
    memcpy(f->bytes, bytes, length);
    f->length = length;
    f->due_ns = now + d->set.delay_us * 1000;
    d->count.delayed++;
}

static void hold_back(struct direction *d, const uint8_t *bytes, uint32_t length, uint64_t now)
{
    if (d->held_count == HELD_MAX || !chance(d, d->set.reorder)) {
        delay(d, bytes, length, now);
        return;
    }
    struct frame *f = &d->held[d->held_count++];
    memcpy(f->bytes, bytes, length);
    f->length = length;
    f->due_frame = d->count.frames + 1 + draw(d) % (d->set.reorder_frames + 1);
    f->due_ns = now + d->set.reorder_ms * 1000000;
    d->count.reordered++;
}

static void take(struct direction *d, uint8_t *bytes, uint32_t length, uint64_t now)
{
    d->count.frames++;
    d->count.bytes += length;
    if (d->set.mtu && length > ETH_HLEN + d->set.mtu) {
        d->count.oversized++;
        return;
    }
    if (chance(d, d->set.loss)) {
        d->count.lost++;
        return;
    }
    /* Of a doubled frame only one copy is damaged: the other must be taken. */
    if (chance(d, d->set.duplicate)) {
        d->count.duplicated++;
        hold_back(d, bytes, length, now);
    }
    if (chance(d, d->set.corrupt)) {
        d->count.corrupted++;
        damage(d, bytes, &length);
    }
    hold_back(d, bytes, length, now);
}

/* Lets go what has been held for long enough. */
static void release(struct direction *d, uint64_t now)
{
    for (uint32_t i = 0; i < d->held_count;) {
        struct frame *f = &d->held[i];
        if (now < f->due_ns && d->count.frames < f->due_frame) {
            i++;
            continue;
        }
        delay(d, f->bytes, f->length, now);
        struct frame last = d->held[--d->held_count]; /* takes its place; the buffers are swapped */
        d->held[d->held_count] = *f;
        *f = last;
    }
    while (d->delayed_head != d->delayed_tail && d->delayed[d->delayed_head % DELAYED_MAX].due_ns <= now) {
        struct frame *f = &d->delayed[d->delayed_head++ % DELAYED_MAX];
        put_out(d, f->bytes, f->length);
    }
}

static uint64_t deadline(const struct direction *d)
{
    uint64_t at = UINT64_MAX;
    for (uint32_t i = 0; i < d->held_count; i++)
        if (d->held[i].due_ns < at)
            at = d->held[i].due_ns;
    if (d->delayed_head != d->delayed_tail && d->delayed[d->delayed_head % DELAYED_MAX].due_ns < at)
        at = d->delayed[d->delayed_head % DELAYED_MAX].due_ns;
    return at;
}

static void serve(struct direction *d)
{
    for (uint32_t i = 0; i < BURST; i++) {
        ssize_t length = recv(d->from_fd, d->incoming, FRAME_BYTES, MSG_DONTWAIT);
        if (length < 0)
            break; /* nothing there, or the cable is down, which the next one tells, too */
        uint64_t now = now_ns();
        if (length >= ETH_HLEN)
            take(d, d->incoming, (uint32_t)length, now);
        release(d, now);
    }
    release(d, now_ns());
}

/* ---- control ---- */

static void print_counters(const struct direction *d, uint32_t count, FILE *out)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct counters *c = &d[i].count;
        fprintf(out,
                "%s\"%s\":{\"frames\":%lu,\"bytes\":%lu,\"passed\":%lu,\"lost\":%lu,\"duplicated\":%lu,"
                "\"reordered\":%lu,\"corrupted\":%lu,\"delayed\":%lu,\"oversized\":%lu,\"overflow\":%lu}",
                i ? "," : "{", d[i].name, c->frames, c->bytes, c->passed, c->lost, c->duplicated, c->reordered,
                c->corrupted, c->delayed, c->oversized, c->overflow);
    }
    fputs("}\n", out);
    fflush(out);
}

/* `name=value`; false when it is none of ours. */
static bool change(struct settings *s, const char *word)
{
    const struct {
        const char *name;
        double *probability;
        uint64_t *number;
    } known[] = {
        {"loss", &s->loss, NULL},
        {"duplicate", &s->duplicate, NULL},
        {"reorder", &s->reorder, NULL},
        {"corrupt", &s->corrupt, NULL},
        {"reorder_frames", NULL, &s->reorder_frames},
        {"reorder_ms", NULL, &s->reorder_ms},
        {"delay_us", NULL, &s->delay_us},
        {"mtu", NULL, &s->mtu},
    };
    const char *value = strchr(word, '=');
    for (size_t i = 0; value && i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) != (size_t)(value - word) || strncmp(known[i].name, word, (size_t)(value - word)))
            continue;
        if (known[i].probability)
            *known[i].probability = strtod(value + 1, NULL);
        else
            *known[i].number = strtoull(value + 1, NULL, 10);
        return true;
    }
    return false;
}

static void obey(struct direction d[2], char *line, FILE *answer)
{
    char *rest = NULL;
    const char *which = strtok_r(line, " \n", &rest);
    for (char *word = strtok_r(NULL, " \n", &rest); which && word; word = strtok_r(NULL, " \n", &rest))
        for (uint32_t i = 0; i < 2; i++)
            if ((!strcmp(which, "both") || !strcmp(which, d[i].name)) && !change(&d[i].set, word)) {
                fprintf(answer, "{\"error\":\"unknown setting %s\"}\n", word);
                fflush(answer);
                return;
            }
    print_counters(d, 2, answer);
}

/* Who controls us: one client at a time. Its two streams are NULL between two. */
struct client {
    FILE *in, *out;
};

static void admit(struct client *c, int control_fd)
{
    int fd = accept4(control_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    c->in = fdopen(fd, "r");
    c->out = fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 0), "w");
    if (!c->in || !c->out)
        die("fdopen");
    setvbuf(c->in, NULL, _IONBF, 0); /* nothing is read ahead that ppoll would not tell of */
}

static void hear(struct client *c, struct direction d[2])
{
    char line[512];
    if (fgets(line, sizeof line, c->in)) {
        obey(d, line, c->out);
        return;
    }
    fclose(c->in);
    fclose(c->out);
    *c = (struct client){0};
}

/* ---- set-up ---- */

static int open_interface(const char *name)
{
    /* Deaf until it is bound, so that no frame of another interface comes in between. */
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    int on = 1, bytes = SOCKET_BYTES;
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    address.sll_ifindex = (int)if_nametoindex(name);
    struct packet_mreq all = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (fd < 0 || address.sll_ifindex == 0 || setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) != 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die(name);
    return fd;
}

static uint8_t *frame_buffer(void)
{
    uint8_t *bytes = malloc(FRAME_BYTES);
    if (!bytes)
        die("malloc");
    return bytes;
}

static struct direction *open_directions(const char *a, const char *b, uint64_t seed)
{
    struct direction *d = calloc(2, sizeof *d);
    if (!d)
        die("calloc");
    int fds[2] = {open_interface(a), open_interface(b)};
    for (uint32_t i = 0; i < 2; i++) {
        d[i].name = i == 0 ? "ab" : "ba";
        d[i].from_fd = fds[i];
        d[i].to_fd = fds[1 - i];
        d[i].random = seed * 2 + i;
        d[i].set = (struct settings){.reorder_frames = 8, .reorder_ms = 2};
        d[i].incoming = frame_buffer();
        for (uint32_t k = 0; k < HELD_MAX; k++)
            d[i].held[k].bytes = frame_buffer();
        for (uint32_t k = 0; k < DELAYED_MAX; k++)
            d[i].delayed[k].bytes = frame_buffer();
    }
    return d;
}

static int open_control(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0)
        die(path);
    return fd;
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0)
        die("signalfd");
    return fd;
}

static void sleep_until(struct pollfd *fds, nfds_t count, uint64_t at)
{
    uint64_t now = now_ns(), left = at > now ? at - now : 0;
    struct timespec limit = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    if (ppoll(fds, count, at == UINT64_MAX ? NULL : &limit, NULL) < 0 && errno != EINTR)
        die("ppoll");
}

static void relay(struct direction d[2], int control_fd, int signal_fd)
{
    struct client client = {0};
    for (;;) {
        uint64_t at = deadline(&d[0]) < deadline(&d[1]) ? deadline(&d[0]) : deadline(&d[1]);
        struct pollfd fds[] = {
            {.fd = d[0].from_fd, .events = POLLIN},
            {.fd = d[1].from_fd, .events = POLLIN},
            {.fd = signal_fd, .events = POLLIN},
            {.fd = client.in ? fileno(client.in) : control_fd, .events = POLLIN},
        };
        sleep_until(fds, sizeof fds / sizeof *fds, at);
        serve(&d[0]);
        serve(&d[1]);
        if (fds[2].revents)
            return;
        if (fds[3].revents && client.in)
            hear(&client, d);
        else if (fds[3].revents)
            admit(&client, control_fd);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'}, {"control", required_argument, NULL, 'c'}, {0}};
    const char *control = NULL;
    uint64_t seed = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (c == 'c')
            control = optarg;
        else
            return 2;
    }
    if (argc - optind != 2 || !control) {
        fputs("usage: impair --seed N --control SOCKET INTERFACE-A INTERFACE-B\n", stderr);
        return 2;
    }
    int signal_fd = open_signals();
    struct direction *d = open_directions(argv[optind], argv[optind + 1], seed);
    relay(d, open_control(control), signal_fd);
    print_counters(d, 2, stdout);
    return 0;
}
