/* loadgen: the entry point, and the few helpers that several parts use. */
#include "loadgen.h"
#include <errno.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

_Noreturn void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

uint8_t *memory_map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        die("cannot map %zu bytes: %s", bytes, strerror(errno));
    return memory;
}

void *memory_new(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        die("out of memory");
    return memory;
}

void psk_read(const char *path, uint8_t psk[32])
{
    if (!path)
        die("--psk-file is needed");
    FILE *file = fopen(path, "re");
    if (!file)
        die("%s: %s", path, strerror(errno));
    char line[64];
    if (!fgets(line, sizeof line, file))
        line[0] = 0;
    fclose(file);
    line[strcspn(line, "\r\n")] = 0;
    /* 32 bytes are 44 characters, the last of which pads; EVP_DecodeBlock counts the padding in. */
    uint8_t decoded[33];
    if (strlen(line) != 44 || line[43] != '=' || line[42] == '=' ||
        EVP_DecodeBlock(decoded, (const uint8_t *)line, 44) != 33)
        die("%s: not a key; make one with: openssl rand -base64 32", path);
    memcpy(psk, decoded, 32);
}

uint8_t integrity_parse(const char *text)
{
    if (strcmp(text, "mac") == 0)
        return OR_INTEGRITY_MAC;
    if (strcmp(text, "crc") == 0)
        return OR_INTEGRITY_CRC;
    if (strcmp(text, "encrypt") == 0)
        return OR_INTEGRITY_ENCRYPT;
    die("--integrity: '%s' is not encrypt, mac or crc", text);
}

static volatile sig_atomic_t stopped;

static void on_signal(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

void serve_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool serve_stopped(void)
{
    return stopped;
}

void serve_ready(void)
{
    puts("ready");
    fflush(stdout);
}

static int serve(const struct options *options)
{
    if (strcmp(options->serve, "tcp-echo") == 0)
        return serve_tcp_echo(options);
    if (strcmp(options->serve, "port-echo") == 0)
        return serve_port_echo(options);
    if (strcmp(options->serve, "outrigger") == 0)
        return serve_outrigger(options);
    die("--serve: '%s' is not tcp-echo, port-echo or outrigger", options->serve);
}

int main(int argc, char **argv)
{
    static const struct engine_ops *const engines[] = {&engine_io_uring,  &engine_nbd,       &engine_tcp_echo,
                                                       &engine_port_echo, &engine_outrigger, &engine_vhost_user};
    struct options options;
    options_parse(&options, argc, argv);
    if (options.serve)
        return serve(&options);
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (strcmp(engines[i]->name, options.engine) == 0)
            return load_run(&options, engines[i]);
    die("--engine: '%s' is not io_uring, nbd, tcp-echo, port-echo, outrigger or vhost-user", options.engine);
}
