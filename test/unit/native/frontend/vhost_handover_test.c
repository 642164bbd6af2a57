/* Engines that die, or leave, and others that go on with their devices: the driver, which is QEMU and the
 * guest, must notice nothing. The first engine is a process of its own, so that its death is a real one;
 * the store and the last engine are in this process.
 *
 * The disk is shared by all of them, and `shared` is how an engine in a child is told what to do. */
#include "vhost_driver.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "frontend/vhost_handover.h"
#include "keep/link.h"
#include "keep/store.h"

#define CHILDREN 2
#define WAIT_MS 20000
#define EXTRA (2u * REGION) /* guest physical address of memory that is added later, */
#define EXTRA_USER 0x7f2000000000ull
#define EXTRA_FILE 0ull /* the same as the first region, from 1 MiB on */

enum order { NO_ORDER, REMOVE, LEAVE, KEEP_AGAIN };

/* Of one engine in a child. */
struct shared {
    _Atomic bool go, up, hold, mute; /* mute: it tells the store nothing */
    _Atomic int order;
    _Atomic bool restored;
    _Atomic uint32_t submitted, pending, snapshots;
    _Atomic uint32_t turns; /* of its loop */
    _Atomic int vhost_state;
};

static struct driver d;
static struct shared *shared; /* [CHILDREN] */
static pid_t children[CHILDREN];
static uint8_t *disk;
static char dir[64], store_path[80], socket_path[80];
static struct or_keep_store *store;
static struct or_fd_source store_source;

/* --- an engine ----------------------------------------------------------------------------------- */

struct engine {
    struct driver *d; /* its worker and session */
    struct or_keep_link *link;
    int ended;
    uint32_t epoch, sent;
    const char *why; /* it could not resume */
};

static struct engine last; /* the one in this process */

static void keep_ended(void *arg, int err)
{
    struct engine *g = arg;
    g->ended = err ? err : 1;
}

static void send_snapshot(struct engine *g)
{
    static struct or_keep_snapshot snapshot;
    uint32_t epoch = or_keep_link_epoch(g->link);
    if (epoch == 0 || g->d->dev == NULL || (g->epoch == epoch && !or_vhost_blk_changed(g->d->dev)))
        return;
    if (!or_vhost_blk_save(g->d->dev, &snapshot) || or_keep_link_send(g->link, &snapshot) != 0)
        return;
    or_vhost_blk_saved(g->d->dev);
    g->epoch = epoch;
    g->sent++;
}

static void engine_keep(struct engine *g)
{
    g->ended = 0;
    if (or_keep_link_connect(g->link, store_path) != 0)
        abort();
    for (int i = 0; i < WAIT_MS && g->ended == 0; i++)
        step_wait(g->d, 1);
}

/* Connects to the store and makes the device, out of what is there. */
static void engine_start(struct engine *g, struct driver *with)
{
    int err;
    g->d = with;
    g->link = or_keep_link_create(with->epoll_fd, keep_ended, g);
    engine_keep(g);
    uint32_t epoch;
    struct or_keep_snapshot *left = or_keep_link_take(g->link, with->config.device, &epoch);
    with->config.listen_fd = left ? or_vhost_snapshot_listener(left, socket_path) : -1;
    if (with->config.listen_fd < 0)
        with->config.listen_fd = or_vhost_listen(socket_path, 0600);
    with->dev = or_vhost_blk_create(&with->config, &err);
    if (with->dev == NULL)
        abort();
    g->why = left ? or_vhost_blk_resume(with->dev, left) : "nothing was left";
    if (g->why == NULL)
        g->epoch = epoch;
    if (left) {
        or_keep_close_fds(left);
        free(left);
    }
    send_snapshot(g);
}

static void obey(struct engine *g, struct shared *s)
{
    int order = atomic_exchange(&s->order, NO_ORDER);
    if (order == KEEP_AGAIN)
        engine_keep(g);
    if (order != REMOVE && order != LEAVE)
        return;
    send_snapshot(g);
    if (order == REMOVE) {
        or_vhost_blk_destroy(g->d->dev, on_gone, &g->d->gone);
        or_keep_link_forget(g->link, g->d->config.device);
    } else {
        or_vhost_blk_leave(g->d->dev, on_gone, &g->d->gone);
    }
    g->d->dev = NULL;
    if (order == LEAVE)
        _exit(0);
}

