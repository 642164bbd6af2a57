/* The command line: one table gives the names, where a value goes, how it is read, and --help. */
#include "loadgen.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, NUMBER, BYTES, DECIMAL, FLAG, MAC, PIDS };

struct option_spec {
    const char *name;
    enum kind kind;
    size_t at;
    const char *help;
};

#define AT(field) offsetof(struct options, field)

static const struct option_spec specs[] = {
    {"engine", TEXT, AT(engine), "io_uring, nbd, tcp-echo, port-echo, outrigger or vhost-user"},
    {"serve", TEXT, AT(serve), "be a far end instead: tcp-echo, port-echo or outrigger"},
    {"op", TEXT, AT(op), "randread, randwrite, randrw, read or write"},
    {"bs", BYTES, AT(bs), "bytes per operation (4k)"},
    {"qd", NUMBER, AT(qd), "operations in flight (1)"},
    {"seconds", DECIMAL, AT(seconds), "length of the measured window (2)"},
    {"warmup", DECIMAL, AT(warmup_seconds), "time before it (0.3)"},
    {"stall-seconds", DECIMAL, AT(stall_seconds), "give up when nothing ends for so long (30)"},
    {"seed", NUMBER, AT(seed), "of the random offsets (1)"},
    {"size", BYTES, AT(size_bytes), "of the storage, where the engine cannot know it (outrigger, echoes)"},
    {"area", BYTES, AT(area_bytes), "use only the first so many bytes (all)"},
    {"fill", FLAG, AT(fill), "first write the whole area once; --seconds 0 does only that"},
    {"verify", FLAG, AT(verify), "stamp what is written, check what is read; destroys the content"},
    {"json", FLAG, AT(json), "print the result as one JSON object"},
    {"histogram", FLAG, AT(histogram), "with --json: the latencies too, as [nanoseconds at most, operations]"},
    {"server-pid", PIDS, AT(servers), "PID[,PID]: report the CPU time of these processes too"},
    {"agent-pid", PIDS, AT(agents), "PID[,PID]: and of these, between us and the server, by themselves"},
    {"spin-us", DECIMAL, AT(spin_us), "spin so long before sleeping (80)"},
    {"file", TEXT, AT(file), "io_uring: file or block device"},
    {"socket", TEXT, AT(sockets), "vhost-user: PATH[,PATH] of disks; loadgen is QEMU and guests. --qd is of each"},
    {"no-record", FLAG, AT(no_record), "vhost-user: without an inflight region"},
    {"uri", TEXT, AT(uri), "nbd: nbd://HOST:PORT or nbd+unix:///?socket=PATH"},
    {"address", TEXT, AT(address), "tcp-echo: address of the far end (127.0.0.1)"},
    {"port", NUMBER, AT(tcp_port), "tcp-echo: port (7777)"},
    {"if", TEXT, AT(interface), "port-echo, outrigger: network interface"},
    {"port-mode", TEXT, AT(port_mode), "port-echo, outrigger: packet (AF_PACKET) or xdp (AF_XDP); packet"},
    {"mtu", NUMBER, AT(mtu), "port-echo, outrigger: MTU (0: the link's)"},
    {"ethertype", NUMBER, AT(ethertype), "port-echo, outrigger: EtherType (0x88b5)"},
    {"server-mac", MAC, AT(server_mac), "port-echo, outrigger: address of the far end"},
    {"name", TEXT, AT(name), "outrigger: the host's name (bench)"},
    {"psk-file", TEXT, AT(psk_file), "outrigger: file with the host's key, base64"},
    {"device", NUMBER, AT(device), "outrigger: attachment id (1)"},
    {"generation", NUMBER, AT(generation), "outrigger: attachment generation (1)"},
    {"integrity", TEXT, AT(integrity), "outrigger: encrypt, mac or crc (client: the least it accepts; mac)"},
    {"super-frames", TEXT, AT(super_frames), "outrigger: auto, on or off (auto)"},
    {"volume", TEXT, AT(volume), "serve outrigger: ram:SIZE, null:SIZE or file:PATH"},
    {"help", FLAG, AT(help), "this text"},
};
#define SPEC_COUNT (sizeof specs / sizeof *specs)

