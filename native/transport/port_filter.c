/* The data socket's program, with the names of its registers:
 *
 *     head[22] = the frame up to and with its session id, else refuse
 *     if frame is not to us: return 0
 *     if the version is not ours: refuse
 *     if the channel is another port's: return 0
 *     if the type is none that we want: refuse
 *     if type is another that we want: return 0           (the handshake socket takes it)
 *     if head.session is in the map of sessions: accept
 *     bucket = state->sampled_ns[last byte of the source address % BUCKETS]
 *     if now - bucket < SAMPLE_NS: refuse
 *     bucket = now, accept
 *     refuse: state->dropped++, return 0
 *
 * A sample of the frames without a session must pass: it makes the server say that it was restarted,
 * and makes the attack visible. Buckets by source address keep a single flooder from using up
 * everybody's sample.
 *
 * The envelope socket's program is the same with a test in front, after the head was loaded:
 *
 *     if it is no IPv4 without options, no UDP, or not to our group and port: return 0
 *     if it is a fragment: refuse
 *
 * and it wants no other types. */
#include "port_filter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf.h"
#include "envelope.h"
#include "wire/wire.h"

#define BUCKETS 64
#define SAMPLE_NS 10000000 /* one frame per bucket in this time */
#define STATE_BYTES 4096   /* a map that is mapped counts in pages */
#define DATA_TYPE (1u << OR_FRAME_DATA)
#define WHOLE_FRAME 0xffffffffu

/* Shared with the program. */
struct or_filter_state {
    _Atomic uint64_t dropped;
    uint64_t sampled_ns[BUCKETS];
};
static_assert(sizeof(struct or_filter_state) <= STATE_BYTES, "fits its map");

/* ---- the program ---- */

/* Offsets in the frame; those of the frame header from where that begins. */
#define FRAME_SOURCE_LAST 11
#define VERSION offsetof(struct or_frame_header, version)
#define TYPE offsetof(struct or_frame_header, type)
#define CHANNEL offsetof(struct or_frame_header, channel)
#define SESSION offsetof(struct or_frame_header, session)
#define HEAD_END (SESSION + 4) /* the session is the last that is looked at */
#define IP_VERSION 14
#define IP_FRAGMENT 20
#define IP_PROTOCOL 23
#define IP_TO 30
#define UDP_TO 36
#define IP_4_NO_OPTIONS 0x45
#define IP_WHOLE 0x4000 /* of a datagram, and not to be cut */

enum { RESULT = BPF_REG_0, A1, A2, A3, A4, FRAME = BPF_REG_6, STATE, NOW, STACK = BPF_REG_10 };

enum { DATA = OR_BPF_LABEL, ACCEPT, REFUSE, LEAVE };