static void on_child_state(void *arg, enum or_vhost_state state, const char *reason)
{
    (void)reason;
    ((struct shared *)arg)->vhost_state = (int)state;
}

/* A child: waits until it is wanted, and then works until it is killed. */
static void child(struct shared *s)
{
    static struct driver mine;
    static struct engine g;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!s->go)
        usleep(500);
    mine.disk = disk;
    mine.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    or_list_init(&mine.pending);
    mine.config = d.config;
    mine.config.client = &mine;
    mine.config.epoll_fd = mine.epoll_fd;
    mine.config.state = on_child_state;
    mine.config.arg = s;
    engine_start(&g, &mine);
    s->restored = g.why == NULL;
    s->up = true;
    for (;;) {
        mine.hold = s->hold;
        step_wait(&mine, 1);
        if (!s->mute)
            send_snapshot(&g);
        s->submitted = mine.submitted;
        s->pending = session_pending(&mine);
        s->snapshots = g.sent;
        s->turns++;
        obey(&g, s);
    }
}

/* --- the test's side ----------------------------------------------------------------------------- */

static void store_ready(struct or_fd_source *source, uint32_t events)
{
    (void)source, (void)events;
    or_keep_store_serve(store);
}

static void changed(void *arg)
{
    (void)arg;
}

static void open_store(void)
{
    int err;
    store = or_keep_store_open(store_path, changed, NULL, &err);
    assert_non_null(store);
    store_source = (struct or_fd_source){.ready = store_ready, .fd = or_keep_store_fd(store)};
    assert_int_equal(or_fd_source_add(d.epoll_fd, &store_source, EPOLLIN), 0);
}

