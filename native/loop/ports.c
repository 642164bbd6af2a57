/* The ports of an engine. An interface may be switched off, lose its carrier, change its MTU, or be
 * deleted and made again under the same name while the engine runs: the kernel tells of all this on a
 * netlink socket, and the ports look at their interfaces then. While one is down they also look once in a
 * while, should the kernel's message have been lost, or opening have failed for want of memory; and while one
 * waits for what another process has. */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_internal.h"

#define LOOK_EVERY_NS 1000000000ull

static void port_ready(struct or_fd_source *source, uint32_t events)
{
    (void)source;
    (void)events; /* the next step reads the port */
}

/* What exactly happened does not matter: the interfaces themselves are asked. */
static void news_ready(struct or_fd_source *source, uint32_t events)
{
    (void)events;
    struct or_ports *ports = OR_CONTAINER(source, struct or_ports, news);
    char message[8192];
    while (recv(source->fd, message, sizeof message, 0) > 0 || errno == ENOBUFS)
        ;
    ports->look = true;
}

static int open_news(struct or_engine *e)
{
    struct or_ports *ports = &e->ports;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    ports->news.ready = news_ready;
    ports->news.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (ports->news.fd < 0 || bind(ports->news.fd, (struct sockaddr *)&address, sizeof address) != 0)
        return -errno;
    return or_fd_source_add(e->epoll_fd, &ports->news, EPOLLIN);
}

/* The descriptors of a port, after it was opened, again perhaps: closing has taken the old ones out. */
static int watch(struct or_engine *e, uint32_t i)
{
    struct or_ports *ports = &e->ports;
    const struct or_port *port = ports->port[i];
    ports->source[i] = (struct or_fd_source){.ready = port_ready, .fd = port->fd};
    ports->handshake_source[i] = (struct or_fd_source){.ready = port_ready, .fd = port->handshake_fd};
    int err = or_fd_source_add(e->epoll_fd, &ports->source[i], EPOLLIN);
    return err ? err : or_fd_source_add(e->epoll_fd, &ports->handshake_source[i], EPOLLIN);
}

static void publish(struct or_ports *ports)
{
    static_assert(OR_MTU_MAX <= 0xffff, "fits beside an address");
    uint64_t first = 0;
    for (uint32_t i = 0; i < 6; i++)
        first = first << 8 | ports->port[0]->mac[i];
    atomic_store_explicit(&ports->first, first << 16 | ports->port[0]->mtu, memory_order_relaxed);
}

int or_ports_open(struct or_engine *e, char *why)
{
    struct or_ports *ports = &e->ports;
    or_port_open_fn *open_port = e->config.port_mode == OR_PORT_XDP ? or_port_xdp_open : or_port_packet_open;
    int err = 0;
    ports->news.fd = -1;
    ports->look_at = UINT64_MAX;
    for (uint32_t i = 0; i < OR_LINKS_MAX && e->config.interfaces[i][0] && !err; i++) {
        struct or_port *port = open_port(e->config.interfaces[i], e->config.ethertype, e->config.mtu,
                                         e->config.super_frames, &err, why, OR_WHY_MAX);
        if (!port)
            return err;
        ports->port[ports->count++] = port;
        struct or_port_door door = {
            .types = e->role->frame_types,
            .sessions_max = e->role->sessions_max,
            .channel = e->role->all_channels ? OR_ANY_CHANNEL : e->config.worker,
        };
        err = or_port_set_filter(port, &door, why, OR_WHY_MAX);
        if (err)
            return err;
        err = watch(e, i);
    }
    if (!err)
        err = open_news(e);
    if (err)
        snprintf(why, OR_WHY_MAX, "cannot watch the network interfaces: %s", strerror(-err));
    else
        publish(ports);
    ports->look = true; /* one may be down already */
    return err;
}

void or_ports_close(struct or_engine *e)
{
    struct or_ports *ports = &e->ports;
    for (uint32_t i = 0; i < ports->count; i++)
        or_port_close(ports->port[i]);
    if (ports->news.fd >= 0)
        close(ports->news.fd);
    ports->count = 0;
    ports->news.fd = -1;
}

void or_ports_flush(struct or_engine *e)
{
    for (uint32_t i = 0; i < e->ports.count; i++)
        or_port_tx_flush(e->ports.port[i]);
}

static void tell(struct or_engine *e, uint32_t i)
{
    struct or_event *event =
        or_engine_event(e, e->ports.port[i]->down ? OR_EVENT_PORT_DOWN : OR_EVENT_PORT_UP, NULL, 0);
    if (!event)
        return;
    memcpy(event->interface, e->config.interfaces[i], sizeof event->interface);
    or_engine_emit(e, event);
}

static void follow(struct or_engine *e, uint32_t i, uint64_t now)
{
    struct or_port *port = e->ports.port[i];
    bool was_down = port->down;
    if (!or_port_refresh(port))
        return;
    publish(&e->ports);
    if (port->fd != e->ports.source[i].fd)
        watch(e, i);
    if (port->down != was_down)
        tell(e, i);
    e->role->port_changed(e, port, now);
}

void or_ports_follow(struct or_engine *e, uint64_t now)
{
    struct or_ports *ports = &e->ports;
    if (!ports->look && now < ports->look_at)
        return;
    ports->look = false;
    ports->look_at = UINT64_MAX;
    for (uint32_t i = 0; i < ports->count; i++) {
        follow(e, i, now);
        if (ports->port[i]->down || or_port_xdp_waits(&ports->port[i]->xdp))
            ports->look_at = now + LOOK_EVERY_NS;
    }
}

void or_ports_stats(const struct or_engine *e, struct or_engine_stats *out)
{
    struct or_port_stats *sum = &out->port;
    *sum = (struct or_port_stats){0};
    out->session_filter = true;
    out->xdp = (struct or_port_xdp){0};
    for (uint32_t i = 0; i < e->ports.count; i++) {
        struct or_port_stats s = or_port_stats(e->ports.port[i]);
        or_port_stats_add(sum, &s);
        or_port_xdp_add(&out->xdp, &e->ports.port[i]->xdp);
        out->session_filter &= e->ports.port[i]->filter == OR_FILTER_SESSION;
    }
}
