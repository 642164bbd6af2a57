/* What the handshake and the session fuzzers share: a real client and a real server over two ports in
 * memory, a virtual clock and a seeded random generator. Frames wait in a queue per direction until the
 * input has them delivered, dropped, doubled, exchanged or changed.
 *
 * Past the cryptography. or_seal_open and or_noise_write are wrapped (the linker's --wrap): the first tells
 * every key, so a changed or invented frame can be protected as its sender would; the second lets the input
 * change what a handshake message says before it is encrypted. So the fuzzer acts as a peer that holds the
 * key, and nothing in native/ knows of it. */
#ifndef FUZZ_SESSION_WORLD_H
#define FUZZ_SESSION_WORLD_H

#include <stdio.h>
#include <stdlib.h>

#include "input.h"
#include "mem/list.h"
#include "transport/client.h"
#include "transport/noise.h"
#include "transport/server.h"
#include "wire/seal.h"

#define MS 1000000ull
#define QUEUE_MAX 64u
#define KEYS_MAX 64u
#define REQUESTS_MAX 64u
#define VOLUME_BYTES (2u << 20)
#define SLOTS 16u
#define EXPORT_ASYNC 5u   /* a volume whose operations end when the input says so */
#define EXPORT_RAM 6u     /* a volume whose memory replies are read from */
#define EXPORT_FOREIGN 7u /* belongs to another host: must never be touched */
#define NIC_OWN 20u
#define NIC_FOREIGN 21u /* likewise */
#define GENERATION 3u

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Whose frames: the index of a port and of the queue behind it. */
enum side { CLIENT, SERVER };

struct frame {
    uint32_t length;
    uint8_t *bytes; /* of exactly that size, for AddressSanitizer */
};

struct memory_port {
    struct or_port port;
    uint8_t *buffer;
    struct frame queue[QUEUE_MAX];
    uint32_t count;
    struct frame last; /* DATA frame that was sent last: a pattern for invented ones */
};

struct request {
    struct or_req req;
    bool used;
    uint8_t *data; /* of exactly req.length */
};

struct key {
    uint8_t bytes[32];
    struct or_seal seal;
};

struct world {
    struct memory_port ports[2];
    struct or_client *client;
    struct or_server *server;
    struct or_volume async, foreign, *ram;
    uint32_t phase_frames;
    struct or_list ios; /* of the asynchronous volume */
    struct request requests[REQUESTS_MAX];
    uint32_t submitted, done;
    bool exported[EXPORT_FOREIGN + 1]; /* by id, until drained */
    uint64_t now;
    uint32_t seed;
    struct key keys[KEYS_MAX];
    uint32_t key_count;
    /* What the next handshake message of each side says: its payload, exclusive-or these bytes. */
    uint8_t change[2][64];
    enum side acting; /* whose code runs */
};

static struct world world;

int __real_or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32]);
int __wrap_or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32]);
int __real_or_noise_write(struct or_noise *noise, const void *payload, size_t length, uint8_t *out, size_t out_size);
int __wrap_or_noise_write(struct or_noise *noise, const void *payload, size_t length, uint8_t *out, size_t out_size);

int __wrap_or_seal_open(struct or_seal *seal, uint8_t integrity, const uint8_t key[32])
{
    struct world *w = &world;
    bool known = false;
    for (uint32_t i = 0; i < w->key_count; i++)
        known = known || memcmp(w->keys[i].bytes, key, 32) == 0;
    if (!known && w->key_count < KEYS_MAX) {
        struct key *k = &w->keys[w->key_count++];
        memcpy(k->bytes, key, 32);
        MUST(__real_or_seal_open(&k->seal, integrity, key) == 0);
    }
    return __real_or_seal_open(seal, integrity, key);
}

int __wrap_or_noise_write(struct or_noise *noise, const void *payload, size_t length, uint8_t *out, size_t out_size)
{
    uint8_t changed[256], *change = world.change[world.acting];
    MUST(length <= sizeof changed);
    memcpy(changed, payload, length);
    for (size_t i = 0; i < length && i < sizeof world.change[0]; i++)
        changed[i] ^= change[i];
    memset(change, 0, sizeof world.change[0]);
    return __real_or_noise_write(noise, changed, length, out, out_size);
}