static void close_store(void)
{
    or_fd_source_remove(d.epoll_fd, &store_source);
    or_keep_store_close(store);
    store = NULL;
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/outrigger-handover-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(store_path, sizeof(store_path), "%s/store", dir);
    snprintf(socket_path, sizeof(socket_path), "%s/vhost", dir);
    shared = mmap(NULL, CHILDREN * sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    disk = mmap(NULL, DISK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    driver_init(&d);
    memcpy(disk, d.disk, DISK_SIZE);
    free(d.disk);
    d.disk = disk;
    memset(&last, 0, sizeof(last));
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        if (children[i] == 0)
            child(&shared[i]);
    }
    open_store();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < CHILDREN; i++) {
        if (children[i] <= 0)
            continue;
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    d.gone = d.gone || d.dev == NULL;
    if (d.dev)
        device_destroy(&d);
    session_run(&d);
    if (last.link)
        or_keep_link_destroy(last.link);
    if (store)
        close_store();
    munmap(disk, DISK_SIZE);
    d.disk = NULL;
    driver_end(&d);
    munmap(shared, CHILDREN * sizeof(*shared));
    unlink(socket_path);
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

#define UNTIL(condition)                                                                                               \
    do {                                                                                                               \
        for (int until = 0; until < WAIT_MS && !(condition); until++)                                                  \
            step_wait(&d, 1);                                                                                          \
        assert_true(condition);                                                                                        \
    } while (0)

/* Whatever was told to this child before is now obeyed: it began a turn afterwards, and ended it. */
static void await_turns(int n)
{
    uint32_t before = shared[n].turns;
    UNTIL(shared[n].turns - before >= 2);
}

static void begin_child(int n)
{
    shared[n].go = true;
    UNTIL(shared[n].up);
}

static void kill_child(int n)
{
    assert_int_equal(kill(children[n], SIGKILL), 0);
    assert_int_equal(waitpid(children[n], NULL, 0), children[n]);
    children[n] = 0;
}

/* As QEMU does; the rings run in child n when this returns. */
static void qemu_connects(int n, uint32_t rings, bool inflight)
{
    d.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(d.address.sun_path, socket_path);
    d.address_length = sizeof(d.address);
    d.sock = open_socket(&d);
    driver_negotiate(&d, ALL_FEATURES, inflight ? ALL_FEATURES : ~OR_VU_PROTOCOL_INFLIGHT_SHMFD);
    assert_int_equal(set_memory(&d), 0);
    if (inflight) {
        get_inflight(&d);
        assert_int_equal(set_inflight(&d), 0);
    }
    for (uint32_t i = 0; i < rings; i++)
        ring_configure(&d, i, 0);
    UNTIL(shared[n].vhost_state == (rings ? OR_VHOST_RUNNING : OR_VHOST_CONNECTED));
    if (inflight)
        UNTIL(or_keep_store_devices(store, NULL, 0) == 1);
}

/* The store has everything that child n had to say: what QEMU was told has been followed by a snapshot. */
static void settled(int n)
{
    uint32_t before = shared[n].snapshots;
    for (int i = 0; i < 20; i++) {
        step_wait(&d, 1);
        if (shared[n].snapshots != before)
            i = 0;
        before = shared[n].snapshots;
    }
}

static void start_first(uint32_t rings)
{
    begin_child(0);
    assert_false(shared[0].restored);
    qemu_connects(0, rings, true);
    settled(0);
}

/* The engine in this process goes on. */
static void take_over(void)
{
    engine_start(&last, &d);
    steps(&d, 2);
}

static bool hung_up(void)
{
    struct pollfd p = {.fd = d.sock, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP);
}

static void await_used(uint16_t head)
{
    int used = -1;
    for (int i = 0; i < WAIT_MS && (used = take_used(&d, 0)) < 0; i++)
        step_wait(&d, 1);
    assert_int_equal(used, head);
    assert_int_equal(*status_of(&d, 0, head), VIRTIO_BLK_S_OK);
}

static void ends_in_order(const uint16_t *heads, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(finish(&d, 0, heads[i]), VIRTIO_BLK_S_OK);
    steps(&d, 5);
    assert_int_equal(take_used(&d, 0), -1);
}

/* --- tests --------------------------------------------------------------------------------------- */

static void test_requests_under_way_end_in_the_next_engine(void **state)
{
    (void)state;
    uint16_t heads[7];
    start_first(2);
    await_used(submit_io(&d, 0, VIRTIO_BLK_T_IN, 3, DATA, 512));
    shared[0].hold = true;
    steps(&d, 2);
    await_turns(0);
    for (uint32_t i = 0; i < 6; i++) {
        guest_fill(&d, DATA + i * 4096, 4096, i);
        heads[i] = submit_io(&d, 0, i < 3 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 8 * i, DATA + i * 4096, 4096);
    }
    UNTIL(shared[0].pending == 6);
    signals(d.q[0].call);
    kill_child(0);
    /* Nobody is there: a request and its kick wait, and no interrupt comes. */
    heads[6] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 100, DATA + 8 * 4096, 512);
    eventfd_write(d.q[0].kick, 1);
    steps(&d, 20);
    assert_false(hung_up());

    d.hold = true;
    take_over();
    assert_null(last.why);
    assert_int_equal(d.state, OR_VHOST_RUNNING);
    assert_int_equal(session_pending(&d), 7);
    assert_true(signals(d.q[0].call) > 0); /* one may have been lost */
    d.hold = false;
    ends_in_order(heads, 7);
    for (uint32_t i = 0; i < 3; i++)
        assert_memory_equal(disk + i * 4096, guest(&d, DATA + i * 4096), 4096);
    for (uint32_t i = 3; i < 6; i++)
        assert_true(guest_holds(&d, DATA + i * 4096, disk + i * 4096, 4096));
    assert_false(hung_up());
    /* The other queue, and messages, go on too. */
    uint16_t head = submit_io(&d, 1, VIRTIO_BLK_T_IN, 9, DATA, 512);
    assert_int_equal(finish(&d, 1, head), VIRTIO_BLK_S_OK);
    assert_true(vu_get(&d, OR_VU_GET_FEATURES) != 0);
    driver_disconnect(&d);
    assert_int_equal(d.state, OR_VHOST_LISTENING);
}

static void test_three_engines_one_after_the_other(void **state)
{
    (void)state;
    uint16_t heads[3];
    start_first(1);
    shared[0].hold = shared[1].hold = true;
    await_turns(0);
    heads[0] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
    UNTIL(shared[0].pending == 1);
    kill_child(0);
    begin_child(1);
    assert_true(shared[1].restored);
    heads[1] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 2, DATA + 4096, 512);
    UNTIL(shared[1].pending == 2);
    kill_child(1);
    heads[2] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 3, DATA + 8192, 512);
    take_over();
    assert_null(last.why);
    ends_in_order(heads, 3);
    assert_int_equal(d.submitted, 3);
    assert_false(hung_up());
}