static _Noreturn void usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputs(" (see loadgen --help)\n", stderr);
    va_end(args);
    exit(2);
}

static uint64_t parse_number(const char *name, const char *text, bool suffixes)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 0);
    if (suffixes && *end) {
        static const char units[] = "kmgt";
        const char *unit = strchr(units, *end | 0x20);
        if (unit) {
            value <<= 10 * (unit - units + 1);
            end++;
        }
    }
    if (errno || end == text || *end || *text == '-')
        usage_error("--%s: '%s' is not %s", name, text, suffixes ? "a size such as 4096, 128k or 1g" : "a number");
    return value;
}

uint64_t parse_size(const char *name, const char *text)
{
    return parse_number(name, text, true);
}

static void parse_mac(const char *text, uint8_t mac[6])
{
    char after;
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &after) !=
        6)
        usage_error("--server-mac: '%s' is not an address such as 02:00:00:00:00:01", text);
}

static void parse_pids(const char *name, struct processes *processes, const char *text)
{
    char *copy = strdup(text), *rest = copy, *item;
    while (copy && (item = strsep(&rest, ","))) {
        if (processes->count == PROCESSES_MAX)
            usage_error("--%s: at most %u processes", name, PROCESSES_MAX);
        processes->pids[processes->count++] = (int32_t)parse_number(name, item, false);
    }
    free(copy);
}

static void parse_value(struct options *options, const struct option_spec *spec, const char *text)
{
    void *field = (char *)options + spec->at;
    char *end;
    switch (spec->kind) {
    case TEXT:
        *(const char **)field = text;
        break;
    case NUMBER:
    case BYTES:
        *(uint64_t *)field = parse_number(spec->name, text, spec->kind == BYTES);
        break;
    case DECIMAL:
        *(double *)field = strtod(text, &end);
        if (end == text || *end || *(double *)field < 0)
            usage_error("--%s: '%s' is not a number", spec->name, text);
        break;
    case MAC:
        parse_mac(text, field);
        break;
    case PIDS:
        parse_pids(spec->name, field, text);
        break;
    case FLAG:
        break;
    }
}

static void print_help(void)
{
    puts("loadgen: measures block storage, with one loop for all systems\n");
    for (size_t i = 0; i < SPEC_COUNT; i++)
        printf("  --%-14s %s\n", specs[i].name, specs[i].help);
}

static const struct option_spec *find_spec(const char *argument)
{
    if (strncmp(argument, "--", 2) != 0)
        usage_error("unexpected argument '%s'", argument);
    for (size_t i = 0; i < SPEC_COUNT; i++)
        if (strcmp(specs[i].name, argument + 2) == 0)
            return &specs[i];
    usage_error("unknown option '%s'", argument);
}

static void check(const struct options *options)
{
    if (!options->engine == !options->serve)
        usage_error("give either --engine or --serve");
    if (options->bs == 0 || options->bs % 512 || options->bs > OR_REQ_BYTES_MAX)
        usage_error("--bs: a multiple of 512, at most %u", OR_REQ_BYTES_MAX);
    if (options->qd == 0 || options->qd > SLOTS_LIMIT)
        usage_error("--qd: 1 to %u", SLOTS_LIMIT);
}

void options_parse(struct options *options, int argc, char **argv)
{
    *options = (struct options){.op = "randread",
                                .bs = 4096,
                                .qd = 1,
                                .seconds = 2,
                                .warmup_seconds = 0.3,
                                .stall_seconds = 30,
                                .seed = 1,
                                .spin_us = 80,
                                .address = "127.0.0.1",
                                .tcp_port = 7777,
                                .port_mode = "packet",
                                .ethertype = OR_ETHERTYPE_DEFAULT,
                                .name = "bench",
                                .device = 1,
                                .generation = 1,
                                .integrity = "mac",
                                .super_frames = "auto"};
    for (int i = 1; i < argc; i++) {
        const struct option_spec *spec = find_spec(argv[i]);
        if (spec->kind == FLAG) {
            *(bool *)((char *)options + spec->at) = true;
            continue;
        }
        if (++i == argc)
            usage_error("--%s needs a value", spec->name);
        parse_value(options, spec, argv[i]);
    }
    if (options->help) {
        print_help();
        exit(0);
    }
    check(options);
}
