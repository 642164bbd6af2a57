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
 * and it wants no other types. The program is written in the instructions themselves because it is short and
 * needs neither a compiler nor a library then. */
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
#include <sys/syscall.h>
#include <unistd.h>

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

/* ---- bpf(2) ---- */

static int bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
    long rc = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    return rc < 0 ? -errno : (int)rc;
}

static int make_map(enum bpf_map_type type, uint32_t value_bytes, uint32_t entries, uint32_t flags)
{
    union bpf_attr a = {0};
    a.map_type = type;
    a.key_size = sizeof(uint32_t);
    a.value_size = value_bytes;
    a.max_entries = entries;
    a.map_flags = flags;
    return bpf(BPF_MAP_CREATE, &a);
}

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

#define INSN(op, d, s, o, i)                                                                                           \
    (struct bpf_insn)                                                                                                  \
    {                                                                                                                  \
        .code = (op), .dst_reg = (d), .src_reg = (s), .off = (int16_t)(o), .imm = (int32_t)(i)                         \
    }
#define COPY(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, value) INSN(BPF_ALU | BPF_MOV | BPF_K, d, 0, 0, value)
#define ADD(d, s) INSN(BPF_ALU64 | BPF_ADD | BPF_X, d, s, 0, 0)
#define SUBTRACT(d, s) INSN(BPF_ALU64 | BPF_SUB | BPF_X, d, s, 0, 0)
#define ADD_K(d, value) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, value)
#define AND_K(d, value) INSN(BPF_ALU64 | BPF_AND | BPF_K, d, 0, 0, value)
#define SHIFT_LEFT(d, s) INSN(BPF_ALU64 | BPF_LSH | BPF_X, d, s, 0, 0)
#define SHIFT_LEFT_K(d, bits) INSN(BPF_ALU64 | BPF_LSH | BPF_K, d, 0, 0, bits)
#define LOAD(size, d, s, offset) INSN(BPF_LDX | BPF_MEM | (size), d, s, offset, 0)
#define STORE(size, d, offset, s) INSN(BPF_STX | BPF_MEM | (size), d, s, offset, 0)
#define ATOMIC_ADD(d, offset, s) INSN(BPF_STX | BPF_ATOMIC | BPF_DW, d, s, offset, BPF_ADD)
#define JUMP_IF(condition, d, value, label) INSN(BPF_JMP | (condition) | BPF_K, d, 0, label, value)
#define JUMP(label) INSN(BPF_JMP | BPF_JA, 0, 0, label, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_##function)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* The address of a map, or of what it holds: two instructions. */
#define LOAD_MAP(d, what, map_fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, what, 0, map_fd)
#define LOAD_MAP_END INSN(0, 0, 0, 0, 0)

/* Where a jump leads: written into `off` in place of the label and resolved below. */
enum { FOR_ENVELOPES = 1, FOR_ONE_CHANNEL, DATA = 1000, ACCEPT, REFUSE, LEAVE, LABELS_END };

/* ethertype: of the envelopes that the program is for; 0: it is for plain frames. */
static int load_program(const struct or_port_filter *filter, uint16_t ethertype)
{
    /* The head lies on the program's stack such that the session id, the map's key, is aligned, and so is the rest. */
    const int header = ethertype ? OR_ENVELOPE_HEAD : OR_ETH_HEADER, head_bytes = header + (int)HEAD_END;
    const uint32_t types = ethertype ? 0 : filter->door.types;
    const uint8_t channel = filter->door.channel;
#define HEAD(frame_offset) ((int)(frame_offset)-head_bytes)
    struct {
        int label; /* 0: none; FOR_..: a line that is left out of other programs */
        struct bpf_insn insn;
    } lines[] = {
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
        {FOR_ENVELOPES, LOAD(BPF_B, A1, STACK, HEAD(IP_VERSION))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, IP_4_NO_OPTIONS, LEAVE)},
        {FOR_ENVELOPES, LOAD(BPF_B, A1, STACK, HEAD(IP_PROTOCOL))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, IPPROTO_UDP, LEAVE)},
        {FOR_ENVELOPES, LOAD(BPF_H, A1, STACK, HEAD(IP_TO))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, htons(OR_ENVELOPE_GROUP >> 16), LEAVE)},
        {FOR_ENVELOPES, LOAD(BPF_H, A1, STACK, HEAD(IP_TO + 2))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, htons(OR_ENVELOPE_GROUP & 0xffff), LEAVE)},
        {FOR_ENVELOPES, LOAD(BPF_H, A1, STACK, HEAD(UDP_TO))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, htons(ethertype), LEAVE)},
        {FOR_ENVELOPES, LOAD(BPF_H, A1, STACK, HEAD(IP_FRAGMENT))},
        {FOR_ENVELOPES, JUMP_IF(BPF_JNE, A1, htons(IP_WHOLE), REFUSE)},
        {0, LOAD(BPF_B, A1, STACK, HEAD(header + VERSION))},
        {0, JUMP_IF(BPF_JNE, A1, OR_WIRE_VERSION, REFUSE)},
        {FOR_ONE_CHANNEL, LOAD(BPF_B, A1, STACK, HEAD(header + CHANNEL))},
        {FOR_ONE_CHANNEL, JUMP_IF(BPF_JNE, A1, channel, LEAVE)},
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
    enum { COUNT = sizeof lines / sizeof lines[0] };
    int line_of[LABELS_END - DATA] = {0}, count = 0;
    struct bpf_insn program[COUNT];
    for (int i = 0; i < COUNT; i++) {
        if ((lines[i].label == FOR_ENVELOPES && !ethertype) ||
            (lines[i].label == FOR_ONE_CHANNEL && channel == OR_ANY_CHANNEL))
            continue;
        if (lines[i].label >= DATA)
            line_of[lines[i].label - DATA] = count;
        program[count++] = lines[i].insn;
    }
    for (int i = 0; i < count; i++)
        if (program[i].off >= DATA)
            program[i].off = (int16_t)(line_of[program[i].off - DATA] - i - 1);

    union bpf_attr a = {0};
    a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    a.insns = (uintptr_t)program;
    a.insn_cnt = (uint32_t)count;
    a.license = (uintptr_t) "";
    return bpf(BPF_PROG_LOAD, &a);
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
    filter->sessions_fd = make_map(BPF_MAP_TYPE_HASH, 1, sessions_max, 0);
    if (filter->sessions_fd < 0)
        return filter->sessions_fd;
    filter->state_fd = make_map(BPF_MAP_TYPE_ARRAY, STATE_BYTES, 1, BPF_F_MMAPABLE);
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
    union bpf_attr a = {0};
    if (filter->sessions_fd < 0)
        return 0;
    a.map_fd = (uint32_t)filter->sessions_fd;
    a.key = (uintptr_t)&session;
    a.value = (uintptr_t)&present;
    return bpf(BPF_MAP_UPDATE_ELEM, &a);
}

void or_port_filter_disallow(struct or_port_filter *filter, uint32_t session)
{
    union bpf_attr a = {0};
    if (filter->sessions_fd < 0)
        return;
    a.map_fd = (uint32_t)filter->sessions_fd;
    a.key = (uintptr_t)&session;
    bpf(BPF_MAP_DELETE_ELEM, &a); /* one that is not there is gone */
}

uint64_t or_port_filter_dropped(const struct or_port_filter *filter)
{
    return filter->state ? atomic_load_explicit(&filter->state->dropped, memory_order_relaxed) : 0;
}