static void test_an_engine_that_ends_leaves_its_devices(void **state)
{
    (void)state;
    start_first(1);
    shared[0].hold = true;
    await_turns(0);
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_OUT, 1, DATA, 512);
    UNTIL(shared[0].pending == 1);
    shared[0].order = LEAVE;
    assert_int_equal(waitpid(children[0], NULL, 0), children[0]);
    children[0] = 0;
    take_over();
    assert_null(last.why);
    ends_in_order(&head, 1);
    assert_false(hung_up());
}

static void test_a_message_nobody_else_heard_of_ends_the_connection(void **state)
{
    (void)state;
    start_first(1);
    shared[0].mute = true;
    await_turns(0);
    assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_ERR, 0, d.q[0].err), 0);
    kill_child(0);
    take_over();
    assert_non_null(last.why);
    assert_true(hung_up());
    assert_int_equal(d.state, OR_VHOST_LISTENING);
    /* QEMU comes again, to the same socket. */
    close(d.sock);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
}

static void test_a_message_that_was_read_in_part_ends_the_connection(void **state)
{
    (void)state;
    start_first(1);
    struct or_vu_header half = {.request = OR_VU_SET_VRING_ENABLE, .flags = OR_VU_VERSION, .size = 8};
    assert_int_equal(send(d.sock, &half, sizeof(half), 0), sizeof(half));
    uint32_t before = shared[0].snapshots;
    await_turns(0);
    assert_int_equal(shared[0].snapshots, before); /* nothing that is half */
    kill_child(0);
    take_over();
    assert_non_null(last.why);
    assert_true(hung_up());
}

static void test_a_message_that_nobody_read_is_answered_by_the_next_engine(void **state)
{
    (void)state;
    start_first(1);
    assert_int_equal(kill(children[0], SIGSTOP), 0);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    kill_child(0);
    take_over();
    assert_null(last.why);
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 0);
}

static void test_a_ring_that_was_stopping_is_drained_and_answered(void **state)
{
    (void)state;
    uint16_t heads[2];
    start_first(1);
    await_used(submit_io(&d, 0, VIRTIO_BLK_T_IN, 3, DATA, 512));
    shared[0].hold = true;
    await_turns(0);
    for (uint32_t i = 0; i < 2; i++)
        heads[i] = submit_io(&d, 0, VIRTIO_BLK_T_IN, i, DATA + i * 4096, 512);
    UNTIL(shared[0].pending == 2);
    uint32_t before = shared[0].snapshots;
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    UNTIL(shared[0].snapshots > before);
    kill_child(0);
    d.hold = true;
    uint16_t new = submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA + 2 * 4096, 512);
    take_over();
    assert_null(last.why);
    assert_int_equal(session_pending(&d), 2); /* and not the new one */
    d.hold = false;
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 3);
    ends_in_order(heads, 2);
    ring_configure(&d, 0, 3);
    assert_int_equal(finish(&d, 0, new), VIRTIO_BLK_S_OK);
}

static void test_memory_that_was_added_is_known_to_the_next_engine(void **state)
{
    (void)state;
    start_first(1);
    struct or_vu_memory_region extra = {
        .region = {.phys = EXTRA, .size = MIB, .user = EXTRA_USER, .fd_offset = EXTRA_FILE + MIB}};
    assert_int_equal(vu_set(&d, OR_VU_ADD_MEM_REG, &extra, sizeof(extra), &d.memfd, 1), 0);
    settled(0);
    kill_child(0);
    take_over();
    assert_null(last.why);
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 5, EXTRA + 4096, 4096);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    assert_memory_equal(d.file + MIB + 4096, disk + 5 * 512, 4096);
}

static void test_a_ring_between_two_memory_tables_cannot_be_taken_over(void **state)
{
    (void)state;
    start_first(1);
    struct or_vu_memory table = memory_table();
    struct or_vu_memory_region a = {.region = table.regions[0]};
    uint32_t before = shared[0].snapshots;
    assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &a, sizeof(a), NULL, 0), 0);
    await_turns(0);
    assert_int_equal(shared[0].snapshots, before);
    kill_child(0);
    take_over();
    assert_non_null(last.why);
    assert_true(hung_up());
}

