/* Echo messages in Ethernet frames: see packets.h. A frame is the Ethernet header, the number of bytes
 * of the messages (a short frame is padded on the wire), and the messages on 8-byte boundaries. */
#include "packets.h"
#include <arpa/inet.h>
#include <string.h>
#include <unistd.h>

#define XDP_WAIT_MS_MAX 5000u
#define LENGTH_AT OR_ETH_HEADER
#define MESSAGES_AT (OR_ETH_HEADER + 8u)
#define MESSAGE_BYTES ((uint32_t)sizeof(struct echo_message))

static struct or_port *open_port(const struct options *options, enum or_super_frames super_frames)
{
    if (!options->interface)
        die("--if is needed");
    if (strcmp(options->port_mode, "packet") != 0 && strcmp(options->port_mode, "xdp") != 0)
        die("--port-mode: '%s' is neither packet nor xdp", options->port_mode);
    bool xdp = strcmp(options->port_mode, "xdp") == 0;
    or_port_open_fn *open_mode = xdp ? or_port_xdp_open : or_port_packet_open;
    char why[256];
    int err = 0;
    struct or_port *port = open_mode(options->interface, (uint16_t)options->ethertype, (uint32_t)options->mtu,
                                     super_frames, &err, why, sizeof why);
    if (!port)
        die("%s", why);
    /* The kernel ends the sockets of a loadgen before us in the background. */
    for (uint32_t waited_ms = 0; or_port_xdp_waits(&port->xdp) && waited_ms < XDP_WAIT_MS_MAX; waited_ms += 100) {
        usleep(100000);
        or_port_refresh(port);
    }
    if (or_port_xdp_waits(&port->xdp))
        die("another process has the XDP program or a queue of %s", options->interface);
    return port;
}

struct or_port *packets_open_port(const struct options *options)
{
    return open_port(options, OR_SUPER_FRAMES_OFF); /* echo messages are no data frames */
}

static enum or_super_frames super_frames_parse(const char *text)
{
    if (strcmp(text, "auto") == 0)
        return OR_SUPER_FRAMES_AUTO;
    if (strcmp(text, "on") == 0)
        return OR_SUPER_FRAMES_ON;
    if (strcmp(text, "off") == 0)
        return OR_SUPER_FRAMES_OFF;
    die("--super-frames: '%s' is not auto, on or off", text);
}

struct or_port *packets_open_session_port(const struct options *options, uint32_t types, uint32_t sessions_max)
{
    char why[256];
    struct or_port *port = open_port(options, super_frames_parse(options->super_frames));
    if (or_port_set_filter(port, &(struct or_port_door){types, sessions_max, OR_ANY_CHANNEL}, why, sizeof why))
        die("%s", why);
    return port;
}

static uint32_t frame_room(const struct or_port *port)
{
    return OR_ETH_HEADER + port->mtu;
}

uint32_t packets_payload_max(const struct or_port *port)
{
    return (frame_room(port) - MESSAGES_AT - MESSAGE_BYTES) & ~7u;
}

static void end_frame(struct packer *p)
{
    if (!p->frame)
        return;
    uint32_t bytes = p->used - MESSAGES_AT;
    memcpy(p->frame + LENGTH_AT, &bytes, sizeof bytes);
    or_port_tx_commit(p->port, p->used);
    p->frame = NULL;
}

/* Room for `bytes` in the current frame or a new one. */
static uint8_t *reserve(struct packer *p, uint32_t bytes)
{
    if (p->frame && p->used + bytes > frame_room(p->port))
        end_frame(p);
    if (!p->frame) {
        p->frame = or_port_tx_alloc(p->port);
        if (!p->frame)
            return NULL;
        uint16_t ethertype = htons(p->port->ethertype);
        memcpy(p->frame, p->peer, 6);
        memcpy(p->frame + 6, p->port->mac, 6);
        memcpy(p->frame + 12, &ethertype, 2);
        memset(p->frame + LENGTH_AT, 0, 8);
        p->used = MESSAGES_AT;
    }
    uint8_t *room = p->frame + p->used;
    p->used += bytes;
    return room;
}

bool packets_put(struct packer *p, struct echo_message m, const uint8_t *data)
{
    uint32_t total = data ? m.total : 0, piece_max = packets_payload_max(p->port);
    m.at = 0;
    do {
        m.length = (uint32_t)min_u64(total - m.at, piece_max);
        uint8_t *room = reserve(p, (MESSAGE_BYTES + m.length + 7) & ~7u);
        if (!room)
            return false;
        memcpy(room, &m, MESSAGE_BYTES);
        if (m.length)
            memcpy(room + MESSAGE_BYTES, data + m.at, m.length);
        m.at += m.length;
    } while (m.at < total);
    return true;
}

void packets_flush(struct packer *p)
{
    end_frame(p);
    or_port_tx_flush(p->port);
}

void packets_each(const uint8_t *frame, uint32_t length, packets_message_fn *fn, void *arg)
{
    uint32_t bytes = 0, at = 0;
    if (length >= MESSAGES_AT)
        memcpy(&bytes, frame + LENGTH_AT, sizeof bytes);
    if (bytes > length - min_u64(length, MESSAGES_AT))
        bytes = 0;
    while (bytes - at >= MESSAGE_BYTES) {
        struct echo_message m;
        memcpy(&m, frame + MESSAGES_AT + at, MESSAGE_BYTES);
        uint32_t whole = (MESSAGE_BYTES + m.length + 7) & ~7u;
        if (!echo_valid(&m) || whole > bytes - at)
            break;
        fn(arg, &m, frame + MESSAGES_AT + at + MESSAGE_BYTES);
        at += whole;
    }
}
