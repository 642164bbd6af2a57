/* bpf(2), and its instructions with names: for programs that are short enough to be written in the
 * instructions themselves, which needs neither a compiler nor a library at run time. A jump's offset is the
 * label of the line that it leads to, until or_bpf_load resolves it. */
#ifndef OR_BPF_H
#define OR_BPF_H

#include <assert.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What bpf(2) returns, or -errno. */
static inline int or_bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
    long rc = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    return rc < 0 ? -errno : (int)rc;
}

/* A map with keys of 32 bits: its descriptor, or -errno. */
static inline int or_bpf_map(enum bpf_map_type type, uint32_t value_bytes, uint32_t entries, uint32_t flags)
{
    union bpf_attr a = {0};
    a.map_type = type;
    a.key_size = sizeof(uint32_t);
    a.value_size = value_bytes;
    a.max_entries = entries;
    a.map_flags = flags;
    return or_bpf(BPF_MAP_CREATE, &a);
}

/* 0 or -errno. */
static inline int or_bpf_map_set(int map_fd, uint32_t key, const void *value)
{
    union bpf_attr a = {0};
    a.map_fd = (uint32_t)map_fd;
    a.key = (uintptr_t)&key;
    a.value = (uintptr_t)value;
    return or_bpf(BPF_MAP_UPDATE_ELEM, &a);
}

static inline void or_bpf_map_delete(int map_fd, uint32_t key)
{
    union bpf_attr a = {0};
    a.map_fd = (uint32_t)map_fd;
    a.key = (uintptr_t)&key;
    or_bpf(BPF_MAP_DELETE_ELEM, &a); /* what is not there is gone */
}

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
#define JUMP_IF_REG(condition, d, s, label) INSN(BPF_JMP | (condition) | BPF_X, d, s, label, 0)
#define JUMP(label) INSN(BPF_JMP | BPF_JA, 0, 0, label, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_##function)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* The address of a map, or of what it holds: two instructions. */
#define LOAD_MAP(d, what, map_fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, what, 0, map_fd)
#define LOAD_MAP_END INSN(0, 0, 0, 0, 0)

#define OR_BPF_LABELS_MAX 16
#define OR_BPF_LABEL 1000 /* the first one */
#define OR_BPF_LINES_MAX 128
#define OR_BPF_LEFT_OUT 1 /* in place of a label: the program shall not have this line */

struct or_bpf_line {
    int label; /* from OR_BPF_LABEL on, or OR_BPF_LEFT_OUT; 0: none */
    struct bpf_insn insn;
};

/* attributes: prog_type and what else is special. The program's descriptor, or -errno. */
static inline int or_bpf_load(union bpf_attr *attributes, const struct or_bpf_line *lines, uint32_t count)
{
    int line_of[OR_BPF_LABELS_MAX] = {0}, length = 0;
    struct bpf_insn program[OR_BPF_LINES_MAX];
    assert(count <= OR_BPF_LINES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        assert(lines[i].label < OR_BPF_LABEL + OR_BPF_LABELS_MAX);
        if (lines[i].label == OR_BPF_LEFT_OUT)
            continue;
        if (lines[i].label >= OR_BPF_LABEL)
            line_of[lines[i].label - OR_BPF_LABEL] = length;
        program[length++] = lines[i].insn;
    }
    for (int i = 0; i < length; i++)
        if (program[i].off >= OR_BPF_LABEL)
            program[i].off = (int16_t)(line_of[program[i].off - OR_BPF_LABEL] - i - 1);
    attributes->insns = (uintptr_t)program;
    attributes->insn_cnt = (uint32_t)length;
    attributes->license = (uintptr_t) "";
    return or_bpf(BPF_PROG_LOAD, attributes);
}

#endif