static void test_without_inflight_region_qemu_is_hung_up_on(void **state)
{
    (void)state;
    begin_child(0);
    qemu_connects(0, 1, false);
    settled(0);
    kill_child(0);
    take_over();
    assert_non_null(last.why);
    assert_true(hung_up());
}

static void test_a_device_that_changed_is_not_resumed(void **state)
{
    (void)state;
    start_first(1);
    kill_child(0);
    d.config.generation++;
    take_over();
    assert_non_null(last.why);
    assert_true(hung_up());
    assert_int_equal(d.state, OR_VHOST_LISTENING);
}

static void test_removal_hangs_up_and_is_final(void **state)
{
    (void)state;
    start_first(1);
    shared[0].order = REMOVE;
    UNTIL(hung_up());
    UNTIL(or_keep_store_devices(store, NULL, 0) == 0);
    kill_child(0);
    take_over();
    assert_string_equal(last.why, "nothing was left");
}

static void test_a_restarted_supervisor_is_told_everything(void **state)
{
    (void)state;
    start_first(1);
    shared[0].hold = true;
    await_turns(0);
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_OUT, 1, DATA, 512);
    UNTIL(shared[0].pending == 1);
    close_store();
    steps(&d, 5);
    assert_false(hung_up());
    open_store();
    shared[0].order = KEEP_AGAIN;
    UNTIL(or_keep_store_devices(store, NULL, 0) == 1);
    settled(0);
    kill_child(0);
    take_over();
    assert_null(last.why);
    ends_in_order(&head, 1);
    assert_false(hung_up());
}

static void test_without_a_store_death_is_an_end(void **state)
{
    (void)state;
    start_first(1);
    close_store();
    kill_child(0);
    UNTIL(hung_up());
    open_store();
}

static void test_a_broken_device_stays_broken(void **state)
{
    (void)state;
    start_first(2);
    await_used(submit_io(&d, 0, VIRTIO_BLK_T_IN, 3, DATA, 512));
    struct buffer outside = {.phys = 1ull << 40, .length = 512, .writable = true};
    submit_buffers(&d, 0, VIRTIO_BLK_T_IN, 0, &outside, 1, 0);
    UNTIL(shared[0].vhost_state == OR_VHOST_BROKEN);
    settled(0);
    kill_child(0);
    take_over();
    assert_null(last.why);
    assert_int_equal(d.state, OR_VHOST_BROKEN);
    assert_non_null(strstr(d.reason, "outside the guest's memory"));
    /* Until QEMU stops its rings, as a reset does. */
    for (uint32_t i = 0; i < 2; i++) {
        struct or_vu_vring_state s = {.index = i};
        assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
        assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
        assert_int_equal(s.num, i == 0 ? 2 : 0);
    }
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
}

static void test_write_cache_mode_goes_with_the_device(void **state)
{
    (void)state;
    start_first(1);
    struct or_vu_config c = {.offset = 32, .size = 1}; /* wce */
    assert_int_equal(vu_set(&d, OR_VU_SET_CONFIG, &c, 13, NULL, 0), 0);
    settled(0);
    kill_child(0);
    take_over();
    assert_null(last.why);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 1, DATA, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(d.fuas, 1);
}

static void test_nobody_connected_only_the_socket_goes_on(void **state)
{
    (void)state;
    begin_child(0);
    UNTIL(or_keep_store_devices(store, NULL, 0) == 1);
    d.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(d.address.sun_path, socket_path);
    d.address_length = sizeof(d.address);
    kill_child(0);
    /* QEMU starts while no engine is there, and waits. */
    d.sock = open_socket(&d);
    take_over();
    assert_non_null(last.why);
    UNTIL(d.state == OR_VHOST_CONNECTED);
    assert_true(vu_get(&d, OR_VU_GET_FEATURES) != 0);
}

