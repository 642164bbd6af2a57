/* The program, with the names of its registers:
 *
 *     if the frame is shorter than its head: pass
 *     if it is not to our address, or its EtherType is not ours: pass
 *     if filtered:
 *         if its version or channel is not ours, or its type not DATA: pass
 *         if head.session is not in the map of sessions: pass
 *     redirect to the socket of this queue; pass when there is none */
#include "port_xdp_program.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <stddef.h>
#include <string.h>

#include "bpf.h"
#include "port.h"
#include "wire/wire.h"

/* Offsets in the frame; that of the destination address is 0. */
#define FRAME_ETHERTYPE 12
#define FRAME_VERSION (OR_ETH_HEADER + offsetof(struct or_frame_header, version))
#define FRAME_TYPE (OR_ETH_HEADER + offsetof(struct or_frame_header, type))
#define FRAME_CHANNEL (OR_ETH_HEADER + offsetof(struct or_frame_header, channel))
#define FRAME_SESSION (OR_ETH_HEADER + offsetof(struct or_frame_header, session))
#define HEAD_BYTES (FRAME_SESSION + 4)
#define KEY (-4) /* on the program's stack */

enum { A1 = BPF_REG_1, A2, A3, CONTEXT = BPF_REG_6, FRAME, STACK = BPF_REG_10 };
enum { REDIRECT = OR_BPF_LABEL, PASS };

/* Its descriptor, or -errno. */
static int load_program(const struct or_xdp_filter *f, int sockets_fd)
{
    bool filtered = f->sessions_fd >= 0;
    int for_one_channel = f->channel != OR_ANY_CHANNEL ? 0 : OR_BPF_LEFT_OUT;
    uint16_t mac[3]; /* as the program loads it */
    memcpy(mac, f->mac, sizeof mac);
    const struct or_bpf_line lines[] = {
        {0, COPY(CONTEXT, A1)},
        {0, LOAD(BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, data))},
        {0, LOAD(BPF_W, A2, CONTEXT, offsetof(struct xdp_md, data_end))},
        {0, COPY(A1, FRAME)},
        {0, ADD_K(A1, filtered ? HEAD_BYTES : OR_ETH_HEADER)},
        {0, JUMP_IF_REG(BPF_JGT, A1, A2, PASS)},
        {0, LOAD(BPF_H, A1, FRAME, 0)},
        {0, JUMP_IF(BPF_JNE, A1, mac[0], PASS)},
        {0, LOAD(BPF_H, A1, FRAME, 2)},
        {0, JUMP_IF(BPF_JNE, A1, mac[1], PASS)},
        {0, LOAD(BPF_H, A1, FRAME, 4)},
        {0, JUMP_IF(BPF_JNE, A1, mac[2], PASS)},
        {0, LOAD(BPF_H, A1, FRAME, FRAME_ETHERTYPE)},
        {0, JUMP_IF(BPF_JNE, A1, htons(f->ethertype), PASS)},
        {0, SET(A1, filtered)},
        {0, JUMP_IF(BPF_JEQ, A1, 0, REDIRECT)}, /* the kernel takes out what is never reached */
        {0, LOAD(BPF_B, A1, FRAME, FRAME_VERSION)},
        {0, JUMP_IF(BPF_JNE, A1, OR_WIRE_VERSION, PASS)},
        {for_one_channel, LOAD(BPF_B, A1, FRAME, FRAME_CHANNEL)},
        {for_one_channel, JUMP_IF(BPF_JNE, A1, f->channel, PASS)},
        {0, LOAD(BPF_B, A1, FRAME, FRAME_TYPE)},
        {0, JUMP_IF(BPF_JNE, A1, OR_FRAME_DATA, PASS)},
        {0, LOAD(BPF_W, A1, FRAME, FRAME_SESSION)},
        {0, STORE(BPF_W, STACK, KEY, A1)},
        {0, LOAD_MAP(A1, BPF_PSEUDO_MAP_FD, filtered ? f->sessions_fd : sockets_fd)},
        {0, LOAD_MAP_END},
        {0, COPY(A2, STACK)},
        {0, ADD_K(A2, KEY)},
        {0, CALL(map_lookup_elem)},
        {0, JUMP_IF(BPF_JEQ, BPF_REG_0, 0, PASS)},
        {REDIRECT, LOAD_MAP(A1, BPF_PSEUDO_MAP_FD, sockets_fd)},
        {0, LOAD_MAP_END},
        {0, LOAD(BPF_W, A2, CONTEXT, offsetof(struct xdp_md, rx_queue_index))},
        {0, SET(A3, XDP_PASS)},
        {0, CALL(redirect_map)},
        {0, EXIT},
        {PASS, SET(BPF_REG_0, XDP_PASS)},
        {0, EXIT},
    };
    union bpf_attr a = {0};
    a.prog_type = BPF_PROG_TYPE_XDP;
    a.expected_attach_type = BPF_XDP;
    a.prog_flags = BPF_F_XDP_HAS_FRAGS; /* it looks at the beginning of a frame only */
    return or_bpf_load(&a, lines, sizeof lines / sizeof lines[0]);
}

static int attach(int program_fd, uint32_t ifindex, uint32_t flags)
{
    union bpf_attr a = {0};
    a.link_create.prog_fd = (uint32_t)program_fd;
    a.link_create.target_ifindex = ifindex;
    a.link_create.attach_type = BPF_XDP;
    a.link_create.flags = flags;
    int fd = or_bpf(BPF_LINK_CREATE, &a);
    return fd == -EEXIST ? -EBUSY : fd; /* the other one is in the driver, or above it */
}

int or_xdp_program_open(struct or_xdp_program *p, uint32_t ifindex, uint32_t queues_max,
                        const struct or_xdp_filter *filter)
{
    *p = OR_XDP_PROGRAM_CLOSED;
    int sockets_fd = or_bpf_map(BPF_MAP_TYPE_XSKMAP, sizeof(uint32_t), queues_max, 0);
    if (sockets_fd < 0)
        return sockets_fd;
    int program_fd = load_program(filter, sockets_fd), link_fd = program_fd;
    bool generic = false;
    if (program_fd >= 0) {
        link_fd = attach(program_fd, ifindex, XDP_FLAGS_DRV_MODE);
        generic = link_fd < 0 && link_fd != -EBUSY;
        if (generic)
            link_fd = attach(program_fd, ifindex, XDP_FLAGS_SKB_MODE);
        close(program_fd); /* the link keeps it */
    }
    if (link_fd < 0) {
        close(sockets_fd);
        return link_fd;
    }
    *p = (struct or_xdp_program){sockets_fd, link_fd, generic};
    return 0;
}

int or_xdp_program_steer(const struct or_xdp_program *p, uint32_t queue, int fd)
{
    return or_bpf_map_set(p->sockets_fd, queue, &fd);
}

int or_xdp_program_filter(struct or_xdp_program *p, const struct or_xdp_filter *filter)
{
    int program_fd = load_program(filter, p->sockets_fd);
    if (program_fd < 0)
        return program_fd;
    union bpf_attr a = {0};
    a.link_update.link_fd = (uint32_t)p->link_fd;
    a.link_update.new_prog_fd = (uint32_t)program_fd;
    int rc = or_bpf(BPF_LINK_UPDATE, &a);
    close(program_fd);
    return rc < 0 ? rc : 0;
}

void or_xdp_program_close(struct or_xdp_program *p)
{
    if (p->link_fd >= 0)
        close(p->link_fd);
    if (p->sockets_fd >= 0)
        close(p->sockets_fd);
    *p = OR_XDP_PROGRAM_CLOSED;
}
