/* What the tests of the output interceptor run in a guest: numbers that go to a disk, and to the outside.
 *
 *   ledger serve DISK PORT            each UDP datagram asks to write its number; the reply is sent after the write
 *   ledger ranges DISK                the numbers that the disk holds, as ranges
 *   ledger storm DISK [ADDRESS PORT]  writes without a pause; each write is told to ADDRESS after it ended
 *   ledger replay DISK                checks that the disk holds what a storm had written up to one of its writes
 *
 * All writes are direct and one after the other, so what a disk holds at any instant is what the writes up to one of
 * them have left. A storm's n-th write goes to a block that n decides, so replay knows the whole disk from n alone. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x7265676465724c6fu
#define RECORD 512u
#define BLOCK 4096u

struct record {
    uint64_t magic, number, block, check;
};

static void die(const char *what)
{
    printf("ledger: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void *buffer(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        die("no memory");
    }
    return memory;
}

static int open_disk(const char *path, int flags, uint64_t *bytes)
{
    int fd = open(path, flags | O_DIRECT);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < (off_t)BLOCK) {
        die(path);
    }
    *bytes = (uint64_t)end;
    return fd;
}

/* A record of its own in each sector, so that one that was torn shows. */
static void stamp(void *memory, size_t bytes, uint64_t number, uint64_t block)
{
    for (size_t at = 0; at < bytes; at += RECORD) {
        struct record *record = (struct record *)((char *)memory + at);
        *record = (struct record){MAGIC, number, block, mix(number ^ mix(block + at))};
    }
}

static bool is_stamped(const void *memory, size_t bytes, uint64_t number, uint64_t block)
{
    for (size_t at = 0; at < bytes; at += RECORD) {
        const struct record *record = (const struct record *)((const char *)memory + at);
        if (record->magic != MAGIC || record->number != number || record->block != block ||
            record->check != mix(number ^ mix(block + at))) {
            return false;
        }
    }
    return true;
}

static int udp(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0) {
        die("socket");
    }
    return fd;
}

static _Noreturn void serve(const char *disk, int port)
{
    uint64_t bytes;
    int fd = open_disk(disk, O_WRONLY, &bytes), net = udp();
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)}, peer;
    if (bind(net, (struct sockaddr *)&own, sizeof(own)) != 0) {
        die("bind");
    }
    void *memory = buffer(BLOCK);
    printf("serving\n");
    for (;;) {
        uint64_t number;
        socklen_t length = sizeof(peer);
        if (recvfrom(net, &number, sizeof(number), 0, (struct sockaddr *)&peer, &length) != sizeof(number)) {
            continue;
        }
        stamp(memory, RECORD, number, 0);
        off_t at = (off_t)(number % (bytes / RECORD) * RECORD);
        if (pwrite(fd, memory, RECORD, at) != RECORD) {
            printf("write %" PRIu64 ": %s\n", number, strerror(errno));
            continue;
        }
        sendto(net, &number, sizeof(number), 0, (struct sockaddr *)&peer, length);
    }
}

static int ranges(const char *disk)
{
    uint64_t bytes, first = 0, end = 0;
    int fd = open_disk(disk, O_RDONLY, &bytes);
    char *memory = buffer(1 << 20);
    ssize_t got;
    for (uint64_t at = 0; (got = pread(fd, memory, 1 << 20, (off_t)at)) > 0; at += (uint64_t)got) {
        for (ssize_t i = 0; i < got; i += RECORD) {
            uint64_t number = (at + (uint64_t)i) / RECORD;
            if (!is_stamped(memory + i, RECORD, number, 0)) {
                continue;
            }
            if (number != end) {
                if (end > first) {
                    printf("%" PRIu64 "-%" PRIu64 "\n", first, end - 1);
                }
                first = number;
            }
            end = number + 1;
        }
    }
    if (got < 0) {
        die("read");
    }
    if (end > first) {
        printf("%" PRIu64 "-%" PRIu64 "\n", first, end - 1);
    }
    return 0;
}

/* The first write is 1. After an error it goes on, and tells of numbers that were not written. */
static _Noreturn void storm(const char *disk, const char *address, int port)
{
    uint64_t bytes;
    int fd = open_disk(disk, O_WRONLY, &bytes), net = udp();
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (address != NULL && inet_pton(AF_INET, address, &peer.sin_addr) != 1) {
        die(address);
    }
    void *memory = buffer(BLOCK);
    for (uint64_t number = 1;; number++) {
        uint64_t block = mix(number) % (bytes / BLOCK);
        stamp(memory, BLOCK, number, block);
        if (pwrite(fd, memory, BLOCK, (off_t)(block * BLOCK)) != (ssize_t)BLOCK) {
            printf("write %" PRIu64 ": %s\n", number, strerror(errno));
            usleep(1000);
        }
        if (address != NULL) {
            sendto(net, &number, sizeof(number), MSG_DONTWAIT, (struct sockaddr *)&peer, sizeof(peer));
        }
    }
}

/* Blocks that no write has reached are zero. */
static int replay(const char *disk)
{
    uint64_t bytes, last = 0, wrong = 0;
    int fd = open_disk(disk, O_RDONLY, &bytes);
    uint64_t blocks = bytes / BLOCK;
    char *content = buffer(blocks * BLOCK);
    for (uint64_t at = 0; at < blocks * BLOCK;) {
        ssize_t got = pread(fd, content + at, blocks * BLOCK - at < 1 << 20 ? blocks * BLOCK - at : 1 << 20, (off_t)at);
        if (got <= 0) {
            die("read");
        }
        at += (uint64_t)got;
    }
    for (uint64_t block = 0; block < blocks; block++) {
        const struct record *record = (const struct record *)(content + block * BLOCK);
        if (record->magic == MAGIC && record->number > last) {
            last = record->number;
        }
    }
    if (last > (uint64_t)1 << 32) {
        printf("not of a storm\n");
        return 1;
    }
    uint64_t *newest = buffer(blocks * sizeof(*newest));
    for (uint64_t number = 1; number <= last; number++) {
        newest[mix(number) % blocks] = number;
    }
    static const char zero[BLOCK];
    for (uint64_t block = 0; block < blocks; block++) {
        const char *is = content + block * BLOCK;
        bool right = newest[block] == 0 ? memcmp(is, zero, BLOCK) == 0 : is_stamped(is, BLOCK, newest[block], block);
        if (!right && wrong++ < 5) {
            printf("block %" PRIu64 " holds %" PRIu64 ", not %" PRIu64 "\n", block, ((const struct record *)is)->number,
                   newest[block]);
        }
    }
    printf("last %" PRIu64 " wrong %" PRIu64 "\n", last, wrong);
    return wrong != 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(verb, "serve") == 0 && argc == 4) {
        serve(argv[2], atoi(argv[3]));
    }
    if (strcmp(verb, "ranges") == 0) {
        return ranges(argv[2]);
    }
    if (strcmp(verb, "storm") == 0) {
        storm(argv[2], argc == 5 ? argv[3] : NULL, argc == 5 ? atoi(argv[4]) : 0);
    }
    if (strcmp(verb, "replay") == 0) {
        return replay(argv[2]);
    }
    fprintf(stderr, "usage: ledger serve|ranges|storm|replay DISK ...\n");
    return 2;
}