/* A successor of another build, or a store that has gone mad: anything may be in a snapshot. */
static void test_a_snapshot_of_nonsense_is_refused(void **state)
{
    (void)state;
    start_first(2);
    kill_child(0);
    engine_keep((last.d = &d, last.link = or_keep_link_create(d.epoll_fd, keep_ended, &last), &last));
    uint32_t epoch;
    struct or_keep_snapshot *left = or_keep_link_take(last.link, 7, &epoch);
    assert_non_null(left);
    int before = open_fds(), err;
    srand(2);
    for (uint32_t i = 0; i < 3000; i++) {
        struct or_keep_snapshot *s = malloc(sizeof(*s));
        *s = *left;
        for (uint32_t n = 0; n < s->fd_count; n++) {
            int from = rand() % 16 ? left->fds[n] : left->fds[(uint32_t)rand() % left->fd_count];
            s->fds[n] = n == 2 ? fcntl(d.memfd, F_DUPFD_CLOEXEC, 0) : fcntl(from, F_DUPFD_CLOEXEC, 0);
        }
        for (uint32_t n = (uint32_t)rand() % 4; n > 0; n--)
            s->bytes[i % 2 ? (uint32_t)rand() % 160 : (uint32_t)rand() % s->length] = (uint8_t)rand();
        while (rand() % 4 == 0 && s->fd_count > 0)
            close(s->fds[--s->fd_count]);
        if (rand() % 16 == 0)
            s->length = (uint32_t)rand() % OR_KEEP_BYTES_MAX;
        d.config.listen_fd = or_vhost_listen(socket_path, 0600);
        struct or_vhost_blk *dev = or_vhost_blk_create(&d.config, &err);
        assert_non_null(dev);
        or_vhost_blk_resume(dev, s);
        bool gone = false;
        or_vhost_blk_leave(dev, on_gone, &gone);
        assert_true(gone);
        or_keep_close_fds(s);
        free(s);
    }
    assert_int_equal(open_fds(), before);
    or_keep_close_fds(left);
    free(left);
}

/* Connects to the socket again and again; returns the first error, which is nothing but a full backlog. */
static void *connect_all_the_time(void *arg)
{
    _Atomic bool *stop = arg;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    intptr_t err = 0;
    while (!*stop && (err == 0 || err == EAGAIN)) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        err = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
        close(fd);
    }
    return (void *)err;
}

static void test_a_socket_that_can_be_seen_can_be_connected_to(void **state)
{
    (void)state;
    enum { ROUNDS = 200 };
    int fds[ROUNDS];
    fds[0] = or_vhost_listen(socket_path, 0600);
    assert_true(fds[0] >= 0);
    _Atomic bool stop = false;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, connect_all_the_time, &stop), 0);
    for (int i = 1; i < ROUNDS; i++) {
        fds[i] = or_vhost_listen(socket_path, 0600);
        usleep(50);
    }
    stop = true;
    void *err;
    pthread_join(thread, &err);
    assert_int_equal((intptr_t)err == EAGAIN ? 0 : (intptr_t)err, 0);
    for (int i = 0; i < ROUNDS; i++) {
        assert_true(fds[i] >= 0);
        assert_int_equal(or_vhost_listens_at(fds[i], socket_path), true);
        close(fds[i]);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_socket_that_can_be_seen_can_be_connected_to),
        TEST(test_requests_under_way_end_in_the_next_engine),
        TEST(test_three_engines_one_after_the_other),
        TEST(test_an_engine_that_ends_leaves_its_devices),
        TEST(test_a_message_nobody_else_heard_of_ends_the_connection),
        TEST(test_a_message_that_was_read_in_part_ends_the_connection),
        TEST(test_a_message_that_nobody_read_is_answered_by_the_next_engine),
        TEST(test_a_ring_that_was_stopping_is_drained_and_answered),
        TEST(test_memory_that_was_added_is_known_to_the_next_engine),
        TEST(test_a_ring_between_two_memory_tables_cannot_be_taken_over),
        TEST(test_without_inflight_region_qemu_is_hung_up_on),
        TEST(test_a_device_that_changed_is_not_resumed),
        TEST(test_removal_hangs_up_and_is_final),
        TEST(test_a_restarted_supervisor_is_told_everything),
        TEST(test_without_a_store_death_is_an_end),
        TEST(test_a_broken_device_stays_broken),
        TEST(test_write_cache_mode_goes_with_the_device),
        TEST(test_nobody_connected_only_the_socket_goes_on),
        TEST(test_a_snapshot_of_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