/* --- frames --------------------------------------------------------------------------------------- */

static inline struct frame frame_new(const void *bytes, uint32_t length)
{
    struct frame f = {.length = length, .bytes = malloc(length ? length : 1)};
    memcpy(f.bytes, bytes, length);
    return f;
}

static inline struct or_frame_header *header_of(const struct frame *f)
{
    return (void *)(f->bytes + OR_ETH_HEADER);
}

/* Finds the key under which the frame verifies, latest first, and takes the protection off. NULL: none. */
static inline struct key *unprotect(struct world *w, struct frame *f)
{
    static _Alignas(8) uint8_t room[OR_MTU_MAX];
    struct or_frame_header *clear = (void *)room;
    for (uint32_t i = w->key_count; i-- > 0;) {
        const struct or_frame_header *h = or_seal_unprotect(&w->keys[i].seal, header_of(f), clear);
        if (!h)
            continue;
        if (h == clear)
            memcpy(header_of(f), clear, clear->length);
        return &w->keys[i];
    }
    return NULL;
}

/* After a change: as its sender would have sent it. */
static inline void protect(struct key *key, struct frame *f)
{
    struct or_frame_header *h = header_of(f);
    h->length = (uint16_t)(f->length - OR_ETH_HEADER);
    or_seal_protect(&key->seal, h);
}

static inline void frame_remove(struct memory_port *p, uint32_t i)
{
    free(p->queue[i].bytes);
    p->count--;
    memmove(&p->queue[i], &p->queue[i + 1], (p->count - i) * sizeof p->queue[0]);
}

static inline void receive(struct world *w, enum side from, const struct frame *f)
{
    w->acting = from == CLIENT ? SERVER : CLIENT;
    if (from == CLIENT)
        or_server_rx(w->server, 0, f->bytes, f->length, w->now);
    else
        or_client_rx(w->client, f->bytes, f->length, w->now);
}

static inline void deliver(struct world *w, enum side from, uint32_t i)
{
    struct memory_port *p = &w->ports[from];
    if (i >= p->count)
        return;
    struct frame f = frame_new(p->queue[i].bytes, p->queue[i].length);
    frame_remove(p, i);
    receive(w, from, &f);
    free(f.bytes);
}

/* --- the ports ------------------------------------------------------------------------------------- */

static uint8_t *memory_tx_alloc(struct or_port *port)
{
    return ((struct memory_port *)port)->buffer;
}

static void memory_tx_commit(struct or_port *port, uint32_t length)
{
    struct memory_port *p = (struct memory_port *)port;
    MUST(length >= OR_ETH_HEADER && length <= OR_ETH_HEADER + port->mtu);
    struct frame f = frame_new(p->buffer, length);
    if (header_of(&f)->type == OR_FRAME_DATA) {
        free(p->last.bytes);
        p->last = frame_new(p->buffer, length);
    }
    if (p->count == QUEUE_MAX)
        frame_remove(p, 0);
    p->queue[p->count++] = f;
}

static void memory_tx_flush(struct or_port *port)
{
    (void)port;
}

static uint32_t memory_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    (void)port, (void)max, (void)fn, (void)arg;
    return 0;
}

static int memory_allow(struct or_port *port, uint32_t session)
{
    (void)port, (void)session;
    return 0;
}

static void memory_disallow(struct or_port *port, uint32_t session)
{
    (void)port, (void)session;
}

static void memory_close(struct or_port *port)
{
    struct memory_port *p = (struct memory_port *)port;
    while (p->count > 0)
        frame_remove(p, 0);
    free(p->last.bytes);
    free(p->buffer);
    p->last.bytes = p->buffer = NULL;
}