/* ethertype: of the envelopes that the program is for; 0: it is for plain frames. */
static int load_program(const struct or_port_filter *filter, uint16_t ethertype)
{
    /* The head lies on the program's stack such that the session id, the map's key, is aligned, and so is the rest. */
    const int header = ethertype ? OR_ENVELOPE_HEAD : OR_ETH_HEADER, head_bytes = header + (int)HEAD_END;
    const uint32_t types = ethertype ? 0 : filter->door.types;
    const uint8_t channel = filter->door.channel;
    const int for_envelopes = ethertype ? 0 : OR_BPF_LEFT_OUT;
    const int for_one_channel = channel != OR_ANY_CHANNEL ? 0 : OR_BPF_LEFT_OUT;
#define HEAD(frame_offset) ((int)(frame_offset)-head_bytes)
    const struct or_bpf_line lines[] = {
        {0, COPY(FRAME, A1)},
        {0, LOAD_MAP(STATE, BPF_PSEUDO_MAP_VALUE, filter->state_fd)},
        {0, LOAD_MAP_END},
        {0, LOAD(BPF_W, A1, FRAME, offsetof(struct __sk_buff, pkt_type))},
        {0, JUMP_IF(BPF_JGT, A1, PACKET_BROADCAST, LEAVE)}, /* else it is PACKET_HOST */
        {0, COPY(A1, FRAME)},
        {0, SET(A2, 0)},
        {0, COPY(A3, STACK)},
        {0, ADD_K(A3, HEAD(0))},
        {0, SET(A4, head_bytes)},
        {0, CALL(skb_load_bytes)},
        {0, JUMP_IF(BPF_JNE, RESULT, 0, ethertype ? LEAVE : REFUSE)},
        {for_envelopes, LOAD(BPF_B, A1, STACK, HEAD(IP_VERSION))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, IP_4_NO_OPTIONS, LEAVE)},
        {for_envelopes, LOAD(BPF_B, A1, STACK, HEAD(IP_PROTOCOL))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, IPPROTO_UDP, LEAVE)},
        {for_envelopes, LOAD(BPF_H, A1, STACK, HEAD(IP_TO))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, htons(OR_ENVELOPE_GROUP >> 16), LEAVE)},
        {for_envelopes, LOAD(BPF_H, A1, STACK, HEAD(IP_TO + 2))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, htons(OR_ENVELOPE_GROUP & 0xffff), LEAVE)},
        {for_envelopes, LOAD(BPF_H, A1, STACK, HEAD(UDP_TO))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, htons(ethertype), LEAVE)},
        {for_envelopes, LOAD(BPF_H, A1, STACK, HEAD(IP_FRAGMENT))},
        {for_envelopes, JUMP_IF(BPF_JNE, A1, htons(IP_WHOLE), REFUSE)},
        {0, LOAD(BPF_B, A1, STACK, HEAD(header + VERSION))},
        {0, JUMP_IF(BPF_JNE, A1, OR_WIRE_VERSION, REFUSE)},
        {for_one_channel, LOAD(BPF_B, A1, STACK, HEAD(header + CHANNEL))},
        {for_one_channel, JUMP_IF(BPF_JNE, A1, channel, LEAVE)},
        {0, LOAD(BPF_B, A1, STACK, HEAD(header + TYPE))},
        {0, JUMP_IF(BPF_JEQ, A1, OR_FRAME_DATA, DATA)},
        {0, JUMP_IF(BPF_JGE, A1, OR_FRAME_MAX, REFUSE)},
        {0, SET(A2, 1)},
        {0, SHIFT_LEFT(A2, A1)},
        {0, JUMP_IF(BPF_JSET, A2, types, LEAVE)},
        {0, JUMP(REFUSE)},
        {DATA, LOAD_MAP(A1, BPF_PSEUDO_MAP_FD, filter->sessions_fd)},
        {0, LOAD_MAP_END},
        {0, COPY(A2, STACK)},
        {0, ADD_K(A2, HEAD(header + SESSION))},
        {0, CALL(map_lookup_elem)},
        {0, JUMP_IF(BPF_JNE, RESULT, 0, ACCEPT)},
        {0, CALL(ktime_get_ns)},
        {0, COPY(NOW, RESULT)},
        {0, LOAD(BPF_B, A1, STACK, HEAD(FRAME_SOURCE_LAST))},
        {0, AND_K(A1, BUCKETS - 1)},
        {0, SHIFT_LEFT_K(A1, 3)},
        {0, COPY(A2, STATE)},
        {0, ADD(A2, A1)},
        {0, LOAD(BPF_DW, A3, A2, offsetof(struct or_filter_state, sampled_ns))},
        {0, COPY(A4, NOW)},
        {0, SUBTRACT(A4, A3)},
        {0, JUMP_IF(BPF_JLT, A4, SAMPLE_NS, REFUSE)},
        {0, STORE(BPF_DW, A2, offsetof(struct or_filter_state, sampled_ns), NOW)},
        {ACCEPT, SET(RESULT, WHOLE_FRAME)},
        {0, EXIT},
        {REFUSE, SET(A1, 1)},
        {0, ATOMIC_ADD(STATE, offsetof(struct or_filter_state, dropped), A1)},
        {LEAVE, SET(RESULT, 0)},
        {0, EXIT},
    };
#undef HEAD
    union bpf_attr a = {0};
    a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    return or_bpf_load(&a, lines, sizeof lines / sizeof lines[0]);
}

static int attach_program(const struct or_port_filter *filter, int fd, uint16_t ethertype)
{
    int program_fd = load_program(filter, ethertype);
    if (program_fd < 0)
        return program_fd;
    int rc = setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program_fd, sizeof program_fd) ? -errno : 0;
    close(program_fd); /* the socket keeps it */
    return rc;
}

/* ---- classic filters ---- */

#define TO(from, at) ((uint8_t)((at) - (from)-1))

/* Accepts frames to us of our version and channel, and of these types (bit n for type n). */
static int attach_classic(int fd, uint32_t types, uint8_t channel)
{
    enum { REFUSE_AT = 13 };
    const bool any = channel == OR_ANY_CHANNEL;
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, PACKET_BROADCAST, TO(1, REFUSE_AT), 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ETH_HEADER + VERSION),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OR_WIRE_VERSION, 0, TO(3, REFUSE_AT)),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ETH_HEADER + CHANNEL),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, channel, 0, any ? 0 : TO(5, REFUSE_AT)),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ETH_HEADER + TYPE),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, OR_FRAME_MAX, TO(7, REFUSE_AT), 0),
        BPF_STMT(BPF_MISC | BPF_TAX, 0),
        BPF_STMT(BPF_LD | BPF_IMM, 1),
        BPF_STMT(BPF_ALU | BPF_LSH | BPF_X, 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, types, 0, TO(11, REFUSE_AT)),
        BPF_STMT(BPF_RET | BPF_K, WHOLE_FRAME),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog all = {.len = sizeof program / sizeof program[0], .filter = program};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all) ? -errno : 0;
}

