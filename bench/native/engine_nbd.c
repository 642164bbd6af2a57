/* An NBD server through libnbd's asynchronous calls, on one connection. Between operations it waits as
 * every engine does (waiter.h), so NBD's latency here is better than with clients that always sleep. */
#include "loadgen.h"
#include "waiter.h"
#include <libnbd.h>
#include <stdlib.h>
#include <unistd.h>

#define CONNECT_TRIES 100
#define CONNECT_PAUSE_US 50000

struct nbd_engine {
    struct engine base;
    struct nbd_handle *nbd;
    struct waiter waiter;
};

static struct nbd_handle *connect_with_patience(const char *uri)
{
    for (int i = 0;; i++) {
        struct nbd_handle *nbd = nbd_create();
        if (!nbd)
            die("libnbd: %s", nbd_get_error());
        nbd_set_pread_initialize(nbd, false);
        if (nbd_connect_uri(nbd, uri) == 0)
            return nbd;
        if (i == CONNECT_TRIES)
            die("%s: %s", uri, nbd_get_error());
        nbd_close(nbd);
        usleep(CONNECT_PAUSE_US);
    }
}

static struct engine *client_open(const struct options *options, struct slot *slots)
{
    (void)slots;
    if (!options->uri)
        die("--uri is needed");
    struct nbd_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_nbd;
    e->nbd = connect_with_patience(options->uri);
    waiter_init(&e->waiter, options->spin_us);
    int64_t size = nbd_get_size(e->nbd);
    if (size < 0)
        die("%s: %s", options->uri, nbd_get_error());
    e->base.size_bytes = (uint64_t)size;
    return &e->base;
}

/* Runs inside libnbd: must not call it. Returning 1 retires the command. */
static int on_done(void *slot, int *error)
{
    load_done(slot, *error ? OR_EIO : OR_OK);
    return 1;
}

static void client_submit(struct engine *engine, struct slot *slot)
{
    struct nbd_engine *e = (struct nbd_engine *)engine;
    nbd_completion_callback callback = {.callback = on_done, .user_data = slot};
    int64_t cookie = slot->op == OR_OP_READ
                         ? nbd_aio_pread(e->nbd, slot->data, slot->length, slot->offset, callback, 0)
                         : nbd_aio_pwrite(e->nbd, slot->data, slot->length, slot->offset, callback, 0);
    if (cookie < 0)
        die("nbd: %s", nbd_get_error());
}

static void client_progress(struct engine *engine)
{
    struct nbd_engine *e = (struct nbd_engine *)engine;
    int timeout_ms = waiter_spun(&e->waiter, clock_ns()) ? (int)WAIT_MS_MAX : 0;
    int rc = nbd_poll(e->nbd, timeout_ms);
    if (rc < 0)
        die("nbd: %s", nbd_get_error());
    if (rc > 0)
        waiter_worked(&e->waiter);
}

static void client_close(struct engine *engine)
{
    struct nbd_engine *e = (struct nbd_engine *)engine;
    nbd_shutdown(e->nbd, 0);
    nbd_close(e->nbd);
    free(e);
}

const struct engine_ops engine_nbd = {
    .name = "nbd",
    .open = client_open,
    .submit = client_submit,
    .progress = client_progress,
    .close = client_close,
};
