/* A client and a server over an in-process pair of ports and a virtual clock, for tests of sessions. The server
 * has a host, vmhost1, with one export, 5 of generation 3. Include after cmocka.h. */
#ifndef SESSION_PAIR_H
#define SESSION_PAIR_H

#include <stdlib.h>
#include <string.h>

#include "transport/client.h"
#include "transport/server.h"

#define MS 1000000ull
#define VOLUME_BYTES (4u << 20)

static uint32_t phase_frames;             /* of both sides; 0: the default */
static uint8_t integrity_min;             /* of the client */
static uint16_t slots = 64;               /* of the server */
static uint64_t buffer_bytes = 16u << 20; /* of the server */

struct world {
    struct or_port *client_port, *server_port;
    struct or_client *client;
    struct or_server *server;
    struct or_volume *volume;
    uint64_t now;
    uint32_t seed;
    int ups, downs;
    char report[64], document[64];
    /* A test's own: called in each step between rx and flush, and for each packet that the client gets. */
    void (*before_client_flush)(struct world *w), (*before_server_flush)(struct world *w);
    void (*packet)(struct world *w, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length);
    bool late;                      /* the former, after the flush instead */
    bool (*loses)(struct world *w); /* the next frame towards the server */
    void *test;
};

struct request {
    struct or_req req;
    uint8_t *data;
    int done;
};

static inline void seeded_random(void *arg, void *out, size_t length)
{
    struct world *w = arg;
    for (size_t i = 0; i < length; i++) {
        w->seed = w->seed * 1664525u + 1013904223u;
        ((uint8_t *)out)[i] = (uint8_t)(w->seed >> 24);
    }
}

static inline void pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, ((struct request *)r)->data + offset, length);
}

static inline void push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(((struct request *)r)->data + offset, src, length);
}

static inline void done(struct or_req *r)
{
    ((struct request *)r)->done++;
}

static const struct or_req_ops ops = {pull, push, done};

static inline void on_client_link(void *arg, bool up, const char *why)
{
    struct world *w = arg;
    assert_true(up == (why[0] == 0));
    up ? w->ups++ : w->downs++;
}

static inline void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    struct world *w = arg;
    assert_in_range(length, 1, sizeof w->document - 1);
    memcpy(w->document, document, length);
    w->document[length] = 0;
}

static inline void on_report(void *arg, const char *host, const uint8_t *document, uint32_t length)
{
    struct world *w = arg;
    assert_string_equal(host, "vmhost1");
    assert_in_range(length, 1, sizeof w->report - 1);
    memcpy(w->report, document, length);
    w->report[length] = 0;
}

static inline void on_packet(void *arg, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length)
{
    struct world *w = arg;
    if (w->packet)
        w->packet(w, device, generation, packet, length);
}

static inline void client_rx(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    or_client_rx(w->client, frame, length, w->now);
}

static inline void server_rx(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    if (w->loses && w->loses(w))
        return;
    or_server_rx(w->server, 0, frame, length, w->now);
}

/* One step of either side. */
static inline void run_step(struct world *w)
{
    or_port_rx_burst(w->client_port, 64, client_rx, w);
    if (w->now >= or_client_deadline(w->client))
        or_client_tick(w->client, w->now);
    if (w->before_client_flush && !w->late)
        w->before_client_flush(w);
    or_client_flush(w->client, w->now);
    if (w->before_client_flush && w->late)
        w->before_client_flush(w);
    or_port_tx_flush(w->client_port);
    or_port_rx_burst(w->server_port, 64, server_rx, w);
    if (w->now >= or_server_deadline(w->server))
        or_server_tick(w->server, w->now);
    if (w->before_server_flush && !w->late)
        w->before_server_flush(w);
    or_server_flush(w->server, w->now);
    if (w->before_server_flush && w->late)
        w->before_server_flush(w);
    or_port_tx_flush(w->server_port);
    while (or_server_deadline(w->server) == 0) { /* a step of bounded work follows the other at once */
        or_server_flush(w->server, w->now);
        or_port_tx_flush(w->server_port);
    }
}

/* 100 us of virtual time. */
static inline void run_a_little(struct world *w)
{
    for (int i = 0; i < 4; i++)
        run_step(w);
    w->now += MS / 10;
}

/* Lets `ms` of virtual time pass. */
static inline void run(struct world *w, uint64_t ms)
{
    for (uint64_t end = w->now + ms * MS; w->now < end;)
        run_a_little(w);
}

static inline struct or_client *new_client(struct world *w, const char *name, uint8_t key_byte)
{
    struct or_client_config config = {
        .ports = {w->client_port},
        .env = {seeded_random, w},
        .phase_frames = phase_frames,
        .integrity_min = integrity_min,
        .link = on_client_link,
        .document = on_document,
        .packet = on_packet,
        .arg = w,
    };
    int err;
    memcpy(config.server_macs[0], w->server_port->mac, 6);
    memset(config.psk, key_byte, sizeof config.psk);
    strcpy(config.name, name);
    return or_client_create(&config, &err);
}

static inline struct world *new_world(uint32_t mtu, uint8_t integrity)
{
    struct world *w = calloc(1, sizeof *w);
    int err;
    w->seed = 1;
    w->now = 1000 * MS;
    assert_int_equal(or_port_pair_open(mtu, OR_ETHERTYPE_DEFAULT, &w->client_port, &w->server_port), 0);
    struct or_server_config config = {
        .ports = {w->server_port},
        .env = {seeded_random, w},
        .phase_frames = phase_frames,
        .integrity = integrity,
        .hosts_max = 4,
        .exports_max = 8,
        .slots = slots,
        .buffer_bytes = buffer_bytes,
        .report = on_report,
        .arg = w,
    };
    w->server = or_server_create(&config, &err);
    w->volume = or_volume_ram(VOLUME_BYTES, 512, &err);
    uint8_t psk[32];
    memset(psk, 7, sizeof psk);
    assert_int_equal(or_server_add_host(w->server, "vmhost1", psk), 0);
    struct or_export x = {.id = 5, .generation = 3, .host = "vmhost1", .volume = w->volume};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    w->client = new_client(w, "vmhost1", 7);
    return w;
}

static inline void drained(void *arg)
{
    (*(int *)arg)++;
}

static inline void end_world(struct world *w)
{
    int n = 0;
    if (or_server_remove_export(w->server, 5, drained, &n) == 0)
        assert_int_equal(n, 1);
    or_client_destroy(w->client);
    or_server_destroy(w->server);
    w->volume->ops->close(w->volume);
    or_port_close(w->client_port);
    or_port_close(w->server_port);
    free(w);
}

#endif
