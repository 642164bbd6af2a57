/* The XDP program of a port: which frames leave the driver for the port's AF_XDP sockets, before the kernel
 * makes anything of them.
 *
 *     our EtherType and to our address
 *         unfiltered, or data of our channel and of a session that exists
 *                                                         to the socket of the queue on which the frame came
 *     everything else, and queues without a socket        on to the kernel, as if there were no program
 *
 * So the interface stays usable for everything else, also for others who speak our protocol behind it with an address
 * of their own (macvlan), and what the program does not know reaches AF_PACKET sockets. That includes the frames of
 * other sessions than ours: while a successor takes over, it receives its own frames although our program is still
 * there.
 *
 * The program is attached through a link (BPF_LINK_CREATE), which goes with its descriptor: the kernel removes the
 * program from the interface also when the process is killed. An interface has room for one.
 *
 * Belongs to the port's thread. */
#ifndef OR_PORT_XDP_PROGRAM_H
#define OR_PORT_XDP_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

/* Which frames are taken. */
struct or_xdp_filter {
    uint8_t mac[6]; /* to this address */
    uint16_t ethertype;
    int sessions_fd; /* a hash map with the sessions that exist as keys; stays the caller's. -1: unfiltered */
    uint8_t channel; /* OR_ANY_CHANNEL: all; so it is when unfiltered */
};

struct or_xdp_program {
    int sockets_fd; /* map: queue -> AF_XDP socket; -1: closed */
    int link_fd;
    bool generic; /* attached above the driver, which has no place for it */
};

#define OR_XDP_PROGRAM_CLOSED ((struct or_xdp_program){.sockets_fd = -1, .link_fd = -1})

/* Attaches the program to an interface, in the driver if that can, else above it; for sockets of queues below
 * queues_max. 0; -EBUSY when the interface has another program; or another -errno. On failure *program is closed. */
int or_xdp_program_open(struct or_xdp_program *program, uint32_t ifindex, uint32_t queues_max,
                        const struct or_xdp_filter *filter);
/* Frames of this queue go to the socket `fd` from now on. 0 or -errno. */
int or_xdp_program_steer(const struct or_xdp_program *program, uint32_t queue, int fd);
/* Filters like this from now on; no frame is missed meanwhile. 0 or -errno. */
int or_xdp_program_filter(struct or_xdp_program *program, const struct or_xdp_filter *filter);
/* Takes the program from the interface. Safe on one that is closed. */
void or_xdp_program_close(struct or_xdp_program *program);

#endif