static inline void port_open(struct memory_port *p, enum side side, uint32_t mtu)
{
    static const struct or_port_ops ops = {.tx_alloc = memory_tx_alloc,
                                           .tx_commit = memory_tx_commit,
                                           .tx_flush = memory_tx_flush,
                                           .rx_burst = memory_rx_burst,
                                           .allow = memory_allow,
                                           .disallow = memory_disallow,
                                           .close = memory_close};
    *p = (struct memory_port){.port = {.ops = &ops,
                                       .mac = {2, 0, 0, 0, 0, (uint8_t)(side + 1)},
                                       .ethertype = OR_ETHERTYPE_DEFAULT,
                                       .mtu = mtu,
                                       .rx_frames = 64,
                                       .fd = -1,
                                       .handshake_fd = -1},
                              .buffer = malloc(OR_ETH_HEADER + mtu)};
}

/* --- the volumes ----------------------------------------------------------------------------------- */

static inline void check_io(const struct or_io *io)
{
    MUST(io->op >= OR_OP_READ && io->op <= OR_OP_WRITE_ZEROES);
    MUST(io->op == OR_OP_FLUSH || (io->offset <= VOLUME_BYTES && io->length <= VOLUME_BYTES - io->offset));
    MUST((io->op != OR_OP_READ && io->op != OR_OP_WRITE) || io->data != NULL);
}

static void async_submit(struct or_volume *volume, struct or_io *io)
{
    (void)volume;
    check_io(io);
    or_list_append(&world.ios, &io->link);
}

static void foreign_submit(struct or_volume *volume, struct or_io *io)
{
    (void)volume, (void)io;
    MUST(!"a volume of another host was touched");
}

static void volume_close(struct or_volume *volume)
{
    (void)volume;
}

/* Ends up to `count` operations, with a status; all of a read's bytes are written, all of a write's read. */
static inline void end_ios(struct world *w, uint32_t count, uint8_t status)
{
    w->acting = SERVER;
    while (count-- > 0 && !or_list_empty(&w->ios)) {
        struct or_io *io = OR_CONTAINER(w->ios.next, struct or_io, link);
        volatile uint8_t sum = 0;
        or_list_remove(&io->link);
        if (io->op == OR_OP_READ)
            memset(io->data, 0x5a, io->length);
        for (uint32_t i = 0; io->op == OR_OP_WRITE && i < io->length; i += 512)
            sum = (uint8_t)(sum + io->data[i]);
        io->status = status;
        or_volume_complete(io);
    }
}

/* --- requests -------------------------------------------------------------------------------------- */

static struct request *request_of(struct or_req *req)
{
    struct request *r = OR_CONTAINER(req, struct request, req);
    MUST(r->used);
    return r;
}

static void request_pull(struct or_req *req, uint32_t offset, uint8_t *dst, uint32_t length)
{
    MUST(req->op == OR_OP_WRITE && offset <= req->length && length <= req->length - offset);
    memcpy(dst, request_of(req)->data + offset, length);
}

static void request_push(struct or_req *req, uint32_t offset, const uint8_t *src, uint32_t length)
{
    MUST(req->op == OR_OP_READ && offset <= req->length && length <= req->length - offset);
    memcpy(request_of(req)->data + offset, src, length);
}

static void request_done(struct or_req *req)
{
    struct request *r = request_of(req);
    MUST(req->status < OR_STATUS_MAX);
    free(r->data);
    r->used = false;
    world.done++;
}

static inline void submit(struct world *w, uint8_t op, uint32_t device, uint64_t offset, uint32_t length, uint8_t flags)
{
    static const struct or_req_ops ops = {request_pull, request_push, request_done};
    for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
        struct request *r = &w->requests[i];
        if (r->used)
            continue;
        *r = (struct request){.used = true, .data = calloc(1, length ? length : 1)};
        r->req = (struct or_req){.ops = &ops,
                                 .offset = offset,
                                 .length = length,
                                 .device = device,
                                 .generation = GENERATION,
                                 .op = op,
                                 .flags = flags};
        w->submitted++;
        w->acting = CLIENT;
        or_client_submit(w->client, &r->req, w->now);
        return;
    }
}

/* --- packets --------------------------------------------------------------------------------------- */

static inline void check_packet(const uint8_t *packet, uint32_t length)
{
    volatile uint8_t sum = 0;
    MUST(length >= OR_PACKET_MIN && length <= OR_PACKET_MAX);
    for (uint32_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + packet[i]);
}