int or_port_filter_envelopes(int fd, uint16_t ethertype, uint8_t channel)
{
    enum { REFUSE_AT = 19 };
    const bool any = channel == OR_ANY_CHANNEL;
#define MUST_BE(at, value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, TO(at, REFUSE_AT))
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, PACKET_BROADCAST, TO(1, REFUSE_AT), 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, IP_VERSION),
        MUST_BE(3, IP_4_NO_OPTIONS),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, IP_PROTOCOL),
        MUST_BE(5, IPPROTO_UDP),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_TO),
        MUST_BE(7, OR_ENVELOPE_GROUP),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, UDP_TO),
        MUST_BE(9, ethertype),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, IP_FRAGMENT),
        MUST_BE(11, IP_WHOLE),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ENVELOPE_HEAD + VERSION),
        MUST_BE(13, OR_WIRE_VERSION),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ENVELOPE_HEAD + TYPE),
        MUST_BE(15, OR_FRAME_DATA),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, OR_ENVELOPE_HEAD + CHANNEL),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, channel, 0, any ? 0 : TO(17, REFUSE_AT)),
        BPF_STMT(BPF_RET | BPF_K, WHOLE_FRAME),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog all = {.len = sizeof program / sizeof program[0], .filter = program};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all) ? -errno : 0;
}

/* ---- opening and closing ---- */

static int open_maps(struct or_port_filter *filter, uint32_t sessions_max)
{
    filter->sessions_fd = or_bpf_map(BPF_MAP_TYPE_HASH, 1, sessions_max, 0);
    if (filter->sessions_fd < 0)
        return filter->sessions_fd;
    filter->state_fd = or_bpf_map(BPF_MAP_TYPE_ARRAY, STATE_BYTES, 1, BPF_F_MMAPABLE);
    if (filter->state_fd < 0)
        return filter->state_fd;
    void *state = mmap(NULL, STATE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, filter->state_fd, 0);
    if (state == MAP_FAILED)
        return -errno;
    filter->state = state;
    return 0;
}

/* Both sockets that take data frames. */
static int attach_all_classic(const struct or_port_filter *filter, const struct or_port_filter_sockets *sockets)
{
    int rc = attach_classic(sockets->data_fd, DATA_TYPE, filter->door.channel);
    return rc || sockets->envelope_fd < 0
               ? rc
               : or_port_filter_envelopes(sockets->envelope_fd, sockets->ethertype, filter->door.channel);
}

/* The programs of both. */
static int attach_programs(const struct or_port_filter *filter, const struct or_port_filter_sockets *sockets)
{
    int rc = attach_program(filter, sockets->data_fd, 0);
    return rc || sockets->envelope_fd < 0 ? rc : attach_program(filter, sockets->envelope_fd, sockets->ethertype);
}

int or_port_filter_open(struct or_port_filter *filter, const struct or_port_filter_sockets *sockets,
                        const struct or_port_door *door)
{
    *filter = (struct or_port_filter){-1, -1, NULL, *door};
    filter->door.types &= ~DATA_TYPE;
    int rc = attach_classic(sockets->handshake_fd, filter->door.types, door->channel);
    if (rc)
        return rc;
    rc = open_maps(filter, door->sessions_max);
    if (!rc)
        rc = attach_programs(filter, sockets);
    if (!rc)
        return 0;
    or_port_filter_close(filter);
    return attach_all_classic(filter, sockets);
}

int or_port_filter_attach(const struct or_port_filter *filter, const struct or_port_filter_sockets *sockets)
{
    int rc = attach_classic(sockets->handshake_fd, filter->door.types, filter->door.channel);
    if (rc)
        return rc;
    return filter->sessions_fd >= 0 ? attach_programs(filter, sockets) : attach_all_classic(filter, sockets);
}

void or_port_filter_close(struct or_port_filter *filter)
{
    if (filter->state)
        munmap(filter->state, STATE_BYTES);
    if (filter->sessions_fd >= 0)
        close(filter->sessions_fd);
    if (filter->state_fd >= 0)
        close(filter->state_fd);
    *filter = (struct or_port_filter){-1, -1, NULL, filter->door};
}

int or_port_filter_allow(struct or_port_filter *filter, uint32_t session)
{
    uint8_t present = 1;
    return filter->sessions_fd < 0 ? 0 : or_bpf_map_set(filter->sessions_fd, session, &present);
}

void or_port_filter_disallow(struct or_port_filter *filter, uint32_t session)
{
    if (filter->sessions_fd >= 0)
        or_bpf_map_delete(filter->sessions_fd, session);
}

uint64_t or_port_filter_dropped(const struct or_port_filter *filter)
{
    return filter->state ? atomic_load_explicit(&filter->state->dropped, memory_order_relaxed) : 0;
}
