/* One volume for one host, served as the I/O hypervisor's worker does it (same session, same back-ends,
 * same loop), without supervisor, API and desired state. For measuring the data path alone and for
 * tests that want a server in one command. */
#include "backend/backend.h"
#include "packets.h"
#include "transport/server.h"
#include "waiter.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define RX_BURST 64
#define BUFFER_BYTES (256ull << 20)
#define URING_ENTRIES 512

struct harness {
    struct or_port *port;
    struct or_server *server;
    struct or_uring *uring;
    struct or_volume *volume;
    uint64_t now;
    bool drained;
};

static struct or_volume *open_file(const char *path, struct or_uring *uring, int *err)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0 && errno == EINVAL)
        fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        die("%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        die("%s is in use by another process", path);
    return or_volume_file(uring, fd, false, err);
}

static struct or_volume *open_volume(const char *volume, struct or_uring *uring)
{
    int err = 0;
    struct or_volume *v;
    if (!volume)
        die("--volume is needed: ram:SIZE, null:SIZE or file:PATH");
    if (strncmp(volume, "ram:", 4) == 0)
        v = or_volume_ram(parse_size("volume", volume + 4), 512, &err);
    else if (strncmp(volume, "null:", 5) == 0)
        v = or_volume_null(parse_size("volume", volume + 5), 512, &err);
    else if (strncmp(volume, "file:", 5) == 0)
        v = open_file(volume + 5, uring, &err);
    else
        die("--volume: '%s' is not ram:SIZE, null:SIZE or file:PATH", volume);
    if (!v)
        die("--volume %s: %s", volume, strerror(-err));
    return v;
}

static void on_link(void *arg, const char *host, bool up, const char *why)
{
    (void)arg;
    fprintf(stderr, "loadgen: host %s %s%s%s\n", host, up ? "up" : "down", why && *why ? ": " : "", why ? why : "");
}

static void on_report(void *arg, const char *host, const uint8_t *document, uint32_t length)
{
    (void)arg;
    fprintf(stderr, "loadgen: host %s reports: %.*s\n", host, (int)length, (const char *)document);
}

static void on_drained(void *arg)
{
    ((struct harness *)arg)->drained = true;
}

static void create_server(struct harness *h, const struct options *options)
{
    struct or_server_config config = {.ports = {h->port},
                                      .env = or_env_system,
                                      .integrity = integrity_parse(options->integrity),
                                      .hosts_max = 1,
                                      .exports_max = 1,
                                      .slots = OR_SLOTS_MAX,
                                      .buffer_bytes = BUFFER_BYTES,
                                      .link = on_link,
                                      .report = on_report,
                                      .arg = h};
    struct or_export info = {
        .id = (uint32_t)options->device, .generation = (uint32_t)options->generation, .volume = h->volume};
    uint8_t psk[32];
    psk_read(options->psk_file, psk);
    if (strlen(options->name) > OR_NAME_MAX)
        die("--name: at most %u bytes", OR_NAME_MAX);
    strcpy(info.host, options->name);
    int err = 0;
    h->server = or_server_create(&config, &err);
    if (!h->server)
        die("server: %s", strerror(-err));
    uint64_t bytes;
    const void *buffers = or_server_buffers(h->server, &bytes);
    or_uring_lend(h->uring, buffers, bytes);
    if ((err = or_server_add_host(h->server, options->name, psk)) || (err = or_server_add_export(h->server, &info)))
        die("server: %s", strerror(-err));
}

static void on_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    struct harness *h = arg;
    or_server_rx(h->server, 0, frame, length, h->now);
}

static void step(struct harness *h, struct waiter *waiter)
{
    h->now = clock_ns();
    uint32_t work = or_port_rx_burst(h->port, RX_BURST, on_frame, h);
    work += or_uring_poll(h->uring);
    if (or_server_deadline(h->server) <= h->now)
        or_server_tick(h->server, h->now);
    or_server_flush(h->server, h->now);
    work += or_uring_poll(h->uring);
    or_port_tx_flush(h->port);
    if (work) {
        waiter_worked(waiter);
        return;
    }
    struct pollfd fds[] = {{.fd = h->port->fd, .events = POLLIN},
                           {.fd = h->port->handshake_fd, .events = POLLIN},
                           {.fd = or_uring_fd(h->uring), .events = POLLIN}};
    uint64_t deadline = or_server_deadline(h->server);
    if (deadline <= h->now || !waiter_spun(waiter, h->now))
        return;
    if (!or_uring_arm(h->uring))
        waiter_sleep(fds, 3, h->now, deadline);
    or_uring_disarm(h->uring);
}

int serve_outrigger(const struct options *options)
{
    struct harness *h = memory_new(sizeof *h);
    struct waiter waiter;
    int err = 0;
    waiter_init(&waiter, options->spin_us);
    h->uring = or_uring_create(URING_ENTRIES, &err);
    if (!h->uring)
        die("io_uring: %s", strerror(-err));
    h->volume = open_volume(options->volume, h->uring);
    h->port = packets_open_session_port(options, OR_SERVER_FRAMES, OR_SERVER_SESSIONS_PER_HOST);
    create_server(h, options);
    serve_catch_signals();
    serve_ready();
    while (!serve_stopped())
        step(h, &waiter);
    or_server_remove_export(h->server, (uint32_t)options->device, on_drained, h);
    while (!h->drained)
        step(h, &waiter);
    or_server_destroy(h->server);
    h->volume->ops->close(h->volume);
    or_uring_destroy(h->uring);
    or_port_close(h->port);
    free(h);
    return 0;
}