static void on_packet(void *arg, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length)
{
    (void)arg, (void)device, (void)generation;
    check_packet(packet, length);
}

static inline void send_packet(struct world *w, enum side from, uint8_t how)
{
    static uint8_t bytes[OR_PACKET_MAX];
    uint32_t length = how & 128 ? OR_PACKET_MAX : OR_PACKET_MIN + how * 40u;
    struct iovec iov[] = {{bytes, 12}, {bytes + 12, length - 12}};
    struct or_packet packet = {iov, 2, length};
    w->acting = from;
    if (from == CLIENT)
        or_client_packet(w->client, NIC_OWN, GENERATION, &packet, w->now);
    else
        or_server_packet(w->server, NIC_OWN, &packet, w->now);
}

/* Answers from inside the call, as a switch between NICs may. */
static void nic_packet(void *arg, const uint8_t *packet, uint32_t length)
{
    uint32_t id = *(const uint32_t *)arg;
    MUST(id == NIC_OWN);
    check_packet(packet, length);
    if (packet[0] & 1)
        send_packet(&world, SERVER, packet[0]);
}

static inline void add_nic(struct world *w, uint32_t id, uint32_t generation, const char *host)
{
    static const uint32_t own = NIC_OWN, foreign = NIC_FOREIGN;
    struct or_nic_export nic = {
        .id = id, .generation = generation, .packet = nic_packet, .arg = (void *)(id == NIC_OWN ? &own : &foreign)};
    snprintf(nic.host, sizeof nic.host, "%s", host);
    or_server_add_nic(w->server, &nic);
}

/* --- time ------------------------------------------------------------------------------------------ */

/* One iteration of both loops, without reception. */
static inline void turn(struct world *w, uint64_t passed_ns)
{
    w->now += passed_ns;
    w->acting = CLIENT;
    if (w->now >= or_client_deadline(w->client))
        or_client_tick(w->client, w->now);
    or_client_flush(w->client, w->now);
    w->acting = SERVER;
    if (w->now >= or_server_deadline(w->server))
        or_server_tick(w->server, w->now);
    or_server_flush(w->server, w->now);
}

/* A network that works, for some turns. */
static inline void run(struct world *w, uint32_t turns)
{
    while (turns-- > 0) {
        for (uint32_t n = w->ports[CLIENT].count; n > 0; n--)
            deliver(w, CLIENT, 0);
        for (uint32_t n = w->ports[SERVER].count; n > 0; n--)
            deliver(w, SERVER, 0);
        turn(w, MS / 10);
    }
}

/* --- life ------------------------------------------------------------------------------------------ */

static void seeded_random(void *arg, void *out, size_t length)
{
    struct world *w = arg;
    for (size_t i = 0; i < length; i++) {
        w->seed = w->seed * 1664525u + 1013904223u;
        ((uint8_t *)out)[i] = (uint8_t)(w->seed >> 24);
    }
}

static void on_link(void *arg, bool up, const char *why)
{
    (void)arg;
    MUST(up == (why[0] == '\0'));
}

static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    (void)arg;
    MUST(length > 0 && memchr(document, 0, length) != document);
}

static void on_report(void *arg, const char *host, const uint8_t *document, uint32_t length)
{
    (void)arg, (void)host, (void)document;
    MUST(length > 0 && length <= OR_REQ_BYTES_MAX);
}

static inline void client_open(struct world *w, const char *name, uint8_t key_byte, uint8_t integrity_min)
{
    struct or_client_config config = {.ports = {&w->ports[CLIENT].port},
                                      .env = {seeded_random, w},
                                      .integrity_min = integrity_min,
                                      .phase_frames = w->phase_frames,
                                      .link = on_link,
                                      .document = on_document,
                                      .packet = on_packet,
                                      .arg = w};
    int err;
    memcpy(config.server_macs[0], w->ports[SERVER].port.mac, 6);
    memset(config.psk, key_byte, sizeof config.psk);
    snprintf(config.name, sizeof config.name, "%s", name);
    w->client = or_client_create(&config, &err);
    MUST(w->client != NULL);
}

