/* The verifying client of a campaign: a guest's driver and its QEMU in one program, on a disk of a real host
 * engine.
 *
 *   verify_client --socket PATH --journal FILE [--blocks N] [--interval-us N] [--reconnect-ms N] [--seed S]
 *
 * It connects again whenever the other side closes the socket. Commands come as lines on the standard input
 * (load.h says what they do): window NAME, settle, stop. Answers and events are JSON lines on the standard
 * output. Its exit status is 0 when it was stopped and saw no error and no mismatch. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../driver/vhost_disk.h"
#include "../journal.h"
#include "load.h"

#define LINE_MAX_BYTES 256u

struct client {
    const char *socket;
    uint64_t reconnect_ns, connect_due_ns;
    struct load_config config;
    struct vhost_disk *disk;
    struct load *load;
    char line[LINE_MAX_BYTES];
    uint32_t line_length;
};

static int usage(void)
{
    fputs("usage: verify_client --socket PATH --journal FILE [--blocks N] [--interval-us N] [--reconnect-ms N]"
          " [--seed S]\n",
          stderr);
    return 2;
}

static bool parse(struct client *c, int argc, char **argv)
{
    static const struct option options[] = {{"socket", required_argument, NULL, 's'},
                                            {"journal", required_argument, NULL, 'j'},
                                            {"blocks", required_argument, NULL, 'b'},
                                            {"interval-us", required_argument, NULL, 'i'},
                                            {"reconnect-ms", required_argument, NULL, 'r'},
                                            {"seed", required_argument, NULL, 'e'},
                                            {NULL, 0, NULL, 0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        uint64_t number = optarg ? strtoull(optarg, NULL, 10) : 0;
        if (o == 's')
            c->socket = optarg;
        else if (o == 'j')
            c->config.journal = optarg;
        else if (o == 'b')
            c->config.blocks = (uint32_t)number;
        else if (o == 'i')
            c->config.interval_ns = number * 1000;
        else if (o == 'r')
            c->reconnect_ns = number * 1000000;
        else if (o == 'e')
            c->config.seed = number;
        else
            return false;
    }
    return c->socket && c->config.journal && c->config.blocks >= LOAD_DATA_MAX / JOURNAL_BLOCK * 2 && optind == argc;
}

static void obey(struct client *c, const char *line)
{
    char name[LINE_MAX_BYTES];
    if (sscanf(line, "window %200[0-9a-zA-Z_+.-]", name) == 1)
        load_window(c->load, name);
    else if (strcmp(line, "settle") == 0)
        load_settle(c->load);
    else if (strcmp(line, "stop") == 0)
        load_stop(c->load);
    else
        fprintf(stderr, "verify_client: unknown command: %s\n", line);
}

/* False at the end of the input: whoever gave the commands is gone. */
static bool read_commands(struct client *c)
{
    char text[LINE_MAX_BYTES];
    ssize_t n = read(STDIN_FILENO, text, sizeof(text));
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    for (ssize_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            c->line[c->line_length] = '\0';
            c->line_length = 0;
            obey(c, c->line);
        } else if (c->line_length < LINE_MAX_BYTES - 1) {
            c->line[c->line_length++] = text[i];
        }
    }
    return true;
}

/* Returns when to try again. */
static uint64_t keep_connected(struct client *c, uint64_t now_ns)
{
    if (vhost_disk_connected(c->disk))
        return UINT64_MAX;
    if (now_ns >= c->connect_due_ns) {
        if (vhost_disk_connect(c->disk))
            return UINT64_MAX;
        c->connect_due_ns = journal_now_ns() + c->reconnect_ns;
    }
    return c->connect_due_ns;
}

static bool wait_until(struct client *c, uint64_t until_ns)
{
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                           {.fd = vhost_disk_call_fd(c->disk), .events = POLLIN},
                           {.fd = vhost_disk_socket(c->disk), .events = POLLIN}};
    uint64_t now_ns = journal_now_ns();
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};
    fflush(stdout);
    if (ppoll(fds, 3, until_ns == UINT64_MAX ? NULL : &timeout, NULL) <= 0)
        return true;
    if (fds[2].revents != 0)
        vhost_disk_check(c->disk);
    return fds[0].revents == 0 || read_commands(c);
}

static bool run(struct client *c)
{
    while (!load_ended(c->load)) {
        uint64_t now_ns = journal_now_ns();
        uint64_t connect_ns = keep_connected(c, now_ns);
        uint64_t submit_ns = load_step(c->load, now_ns);
        if (!load_ended(c->load) && !wait_until(c, connect_ns < submit_ns ? connect_ns : submit_ns))
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct client c = {.reconnect_ns = 20000000, .config = {.blocks = 4096, .interval_ns = 1000000, .seed = 1}};
    if (!parse(&c, argc, argv))
        return usage();
    c.disk = vhost_disk_create(
        &(struct vhost_disk_config){.socket = c.socket, .slots = LOAD_SLOTS, .data_max = LOAD_DATA_MAX});
    while (!vhost_disk_connect(c.disk))
        nanosleep(&(struct timespec){0, (long)c.reconnect_ns}, NULL);
    if (vhost_disk_stats(c.disk).capacity < (uint64_t)c.config.blocks * JOURNAL_BLOCK) {
        fputs("verify_client: the disk is smaller than --blocks says\n", stderr);
        return 2;
    }
    c.load = load_create(c.disk, &c.config);
    puts("{\"event\":\"ready\"}");
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    bool stopped = run(&c);
    bool clean = load_finish(c.load);
    return stopped && clean ? 0 : 1;
}