static inline void add_export(struct world *w, uint32_t id, uint32_t generation, const char *host,
                              struct or_volume *volume)
{
    struct or_export x = {.id = id, .generation = generation, .volume = volume};
    snprintf(x.host, sizeof x.host, "%s", host);
    if (or_server_add_export(w->server, &x) == 0)
        w->exported[id] = true;
}

/* `how`: MTU, integrity, and whether keys change every few frames. */
static inline void world_open(struct world *w, uint8_t how, uint8_t integrity_min)
{
    static const struct or_backend_ops async_ops = {.name = "async", .submit = async_submit, .close = volume_close};
    static const struct or_backend_ops foreign_ops = {
        .name = "foreign", .submit = foreign_submit, .close = volume_close};
    static const uint8_t integrities[] = {OR_INTEGRITY_MAC, OR_INTEGRITY_CRC, OR_INTEGRITY_ENCRYPT, OR_INTEGRITY_MAC};
    uint32_t mtu = how & 1 ? 9000 : OR_MTU_MIN;
    uint8_t integrity = integrities[how >> 1 & 3];
    int err;
    memset(w, 0, sizeof *w);
    w->phase_frames = how & 8 ? 6 : 0;
    w->seed = 1;
    w->now = 1000 * MS;
    or_list_init(&w->ios);
    port_open(&w->ports[CLIENT], CLIENT, mtu);
    port_open(&w->ports[SERVER], SERVER, mtu);
    w->async = (struct or_volume){
        .ops = &async_ops, .size = VOLUME_BYTES, .block_size = 512, .physical_block_size = 4096, .align = 1, .fd = -1};
    w->async.discard_granularity = 512;
    w->async.write_zeroes = true;
    w->foreign = w->async;
    w->foreign.ops = &foreign_ops;
    w->ram = or_volume_ram(VOLUME_BYTES, 512, &err);
    struct or_server_config config = {.ports = {&w->ports[SERVER].port},
                                      .env = {seeded_random, w},
                                      .integrity = integrity,
                                      .phase_frames = w->phase_frames,
                                      .hosts_max = 4,
                                      .exports_max = 8,
                                      .slots = SLOTS,
                                      .buffer_bytes = 2u << 20,
                                      .report = on_report,
                                      .arg = w};
    uint8_t psk[32];
    w->server = or_server_create(&config, &err);
    MUST(w->server != NULL && w->ram != NULL);
    memset(psk, 7, sizeof psk);
    MUST(or_server_add_host(w->server, "vmhost1", psk) == 0);
    memset(psk, 8, sizeof psk);
    MUST(or_server_add_host(w->server, "vmhost2", psk) == 0);
    add_export(w, EXPORT_ASYNC, GENERATION, "vmhost1", &w->async);
    add_export(w, EXPORT_RAM, GENERATION, "vmhost1", w->ram);
    add_export(w, EXPORT_FOREIGN, GENERATION, "vmhost2", &w->foreign);
    add_nic(w, NIC_OWN, GENERATION, "vmhost1");
    add_nic(w, NIC_FOREIGN, GENERATION, "vmhost2");
    client_open(w, "vmhost1", 7, integrity_min);
}

static void export_drained(void *arg)
{
    MUST(*(bool *)arg);
    *(bool *)arg = false;
}

static inline void remove_export(struct world *w, uint32_t id)
{
    or_server_remove_export(w->server, id, export_drained, &w->exported[id]);
}

/* Everything ends: every request once, every export drained. */
static inline void world_close(struct world *w)
{
    for (uint32_t id = EXPORT_ASYNC; id <= EXPORT_FOREIGN; id++)
        remove_export(w, id);
    end_ios(w, UINT32_MAX, OR_OK);
    for (uint32_t id = EXPORT_ASYNC; id <= EXPORT_FOREIGN; id++)
        MUST(!w->exported[id]);
    or_client_destroy(w->client);
    MUST(w->submitted == w->done);
    or_server_destroy(w->server);
    w->ram->ops->close(w->ram);
    or_port_close(&w->ports[CLIENT].port);
    or_port_close(&w->ports[SERVER].port);
    for (uint32_t i = 0; i < w->key_count; i++)
        or_seal_close(&w->keys[i].seal);
    w->key_count = 0;
}

#endif
